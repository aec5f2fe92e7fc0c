// Counter-based random numbers on CUDA: one thread per counter, which gives four numbers.
#include "cuda.cuh"
#include "philox.h"

namespace ls {
namespace {

// N is 4 where rows begin at 16 bytes, else 1: four numbers are stored as one, or one by one.
template <class T, int N>
__global__ void __launch_bounds__(THREADS, 4)
    philox_kernel(const int64_t* __restrict__ indices, T* __restrict__ out, int64_t total,
                  int64_t count, Divisor blocks, uint64_t key, int32_t distribution) {
    int64_t i = global_thread();
    if (i >= total) return;
    DivMod place = divide(i, blocks);
    Counter c = counter_of(place.remainder, indices[place.quotient]);
    uint32_t key_0 = uint32_t(key), key_1 = uint32_t(key >> 32);
#pragma unroll
    for (int round = 0; round < ROUNDS; round++) {
        philox_round(c, key_0, key_1);
        key_0 += KEY_STEP_0, key_1 += KEY_STEP_1;
    }
    Lanes<T, 4> y;
    if (distribution == LS_BITS) {
#pragma unroll
        for (int k = 0; k < 4; k++) y.lane[k] = bits_of<T>(c.word[k]);
    } else if (distribution == LS_UNIFORM) {
#pragma unroll
        for (int k = 0; k < 4; k++) y.lane[k] = uniform_of(c.word[k]);
    } else {
#pragma unroll
        for (int k = 0; k < 4; k += 2) {
            Pair pair = normal_of(c.word[k], c.word[k + 1]);
            y.lane[k] = pair.first, y.lane[k + 1] = pair.second;
        }
    }
    int64_t first = place.remainder * 4;
    T* to = out + place.quotient * count + first;
    if constexpr (N == 4) {
        store<4>(to, y);
    } else {
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (first + k < count) to[k] = y.lane[k];
    }
}

}  // namespace
}  // namespace ls

int ls_philox(ls_place place, int dtype, const int64_t* indices, void* out, int64_t n, int64_t count,
              uint64_t key, int32_t distribution) {
    if (!ls::valid_philox(dtype, n, count, distribution)) return LS_BAD_ARGUMENT;
    if (n * count == 0) return 0;
    int64_t blocks_of_row = (count + 3) / 4, total = n * blocks_of_row;
    bool wide = count % 4 == 0 && ls::aligned(out);
    auto kernel = wide ? ls::philox_kernel<float, 4> : ls::philox_kernel<float, 1>;
    int64_t blocks = ls::blocks_for(total);
    if (blocks > ls::MAX_BLOCKS) return LS_BAD_ARGUMENT;
    return ls::OnDevice(place).run([&] {
        LS_LAUNCH(kernel, blocks, ls::THREADS, 0, place, indices, (float*)out, total, count,
                  blocks_of_row, key, distribution);
    });
}
