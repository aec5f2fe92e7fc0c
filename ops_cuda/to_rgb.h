// to_rgb of pixels whose channels lie together, on the CPU: one read of the activations.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu.h"

namespace ls {

constexpr int PIXELS = 4;  // at a time: a vector of weights serves them all

// Groups of GROUP lanes of a, then of b, added up in pairs of neighbours.
template <int GROUP, class V, size_t... LANE>
LS_BOTH V pair_up(V a, V b, std::index_sequence<LANE...>) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, (LANE / GROUP * 2 * GROUP + LANE % GROUP)...) +
           __builtin_shufflevector(a, b, ((LANE / GROUP * 2 + 1) * GROUP + LANE % GROUP)...);
#else
    typedef decltype(a < b) order_t;
    return __builtin_shuffle(a, b, order_t{(LANE / GROUP * 2 * GROUP + LANE % GROUP)...}) +
           __builtin_shuffle(a, b, order_t{((LANE / GROUP * 2 + 1) * GROUP + LANE % GROUP)...});
#endif
}

// The sums of COUNT vectors, of which each holds parts of one sum, or of several, LANES lanes each:
// one vector of them in order, a sum in LANES / COUNT lanes.
template <int COUNT, int LANES, class A>
LS_BOTH vec_t<A> sums(const vec_t<A>* vectors) {
    if constexpr (COUNT == 1) {
        return *vectors;
    } else {
        vec_t<A> first = sums<COUNT / 2, LANES, A>(vectors);
        vec_t<A> second = sums<COUNT / 2, LANES, A>(vectors + COUNT / 2);
        return pair_up<LANES / COUNT>(first, second, std::make_index_sequence<WIDTH<A>>());
    }
}

// Adds products of the first channels to `totals`, by the instruction that takes pairs of bfloat16,
// with weights rounded to it as plain PyTorch does; how many channels.
template <class T, class A>
LS_BOTH int64_t add_pairs(vec_t<A> (&totals)[3][PIXELS], const T* x, const A* weight, int64_t channels) {
#if defined(__AVX512BF16__)
    if constexpr (std::is_same_v<T, bfloat16>) {
        int64_t c = 0;
        for (; c + 32 <= channels; c += 32) {
            __m512bh weights[3], values;
            for (int o = 0; o < 3; o++) {
                const A* from = weight + o * channels + c;
                weights[o] = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from));
            }
            for (int p = 0; p < PIXELS; p++) {
                memcpy(&values, x + p * channels + c, sizeof values);
                for (int o = 0; o < 3; o++)
                    totals[o][p] =
                        (vec_t<A>)_mm512_dpbf16_ps((__m512)totals[o][p], values, weights[o]);
            }
        }
        return c;
    }
#endif
    return 0;
}

// As many pixels as a vector has lanes, channels last.
template <class T, class A>
void pixels_last(const T* x, const A* weight, const A* bias, A* y, int64_t channels, int64_t stride) {
    constexpr int BLOCKS = WIDTH<A> / PIXELS;
    int64_t whole = channels / WIDTH<A> * WIDTH<A>;
    vec_t<A> parts[3][BLOCKS];
    for (int block = 0; block < BLOCKS; block++) {
        const T* from = x + block * PIXELS * channels;
        vec_t<A> totals[3][PIXELS] = {};
        int64_t c = add_pairs(totals, from, weight, channels);
        for (; c < whole; c += WIDTH<A>) {
            for (int p = 0; p < PIXELS; p++) {
                vec_t<A> value = get(Wide(), from + p * channels + c);
                for (int o = 0; o < 3; o++)
                    totals[o][p] += value * get(Wide(), weight + o * channels + c);
            }
        }
        for (int o = 0; o < 3; o++) parts[o][block] = sums<PIXELS, WIDTH<A>, A>(totals[o]);
    }
    for (int o = 0; o < 3; o++) {
        vec_t<A> total = sums<BLOCKS, WIDTH<A> / PIXELS, A>(parts[o]) + bias[o];
        for (int64_t c = whole; c < channels; c++)
            for (int p = 0; p < WIDTH<A>; p++)
                total[p] += to_acc(x[p * channels + c]) * weight[o * channels + c];
        put(Wide(), y + o * stride, total);
    }
}

// y[o][p] = sum over c of weight[o][c] x[p][c], plus bias[o]; rows of y lie `stride` apart.
template <class T, class A>
void rows_to_rgb(const T* x, const A* weight, const A* bias, A* y, int64_t num, int64_t channels,
                 int64_t stride) {
    constexpr int64_t GROUP = WIDTH<A>;
    int64_t p = 0;
    for (; p + GROUP <= num; p += GROUP)
        pixels_last(x + p * channels, weight, bias, y + p, channels, stride);
    if (p == num) return;
    std::vector<T> room(size_t(GROUP * channels));  // the rest, with zeros behind
    A sums[3 * GROUP];
    std::copy(x + p * channels, x + num * channels, room.begin());
    pixels_last(room.data(), weight, bias, sums, channels, GROUP);
    for (int o = 0; o < 3; o++) std::copy_n(sums + o * GROUP, num - p, y + o * stride + p);
}

}  // namespace ls
