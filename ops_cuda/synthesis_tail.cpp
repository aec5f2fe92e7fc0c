// synthesis_tail on the CPU: each step works on what the one before it left in the cache.
#include <algorithm>
#include <vector>

#include "synthesis_epilogue.h"
#include "to_rgb.h"
#include "upfirdn2d.h"

namespace ls {
namespace {

constexpr int64_t CHUNK = 8192;  // elements that a step leaves to the next one

// What the pixels of one image share.
template <class T, class F>
struct Tail {
    using A = acc_t<T>;
    const A *demodulation, *noise, *bias, *after, *weight, *rgb_bias;
    A strength, *rgb;
    int64_t channels, pixels;
    F activation;

    // `num` pixels from `first` on: x, which may be y, -> y and the image.
    void operator()(const T* x, T* y, int64_t first, int64_t num) const {
        const A* drawn = noise + first;
        if (!weight) {
            epilogue_rows(Wide(), x, demodulation, drawn, strength, bias, after, y, num, channels,
                          activation);
            return;
        }
        int64_t step = std::max<int64_t>(CHUNK / channels / WIDTH<A>, 1) * WIDTH<A>;
        for (int64_t done = 0; done < num; done += step) {
            int64_t now = std::min(step, num - done);
            const T* from = x + done * channels;
            T* to = y + done * channels;
            epilogue_rows(Wide(), from, demodulation, drawn + done, strength, bias, (const A*)nullptr,
                          to, now, channels, activation);
            rows_to_rgb(to, weight, rgb_bias, rgb + first + done, now, channels, pixels);
            if (!after) continue;
            for (int64_t p = 0; p < now; p++) {
                T* row = to + p * channels;
                const A* scale = after;
                lanes<A>(channels, [=](auto w, int64_t c) {
                    put(w, row + c, get(w, row + c) * get(w, scale + c));
                });
            }
        }
    }
};

// tail_of(image) gives the Tail. Without a filter; y null: only the image is wanted.
template <class T, class TailOf>
void straight(const T* x, T* y, const ls_epilogue_shape& s, const TailOf& tail_of) {
    constexpr int64_t GROUP = WIDTH<acc_t<T>>;
    int64_t total = s.n * s.channels * s.pixels;
    int64_t rows = std::max<int64_t>((y ? task_size(total) : CHUNK) / s.channels / GROUP, 1) * GROUP;
    int64_t parts = (s.pixels + rows - 1) / rows;
    parallel(s.n * parts, total, [&](int64_t task) {
        thread_local std::vector<T> room;
        int64_t n = task / parts, first = task % parts * rows;
        int64_t num = std::min(rows, s.pixels - first), at = (n * s.pixels + first) * s.channels;
        if (!y) room.resize(size_t(num * s.channels));
        tail_of(n)(x + at, y ? y + at : room.data(), first, num);
    });
}

// x is filtered first.
template <class T, class TailOf>
void filtered(const T* x, T* y, const ls_upfirdn2d_shape& s, const TailOf& tail_of) {
    filter<1, 1, 4>(x, (const T*)nullptr, y, s,
                    [&](int64_t n, int64_t row, int64_t begin, int64_t end) {
                        int64_t first = row * s.out_width + begin;
                        T* here = y + (n * s.out_height * s.out_width + first) * s.channels;
                        tail_of(n)(here, here, first, end - begin);
                    });
}

// The 4-tap filter at rate UP.
template <int UP>
bool is_fast(const ls_upfirdn2d_shape& s) {
    return s.num_taps_x == 4 && s.up_x == UP && s.down_x == 1;
}

}  // namespace
}  // namespace ls

int ls_synthesis_tail(ls_place, int dtype, const void* x, const void* demodulation, const void* noise,
                      const void* strength, const void* bias, const void* after, const void* weight,
                      const void* rgb_bias, const void* lower, void* y, void* own, void* rgb,
                      const ls_upfirdn2d_shape* taps, const ls_upfirdn2d_shape* up,
                      ls_epilogue_shape shape, ls_activation activation) {
    if (!ls::valid(shape) || !ls::valid(activation) || shape.layout != LS_CHANNELS_LAST)
        return LS_BAD_ARGUMENT;
    if (taps && !(ls::valid(*taps) && y && ls::is_fast<1>(*taps))) return LS_BAD_ARGUMENT;
    if (up && !(ls::valid(*up) && weight && lower && own && ls::is_fast<2>(*up))) return LS_BAD_ARGUMENT;
    if (shape.n * shape.channels * shape.pixels == 0) return 0;
    return ls::with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = ls::acc_t<T>;
        return ls::with_activation<T>(activation, [&](auto function) {
            auto tail_of = [&](int64_t n) {
                int64_t at = n * shape.channels;
                return ls::Tail<T, decltype(function)>{
                    (const A*)demodulation + at,
                    (const A*)noise + (shape.noise_n == 1 ? 0 : n) * shape.pixels,
                    (const A*)bias,
                    after ? (const A*)after + at : nullptr,
                    weight ? (const A*)weight + 3 * at : nullptr,
                    (const A*)rgb_bias,
                    *(const A*)strength,
                    weight ? (A*)(up ? own : rgb) + 3 * n * shape.pixels : nullptr,
                    shape.channels,
                    shape.pixels,
                    function};
            };
            if (taps)
                ls::filtered((const T*)x, (T*)y, *taps, tail_of);
            else
                ls::straight((const T*)x, (T*)y, shape, tail_of);
            if (up) ls::filter<2, 1, 4>((const A*)lower, (const A*)own, (A*)rgb, *up, ls::nothing);
        });
    });
}
