// upfirdn2d on the CPU: for a stretch of an output row the input rows that its taps meet are added
// up, then that one row, which fits into the cache, is filtered along x. Planes of a contiguous
// picture are pictures of one channel.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "cpu.h"

namespace ls {
namespace {

inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

// The taps that meet samples, for one output along an axis: first_tap + i * up meets first_sample + i.
struct Meeting {
    int64_t first_tap, first_sample, count;
};

inline Meeting meeting(int64_t out, int64_t up, int64_t down, int64_t pad, int64_t taps,
                       int64_t samples) {
    int64_t position = out * down - pad;  // of tap 0, in upsampled samples
    int64_t sample = std::max<int64_t>(-floor_div(-position, up), 0);
    int64_t last = std::min(floor_div(position + taps - 1, up), samples - 1);
    return {sample * up - position, sample, std::max<int64_t>(last - sample + 1, 0)};
}

// out[i] = sum over k < COUNT of weights[k] * rows[k][i].
template <int COUNT, class T, class A>
void add_up(A* out, const T* const* rows, const A* weights, int64_t length) {
    const T* row[COUNT];
    A weight[COUNT];
    for (int k = 0; k < COUNT; k++) row[k] = rows[k], weight[k] = weights[k];
    lanes<A>(length, [&](auto w, int64_t i) {
        auto total = get(w, row[0] + i) * weight[0];
        for (int k = 1; k < COUNT; k++) total += get(w, row[k] + i) * weight[k];
        put(w, out + i, total);
    });
}

// The input rows that output row `o` meets, added up with the taps along y; `length` elements of
// them, from x on, rows `stride` apart.
template <class T, class A>
void filter_y(const T* x, A* out, const ls_upfirdn2d_shape& s, int64_t o, int64_t length,
              int64_t stride) {
    Meeting m = meeting(o, s.up_y, s.down_y, s.pad_y, s.num_taps_y, s.in_height);
    const T* rows[LS_MAX_TAPS];
    A weights[LS_MAX_TAPS];
    for (int64_t k = 0; k < m.count; k++) {
        rows[k] = x + (m.first_sample + k) * stride;
        weights[k] = A(s.taps_y[m.first_tap + k * s.up_y]);
    }
    switch (m.count) {
        case 0: std::fill_n(out, length, A(0)); return;
        case 1: add_up<1>(out, rows, weights, length); return;
        case 2: add_up<2>(out, rows, weights, length); return;
        case 3: add_up<3>(out, rows, weights, length); return;
        default: add_up<4>(out, rows, weights, length);
    }
    for (int64_t k = 4; k < m.count; k++) {
        lanes<A>(length, [&](auto w, int64_t i) {
            put(w, out + i, get(w, out + i) + get(w, rows[k] + i) * weights[k]);
        });
    }
}

// Outputs that lie up apart meet samples that lie down apart, with the same taps. `num` of them:
// out[j * OUT_STEP] = sum over k of weights[k] * row[j * IN_STEP + k] (+ add), for each channel.
template <int COUNT, int OUT_STEP, int IN_STEP, class T, class A>
void span(T* __restrict out, const A* __restrict row, const A* weights, const T* __restrict add,
          int64_t num, int64_t channels) {
    A weight[COUNT];
    for (int k = 0; k < COUNT; k++) weight[k] = weights[k];
    bool flat = OUT_STEP == 1 && IN_STEP == 1;
    if (channels == 1 && !flat) {  // one channel at a changed rate: strided, left to the compiler
        auto run = [&](auto with) {
#pragma omp simd
            for (int64_t i = 0; i < num; i++) {
                A total = weight[0] * row[i * IN_STEP];
                for (int k = 1; k < COUNT; k++) total += weight[k] * row[i * IN_STEP + k];
                if (decltype(with)::value) total += to_acc(add[i * OUT_STEP]);
                out[i * OUT_STEP] = from_acc<T>(total);
            }
        };
        return add ? run(std::true_type()) : run(std::false_type());
    }
    int64_t pixels = flat ? 1 : num, length = flat ? num * channels : channels;
    for (int64_t j = 0; j < pixels; j++) {
        const A* from = row + j * IN_STEP * channels;
        T* to = out + j * OUT_STEP * channels;
        const T* other = add + j * OUT_STEP * channels;
        auto run = [&](auto with) {
            lanes<A>(length, [&](auto w, int64_t i) {
                auto total = get(w, from + i) * weight[0];
                for (int k = 1; k < COUNT; k++) total += get(w, from + i + k * channels) * weight[k];
                if constexpr (decltype(with)::value) total += get(w, other + i);
                put(w, to + i, total);
            });
        };
        add ? run(std::true_type()) : run(std::false_type());
    }
}

// Outputs [begin, end) of one row, from the samples [first_sample, ...) of the row before it.
struct Stretch {
    int64_t begin, end, first_sample, num_samples;
};

inline Stretch stretch(int64_t begin, int64_t end, const ls_upfirdn2d_shape& s) {
    Meeting first = meeting(begin, s.up_x, s.down_x, s.pad_x, s.num_taps_x, s.in_width);
    Meeting last = meeting(end - 1, s.up_x, s.down_x, s.pad_x, s.num_taps_x, s.in_width);
    int64_t behind = std::max(last.first_sample + last.count, first.first_sample);
    return {begin, end, first.first_sample, behind - first.first_sample};
}

// One output pixel, at the border or of an unusual filter.
template <class T, class A>
void one_pixel(T* out, const A* row, const T* add, const ls_upfirdn2d_shape& s, int64_t o,
               int64_t first_sample, int64_t channels) {
    Meeting m = meeting(o, s.up_x, s.down_x, s.pad_x, s.num_taps_x, s.in_width);
    for (int64_t c = 0; c < channels; c++) {
        A total = add ? to_acc(add[c]) : A(0);
        for (int64_t k = 0; k < m.count; k++)
            total += A(s.taps_x[m.first_tap + k * s.up_x]) *
                     row[(m.first_sample - first_sample + k) * channels + c];
        out[c] = from_acc<T>(total);
    }
}

// A stretch filtered along x; UP = 0: any filter. `out` and `add` are whole rows.
template <int UP, int DOWN, int TAPS, class T, class A>
void filter_x(T* out, const A* row, const T* add, const ls_upfirdn2d_shape& s, const Stretch& part,
              int64_t channels) {
    int64_t left = part.end, right = part.end;  // the outputs between them are done
    if constexpr (UP > 0) {
        constexpr int COUNT = TAPS / UP;
        int64_t first = part.end, last = part.begin;
        for (int64_t phase = 0; phase < UP; phase++) {
            // Output phase + UP * j begins at sample start + DOWN * j.
            int64_t position = phase * DOWN - s.pad_x;
            int64_t start = -floor_div(-position, UP), tap = start * UP - position;
            int64_t from = std::max(-floor_div(start, DOWN), -floor_div(phase - part.begin, UP));
            int64_t to = std::min(floor_div(s.in_width - COUNT - start, DOWN),
                                  floor_div(part.end - 1 - phase, UP));
            if (from > to) continue;
            A weights[COUNT];
            for (int k = 0; k < COUNT; k++) weights[k] = A(s.taps_x[tap + k * UP]);
            int64_t at = (phase + UP * from) * channels;
            span<COUNT, UP, DOWN>(out + at,
                                  row + (start + DOWN * from - part.first_sample) * channels, weights,
                                  add ? add + at : nullptr, to - from + 1, channels);
            first = std::min(first, phase + UP * from);
            last = std::max(last, phase + UP * to + 1);
        }
        // At a border of the picture the phases begin, or end, a few outputs apart: these are done
        // again. Elsewhere they follow each other without a gap.
        left = first == part.begin ? first : std::min(first + 2 * UP, part.end);
        right = std::max(last == part.end ? last : last - 2 * UP, left);
    }
    auto border = [&](int64_t o) {
        int64_t at = o * channels;
        one_pixel(out + at, row, add ? add + at : nullptr, s, o, part.first_sample, channels);
    };
    for (int64_t o = part.begin; o < left; o++) border(o);
    for (int64_t o = right; o < part.end; o++) border(o);
}

constexpr int64_t CACHED = 8192;  // elements of a row between the two filters

template <int UP, int DOWN, int TAPS, class T>
void run(const T* x, const T* add, T* y, const ls_upfirdn2d_shape& s) {
    using A = acc_t<T>;
    bool channels_last = s.layout == LS_CHANNELS_LAST;
    int64_t pictures = channels_last ? s.n : s.n * s.channels;
    int64_t channels = channels_last ? s.channels : 1;
    int64_t in_row = s.in_width * channels, out_row = s.out_width * channels;
    int64_t samples = std::max<int64_t>(CACHED / channels, 16);
    int64_t width = std::max<int64_t>(samples * s.up_x / s.down_x, 4);  // outputs of a stretch
    int64_t band = std::min<int64_t>(8, s.out_height);  // rows that a thread takes at a time
    int64_t bands = (s.out_height + band - 1) / band;
    parallel(pictures * bands, pictures * s.out_height * out_row, [&](int64_t task) {
        thread_local std::vector<A> row;
        int64_t picture = task / bands, first = task % bands * band;
        for (int64_t begin = 0; begin < s.out_width; begin += width) {
            Stretch part = stretch(begin, std::min(begin + width, s.out_width), s);
            int64_t length = part.num_samples * channels;
            row.resize(size_t(length));
            const T* from = x + picture * s.in_height * in_row + part.first_sample * channels;
            for (int64_t o = first; o < std::min<int64_t>(first + band, s.out_height); o++) {
                filter_y(from, row.data(), s, o, length, in_row);
                int64_t at = (picture * s.out_height + o) * out_row;
                filter_x<UP, DOWN, TAPS>(y + at, row.data(), add ? add + at : nullptr, s, part,
                                         channels);
            }
        }
    });
}

template <class T>
void upfirdn2d(const T* x, const T* add, T* y, const ls_upfirdn2d_shape& s) {
    if (s.num_taps_x == 4 && s.up_x == 1 && s.down_x == 1) return run<1, 1, 4>(x, add, y, s);
    if (s.num_taps_x == 4 && s.up_x == 2 && s.down_x == 1) return run<2, 1, 4>(x, add, y, s);
    if (s.num_taps_x == 4 && s.up_x == 1 && s.down_x == 2) return run<1, 2, 4>(x, add, y, s);
    run<0, 1, 4>(x, add, y, s);
}

}  // namespace
}  // namespace ls

int ls_upfirdn2d(ls_place, int dtype, const void* x, const void* add, void* y,
                 const ls_upfirdn2d_shape* shape) {
    const ls_upfirdn2d_shape& s = *shape;
    if (!ls::valid(s)) return LS_BAD_ARGUMENT;
    if (s.n * s.channels * s.out_height * s.out_width == 0) return 0;
    return ls::with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        ls::upfirdn2d((const T*)x, (const T*)add, (T*)y, s);
        return 0;
    });
}
