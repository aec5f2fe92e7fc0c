/* The one C interface of the native operators, three times built: CUDA kernels (*.cu, nvcc), CPU
 * kernels (*.cpp, the C++ compiler), and the CUDA kernels emulated on the host (tests).
 *
 * Pointers are to dense tensors on the device of the build. `acc` stands for float, and for double
 * where dtype is LS_FLOAT64. Every function returns 0, a cudaError_t (> 0), or LS_BAD_ARGUMENT; it
 * changes no state and throws nothing. Results never alias inputs.
 */
#ifndef LAFITE_OPS_H
#define LAFITE_OPS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LS_ABI 5 /* raised with every change of this header; the loader compares it */
#define LS_BAD_ARGUMENT (-1)
#define LS_MAX_TAPS 64 /* along an axis */

enum { LS_FLOAT32 = 0, LS_FLOAT64 = 1, LS_FLOAT16 = 2, LS_BFLOAT16 = 3 }; /* dtype */
enum { LS_CONTIGUOUS = 0, LS_CHANNELS_LAST = 1 };                         /* layout */
enum { LS_BITS = 0, LS_UNIFORM = 1, LS_NORMAL = 2 };                           /* distribution */
enum { LS_LINEAR = 0, LS_LEAKY_RELU = 1 };                                /* activation */

/* Where to run: the CUDA device index and stream; both are ignored on the host. */
typedef struct {
    int32_t device;
    void* stream;
} ls_place;

/* gain * activation(.), clamped to +-clamp; clamp < 0 does not clamp. gain > 0. */
typedef struct {
    int32_t kind;
    double gain, clamp;
} ls_activation;

int ls_abi(void);
const char* ls_error_string(int code);

/* y = activation(x + bias). x, y [outer, channels, inner]; bias acc [channels] or NULL. */
int ls_bias_act(ls_place place, int dtype, const void* x, const void* bias, void* y, int64_t outer,
                int64_t channels, int64_t inner, ls_activation activation);

/* dx = dy * (derivative of the activation, read off its output y). All [count]. */
int ls_bias_act_grad(ls_place place, int dtype, const void* dy, const void* y, void* dx,
                     int64_t count, ls_activation activation);

/* Shape of a synthesis epilogue: x [n, channels, pixels] or, channels last, [n, pixels, channels];
 * noise acc [noise_n, pixels] with noise_n = n or 1; demodulation acc [n, channels]; strength acc,
 * one number on the device; bias acc [channels]; after acc [n, channels] or NULL. */
typedef struct {
    int64_t n, channels, pixels, noise_n;
    int32_t layout;
} ls_epilogue_shape;

/* y = activation(x * demodulation + strength * noise + bias) * after. */
int ls_synthesis_epilogue(ls_place place, int dtype, const void* x, const void* demodulation,
                          const void* noise, const void* strength, const void* bias,
                          const void* after, void* y, ls_epilogue_shape shape,
                          ls_activation activation);

/* With g = dy * activation'(y): dx = g * demodulation, and partial sums over chunks of pixels,
 * sums acc [3, n, parts, channels]: of g * x, of g, and of g * noise. */
int ls_synthesis_epilogue_grad(ls_place place, int dtype, const void* dy, const void* y,
                               const void* x, const void* demodulation, const void* noise, void* dx,
                               void* sums, int64_t parts, ls_epilogue_shape shape,
                               ls_activation activation);

/* y = weight x + bias in every pixel: x [n, channels, pixels] or, channels last, [n, pixels, channels];
 * weight acc [n, 3, channels], bias acc [3], y acc [n, 3, pixels]. */
int ls_to_rgb(ls_place place, int dtype, const void* x, const void* weight, const void* bias, void* y,
              int64_t n, int64_t channels, int64_t pixels, int32_t layout);

/* Separable up, FIR, down. Taps are in the order of a correlation (flipped taps of a convolution);
 * pad is what lies before the first sample, in upsampled samples, negative to crop; what lies
 * behind the last follows from the output's size. */
typedef struct {
    int64_t n, channels, in_height, in_width, out_height, out_width;
    int32_t layout;
    int32_t up_y, up_x, down_y, down_x, pad_y, pad_x, num_taps_y, num_taps_x;
    double taps_y[LS_MAX_TAPS], taps_x[LS_MAX_TAPS];
} ls_upfirdn2d_shape;

/* y = upfirdn2d(x) + add; add has the shape, dtype and layout of y, or is NULL. */
int ls_upfirdn2d(ls_place place, int dtype, const void* x, const void* add, void* y,
                 const ls_upfirdn2d_shape* shape);

/* Random numbers [n, count] of Philox 4x32-10: row i depends on key and indices[i] alone, and its first
 * numbers do not depend on count. Float32 (the one dtype), uniform in [0, 1) or standard normal; or the
 * 32-bit integers themselves. indices [n] on the device. */
int ls_philox(ls_place place, int dtype, const int64_t* indices, void* out, int64_t n, int64_t count,
              uint64_t key, int32_t distribution);

/* All that lies between two convolutions, in one pass over activations whose channels are last. x is
 * filtered (taps: 4 at rate 1, or NULL), goes through the epilogue with the numbers of `shape`, gives
 * an image as in ls_to_rgb (weight NULL: none), is multiplied by `after` (or NULL), and is written
 * to y (NULL, without taps: only the image is wanted). With `lower`, filtered by `up` (4 taps at up 2,
 * or NULL) and added, the image goes to rgb. `own` has the image's size, for the CPU alone: there the
 * image lies until the lower one is added. */
int ls_synthesis_tail(ls_place place, int dtype, const void* x, const void* demodulation,
                      const void* noise, const void* strength, const void* bias, const void* after,
                      const void* weight, const void* rgb_bias, const void* lower, void* y, void* own,
                      void* rgb, const ls_upfirdn2d_shape* taps, const ls_upfirdn2d_shape* up,
                      ls_epilogue_shape shape, ls_activation activation);

#ifdef __cplusplus
}
#endif

#endif
