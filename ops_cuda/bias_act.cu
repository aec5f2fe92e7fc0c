// bias_act on CUDA: one thread per 16 bytes, one read and one write.
#include "cuda.cuh"

namespace ls {
namespace {

// Lanes of a thread share a channel where the image is contiguous (inner > 1), and have
// neighbouring channels where channels lie last (inner = 1).
template <class T, int N>
__global__ void __launch_bounds__(THREADS, 4)
    bias_act_kernel(const T* __restrict__ x, const acc_t<T>* __restrict__ bias, T* __restrict__ y,
                    int64_t count, Divisor channels, Divisor inner, Activation<acc_t<T>> activation) {
    using A = acc_t<T>;
    int64_t i = global_thread() * N;
    if (i >= count) return;
    bool last = inner.value == 1;
    int64_t channel =
        last ? divide(i, channels).remainder : divide(divide(i, inner).quotient, channels).remainder;
    Lanes<T, N> values = load<N>(x + i);
#pragma unroll
    for (int k = 0; k < N; k++) {
        A shift = bias ? bias[channel + (last ? k : 0)] : A(0);
        values.lane[k] = from_acc<T>(activation(to_acc(values.lane[k]) + shift));
    }
    store<N>(y + i, values);
}

template <class T, int N>
__global__ void __launch_bounds__(THREADS, 4)
    bias_act_grad_kernel(const T* __restrict__ dy, const T* __restrict__ y, T* __restrict__ dx,
                         int64_t count, Activation<acc_t<T>> activation) {
    int64_t i = global_thread() * N;
    if (i + N <= count) {
        Lanes<T, N> gradient = load<N>(dy + i), output = load<N>(y + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            gradient.lane[k] = from_acc<T>(to_acc(gradient.lane[k]) *
                                           activation.derivative(to_acc(output.lane[k])));
        store<N>(dx + i, gradient);
        return;
    }
    for (; i < count; i++)
        dx[i] = from_acc<T>(to_acc(dy[i]) * activation.derivative(to_acc(y[i])));
}

}  // namespace
}  // namespace ls

int ls_bias_act(ls_place place, int dtype, const void* x, const void* bias, void* y, int64_t outer,
                int64_t channels, int64_t inner, ls_activation activation) {
    if (!ls::valid(activation) || outer < 0 || channels < 0 || inner < 0) return LS_BAD_ARGUMENT;
    int64_t count = outer * channels * inner;
    if (count == 0) return 0;
    return ls::with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = ls::acc_t<T>;
        constexpr int N = ls::LANES<T>;
        bool wide = (inner == 1 ? channels : inner) % N == 0 && ls::aligned(x, y);
        auto kernel = wide ? ls::bias_act_kernel<T, N> : ls::bias_act_kernel<T, 1>;
        int64_t blocks = ls::blocks_for(count / (wide ? N : 1));
        if (blocks > ls::MAX_BLOCKS) return LS_BAD_ARGUMENT;
        return ls::OnDevice(place).run([&] {
            LS_LAUNCH(kernel, blocks, ls::THREADS, 0, place, (const T*)x, (const A*)bias, (T*)y,
                      count, channels, inner, ls::Activation<A>::template of<T>(activation));
        });
    });
}

int ls_bias_act_grad(ls_place place, int dtype, const void* dy, const void* y, void* dx,
                     int64_t count, ls_activation activation) {
    if (!ls::valid(activation) || count < 0) return LS_BAD_ARGUMENT;
    if (count == 0) return 0;
    return ls::with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = ls::acc_t<T>;
        constexpr int N = ls::LANES<T>;
        bool wide = ls::aligned(dy, y, dx);
        auto kernel = wide ? ls::bias_act_grad_kernel<T, N> : ls::bias_act_grad_kernel<T, 1>;
        int64_t blocks = ls::blocks_for(wide ? (count + N - 1) / N : count);
        if (blocks > ls::MAX_BLOCKS) return LS_BAD_ARGUMENT;
        return ls::OnDevice(place).run([&] {
            LS_LAUNCH(kernel, blocks, ls::THREADS, 0, place, (const T*)dy, (const T*)y, (T*)dx,
                      count, ls::Activation<A>::template of<T>(activation));
        });
    });
}
