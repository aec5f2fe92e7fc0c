// Number formats and the element-wise mathematics that CPU and CUDA kernels share.
//
// 16-bit formats are our own storage types: no header of CUDA or of a compiler is needed for them,
// so that the emulated kernels convert as the compiled ones do.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "lafite_ops.h"

#ifdef __CUDACC__
#define LS_BOTH __host__ __device__ __forceinline__
#else
#define LS_BOTH inline __attribute__((always_inline))
#endif

namespace ls {

template <class To, class From>
LS_BOTH To bits_of(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "bits are copied one to one");
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}

struct bfloat16 {
    uint16_t bits;
};

struct float16 {
    uint16_t bits;
};

LS_BOTH float to_acc(float x) { return x; }
LS_BOTH double to_acc(double x) { return x; }
LS_BOTH float to_acc(bfloat16 x) { return bits_of<float>(uint32_t(x.bits) << 16); }

LS_BOTH float to_acc(float16 x) {
    // Shift exponent and mantissa into place, scale by 2^112 (subnormals come out right), restore
    // infinities and NaNs.
    uint32_t magnitude = uint32_t(x.bits & 0x7fff) << 13;
    uint32_t sign = uint32_t(x.bits & 0x8000) << 16;
    float scaled = bits_of<float>(magnitude) * bits_of<float>(uint32_t(0x77800000));
    uint32_t special = (x.bits & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;
    return bits_of<float>(bits_of<uint32_t>(scaled) | special | sign);
}

template <class T>
LS_BOTH T from_acc(double x) {
    return T(x);
}
template <class T>
LS_BOTH T from_acc(float x) {
    return T(x);
}

template <>
LS_BOTH bfloat16 from_acc<bfloat16>(float x) {  // to nearest, ties to even
    uint32_t bits = bits_of<uint32_t>(x);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    uint32_t quiet = (bits >> 16) | 0x40;  // a NaN keeps its sign
    bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
    return bfloat16{uint16_t(is_nan ? quiet : rounded)};
}

template <>
LS_BOTH float16 from_acc<float16>(float x) {  // to nearest, ties to even
    uint32_t bits = bits_of<uint32_t>(x);
    uint32_t sign = (bits >> 16) & 0x8000;
    uint32_t magnitude = bits & 0x7fffffff;
    uint32_t half;
    if (magnitude >= 0x7f800000) {  // infinity, NaN
        half = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    } else if (magnitude >= 0x477ff000) {  // rounds beyond 65504
        half = 0x7c00;
    } else if (magnitude < 0x38800000) {  // below 2^-14: the addition of .5 rounds to 2^-24
        float shifted = bits_of<float>(magnitude) + 0.5f;
        half = bits_of<uint32_t>(shifted) - 0x3f000000;
    } else {
        half = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    }
    return float16{uint16_t(sign | half)};
}

template <class T>
struct Accumulate {
    using type = float;
};
template <>
struct Accumulate<double> {
    using type = double;
};
template <class T>
using acc_t = typename Accumulate<T>::type;

// Also for vectors of the C++ compiler, lane by lane.
template <class Mask, class V>
LS_BOTH V select(Mask mask, V yes, V no) {
    return mask ? yes : no;
}
template <class V, class A>
LS_BOTH V all(A value) {
    return V{} + value;
}

// gain * activation, clamped, of a number or of a vector of them. NaN stays NaN: no comparison below
// is true for it.
template <class A, bool CLAMPED = true>
struct Activation {
    static constexpr A slope = A(0.2);
    A positive_gain, negative_gain, clamp;

    // For outputs of type T: the clamp is one of its values, so that a clamped output is known.
    template <class T>
    static Activation of(ls_activation given) {
        A gain = A(given.gain);
        A clamp = given.clamp < 0 ? A(HUGE_VAL) : A(to_acc(from_acc<T>(A(given.clamp))));
        return {gain, given.kind == LS_LEAKY_RELU ? slope * gain : gain, clamp};
    }

    template <class V>
    LS_BOTH V operator()(V x) const {
        V up = x * positive_gain, down = x * negative_gain;  // the larger one: the slope is below 1
        V y = select(up > down, up, down);
        if constexpr (!CLAMPED) return y;
        y = select(y > all<V>(clamp), all<V>(clamp), y);
        return select(y < all<V>(-clamp), all<V>(-clamp), y);
    }

    // The derivative, from the output: its sign is the input's, and a clamped one has none.
    template <class V>
    LS_BOTH V derivative(V y) const {
        V inside = select(y > all<V>(A(0)), all<V>(positive_gain), all<V>(negative_gain));
        if constexpr (!CLAMPED) return inside;
        V below = select(y < all<V>(clamp), inside, all<V>(A(0)));
        return select(y > all<V>(-clamp), below, all<V>(A(0)));
    }
};

inline bool valid(ls_activation activation) {
    return (activation.kind == LS_LINEAR || activation.kind == LS_LEAKY_RELU) && activation.gain > 0;
}

inline bool valid(int32_t layout) { return layout == LS_CONTIGUOUS || layout == LS_CHANNELS_LAST; }

inline bool valid(const ls_epilogue_shape& s) {
    return s.n >= 0 && s.channels >= 0 && s.pixels >= 0 && (s.noise_n == 1 || s.noise_n == s.n) &&
           valid(s.layout);
}

inline bool valid(const ls_upfirdn2d_shape& s) {
    return s.n >= 0 && s.channels >= 0 && s.in_height >= 0 && s.in_width >= 0 &&
           s.out_height >= 0 && s.out_width >= 0 && s.up_y > 0 && s.up_x > 0 && s.down_y > 0 &&
           s.down_x > 0 && s.num_taps_y > 0 && s.num_taps_x > 0 && s.num_taps_y <= LS_MAX_TAPS &&
           s.num_taps_x <= LS_MAX_TAPS && valid(s.layout);
}

template <class T>
struct Type {
    using type = T;
};

// Calls `run` with the Type<T> that `dtype` names.
template <class Run>
int with_dtype(int dtype, const Run& run) {
    switch (dtype) {
        case LS_FLOAT32: return run(Type<float>());
        case LS_FLOAT64: return run(Type<double>());
        case LS_FLOAT16: return run(Type<float16>());
        case LS_BFLOAT16: return run(Type<bfloat16>());
        default: return LS_BAD_ARGUMENT;
    }
}

}  // namespace ls
