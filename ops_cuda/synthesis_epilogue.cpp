// synthesis_epilogue on the CPU: one read and one write, forward and backward.
#include "synthesis_epilogue.h"

#include <algorithm>

namespace ls {
namespace {

template <class T, class F>
void forward(const T* x, const acc_t<T>* demodulation, const acc_t<T>* noise, acc_t<T> strength,
             const acc_t<T>* bias, const acc_t<T>* after, T* y, ls_epilogue_shape s, F activation) {
    using A = acc_t<T>;
    int64_t total = s.n * s.channels * s.pixels, size = task_size(total);
    bool channels_last = s.layout == LS_CHANNELS_LAST;
    bool streamed = is_streamed(y, total, channels_last ? s.channels : s.pixels);
    if (channels_last) {
        int64_t rows = std::max<int64_t>(size / s.channels, 1);
        int64_t parts = (s.pixels + rows - 1) / rows;
        parallel(s.n * parts, total, [&](int64_t block) {
            int64_t n = block / parts, first = block % parts * rows;
            int64_t num = std::min(rows, s.pixels - first), at = (n * s.pixels + first) * s.channels;
            const A* drawn = noise + (s.noise_n == 1 ? 0 : n) * s.pixels + first;
            const A* scale = demodulation + n * s.channels;
            const A* then = after ? after + n * s.channels : nullptr;
            with_stores(streamed, [&](auto vector) {
                epilogue_rows(vector, x + at, scale, drawn, strength, bias, then, y + at, num,
                              s.channels, activation);
            });
        });
        return;
    }
    int64_t parts = (s.pixels + size - 1) / size;
    parallel(s.n * s.channels * parts, total, [&](int64_t block) {
        int64_t plane = block / parts, first = block % parts * size;
        int64_t last = std::min(first + size, s.pixels);
        int64_t n = plane / s.channels, c = plane % s.channels;
        const A* drawn = noise + (s.noise_n == 1 ? 0 : n) * s.pixels;
        const T* from = x + plane * s.pixels;
        T* to = y + plane * s.pixels;
        A scale = demodulation[plane], shift = bias[c], then = after ? after[plane] : A(1);
        with_stores(streamed, [=](auto vector) {
            lanes<A, decltype(vector)>(last - first, [=](auto w, int64_t i) {
                auto value = get(w, from + first + i) * scale;
                value = activation(value + (get(w, drawn + first + i) * strength + shift));
                put(w, to + first + i, value * then);
            });
        });
    });
}

// The range of pixels of one of `parts` chunks: the same on every device and number of threads.
inline int64_t chunk_start(int64_t part, int64_t parts, int64_t pixels) {
    return (pixels + parts - 1) / parts * part;
}

template <class T, class F>
void backward(const T* dy, const T* y, const T* x, const acc_t<T>* demodulation,
              const acc_t<T>* noise, T* dx, acc_t<T>* sums, int64_t parts, ls_epilogue_shape s,
              F activation) {
    using A = acc_t<T>;
    int64_t total = s.n * s.channels * s.pixels, stride = s.n * parts * s.channels;
    bool last_layout = s.layout == LS_CHANNELS_LAST;
    parallel(last_layout ? s.n * parts : s.n * parts * s.channels, total, [&](int64_t task) {
        int64_t row = last_layout ? task : task / s.channels;  // n * parts + part
        int64_t n = row / parts, part = row % parts;
        int64_t first = std::min(chunk_start(part, parts, s.pixels), s.pixels);
        int64_t last = std::min(chunk_start(part + 1, parts, s.pixels), s.pixels);
        const A* drawn = noise + (s.noise_n == 1 ? 0 : n) * s.pixels;
        A *with_x = sums + row * s.channels, *alone = with_x + stride, *with_noise = alone + stride;
        if (last_layout) {
            const A* scale = demodulation + n * s.channels;
            std::fill_n(with_x, s.channels, A(0));
            std::fill_n(alone, s.channels, A(0));
            std::fill_n(with_noise, s.channels, A(0));
            for (int64_t p = first; p < last; p++) {
                int64_t at = (n * s.pixels + p) * s.channels;
                A here = drawn[p];
                lanes<A>(s.channels, [=](auto w, int64_t c) {
                    auto g = get(w, dy + at + c) * activation.derivative(get(w, y + at + c));
                    put(w, dx + at + c, g * get(w, scale + c));
                    put(w, with_x + c, get(w, with_x + c) + g * get(w, x + at + c));
                    put(w, alone + c, get(w, alone + c) + g);
                    put(w, with_noise + c, get(w, with_noise + c) + g * here);
                });
            }
            return;
        }
        int64_t c = task % s.channels, at = (n * s.channels + c) * s.pixels;
        A scale = demodulation[n * s.channels + c], sum_x = 0, sum = 0, sum_noise = 0;
#pragma omp simd reduction(+ : sum_x, sum, sum_noise)
        for (int64_t p = first; p < last; p++) {
            A g = to_acc(dy[at + p]) * activation.derivative(to_acc(y[at + p]));
            dx[at + p] = from_acc<T>(g * scale);
            sum_x += g * to_acc(x[at + p]);
            sum += g;
            sum_noise += g * drawn[p];
        }
        with_x[c] = sum_x, alone[c] = sum, with_noise[c] = sum_noise;
    });
}

}  // namespace
}  // namespace ls

int ls_synthesis_epilogue(ls_place, int dtype, const void* x, const void* demodulation,
                          const void* noise, const void* strength, const void* bias,
                          const void* after, void* y, ls_epilogue_shape shape,
                          ls_activation activation) {
    if (!ls::valid(shape) || !ls::valid(activation)) return LS_BAD_ARGUMENT;
    if (shape.n * shape.channels * shape.pixels == 0) return 0;
    return ls::with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = ls::acc_t<T>;
        return ls::with_activation<T>(activation, [&](auto function) {
            ls::forward((const T*)x, (const A*)demodulation, (const A*)noise, *(const A*)strength,
                        (const A*)bias, (const A*)after, (T*)y, shape, function);
        });
    });
}

int ls_synthesis_epilogue_grad(ls_place, int dtype, const void* dy, const void* y, const void* x,
                               const void* demodulation, const void* noise, void* dx, void* sums,
                               int64_t parts, ls_epilogue_shape shape, ls_activation activation) {
    if (!ls::valid(shape) || !ls::valid(activation) || parts < 1) return LS_BAD_ARGUMENT;
    return ls::with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = ls::acc_t<T>;
        return ls::with_activation<T>(activation, [&](auto function) {
            ls::backward((const T*)dy, (const T*)y, (const T*)x, (const A*)demodulation,
                         (const A*)noise, (T*)dx, (A*)sums, parts, shape, function);
        });
    });
}
