// synthesis_epilogue of pixels whose channels lie together, on the CPU: one read and one write.
#pragma once

#include "cpu.h"

namespace ls {

template <bool SCALED, class Vector, class T, class A, class F>
void rows_last(const T* x, const A* scale, const A* drawn, A strength, const A* bias, const A* after,
               T* y, int64_t num, int64_t channels, F activation) {
    for (int64_t p = 0; p < num; p++, x += channels, y += channels) {
        A shift = strength * drawn[p];
        lanes<A, Vector>(channels, [=](auto w, int64_t c) {
            auto value = get(w, x + c) * get(w, scale + c) + (get(w, bias + c) + shift);
            value = activation(value);
            if constexpr (SCALED) value *= get(w, after + c);
            put(w, y + c, value);
        });
    }
}

// `num` pixels of one image. All that does not change comes by value: what a store may alias is
// loaded again for every row. `after` may be null.
template <class Vector, class T, class A, class F>
void epilogue_rows(Vector, const T* x, const A* scale, const A* drawn, A strength, const A* bias,
                   const A* after, T* y, int64_t num, int64_t channels, F activation) {
    if (after)
        rows_last<true, Vector>(x, scale, drawn, strength, bias, after, y, num, channels, activation);
    else
        rows_last<false, Vector>(x, scale, drawn, strength, bias, after, y, num, channels, activation);
}

}  // namespace ls
