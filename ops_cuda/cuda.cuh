// What the CUDA kernels share: launches, 16-byte vectors, cheap division, the device guard. With
// LS_EMULATED the same kernels run on the host, as the tests have them (tests/ops_cuda/).
#pragma once

#include "numeric.cuh"

#ifndef LS_EMULATED
#include <cuda_runtime.h>

#define LS_LAUNCH(kernel, blocks, threads, shared_bytes, place, ...) \
    kernel<<<unsigned(blocks), threads, shared_bytes, (cudaStream_t)(place).stream>>>(__VA_ARGS__)
#define LS_SHARED(type, name)                                 \
    extern __shared__ __align__(16) unsigned char ls_shared[]; \
    type* name = reinterpret_cast<type*>(ls_shared)
#endif

namespace ls {

constexpr int THREADS = 256;
constexpr int64_t MAX_BLOCKS = 0x7fffffff;  // of a launch, along x

template <class T>
constexpr int LANES = 16 / int(sizeof(T));  // of a 128-bit load

template <class T, int N>
struct Lanes {
    T lane[N];
};

// N consecutive elements; 16 bytes go as one 128-bit access, which needs an aligned address. The
// store is CUDA's own function: nvcc takes an assignment apart where it is free to.
template <int N, class T>
__device__ __forceinline__ Lanes<T, N> load(const T* from) {
    if constexpr (N == LANES<T>) {
        uint4 bits = *reinterpret_cast<const uint4*>(from);  // first into registers, whole
        return bits_of<Lanes<T, N>>(bits);
    } else {
        static_assert(N == 1, "one element, or 16 bytes");
        return {{*from}};
    }
}

template <int N, class T>
__device__ __forceinline__ void store(T* to, const Lanes<T, N>& value) {
    if constexpr (N == LANES<T>) {
        __stwb(reinterpret_cast<uint4*>(to), bits_of<uint4>(value));
    } else {
        *to = value.lane[0];
    }
}

template <class... P>
bool aligned(P... pointers) {
    return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

// A divisor that is known before the launch, of numbers from 0 to 2^52.
struct Divisor {
    int64_t value;
    double inverse;

    Divisor(int64_t divisor) : value(divisor), inverse(1.0 / double(divisor)) {}
};

struct DivMod {
    int64_t quotient, remainder;
};

// 64-bit division is a subroutine on a GPU: small numbers take 32 bits, large ones the inverse,
// which is off by one at most.
__device__ __forceinline__ DivMod divide(int64_t a, const Divisor& b) {
    if (((a | b.value) >> 32) == 0) {
        uint32_t q = uint32_t(a) / uint32_t(b.value);
        return {int64_t(q), int64_t(uint32_t(a) - q * uint32_t(b.value))};
    }
    int64_t q = int64_t(double(a) * b.inverse), r = a - q * b.value;
    if (r < 0) q--, r += b.value;
    if (r >= b.value) q++, r -= b.value;
    return {q, r};
}

__device__ __forceinline__ int64_t global_thread() {
    return int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
}

inline int64_t blocks_for(int64_t threads) { return (threads + THREADS - 1) / THREADS; }

// Makes the place's device current while it lives. Where it is current already, nothing is set:
// each device that is set gets a context, whose memory every process of a machine would pay for on
// the first GPU.
class OnDevice {
public:
    explicit OnDevice(ls_place place) {
        error_ = cudaGetDevice(&before_);
        moved_ = error_ == cudaSuccess && before_ != place.device;
        if (moved_) error_ = cudaSetDevice(place.device);
    }
    ~OnDevice() {
        if (moved_) cudaSetDevice(before_);
    }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

    // Runs launches, and returns their error.
    template <class Launch>
    int run(const Launch& launch) {
        if (error_ == cudaSuccess) {
            launch();
            error_ = cudaGetLastError();
        }
        return int(error_);
    }

private:
    int before_ = 0;
    bool moved_ = false;
    cudaError_t error_;
};

}  // namespace ls
