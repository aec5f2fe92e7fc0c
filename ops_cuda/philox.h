// Philox 4x32-10 (Salmon et al., SC 2011, section 3.4) and what is made of its integers. The same
// code on CPU and GPU: integers are equal, normals to rounding.
#pragma once

#include "numeric.cuh"

namespace ls {

struct Counter {
    uint32_t word[4];
};

// The counter of four numbers of a row: their place in it, and the row's index.
LS_BOTH Counter counter_of(int64_t block, int64_t index) {
    return {{uint32_t(block), uint32_t(uint64_t(block) >> 32), uint32_t(index),
             uint32_t(uint64_t(index) >> 32)}};
}

// One of the ten rounds; the key grows by the second constants between them.
LS_BOTH void philox_round(Counter& c, uint32_t key_0, uint32_t key_1) {
    uint64_t a = uint64_t(0xD2511F53u) * c.word[0], b = uint64_t(0xCD9E8D57u) * c.word[2];
    c = {{uint32_t(b >> 32) ^ c.word[1] ^ key_0, uint32_t(b),
          uint32_t(a >> 32) ^ c.word[3] ^ key_1, uint32_t(a)}};
}

constexpr int ROUNDS = 10;
constexpr uint32_t KEY_STEP_0 = 0x9E3779B9u, KEY_STEP_1 = 0xBB67AE85u;

// In [0, 1): 24 bits.
LS_BOTH float uniform_of(uint32_t x) { return float(x >> 8) * 0x1p-24f; }

// ln((x + 1/2) / 2^32) by the series of 2 artanh(s), s = (m - 1) / (m + 1), for m 2^e with m in
// [sqrt(1/2), sqrt(2)); the first term left out is below 1e-9.
LS_BOTH float log_of(uint32_t x) {
    uint32_t bits = bits_of<uint32_t>((float(x) + 0.5f) * 0x1p-32f);
    int32_t exponent = int32_t(bits - 0x3f3504f3u) >> 23;
    float m = bits_of<float>(bits - (uint32_t(exponent) << 23));
    float s = (m - 1.0f) / (m + 1.0f), q = s * s;
    float series = 1.0f / 9 * q + 1.0f / 7;
    series = (series * q + 1.0f / 5) * q + 1.0f / 3;
    return float(exponent) * 0.69314718f + 2.0f * s * (series * q + 1.0f);
}

struct Pair {
    float first, second;
};

// Two standard normal numbers of two integers (Box and Muller, 1958): sqrt(-2 ln u) times cosine and
// sine of pi t, t in [-1, 1], whose Taylor series are taken on [-1/4, 1/4].
LS_BOTH Pair normal_of(uint32_t x, uint32_t y) {
    float radius = sqrtf(-2.0f * log_of(x));
    float t = float(int32_t(y)) * 0x1p-31f;
    int32_t turn = int32_t(t * 2.0f + 2.5f) - 2;  // nearest quarter, -2 to 2; floorf is no vector's
    float quarters = float(turn);
    float a = (t - quarters * 0.5f) * 3.14159265f, q = a * a;
    float sine = ((1.0f / 362880 * q - 1.0f / 5040) * q + 1.0f / 120) * q - 1.0f / 6;
    sine = a + a * q * sine;
    float cosine = ((1.0f / 40320 * q - 1.0f / 720) * q + 1.0f / 24) * q - 0.5f;
    cosine = 1.0f + q * cosine;
    bool swaps = turn & 1;
    float across = swaps ? sine : cosine, up = swaps ? cosine : sine;
    across = ((turn + 1) & 2) ? -across : across;
    up = (turn & 2) ? -up : up;
    return {radius * across, radius * up};
}

inline bool valid_philox(int dtype, int64_t n, int64_t count, int32_t distribution) {
    return dtype == LS_FLOAT32 && n >= 0 && count >= 0 && distribution >= LS_BITS &&
           distribution <= LS_NORMAL;
}

}  // namespace ls
