// synthesis_epilogue on CUDA. Forward: one thread per 16 bytes. Backward: a block walks a chunk of
// pixels, writes dx, and adds up its three sums in shared memory, in a fixed order: no atomics.
#include "cuda.cuh"

namespace ls {
namespace {

template <class T, int N, bool LAST>
__global__ void __launch_bounds__(THREADS, 4)
    epilogue_kernel(const T* __restrict__ x, const acc_t<T>* __restrict__ demodulation,
                    const acc_t<T>* __restrict__ noise, const acc_t<T>* __restrict__ strength,
                    const acc_t<T>* __restrict__ bias, const acc_t<T>* __restrict__ after,
                    T* __restrict__ y, ls_epilogue_shape s, Divisor channels, Divisor pixels,
                    Activation<acc_t<T>> activation) {
    using A = acc_t<T>;
    int64_t i = global_thread() * N;
    if (i >= s.n * s.channels * s.pixels) return;
    int64_t n, channel, pixel;
    if constexpr (LAST) {
        DivMod place = divide(i, channels), image = divide(place.quotient, pixels);
        n = image.quotient, pixel = image.remainder, channel = place.remainder;
    } else {
        DivMod plane = divide(i, pixels), image = divide(plane.quotient, channels);
        n = image.quotient, channel = image.remainder, pixel = plane.remainder;
    }
    const A* drawn = noise + (s.noise_n == 1 ? 0 : n * s.pixels) + pixel;
    int64_t first = n * s.channels + channel;
    A weight = *strength;
    Lanes<T, N> values = load<N>(x + i);
#pragma unroll
    for (int k = 0; k < N; k++) {
        int c = LAST ? k : 0, p = LAST ? 0 : k;
        A value = to_acc(values.lane[k]) * demodulation[first + c] + weight * drawn[p] +
                  bias[channel + c];
        value = activation(value);
        values.lane[k] = from_acc<T>(after ? value * after[first + c] : value);
    }
    store<N>(y + i, values);
}

constexpr int PLANE_THREADS = 128;

// Contiguous: a block takes one chunk of one plane.
template <class T, int N>
__global__ void __launch_bounds__(PLANE_THREADS, 8)
    epilogue_grad_planes(const T* __restrict__ dy, const T* __restrict__ y, const T* __restrict__ x,
                         const acc_t<T>* __restrict__ demodulation,
                         const acc_t<T>* __restrict__ noise, T* __restrict__ dx,
                         acc_t<T>* __restrict__ sums, Divisor parts, ls_epilogue_shape s,
                         Divisor channels, Activation<acc_t<T>> activation) {
    using A = acc_t<T>;
    LS_SHARED(A, shared);  // [3, PLANE_THREADS]
    DivMod row = divide(blockIdx.x, channels);  // n * parts + part; channel
    DivMod image = divide(row.quotient, parts);
    int64_t n = image.quotient, plane = n * s.channels + row.remainder;
    int64_t chunk = divide(s.pixels + parts.value - 1, parts).quotient;
    int64_t first = image.remainder * chunk;
    int64_t last = first + chunk < s.pixels ? first + chunk : s.pixels;
    const A* drawn = noise + (s.noise_n == 1 ? 0 : n * s.pixels);
    A scale = demodulation[plane], sum[3] = {};
    for (int64_t p = first + int64_t(threadIdx.x) * N; p < last; p += PLANE_THREADS * N) {
        int64_t at = plane * s.pixels + p;
        Lanes<T, N> gradient = load<N>(dy + at), output = load<N>(y + at), input = load<N>(x + at);
#pragma unroll
        for (int k = 0; k < N; k++) {
            A g = to_acc(gradient.lane[k]) * activation.derivative(to_acc(output.lane[k]));
            gradient.lane[k] = from_acc<T>(g * scale);
            sum[0] += g * to_acc(input.lane[k]);
            sum[1] += g;
            sum[2] += g * drawn[p + k];
        }
        store<N>(dx + at, gradient);
    }
#pragma unroll
    for (int j = 0; j < 3; j++) shared[j * PLANE_THREADS + threadIdx.x] = sum[j];
    for (int half = PLANE_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < unsigned(half))
#pragma unroll
            for (int j = 0; j < 3; j++)
                shared[j * PLANE_THREADS + threadIdx.x] +=
                    shared[j * PLANE_THREADS + threadIdx.x + half];
    }
    __syncthreads();
    if (threadIdx.x < 3) {
        int64_t stride = s.n * parts.value * s.channels;
        // row.quotient and the channel are the block's own number again
        sums[threadIdx.x * stride + blockIdx.x] = shared[threadIdx.x * PLANE_THREADS];
    }
}

constexpr int MOST_COLUMNS = 32;  // threads along channels; the others lie along pixels

// Channels last: a block takes one chunk of pixels, and N channels of each of its columns, whose number is
// a power of two: with few channels a warp has several pixels, and few threads are idle.
template <class T, int N>
__global__ void __launch_bounds__(THREADS, 3)
    epilogue_grad_columns(const T* __restrict__ dy, const T* __restrict__ y,
                          const T* __restrict__ x, const acc_t<T>* __restrict__ demodulation,
                          const acc_t<T>* __restrict__ noise, T* __restrict__ dx,
                          acc_t<T>* __restrict__ sums, int columns, Divisor parts, Divisor groups,
                          ls_epilogue_shape s, Activation<acc_t<T>> activation) {
    using A = acc_t<T>;
    LS_SHARED(A, shared);  // [rows, N, columns]: neighbours along channels in neighbouring banks
    int column = threadIdx.x & (columns - 1), line = threadIdx.x / columns, rows = THREADS / columns;
    DivMod row = divide(blockIdx.x, groups);
    DivMod image = divide(row.quotient, parts);
    int64_t n = image.quotient, channel = (row.remainder * columns + column) * N;
    int64_t chunk = divide(s.pixels + parts.value - 1, parts).quotient;
    int64_t first = image.remainder * chunk;
    int64_t last = first + chunk < s.pixels ? first + chunk : s.pixels;
    const A* drawn = noise + (s.noise_n == 1 ? 0 : n * s.pixels);
    bool inside = channel < s.channels;
    A sum[3][N] = {}, scale[N];
#pragma unroll
    for (int k = 0; k < N; k++) scale[k] = inside ? demodulation[n * s.channels + channel + k] : A(0);
    if (inside)
        for (int64_t p = first + line; p < last; p += rows) {
            int64_t at = (n * s.pixels + p) * s.channels + channel;
            Lanes<T, N> gradient = load<N>(dy + at), output = load<N>(y + at),
                        input = load<N>(x + at);
            A here = drawn[p];
#pragma unroll
            for (int k = 0; k < N; k++) {
                A g = to_acc(gradient.lane[k]) * activation.derivative(to_acc(output.lane[k]));
                gradient.lane[k] = from_acc<T>(g * scale[k]);
                sum[0][k] += g * to_acc(input.lane[k]);
                sum[1][k] += g;
                sum[2][k] += g * here;
            }
            store<N>(dx + at, gradient);
        }
    // the first threads add up one channel each, in the order of the rows
    int width = columns * N, own = threadIdx.x / columns;  // of N: the channel within a column
#pragma unroll
    for (int j = 0; j < 3; j++) {
#pragma unroll
        for (int k = 0; k < N; k++) shared[line * width + k * columns + column] = sum[j][k];
        __syncthreads();
        if (own < N && inside) {
            A total = 0;
            for (int r = 0; r < rows; r++) total += shared[r * width + own * columns + column];
            sums[(j * s.n * parts.value + row.quotient) * s.channels + channel + own] = total;
        }
        __syncthreads();
    }
}

}  // namespace
}  // namespace ls

int ls_synthesis_epilogue(ls_place place, int dtype, const void* x, const void* demodulation,
                          const void* noise, const void* strength, const void* bias,
                          const void* after, void* y, ls_epilogue_shape shape,
                          ls_activation activation) {
    if (!ls::valid(shape) || !ls::valid(activation)) return LS_BAD_ARGUMENT;
    int64_t count = shape.n * shape.channels * shape.pixels;
    if (count == 0) return 0;
    return ls::with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = ls::acc_t<T>;
        constexpr int N = ls::LANES<T>;
        bool last = shape.layout == LS_CHANNELS_LAST;
        bool wide = (last ? shape.channels : shape.pixels) % N == 0 && ls::aligned(x, y);
        auto kernel = last ? (wide ? ls::epilogue_kernel<T, N, true> : ls::epilogue_kernel<T, 1, true>)
                           : (wide ? ls::epilogue_kernel<T, N, false>
                                   : ls::epilogue_kernel<T, 1, false>);
        int64_t blocks = ls::blocks_for(count / (wide ? N : 1));
        if (blocks > ls::MAX_BLOCKS) return LS_BAD_ARGUMENT;
        return ls::OnDevice(place).run([&] {
            LS_LAUNCH(kernel, blocks, ls::THREADS, 0, place, (const T*)x, (const A*)demodulation,
                      (const A*)noise, (const A*)strength, (const A*)bias, (const A*)after, (T*)y,
                      shape, shape.channels, shape.pixels,
                      ls::Activation<A>::template of<T>(activation));
        });
    });
}

int ls_synthesis_epilogue_grad(ls_place place, int dtype, const void* dy, const void* y,
                               const void* x, const void* demodulation, const void* noise, void* dx,
                               void* sums, int64_t parts, ls_epilogue_shape shape,
                               ls_activation activation) {
    if (!ls::valid(shape) || !ls::valid(activation) || parts < 1) return LS_BAD_ARGUMENT;
    if (shape.n * shape.channels == 0) return 0;
    return ls::with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = ls::acc_t<T>;
        constexpr int N = ls::LANES<T>;
        ls::Activation<A> function = ls::Activation<A>::template of<T>(activation);
        bool aligned = ls::aligned(dy, y, x, dx);
        if (shape.layout == LS_CHANNELS_LAST) {
            bool wide = shape.channels % N == 0 && aligned;
            int lanes = wide ? N : 1, columns = 1;
            while (columns < ls::MOST_COLUMNS && columns * lanes < shape.channels) columns *= 2;
            int64_t width = columns * lanes, groups = (shape.channels + width - 1) / width;
            int64_t blocks = shape.n * parts * groups;
            if (blocks > ls::MAX_BLOCKS) return LS_BAD_ARGUMENT;
            auto kernel = wide ? ls::epilogue_grad_columns<T, N> : ls::epilogue_grad_columns<T, 1>;
            return ls::OnDevice(place).run([&] {
                LS_LAUNCH(kernel, blocks, ls::THREADS, ls::THREADS * lanes * sizeof(A), place,
                          (const T*)dy, (const T*)y, (const T*)x, (const A*)demodulation,
                          (const A*)noise, (T*)dx, (A*)sums, columns, parts, groups, shape, function);
            });
        }
        int64_t chunk = (shape.pixels + parts - 1) / parts;
        bool wide = shape.pixels % N == 0 && chunk % N == 0 && aligned;
        int64_t blocks = shape.n * parts * shape.channels;
        if (blocks > ls::MAX_BLOCKS) return LS_BAD_ARGUMENT;
        auto kernel = wide ? ls::epilogue_grad_planes<T, N> : ls::epilogue_grad_planes<T, 1>;
        return ls::OnDevice(place).run([&] {
            LS_LAUNCH(kernel, blocks, ls::PLANE_THREADS, 3 * ls::PLANE_THREADS * sizeof(A), place,
                      (const T*)dy, (const T*)y, (const T*)x, (const A*)demodulation,
                      (const A*)noise, (T*)dx, (A*)sums, parts, shape, shape.channels, function);
        });
    });
}
