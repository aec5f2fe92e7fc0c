// What the CPU kernels share: a parallel loop.
#pragma once

#include "numeric.cuh"

namespace ls {

constexpr int64_t SMALL = 1 << 15;  // below so many elements threads cost more than they save

// body(0), ..., body(count - 1) in any order, over the threads of the process (torch's own number).
template <class Body>
inline void parallel(int64_t count, int64_t elements, const Body& body) {
#pragma omp parallel for schedule(static) if (elements > SMALL && count > 1)
    for (int64_t i = 0; i < count; i++) body(i);
}

}  // namespace ls
