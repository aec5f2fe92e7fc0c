// Counter-based random numbers on the CPU: 16 counters side by side, in loops that the compiler makes
// vectors of.
#include "cpu.h"
#include "philox.h"

namespace ls {
namespace {

constexpr int SIDE = 16;
typedef float Numbers[4][SIDE];

void integers(int64_t block, int64_t index, uint64_t key, uint32_t (&x)[4][SIDE]) {
    for (int i = 0; i < SIDE; i++) {
        Counter c = counter_of(block + i, index);
        uint32_t key_0 = uint32_t(key), key_1 = uint32_t(key >> 32);
#pragma GCC unroll 10
        for (int round = 0; round < ROUNDS; round++) {
            philox_round(c, key_0, key_1);
            key_0 += KEY_STEP_0, key_1 += KEY_STEP_1;
        }
        for (int k = 0; k < 4; k++) x[k][i] = c.word[k];
    }
}

void numbers(const uint32_t (&x)[4][SIDE], int32_t distribution, Numbers& y) {
    if (distribution == LS_BITS) {
        memcpy(y, x, sizeof y);
    } else if (distribution == LS_UNIFORM) {
        for (int k = 0; k < 4; k++)
            for (int i = 0; i < SIDE; i++) y[k][i] = uniform_of(x[k][i]);
    } else {
        for (int k = 0; k < 4; k += 2) {
            const uint32_t *a = x[k], *b = x[k + 1];
            float *first = y[k], *second = y[k + 1];
            for (int i = 0; i < SIDE; i++) {
                Pair pair = normal_of(a[i], b[i]);
                first[i] = pair.first, second[i] = pair.second;
            }
        }
    }
}

void row_part(int64_t first, int64_t index, uint64_t key, int32_t distribution, float* out,
              int64_t count) {
    uint32_t x[4][SIDE];
    Numbers y;
    integers(first / 4, index, key, x);
    numbers(x, distribution, y);
    float mixed[4 * SIDE];
    for (int i = 0; i < SIDE; i++)
        for (int k = 0; k < 4; k++) mixed[4 * i + k] = y[k][i];
    memcpy(out + first, mixed, std::min<int64_t>(count - first, 4 * SIDE) * sizeof(float));
}

}  // namespace
}  // namespace ls

int ls_philox(ls_place, int dtype, const int64_t* indices, void* out, int64_t n, int64_t count,
              uint64_t key, int32_t distribution) {
    using namespace ls;
    if (!valid_philox(dtype, n, count, distribution)) return LS_BAD_ARGUMENT;
    int64_t task = 64 * 4 * SIDE, tasks = (count + task - 1) / task;  // of a row
    parallel(n * tasks, n * count, [=](int64_t i) {
        int64_t row = i / tasks, start = i % tasks * task, end = std::min(start + task, count);
        for (int64_t first = start; first < end; first += 4 * SIDE)
            row_part(first, indices[row], key, distribution, (float*)out + row * count, count);
    });
    return 0;
}
