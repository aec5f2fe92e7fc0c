// to_rgb on CUDA: a thread adds up the channels of a few neighbouring pixels.
#include "cuda.cuh"

namespace ls {
namespace {

// Channels last: N channels of P pixels at a time. A pixel's channels are neighbours, which the first
// cache serves to one thread after the other; the weights are those of the whole warp.
template <class T, int N, int P>
__global__ void __launch_bounds__(THREADS, 2)
    to_rgb_last(const T* __restrict__ x, const acc_t<T>* __restrict__ weight,
                const acc_t<T>* __restrict__ bias, acc_t<T>* __restrict__ y, int64_t count,
                int64_t channels, Divisor pixels) {
    using A = acc_t<T>;
    constexpr int M = N == 1 ? 1 : LANES<A>;  // weights of a load
    int64_t i = global_thread() * P;
    if (i >= count) return;
    DivMod place = divide(i, pixels);
    const A* scaled = weight + place.quotient * 3 * channels;
    A total[3][P];
#pragma unroll
    for (int o = 0; o < 3; o++)
#pragma unroll
        for (int p = 0; p < P; p++) total[o][p] = bias[o];
    for (int64_t c = 0; c < channels; c += N) {
        Lanes<T, N> values[P];
#pragma unroll
        for (int p = 0; p < P; p++) values[p] = load<N>(x + (i + p) * channels + c);
#pragma unroll
        for (int k = 0; k < N; k += M) {
#pragma unroll
            for (int o = 0; o < 3; o++) {
                Lanes<A, M> row = load<M>(scaled + o * channels + c + k);
#pragma unroll
                for (int p = 0; p < P; p++)
#pragma unroll
                    for (int m = 0; m < M; m++)
                        total[o][p] += to_acc(values[p].lane[k + m]) * row.lane[m];
            }
        }
    }
#pragma unroll
    for (int o = 0; o < 3; o++) {
        Lanes<A, P> out;
#pragma unroll
        for (int p = 0; p < P; p++) out.lane[p] = total[o][p];
        store<P>(y + (place.quotient * 3 + o) * pixels.value + place.remainder, out);
    }
}

// Contiguous: N neighbouring pixels, channel after channel.
template <class T, int N>
__global__ void __launch_bounds__(THREADS, 2)
    to_rgb_planes(const T* __restrict__ x, const acc_t<T>* __restrict__ weight,
                  const acc_t<T>* __restrict__ bias, acc_t<T>* __restrict__ y, int64_t count,
                  int64_t channels, Divisor pixels) {
    using A = acc_t<T>;
    constexpr int M = N == 1 ? 1 : LANES<A>;  // outputs of a store
    int64_t i = global_thread() * N;
    if (i >= count) return;
    DivMod place = divide(i, pixels);
    const T* from = x + place.quotient * channels * pixels.value + place.remainder;
    const A* scaled = weight + place.quotient * 3 * channels;
    A total[3][N];
#pragma unroll
    for (int o = 0; o < 3; o++)
#pragma unroll
        for (int k = 0; k < N; k++) total[o][k] = bias[o];
    for (int64_t c = 0; c < channels; c++) {
        Lanes<T, N> values = load<N>(from + c * pixels.value);
#pragma unroll
        for (int o = 0; o < 3; o++) {
            A factor = scaled[o * channels + c];
#pragma unroll
            for (int k = 0; k < N; k++) total[o][k] += to_acc(values.lane[k]) * factor;
        }
    }
#pragma unroll
    for (int o = 0; o < 3; o++) {
#pragma unroll
        for (int k = 0; k < N; k += M) {
            Lanes<A, M> out;
#pragma unroll
            for (int m = 0; m < M; m++) out.lane[m] = total[o][k + m];
            store<M>(y + (place.quotient * 3 + o) * pixels.value + place.remainder + k, out);
        }
    }
}

}  // namespace
}  // namespace ls

int ls_to_rgb(ls_place place, int dtype, const void* x, const void* weight, const void* bias, void* y,
              int64_t n, int64_t channels, int64_t pixels, int32_t layout) {
    if (n < 0 || channels < 0 || pixels < 0 || !ls::valid(layout)) return LS_BAD_ARGUMENT;
    int64_t count = n * pixels;
    if (count == 0) return 0;
    return ls::with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = ls::acc_t<T>;
        constexpr int N = ls::LANES<T>, P = ls::LANES<A>;
        bool last = layout == LS_CHANNELS_LAST, wide = ls::aligned(x, weight, y);
        wide = wide && (last ? channels % N == 0 && pixels % P == 0 : pixels % N == 0);
        auto kernel = last ? (wide ? ls::to_rgb_last<T, N, P> : ls::to_rgb_last<T, 1, 1>)
                           : (wide ? ls::to_rgb_planes<T, N> : ls::to_rgb_planes<T, 1>);
        int64_t blocks = ls::blocks_for(count / (wide ? last ? P : N : 1));
        if (blocks > ls::MAX_BLOCKS) return LS_BAD_ARGUMENT;
        return ls::OnDevice(place).run([&] {
            LS_LAUNCH(kernel, blocks, ls::THREADS, 0, place, (const T*)x, (const A*)weight,
                      (const A*)bias, (A*)y, count, channels, pixels);
        });
    });
}
