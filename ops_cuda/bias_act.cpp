// bias_act on the CPU: rows of one channel (contiguous) or of all channels (channels last).
#include "cpu.h"

namespace ls {
namespace {

template <class T, class F>
void bias_act(const T* x, const acc_t<T>* bias, T* y, int64_t outer, int64_t channels, int64_t inner,
              F activation) {
    using A = acc_t<T>;
    bool streamed = is_streamed(y, outer * channels * inner, inner == 1 ? channels : inner);
    int64_t size = task_size(outer * channels * inner);
    if (inner == 1) {  // channels last: every row adds the whole bias
        int64_t rows = size / channels + 1, count = (outer + rows - 1) / rows;
        parallel(count, outer * channels, [&](int64_t block) {
            int64_t end = std::min(block * rows + rows, outer);
            for (int64_t row = block * rows; row < end; row++) {
                const T* from = x + row * channels;
                T* to = y + row * channels;
                with_stores(streamed, [=](auto vector) {
                    using Vector = decltype(vector);
                    if (bias)
                        lanes<A, Vector>(channels, [=](auto w, int64_t c) {
                            put(w, to + c, activation(get(w, from + c) + get(w, bias + c)));
                        });
                    else
                        lanes<A, Vector>(channels, [=](auto w, int64_t c) {
                            put(w, to + c, activation(get(w, from + c)));
                        });
                });
            }
        });
        return;
    }
    int64_t parts = (inner + size - 1) / size;
    parallel(outer * channels * parts, outer * channels * inner, [&](int64_t block) {
        int64_t plane = block / parts, start = block % parts * size;
        int64_t length = std::min(inner - start, size);
        const T* from = x + plane * inner + start;
        T* to = y + plane * inner + start;
        A shift = bias ? bias[plane % channels] : A(0);
        with_stores(streamed, [=](auto vector) {
            lanes<A, decltype(vector)>(length, [=](auto w, int64_t i) {
                put(w, to + i, activation(get(w, from + i) + shift));
            });
        });
    });
}

template <class T, class F>
void bias_act_grad(const T* dy, const T* y, T* dx, int64_t count, F activation) {
    int64_t size = task_size(count);
    parallel((count + size - 1) / size, count, [&](int64_t block) {
        int64_t at = block * size, length = std::min(count - at, size);
        lanes<acc_t<T>>(length, [=](auto w, int64_t i) {
            put(w, dx + at + i, get(w, dy + at + i) * activation.derivative(get(w, y + at + i)));
        });
    });
}

}  // namespace
}  // namespace ls

int ls_bias_act(ls_place, int dtype, const void* x, const void* bias, void* y, int64_t outer,
                int64_t channels, int64_t inner, ls_activation activation) {
    if (!ls::valid(activation) || outer < 0 || channels < 0 || inner < 0) return LS_BAD_ARGUMENT;
    if (outer * channels * inner == 0) return 0;
    return ls::with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = ls::acc_t<T>;
        return ls::with_activation<T>(activation, [&](auto function) {
            ls::bias_act((const T*)x, (const A*)bias, (T*)y, outer, channels, inner, function);
        });
    });
}

int ls_bias_act_grad(ls_place, int dtype, const void* dy, const void* y, void* dx, int64_t count,
                     ls_activation activation) {
    if (!ls::valid(activation) || count < 0) return LS_BAD_ARGUMENT;
    return ls::with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        return ls::with_activation<T>(activation, [&](auto function) {
            ls::bias_act_grad((const T*)dy, (const T*)y, (T*)dx, count, function);
        });
    });
}
