// Runs CUDA kernels on the host, for tests: compiled with `-x c++ -include emulation.h`.
//
// The threads of a block are fibers that run one after the other, in an order that the test chooses,
// and change places at __syncthreads. Shared memory is poisoned with NaN before each block and lies
// between guard bytes. A barrier that some threads of a block reach after others have left is an
// error.
#pragma once

#define LS_EMULATED
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__

#include <stdint.h>

#include <functional>

struct dim3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

inline void __stwb(uint4* to, uint4 value) { *to = value; }

extern dim3 threadIdx, blockIdx, blockDim, gridDim;
void __syncthreads();

typedef int cudaError_t;
enum { cudaSuccess = 0 };
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

namespace ls_emulation {
void launch(int64_t blocks, int threads, size_t shared_bytes, const std::function<void()>& kernel);
void* shared_memory();
}  // namespace ls_emulation

#define LS_LAUNCH(kernel, blocks, threads, shared_bytes, place, ...) \
    ls_emulation::launch(blocks, threads, shared_bytes, [&] { (void)place, kernel(__VA_ARGS__); })
#define LS_SHARED(type, name) type* name = reinterpret_cast<type*>(ls_emulation::shared_memory())

extern "C" {
// How the next launches run. order: 0 forward, 1 backward, 2 shuffled by seed, of threads and of
// blocks; of the blocks only [first, last) run.
void ls_emulation_configure(int thread_order, int block_order, uint64_t seed, int64_t first,
                            int64_t last);
// Blocks of the last launch.
int64_t ls_emulation_blocks(void);
}
