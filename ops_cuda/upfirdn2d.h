// upfirdn2d on the CPU: for a stretch of an output row the input rows that its taps meet are added
// up, then that one row, which fits into the cache, is filtered along x. Planes of a contiguous
// image are images of one channel.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu.h"

namespace ls {

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
    lanes<A>(length, [=](auto w, int64_t i) {
        auto total = get(w, row[0] + i) * weight[0];
        for (int k = 1; k < COUNT; k++) total += get(w, row[k] + i) * weight[k];
        put(w, out + i, total);
    });
}

// The input rows that output row `o` meets, added up with the taps along y; `length` elements of
// them, from x on, rows `stride` apart.
template <class T, class A>
void filter_one_y(const T* x, A* out, const ls_upfirdn2d_shape& s, int64_t o, int64_t length,
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
        case 6: add_up<6>(out, rows, weights, length); return;
        default: add_up<4>(out, rows, weights, length);
    }
    for (int64_t k = 4; k < m.count; k++) {
        lanes<A>(length, [=](auto w, int64_t i) {
            put(w, out + i, get(w, out + i) + get(w, rows[k] + i) * weights[k]);
        });
    }
}

// OUT[r][i] = sum over k of weights[k] * rows[r * DOWN + k][i], for as many output rows r at once as
// there are in `out`: each input row is read and converted once for all that it meets.
constexpr int GROUP = 4;

template <int DOWN, int TAPS, class T, class A>
void add_up_group(A* out, int64_t out_stride, const T* x, int64_t in_stride, const double* taps,
                  int64_t length) {
    A weight[TAPS];
    for (int k = 0; k < TAPS; k++) weight[k] = A(taps[k]);
    lanes<A>(length, [=](auto w, int64_t i) {
        constexpr int ROWS = (GROUP - 1) * DOWN + TAPS;
        decltype(get(w, x)) row[ROWS];
        for (int j = 0; j < ROWS; j++) row[j] = get(w, x + j * in_stride + i);
        for (int r = 0; r < GROUP; r++) {
            auto total = row[r * DOWN] * weight[0];
            for (int k = 1; k < TAPS; k++) total += row[r * DOWN + k] * weight[k];
            put(w, out + r * out_stride + i, total);
        }
    });
}

// Rows of the output from `o` on, filtered along y into `out`; how many: a group where all its taps
// meet samples, else one.
template <int UP, int DOWN, int TAPS, class T, class A>
int64_t filter_y(const T* x, A* out, int64_t out_stride, const ls_upfirdn2d_shape& s, int64_t o,
                 int64_t last, int64_t length, int64_t in_stride) {
    if constexpr (UP == 1) {
        int64_t sample = o * DOWN - s.pad_y;  // of the first tap
        bool alike = s.up_y == UP && s.down_y == DOWN && s.num_taps_y == TAPS;
        if (alike && o + GROUP <= last && sample >= 0 &&
            sample + (GROUP - 1) * DOWN + TAPS <= s.in_height) {
            const T* from = x + sample * in_stride;
            add_up_group<DOWN, TAPS>(out, out_stride, from, in_stride, s.taps_y, length);
            return GROUP;
        }
    }
    filter_one_y(x, out, s, o, length, in_stride);
    return 1;
}

// Outputs that lie up apart meet samples that lie down apart, with the same taps: one phase of up.
template <class A, int COUNT>
struct Phase {
    int64_t start;  // the first sample of its first output
    A weights[COUNT];
};

// `num` outputs of each phase: out[UP * j + phase] = sum over k of weights[k] *
// row[start + DOWN * j + k] (+ add), for each channel.
template <int UP, int DOWN, bool ADD, class T, class A, int COUNT>
void span(T* __restrict out, const A* __restrict row, const Phase<A, COUNT> (&given)[UP],
          const T* __restrict add, int64_t num, int64_t channels) {
    Phase<A, COUNT> phases[UP];  // in registers: `out` may not change them
    std::copy_n(&given[0], UP, phases);
    if (channels == 1 && UP + DOWN > 2) {  // strided, left to the compiler
#pragma omp simd
        for (int64_t j = 0; j < num; j++) {
            for (int p = 0; p < UP; p++) {
                A total = ADD ? to_acc(add[j * UP + p]) : A(0);
                for (int k = 0; k < COUNT; k++)
                    total += phases[p].weights[k] * row[phases[p].start + j * DOWN + k];
                out[j * UP + p] = from_acc<T>(total);
            }
        }
        return;
    }
    bool flat = UP + DOWN == 2;  // neighbours follow each other: one stretch of all channels
    int64_t pixels = flat ? 1 : num, length = flat ? num * channels : channels;
    for (int64_t j = 0; j < pixels; j++) {
        for (int p = 0; p < UP; p++) {
            const A* from = row + (phases[p].start + j * DOWN) * channels;
            int64_t at = (j * UP + p) * channels;
            lanes<A>(length, [=](auto w, int64_t i) {
                auto total = get(w, from + i) * phases[p].weights[0];
                for (int k = 1; k < COUNT; k++)
                    total += get(w, from + i + k * channels) * phases[p].weights[k];
                if constexpr (ADD) total += get(w, add + at + i);
                put(w, out + at + i, total);
            });
        }
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
struct Border {
    int64_t out;
    Meeting meeting;
};

template <class T, class A>
void one_pixel(T* out, const A* row, const T* add, const ls_upfirdn2d_shape& s, const Meeting& m,
               int64_t channels) {
    const double* taps = s.taps_x + m.first_tap;
    int64_t count = m.count, step = s.up_x;
    lanes<A>(channels, [=](auto w, int64_t c) {
        decltype(get(w, row)) total = {};
        for (int64_t k = 0; k < count; k++)
            total += get(w, row + k * channels + c) * A(taps[k * step]);
        if (add) total += get(w, add + c);
        put(w, out + c, total);
    });
}

// How a stretch is filtered, the same for every row: UP * num outputs from `left` on by their phases,
// the others, or all of them where UP = 0 (any filter), one by one.
template <int UP, int DOWN, int TAPS, class A>
struct Plan {
    static constexpr int COUNT = UP ? TAPS / std::max(UP, 1) : 1;
    int64_t left, num = 0, first_sample = 0;
    Phase<A, COUNT> phases[std::max(UP, 1)];
    std::vector<Border> borders;

    Plan(const ls_upfirdn2d_shape& s, const Stretch& part) : left(part.end) {
        if constexpr (UP > 0) {
            int64_t from = floor_div(part.begin + UP - 1, UP), to = floor_div(part.end, UP) - 1;
            for (int64_t phase = 0; phase < UP; phase++) {
                int64_t position = phase * DOWN - s.pad_x, start = -floor_div(-position, UP);
                for (int k = 0; k < COUNT; k++)
                    phases[phase].weights[k] = A(s.taps_x[start * UP - position + k * UP]);
                phases[phase].start = start;
                from = std::max(from, -floor_div(start, DOWN));
                to = std::min(to, floor_div(s.in_width - COUNT - start, DOWN));
            }
            if (from <= to)
                left = UP * from, num = to - from + 1, first_sample = DOWN * from - part.first_sample;
        }
        for (int64_t o = part.begin; o < part.end; o++) {
            if (o == left) o += UP * num;
            if (o >= part.end) break;
            Meeting m = meeting(o, s.up_x, s.down_x, s.pad_x, s.num_taps_x, s.in_width);
            m.first_sample -= part.first_sample;
            borders.push_back({o, m});
        }
    }
};

// A stretch filtered along x. `out` and `add` are whole rows.
template <int UP, int DOWN, int TAPS, class T, class A>
void filter_x(T* out, const A* row, const T* add, const ls_upfirdn2d_shape& s,
              const Plan<UP, DOWN, TAPS, A>& plan, int64_t channels) {
    if constexpr (UP > 0) {
        int64_t at = plan.left * channels;
        const A* samples = row + plan.first_sample * channels;
        if (add)
            span<UP, DOWN, true>(out + at, samples, plan.phases, add + at, plan.num, channels);
        else
            span<UP, DOWN, false>(out + at, samples, plan.phases, add, plan.num, channels);
    }
    for (const Border& border : plan.borders) {
        int64_t at = border.out * channels;
        one_pixel(out + at, row + border.meeting.first_sample * channels, add ? add + at : nullptr, s,
                  border.meeting, channels);
    }
}

// Room for `length` elements at an address that vectors do not straddle cache lines from.
template <class A>
A* aligned(std::vector<A>& buffer, int64_t length) {
    buffer.resize(size_t(length + WIDTH<A>));
    return (A*)(((uintptr_t)buffer.data() + 63) / 64 * 64);
}

constexpr int64_t CACHED = 8192;  // elements of a row between the two filters

inline void nothing(int64_t, int64_t, int64_t, int64_t) {}

// then(image, row, begin, end) is called when the outputs [begin, end) of a row are there.
template <int UP, int DOWN, int TAPS, class T, class Then>
void filter(const T* x, const T* add, T* y, const ls_upfirdn2d_shape& s, const Then& then) {
    using A = acc_t<T>;
    bool channels_last = s.layout == LS_CHANNELS_LAST;
    int64_t images = channels_last ? s.n : s.n * s.channels;
    int64_t channels = channels_last ? s.channels : 1;
    int64_t in_row = s.in_width * channels, out_row = s.out_width * channels;
    int64_t samples = std::max<int64_t>(CACHED / channels, 16);
    int64_t width = std::max<int64_t>(samples * s.up_x / s.down_x, 4);  // outputs of a stretch
    int64_t band = std::min<int64_t>(8, s.out_height);  // rows that a thread takes at a time
    int64_t bands = (s.out_height + band - 1) / band;
    parallel(images * bands, images * s.out_height * out_row, [&](int64_t task) {
        thread_local std::vector<A> buffer;
        int64_t image = task / bands, first = task % bands * band;
        int64_t last = std::min<int64_t>(first + band, s.out_height);
        for (int64_t begin = 0; begin < s.out_width; begin += width) {
            Stretch part = stretch(begin, std::min(begin + width, s.out_width), s);
            int64_t length = part.num_samples * channels;
            int64_t stride = (length + WIDTH<A> - 1) / WIDTH<A> * WIDTH<A>;
            Plan<UP, DOWN, TAPS, A> plan(s, part);
            A* rows = aligned(buffer, GROUP * stride);
            const T* from = x + image * s.in_height * in_row + part.first_sample * channels;
            for (int64_t o = first, num; o < last; o += num) {
                num = filter_y<UP, DOWN, TAPS>(from, rows, stride, s, o, last, length, in_row);
                for (int64_t r = 0; r < num; r++) {
                    int64_t at = (image * s.out_height + o + r) * out_row;
                    filter_x(y + at, rows + r * stride, add ? add + at : nullptr, s, plan, channels);
                    then(image, o + r, part.begin, part.end);
                }
            }
        }
    });
}

}  // namespace ls
