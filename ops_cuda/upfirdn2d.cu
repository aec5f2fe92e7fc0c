// upfirdn2d on CUDA. One kernel for any filter and both layouts, with the loops unrolled for the
// 4-tap filter; and for that filter on contiguous images one that stages a tile in shared memory.
#include "upfirdn2d.cuh"

namespace ls {
namespace {

template <class A>
struct Filter {
    Divisor channels, out_height, out_width, rate_y, rate_x;  // rate: up, as a divisor
    int64_t in_height, in_width;
    int up_y, up_x, down_y, down_x, pad_y, pad_x, num_taps_y, num_taps_x;
    A taps_y[LS_MAX_TAPS], taps_x[LS_MAX_TAPS];
};

template <class A>
Filter<A> filter_of(const ls_upfirdn2d_shape& s) {
    Filter<A> f{s.channels, s.out_height, s.out_width, s.up_y,  s.up_x,  s.in_height,
                s.in_width, s.up_y,       s.up_x,      s.down_y, s.down_x, s.pad_y,
                s.pad_x,    s.num_taps_y, s.num_taps_x, {},      {}};
    for (int i = 0; i < s.num_taps_y; i++) f.taps_y[i] = A(s.taps_y[i]);
    for (int i = 0; i < s.num_taps_x; i++) f.taps_x[i] = A(s.taps_x[i]);
    return f;
}

// Where an output's taps begin, for any rate.
__device__ __forceinline__ Start start_of_any(int64_t out, const Divisor& rate, int down, int pad) {
    int64_t position = out * down - pad, up = rate.value;  // of tap 0, in upsampled samples
    int64_t sample = position > 0 ? divide(position + up - 1, rate).quotient
                                  : -divide(-position, rate).quotient;
    return {sample, int(sample * up - position)};
}

// UP = 0: any filter, its numbers read from `f`. LAST: channels last, N of them a thread; else one
// output a thread.
template <class T, int N, int UP, int DOWN, int TAPS, bool LAST>
__global__ void __launch_bounds__(THREADS, 4)
    upfirdn2d_kernel(const T* __restrict__ x, const T* __restrict__ add, T* __restrict__ y,
                     int64_t count, const __grid_constant__ Filter<acc_t<T>> f) {
    using A = acc_t<T>;
    int64_t i = global_thread() * N;
    if (i >= count) return;
    int64_t channel, image, row, column;  // `image` is a plane where channels are not last
    if constexpr (LAST) {
        DivMod c = divide(i, f.channels), w = divide(c.quotient, f.out_width),
               h = divide(w.quotient, f.out_height);
        channel = c.remainder, column = w.remainder, row = h.remainder, image = h.quotient;
    } else {
        DivMod w = divide(i, f.out_width), h = divide(w.quotient, f.out_height);
        channel = 0, column = w.remainder, row = h.remainder, image = h.quotient;
    }
    constexpr int UNROLL = UP ? TAPS / UP : 1;  // taps that meet samples; 1: a loop
    int up_y = UP ? UP : f.up_y, up_x = UP ? UP : f.up_x;
    Start sy, sx;
    if constexpr (UP)
        sy = start_of<UP, DOWN>(row, f.pad_y), sx = start_of<UP, DOWN>(column, f.pad_x);
    else
        sy = start_of_any(row, f.rate_y, f.down_y, f.pad_y),
        sx = start_of_any(column, f.rate_x, f.down_x, f.pad_x);
    int64_t stride = LAST ? f.channels.value : 1;
    int num_y = UP ? UNROLL : (f.num_taps_y - sy.tap + up_y - 1) / up_y;
    int num_x = UP ? UNROLL : (f.num_taps_x - sx.tap + up_x - 1) / up_x;
    A total[N] = {};
#pragma unroll UNROLL
    for (int i_y = 0; i_y < num_y; i_y++) {
        int64_t sample_y = sy.sample + i_y;
        if (sample_y < 0 || sample_y >= f.in_height) continue;
        const T* line = x + (image * f.in_height + sample_y) * f.in_width * stride + channel;
#pragma unroll UNROLL
        for (int i_x = 0; i_x < num_x; i_x++) {
            int64_t sample_x = sx.sample + i_x;
            if (sample_x < 0 || sample_x >= f.in_width) continue;
            A weight = f.taps_y[sy.tap + i_y * up_y] * f.taps_x[sx.tap + i_x * up_x];
            Lanes<T, N> values = load<N>(line + sample_x * stride);
#pragma unroll
            for (int k = 0; k < N; k++) total[k] += weight * to_acc(values.lane[k]);
        }
    }
    Lanes<T, N> result;
    if (add) {
        Lanes<T, N> other = load<N>(add + i);
#pragma unroll
        for (int k = 0; k < N; k++) total[k] += to_acc(other.lane[k]);
    }
#pragma unroll
    for (int k = 0; k < N; k++) result.lane[k] = from_acc<T>(total[k]);
    store<N>(y + i, result);
}

constexpr int TILE_COLUMNS = 16, TILE_ROWS = 16;  // threads of a tile; N outputs each along x

// Samples that `outputs` outputs of the 4-tap filter read along an axis, at most.
__host__ __device__ constexpr int samples_for(int outputs, int up, int down) {
    return ((outputs - 1) * down + TAPS4 - 1) / up + 2;
}

// The 4-tap filter on contiguous planes: a block reads its tile of the input once, 16 bytes at a
// time, into shared memory.
template <class T, int N, int UP, int DOWN>
__global__ void __launch_bounds__(TILE_COLUMNS* TILE_ROWS, 4)
    upfirdn2d_tile(const T* __restrict__ x, const T* __restrict__ add, T* __restrict__ y,
                   Divisor tiles_x, Divisor tiles_y, const __grid_constant__ Filter<acc_t<T>> f) {
    using A = acc_t<T>;
    constexpr int WIDTH = TILE_COLUMNS * N;  // outputs of the tile along x
    constexpr int LINES = samples_for(TILE_ROWS, UP, DOWN);
    constexpr int PITCH = (samples_for(WIDTH, UP, DOWN) + 2 * N - 2) / N * N;
    LS_SHARED(T, tile);  // [LINES, PITCH]
    DivMod tx = divide(blockIdx.x, tiles_x), ty = divide(tx.quotient, tiles_y);
    int64_t plane = ty.quotient, row = ty.remainder * TILE_ROWS, column = tx.remainder * WIDTH;
    int64_t top = start_of<UP, DOWN>(row, f.pad_y).sample;
    int64_t left = start_of<UP, DOWN>(column, f.pad_x).sample;
    left -= ((left % N) + N) % N;  // to an aligned address
    for (int v = threadIdx.x; v < LINES * (PITCH / N); v += TILE_COLUMNS * TILE_ROWS) {
        int line = v / (PITCH / N), offset = v % (PITCH / N) * N;
        int64_t from_y = top + line, from_x = left + offset;
        Lanes<T, N> values;
        if (from_y >= 0 && from_y < f.in_height && from_x >= 0 && from_x < f.in_width)
            values = load<N>(x + (plane * f.in_height + from_y) * f.in_width + from_x);
        else
#pragma unroll
            for (int k = 0; k < N; k++) values.lane[k] = from_acc<T>(A(0));
#pragma unroll
        for (int k = 0; k < N; k++) tile[line * PITCH + offset + k] = values.lane[k];
    }
    __syncthreads();
    int64_t out_y = row + threadIdx.x / TILE_COLUMNS;
    int64_t out_x = column + threadIdx.x % TILE_COLUMNS * N;
    if (out_y >= f.out_height.value || out_x >= f.out_width.value) return;
    Start sy = start_of<UP, DOWN>(out_y, f.pad_y);
    int line = int(sy.sample - top);
    int64_t at = (plane * f.out_height.value + out_y) * f.out_width.value + out_x;
    Lanes<T, N> result;
    if (add) result = load<N>(add + at);
#pragma unroll
    for (int k = 0; k < N; k++) {
        Start sx = start_of<UP, DOWN>(out_x + k, f.pad_x);
        int offset = int(sx.sample - left);
        A total = add ? to_acc(result.lane[k]) : A(0);
#pragma unroll
        for (int i = 0; i < TAPS4 / UP; i++)
#pragma unroll
            for (int j = 0; j < TAPS4 / UP; j++)
                total += f.taps_y[sy.tap + i * UP] * f.taps_x[sx.tap + j * UP] *
                         to_acc(tile[(line + i) * PITCH + offset + j]);
        result.lane[k] = from_acc<T>(total);
    }
    store<N>(y + at, result);
}

template <class T, int N, int UP, int DOWN, int TAPS, bool LAST>
int launch(ls_place place, const void* x, const void* add, void* y, const ls_upfirdn2d_shape& s) {
    int64_t count = s.n * s.channels * s.out_height * s.out_width, blocks = blocks_for(count / N);
    if (blocks > MAX_BLOCKS) return LS_BAD_ARGUMENT;
    auto kernel = upfirdn2d_kernel<T, N, UP, DOWN, TAPS, LAST>;
    return OnDevice(place).run([&] {
        LS_LAUNCH(kernel, blocks, THREADS, 0, place, (const T*)x, (const T*)add, (T*)y, count,
                  filter_of<acc_t<T>>(s));
    });
}

template <class T, int N, int UP, int DOWN>
int launch_tile(ls_place place, const void* x, const void* add, void* y,
                const ls_upfirdn2d_shape& s) {
    constexpr int WIDTH = TILE_COLUMNS * N;
    constexpr int LINES = samples_for(TILE_ROWS, UP, DOWN);
    constexpr int PITCH = (samples_for(WIDTH, UP, DOWN) + 2 * N - 2) / N * N;
    int64_t tiles_x = (s.out_width + WIDTH - 1) / WIDTH;
    int64_t tiles_y = (s.out_height + TILE_ROWS - 1) / TILE_ROWS;
    int64_t blocks = s.n * s.channels * tiles_x * tiles_y;
    if (blocks > MAX_BLOCKS) return LS_BAD_ARGUMENT;
    auto kernel = upfirdn2d_tile<T, N, UP, DOWN>;
    return OnDevice(place).run([&] {
        LS_LAUNCH(kernel, blocks, TILE_COLUMNS * TILE_ROWS, LINES * PITCH * sizeof(T), place,
                  (const T*)x, (const T*)add, (T*)y, tiles_x, tiles_y, filter_of<acc_t<T>>(s));
    });
}

// The fast paths of the 4-tap filter at one rate.
template <class T, int UP, int DOWN>
int launch_4_taps(ls_place place, const void* x, const void* add, void* y,
                  const ls_upfirdn2d_shape& s) {
    constexpr int N = LANES<T>;
    bool addresses = aligned(x, add, y);
    if (s.layout == LS_CHANNELS_LAST)
        return s.channels % N == 0 && addresses
                   ? launch<T, N, UP, DOWN, TAPS4, true>(place, x, add, y, s)
                   : launch<T, 1, UP, DOWN, TAPS4, true>(place, x, add, y, s);
    return s.in_width % N == 0 && s.out_width % N == 0 && addresses
               ? launch_tile<T, N, UP, DOWN>(place, x, add, y, s)
               : launch_tile<T, 1, UP, DOWN>(place, x, add, y, s);
}

}  // namespace
}  // namespace ls

int ls_upfirdn2d(ls_place place, int dtype, const void* x, const void* add, void* y,
                 const ls_upfirdn2d_shape* shape) {
    const ls_upfirdn2d_shape& s = *shape;
    if (!ls::valid(s)) return LS_BAD_ARGUMENT;
    if (s.n * s.channels * s.out_height * s.out_width == 0) return 0;
    return ls::with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        bool square = s.up_x == s.up_y && s.down_x == s.down_y;
        bool fast = square && s.num_taps_x == ls::TAPS4 && s.num_taps_y == ls::TAPS4;
        if (fast && s.up_x == 1 && s.down_x == 1) return ls::launch_4_taps<T, 1, 1>(place, x, add, y, s);
        if (fast && s.up_x == 2 && s.down_x == 1) return ls::launch_4_taps<T, 2, 1>(place, x, add, y, s);
        if (fast && s.up_x == 1 && s.down_x == 2) return ls::launch_4_taps<T, 1, 2>(place, x, add, y, s);
        constexpr int N = ls::LANES<T>;
        if (s.layout == LS_CONTIGUOUS) return ls::launch<T, 1, 0, 0, 0, false>(place, x, add, y, s);
        return s.channels % N == 0 && ls::aligned(x, add, y)
                   ? ls::launch<T, N, 0, 0, 0, true>(place, x, add, y, s)
                   : ls::launch<T, 1, 0, 0, 0, true>(place, x, add, y, s);
    });
}
