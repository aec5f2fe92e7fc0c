// Where the taps of a filter meet samples, on CUDA.
#pragma once

#include "cuda.cuh"

namespace ls {

constexpr int TAPS4 = 4;  // of the filter of the networks

// Where an output's taps begin: taps tap, tap + up, ... meet samples sample, sample + 1, ...
struct Start {
    int64_t sample;
    int tap;
};

// For a rate that the compiler knows.
template <int UP, int DOWN>
__device__ __forceinline__ Start start_of(int64_t out, int pad) {
    int64_t position = out * DOWN - pad;
    int64_t sample = UP == 1 ? position : (position + UP - 1) >> 1;
    static_assert(UP <= 2, "the shift divides by 2, rounding down");
    return {sample, int(sample * UP - position)};
}

}  // namespace ls
