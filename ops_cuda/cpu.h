// What the CPU kernels share: a parallel loop, and loops over vectors of 64 bytes with a scalar tail.
#pragma once

#include <algorithm>
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
    for (int64_t i = 0; i < count; i++) body(i);
}

// How many of `elements` a task of element-wise work takes: a few tasks a thread, none of them tiny.
inline int64_t task_size(int64_t elements) {
#ifdef _OPENMP
    return std::max<int64_t>(elements / (2 * omp_get_max_threads()), 4096);
#else
    return std::max<int64_t>(elements, 4096);
#endif
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

// How many elements a loop's body handles: a vector of them, or one.
struct Wide {};
struct One {};

template <class T>
LS_BOTH acc_t<T> get(One, const T* from) {
    return to_acc(*from);
}
template <class T>
LS_BOTH void put(One, T* to, acc_t<T> value) {
    *to = from_acc<T>(value);
}

template <class A>
LS_BOTH vec_t<A> get(Wide, const A* from) {
    vec_t<A> value;
    memcpy(&value, from, sizeof value);
    return value;
}
template <class A>
LS_BOTH void put(Wide, A* to, vec_t<A> value) {
    memcpy(to, &value, sizeof value);
}

LS_BOTH vec_t<float> get(Wide, const bfloat16* from) {
    u16x16 bits;
    memcpy(&bits, from, sizeof bits);
    return (vec_t<float>)(__builtin_convertvector(bits, u32x16) << 16);
}
LS_BOTH void put(Wide, bfloat16* to, vec_t<float> value) {
#if defined(__AVX512BF16__)
    auto bits = _mm512_cvtneps_pbh((__m512)value);
    static_assert(sizeof bits == 32, "16 of 16 bits");
#else
    u32x16 x = (u32x16)value;
    u32x16 rounded = (x + 0x7fff + ((x >> 16) & 1)) >> 16, quiet = (x >> 16) | 0x40;
    u32x16 half = select((x & 0x7fffffff) > all<u32x16>(0x7f800000u), quiet, rounded);
    u16x16 bits = __builtin_convertvector(half, u16x16);
#endif
    memcpy(to, &bits, sizeof bits);
}

LS_BOTH vec_t<float> get(Wide, const float16* from) {
#if defined(__AVX512F__)
    __m256i bits;
    memcpy(&bits, from, sizeof bits);
    return (vec_t<float>)_mm512_cvtph_ps(bits);
#else
    vec_t<float> value;
    for (int i = 0; i < 16; i++) value[i] = to_acc(from[i]);
    return value;
#endif
}
LS_BOTH void put(Wide, float16* to, vec_t<float> value) {
#if defined(__AVX512F__)
    __m256i bits = _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT);
    memcpy(to, &bits, sizeof bits);
#else
    for (int i = 0; i < 16; i++) to[i] = from_acc<float16>(value[i]);
#endif
}

// body(Wide(), i) for whole vectors of the accumulator A, body(One(), i) for the rest. The body should
// capture by value: a store may alias what is captured by reference, which is then loaded every time.
template <class A, class Body>
LS_BOTH void lanes(int64_t count, const Body& body) {
    const int64_t whole = count / WIDTH<A> * WIDTH<A>;
#pragma GCC unroll 4  // counting takes a quarter of what a body of one read and one write does
    for (int64_t i = 0; i < whole; i += WIDTH<A>) body(Wide(), i);
    for (int64_t i = whole; i < count; i++) body(One(), i);
}

}  // namespace ls
