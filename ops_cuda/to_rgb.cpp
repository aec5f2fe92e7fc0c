// to_rgb on the CPU.
#include "to_rgb.h"

#include <algorithm>

namespace ls {
namespace {

constexpr int64_t STRETCH = 1024;  // pixels of a plane whose sums stay in the cache

template <class T>
void to_rgb(const T* x, const acc_t<T>* weight, const acc_t<T>* bias, acc_t<T>* y, int64_t n,
            int64_t channels, int64_t pixels, bool channels_last) {
    using A = acc_t<T>;
    int64_t total = n * channels * pixels;
    constexpr int64_t GROUP = WIDTH<A>;
    int64_t size = channels_last ? task_size(total) / channels / GROUP * GROUP + GROUP : STRETCH;
    int64_t parts = (pixels + size - 1) / size;
    parallel(n * parts, total, [&](int64_t task) {
        int64_t image = task / parts, first = task % parts * size;
        int64_t last = std::min(first + size, pixels);
        const T* from = x + image * channels * pixels;
        const A* scaled = weight + image * 3 * channels;
        A* to = y + image * 3 * pixels;
        if (channels_last) {
            rows_to_rgb(from + first * channels, scaled, bias, to + first, last - first, channels, pixels);
            return;
        }
        for (int o = 0; o < 3; o++) std::fill(to + o * pixels + first, to + o * pixels + last, bias[o]);
        for (int64_t c = 0; c < channels; c++) {
            const T* plane = from + c * pixels + first;
            A red = scaled[c], green = scaled[channels + c], blue = scaled[2 * channels + c];
            lanes<A>(last - first, [=](auto w, int64_t i) {
                auto value = get(w, plane + i);
                A* at = to + first + i;
                put(w, at, get(w, at) + value * red);
                put(w, at + pixels, get(w, at + pixels) + value * green);
                put(w, at + 2 * pixels, get(w, at + 2 * pixels) + value * blue);
            });
        }
    });
}

}  // namespace
}  // namespace ls

int ls_to_rgb(ls_place, int dtype, const void* x, const void* weight, const void* bias, void* y,
              int64_t n, int64_t channels, int64_t pixels, int32_t layout) {
    if (n < 0 || channels < 0 || pixels < 0 || !ls::valid(layout)) return LS_BAD_ARGUMENT;
    if (n * pixels == 0) return 0;
    return ls::with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = ls::acc_t<T>;
        ls::to_rgb((const T*)x, (const A*)weight, (const A*)bias, (A*)y, n, channels, pixels,
                   layout == LS_CHANNELS_LAST);
        return 0;
    });
}
