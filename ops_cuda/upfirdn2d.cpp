// upfirdn2d on the CPU: the fast paths of the networks' 4 taps and the augmentation's 12, and any
// other.
#include "upfirdn2d.h"

namespace ls {
namespace {

template <class T>
void upfirdn2d(const T* x, const T* add, T* y, const ls_upfirdn2d_shape& s) {
    if (s.num_taps_x == 4 && s.up_x == 1 && s.down_x == 1) return filter<1, 1, 4>(x, add, y, s, nothing);
    if (s.num_taps_x == 4 && s.up_x == 2 && s.down_x == 1) return filter<2, 1, 4>(x, add, y, s, nothing);
    if (s.num_taps_x == 4 && s.up_x == 1 && s.down_x == 2) return filter<1, 2, 4>(x, add, y, s, nothing);
    if (s.num_taps_x == 12 && s.up_x == 2 && s.down_x == 1) return filter<2, 1, 12>(x, add, y, s, nothing);
    if (s.num_taps_x == 12 && s.up_x == 1 && s.down_x == 2) return filter<1, 2, 12>(x, add, y, s, nothing);
    filter<0, 1, 4>(x, add, y, s, nothing);
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
