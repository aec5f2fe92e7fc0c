// What the CPU kernels share: a parallel loop, and loops over vectors of 64 bytes with a scalar tail.
#pragma once

#include <algorithm>
#include <type_traits>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "numeric.cuh"

namespace ls {

constexpr int64_t SMALL = 1 << 15;  // below so many elements threads cost more than they save

// body(0), ..., body(count - 1) in any order, over the threads of the process (torch's own number).
template <class Body>
inline void parallel(int64_t count, int64_t elements, const Body& body) {
#pragma omp parallel for schedule(static) if (elements > SMALL && count > 1)
    for (int64_t i = 0; i < count; i++) {
        body(i);
#if defined(__AVX512F__)
        _mm_sfence();  // what was streamed is there for all
#endif
    }
}

constexpr int64_t STREAMED = 16 << 20;  // bytes of an output that would push all else out of a cache

// Whether to write an output of `count` elements past the caches, where its rows can be streamed.
template <class T>
inline bool is_streamed(const T* y, int64_t count, int64_t row) {
    return count * int64_t(sizeof(T)) >= STREAMED && uintptr_t(y) % 64 == 0 && row * sizeof(T) % 64 == 0;
}

// How many of `elements` a task of element-wise work takes: a few tasks a thread, none of them tiny.
inline int64_t task_size(int64_t elements) {
#ifdef _OPENMP
    int64_t share = elements / (2 * omp_get_max_threads());
#else
    int64_t share = elements;
#endif
    return std::max<int64_t>(share / 64 * 64, 4096);  // whole cache lines
}

// Calls `run` with the activation for outputs of type T, without the clamp where there is none.
template <class T, class Run>
inline int with_activation(ls_activation given, const Run& run) {
    if (given.clamp < 0)
        run(Activation<acc_t<T>, false>::template of<T>(given));
    else
        run(Activation<acc_t<T>, true>::template of<T>(given));
    return 0;
}

template <class A>
struct VectorOf {
    typedef A type __attribute__((vector_size(64)));
};
template <class A>
using vec_t = typename VectorOf<A>::type;
template <class A>
constexpr int64_t WIDTH = 64 / int64_t(sizeof(A));

typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));

// How many elements a loop's body handles: a vector of them, or one. Streamed: what is put goes past
// the caches, to an address that a vector of its size is aligned to.
struct Wide {};
struct Streamed : Wide {};
struct One {};

template <class T>
LS_BOTH acc_t<T> get(One, const T* from) {
    return to_acc(*from);
}
template <class T>
LS_BOTH void put(One, T* to, acc_t<T> value) {
    *to = from_acc<T>(value);
}

// The bits of T that a vector of numbers is stored as.
template <class T>
LS_BOTH auto packed(vec_t<acc_t<T>> value) {
    if constexpr (std::is_same_v<T, bfloat16>) {
#if defined(__AVX512BF16__)
        return (u16x16)_mm512_cvtneps_pbh((__m512)value);
#else
        u32x16 x = (u32x16)value;
        u32x16 rounded = (x + 0x7fff + ((x >> 16) & 1)) >> 16, quiet = (x >> 16) | 0x40;
        u32x16 half = select((x & 0x7fffffff) > all<u32x16>(0x7f800000u), quiet, rounded);
        return __builtin_convertvector(half, u16x16);
#endif
    } else if constexpr (std::is_same_v<T, float16>) {
#if defined(__AVX512F__)
        return (u16x16)_mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT);
#else
        u16x16 bits;
        for (int i = 0; i < 16; i++) bits[i] = from_acc<float16>(value[i]).bits;
        return bits;
#endif
    } else {
        return value;
    }
}

template <class T>
LS_BOTH vec_t<acc_t<T>> get(Wide, const T* from) {
    if constexpr (sizeof(T) == 2) {
        u16x16 bits;
        memcpy(&bits, from, sizeof bits);
#if defined(__AVX512F__)  // GCC 12 makes five instructions of the conversion below
        if constexpr (std::is_same_v<T, bfloat16>)
            return (vec_t<float>)((u32x16)_mm512_cvtepu16_epi32((__m256i)bits) << 16);
        else
            return (vec_t<float>)_mm512_cvtph_ps((__m256i)bits);
#else
        if constexpr (std::is_same_v<T, bfloat16>)
            return (vec_t<float>)(__builtin_convertvector(bits, u32x16) << 16);
        vec_t<float> value;
        for (int i = 0; i < 16; i++) value[i] = to_acc(from[i]);
        return value;
#endif
    } else {
        vec_t<T> value;
        memcpy(&value, from, sizeof value);
        return value;
    }
}

template <class T>
LS_BOTH void put(Wide, T* to, vec_t<acc_t<T>> value) {
    auto bits = packed<T>(value);
    memcpy(to, &bits, sizeof bits);
}
template <class T>
LS_BOTH void put(Streamed, T* to, vec_t<acc_t<T>> value) {
    auto bits = packed<T>(value);
#if defined(__AVX512F__)
    if constexpr (sizeof bits == 64)
        _mm512_stream_si512((__m512i*)to, (__m512i)bits);
    else
        _mm256_stream_si256((__m256i*)to, (__m256i)bits);
#else
    memcpy(to, &bits, sizeof bits);
#endif
}

// run(Streamed()) or run(Wide()): the vectors to call `lanes` with.
template <class Run>
inline void with_stores(bool streamed, const Run& run) {
    if (streamed)
        run(Streamed());
    else
        run(Wide());
}

// body(Wide(), i) for whole vectors of the accumulator A, body(One(), i) for the rest. The body should
// capture by value: a store may alias what is captured by reference, which is then loaded every time.
template <class A, class Vector = Wide, class Body>
LS_BOTH void lanes(int64_t count, const Body& body) {
    const int64_t whole = count / WIDTH<A> * WIDTH<A>;
#pragma GCC unroll 4  // counting takes a quarter of what a body of one read and one write does
    for (int64_t i = 0; i < whole; i += WIDTH<A>) body(Vector(), i);
    for (int64_t i = whole; i < count; i++) body(One(), i);
}

}  // namespace ls
