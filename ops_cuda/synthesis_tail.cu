// synthesis_tail on CUDA: all that lies between two convolutions in one read and one write. A thread has N
// channels of a pixel; those of a pixel add up its image in shared memory, in a fixed order: no atomics.
#include "upfirdn2d.cuh"

namespace ls {
namespace {

// A 4-tap filter and what it is applied to.
template <class A>
struct Taps {
    int64_t in_height, in_width, out_height;
    Divisor out_width;
    int pad_y, pad_x;
    A y[TAPS4], x[TAPS4];
};

// One that is not there takes the numbers of nothing.
template <class A>
Taps<A> taps_of(const ls_upfirdn2d_shape* s) {
    if (!s) return {0, 0, 1, 1, 0, 0, {}, {}};
    Taps<A> t{s->in_height, s->in_width, s->out_height, s->out_width, s->pad_y, s->pad_x, {}, {}};
    for (int i = 0; i < TAPS4; i++) t.y[i] = A(s->taps_y[i]), t.x[i] = A(s->taps_x[i]);
    return t;
}

template <class A>
struct Sides {
    const A *demodulation, *noise, *strength, *bias, *after;  // after: may be null
    const A *weight, *rgb_bias, *lower;  // of the image: null where there is none, or no lower one
};

constexpr int MOST_COLUMNS = 32;  // threads of a pixel

// FILTERED: x is filtered first. `columns`, a power of two, threads have a pixel, the others of a block the
// pixels that follow. y null: only the image is wanted.
template <class T, int N, bool FILTERED>
__global__ void __launch_bounds__(THREADS, FILTERED ? 2 : 3)
    synthesis_tail_kernel(const T* __restrict__ x, T* __restrict__ y, acc_t<T>* __restrict__ rgb,
                          int columns, ls_epilogue_shape s, Divisor pixels,
                          const __grid_constant__ Sides<acc_t<T>> side,
                          const __grid_constant__ Taps<acc_t<T>> taps,
                          const __grid_constant__ Taps<acc_t<T>> up,
                          Activation<acc_t<T>> activation) {
    using A = acc_t<T>;
    constexpr int M = N == 1 ? 1 : LANES<A>;  // numbers of a channel, of a load
    LS_SHARED(A, shared);  // [3, THREADS], where there is an image
    int column = threadIdx.x & (columns - 1), line = threadIdx.x / columns, rows = THREADS / columns;
    int64_t first = int64_t(blockIdx.x) * rows, at = first + line;
    bool inside = at < s.n * s.pixels;
    A sum[3] = {};
    if (inside) {
        DivMod image = divide(at, pixels);
        int64_t n = image.quotient, pixel = image.remainder;
        A drawn = side.noise[(s.noise_n == 1 ? 0 : n * s.pixels) + pixel] * *side.strength;
        for (int64_t c = column * N; c < s.channels; c += columns * N) {
            Lanes<T, N> values;
            if constexpr (FILTERED) {
                DivMod place = divide(pixel, taps.out_width);
                int64_t top = place.quotient - taps.pad_y, left = place.remainder - taps.pad_x;
                A total[N] = {};
#pragma unroll
                for (int i = 0; i < TAPS4; i++) {
                    if (top + i < 0 || top + i >= taps.in_height) continue;
                    const T* row = x + (n * taps.in_height + top + i) * taps.in_width * s.channels + c;
#pragma unroll
                    for (int j = 0; j < TAPS4; j++) {
                        if (left + j < 0 || left + j >= taps.in_width) continue;
                        A weight = taps.y[i] * taps.x[j];
                        Lanes<T, N> sample = load<N>(row + (left + j) * s.channels);
#pragma unroll
                        for (int k = 0; k < N; k++) total[k] += weight * to_acc(sample.lane[k]);
                    }
                }
#pragma unroll
                for (int k = 0; k < N; k++) values.lane[k] = from_acc<T>(total[k]);
            } else {
                values = load<N>(x + at * s.channels + c);
            }
            int64_t own = n * s.channels + c;
#pragma unroll
            for (int k = 0; k < N; k += M) {
                Lanes<A, M> scale = load<M>(side.demodulation + own + k), shift = load<M>(side.bias + c + k);
                A value[M];
#pragma unroll
                for (int m = 0; m < M; m++)
                    value[m] = activation(to_acc(values.lane[k + m]) * scale.lane[m] + drawn +
                                          shift.lane[m]);
                if (side.weight) {  // the image is of what is stored, before `after`
#pragma unroll
                    for (int o = 0; o < 3; o++) {
                        Lanes<A, M> row =
                            load<M>(side.weight + (3 * n + o) * s.channels + c + k);
#pragma unroll
                        for (int m = 0; m < M; m++)
                            sum[o] += to_acc(from_acc<T>(value[m])) * row.lane[m];
                    }
#pragma unroll
                    for (int m = 0; m < M; m++) value[m] = to_acc(from_acc<T>(value[m]));
                }
                if (side.after) {
                    Lanes<A, M> then = load<M>(side.after + own + k);
#pragma unroll
                    for (int m = 0; m < M; m++) value[m] *= then.lane[m];
                }
#pragma unroll
                for (int m = 0; m < M; m++) values.lane[k + m] = from_acc<T>(value[m]);
            }
            if (y) store<N>(y + at * s.channels + c, values);
        }
    }
    if (!side.weight) return;  // all threads alike
#pragma unroll
    for (int o = 0; o < 3; o++) shared[o * THREADS + threadIdx.x] = sum[o];
    for (int half = columns / 2; half > 0; half /= 2) {
        __syncthreads();
        if (column < half)
#pragma unroll
            for (int o = 0; o < 3; o++)
                shared[o * THREADS + threadIdx.x] += shared[o * THREADS + threadIdx.x + half];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 3 * rows; i += THREADS) {  // neighbours have neighbouring pixels
        int o = i / rows, own = i % rows;
        if (first + own >= s.n * s.pixels) continue;
        DivMod image = divide(first + own, pixels);
        int64_t plane = 3 * image.quotient + o;
        A total = shared[o * THREADS + own * columns] + side.rgb_bias[o];
        if (side.lower) {
            DivMod place = divide(image.remainder, up.out_width);
            Start sy = start_of<2, 1>(place.quotient, up.pad_y);
            Start sx = start_of<2, 1>(place.remainder, up.pad_x);
#pragma unroll
            for (int k = 0; k < TAPS4; k++) {  // two lines of two samples
                int64_t line_y = sy.sample + k / 2, line_x = sx.sample + k % 2;
                if (line_y < 0 || line_y >= up.in_height || line_x < 0 || line_x >= up.in_width)
                    continue;
                total += up.y[sy.tap + k / 2 * 2] * up.x[sx.tap + k % 2 * 2] *
                         side.lower[(plane * up.in_height + line_y) * up.in_width + line_x];
            }
        }
        rgb[plane * pixels.value + image.remainder] = total;
    }
}

// The 4-tap filter at one rate.
bool is_fast(const ls_upfirdn2d_shape& s, int up) {
    return s.num_taps_y == TAPS4 && s.num_taps_x == TAPS4 && s.up_y == up && s.up_x == up &&
           s.down_y == 1 && s.down_x == 1;
}

}  // namespace
}  // namespace ls

int ls_synthesis_tail(ls_place place, int dtype, const void* x, const void* demodulation,
                      const void* noise, const void* strength, const void* bias, const void* after,
                      const void* weight, const void* rgb_bias, const void* lower, void* y, void*,
                      void* rgb, const ls_upfirdn2d_shape* taps, const ls_upfirdn2d_shape* up,
                      ls_epilogue_shape shape, ls_activation activation) {
    if (!ls::valid(shape) || !ls::valid(activation) || shape.layout != LS_CHANNELS_LAST)
        return LS_BAD_ARGUMENT;
    if (taps && !(ls::valid(*taps) && y && ls::is_fast(*taps, 1))) return LS_BAD_ARGUMENT;
    if (up && !(ls::valid(*up) && weight && lower && ls::is_fast(*up, 2))) return LS_BAD_ARGUMENT;
    if (shape.n * shape.channels * shape.pixels == 0) return 0;
    return ls::with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = ls::acc_t<T>;
        constexpr int N = ls::LANES<T>;
        bool wide = shape.channels % N == 0 &&
                    ls::aligned(x, y, demodulation, bias, after, weight);
        int lanes = wide ? N : 1, columns = 1;
        while (columns < ls::MOST_COLUMNS && columns * lanes < shape.channels) columns *= 2;
        int64_t rows = ls::THREADS / columns, blocks = (shape.n * shape.pixels + rows - 1) / rows;
        if (blocks > ls::MAX_BLOCKS) return LS_BAD_ARGUMENT;
        ls::Sides<A> sides{(const A*)demodulation, (const A*)noise,  (const A*)strength,
                           (const A*)bias,         (const A*)after,  (const A*)weight,
                           (const A*)rgb_bias,     up ? (const A*)lower : nullptr};
        auto kernel = taps ? (wide ? ls::synthesis_tail_kernel<T, N, true>
                                   : ls::synthesis_tail_kernel<T, 1, true>)
                           : (wide ? ls::synthesis_tail_kernel<T, N, false>
                                   : ls::synthesis_tail_kernel<T, 1, false>);
        size_t shared_bytes = weight ? 3 * ls::THREADS * sizeof(A) : 0;
        return ls::OnDevice(place).run([&] {
            LS_LAUNCH(kernel, blocks, ls::THREADS, shared_bytes, place, (const T*)x, (T*)y, (A*)rgb,
                      columns, shape, shape.pixels, sides, ls::taps_of<A>(taps), ls::taps_of<A>(up),
                      ls::Activation<A>::template of<T>(activation));
        });
    });
}
