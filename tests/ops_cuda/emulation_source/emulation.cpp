// The scheduler behind emulation.h.
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t STACK = 64 << 10;
constexpr size_t GUARD = 64;
constexpr unsigned char GUARD_BYTE = 0x5a, POISON = 0xff;  // 0xff...: NaN in every format

enum { BARRIER_LEFT = 1001, SHARED_OVERRUN = 1002 };

struct Settings {
    int thread_order = 0, block_order = 0;
    uint64_t seed = 0;
    int64_t first = 0, last = INT64_MAX;
} settings;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK]};
    unsigned thread;
    bool done;
};

int error = cudaSuccess;
int64_t last_blocks = 0;
ucontext_t scheduler;
std::vector<std::unique_ptr<Fiber>> fibers;
Fiber* running;
const std::function<void()>* body;
std::vector<unsigned char> shared;  // guard, memory, guard

// The sanitizer must know of a change of stacks.
void switch_stack(Fiber* to, ucontext_t* from_context, ucontext_t* to_context, bool leaves = false) {
#if defined(__SANITIZE_ADDRESS__)
    static const void* scheduler_stack;
    static size_t scheduler_size;
    void* saved = nullptr;
    const void* bottom = to ? to->stack.get() : scheduler_stack;
    __sanitizer_start_switch_fiber(leaves ? nullptr : &saved, bottom, to ? STACK : scheduler_size);
    swapcontext(from_context, to_context);
    const void* old_bottom;
    size_t old_size;
    __sanitizer_finish_switch_fiber(saved, &old_bottom, &old_size);
    if (!to) scheduler_stack = old_bottom, scheduler_size = old_size;
#else
    (void)to, (void)leaves;
    swapcontext(from_context, to_context);
#endif
}

void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    (*body)();
    running->done = true;
    switch_stack(nullptr, &running->context, &scheduler, true);
}

template <class Number>
void arrange(std::vector<Number>& order, int how, uint64_t seed) {
    if (how == 1) std::reverse(order.begin(), order.end());
    if (how == 2) std::shuffle(order.begin(), order.end(), std::mt19937_64(seed));
}

void run_block(int threads) {
    std::vector<unsigned> order(threads);
    std::iota(order.begin(), order.end(), 0u);
    arrange(order, settings.thread_order, settings.seed + blockIdx.x);
    for (int t = 0; t < threads; t++) {
        Fiber& fiber = *fibers[t];
        fiber.thread = order[t];
        fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
    }
    for (int alive = threads; alive > 0;) {  // one round runs every thread up to a barrier
        int left = 0;
        for (int t = 0; t < threads; t++) {
            running = fibers[t].get();
            if (running->done) continue;
            threadIdx = {running->thread, 0, 0};
            switch_stack(running, &scheduler, &running->context);
            left += running->done;
        }
        alive -= left;
        if (left && alive) {  // some wait at a barrier that the others never reach
            error = BARRIER_LEFT;
            return;
        }
    }
}

}  // namespace

void __syncthreads() {
    switch_stack(nullptr, &running->context, &scheduler);
    threadIdx = {running->thread, 0, 0};
}

cudaError_t cudaGetLastError() {
    int found = error;
    error = cudaSuccess;
    return found;
}

const char* cudaGetErrorString(cudaError_t code) {
    if (code == BARRIER_LEFT) return "some threads of a block wait at a barrier that others left";
    if (code == SHARED_OVERRUN) return "shared memory was written beyond its end";
    return "unknown error";
}

namespace ls_emulation {

void* shared_memory() { return shared.data() + GUARD; }

void launch(int64_t blocks, int threads, size_t shared_bytes, const std::function<void()>& kernel) {
    body = &kernel;
    last_blocks = blocks;
    while (fibers.size() < size_t(threads)) fibers.push_back(std::make_unique<Fiber>());
    shared.assign(shared_bytes + 2 * GUARD, GUARD_BYTE);
    blockDim = {unsigned(threads), 1, 1};
    gridDim = {unsigned(blocks), 1, 1};
    int64_t first = settings.first, last = std::min(settings.last, blocks);
    if (first < 0) first += blocks;  // counted from the end
    std::vector<int64_t> order(std::max<int64_t>(last - first, 0));
    std::iota(order.begin(), order.end(), first);
    arrange(order, settings.block_order, settings.seed);
    for (int64_t block : order) {
        memset(shared.data() + GUARD, POISON, shared_bytes);
        blockIdx = {unsigned(block), 0, 0};
        run_block(threads);
        if (error) return;
        for (size_t i = 0; i < GUARD; i++)
            if (shared[i] != GUARD_BYTE || shared[GUARD + shared_bytes + i] != GUARD_BYTE)
                error = SHARED_OVERRUN;
        if (error) return;
    }
}

}  // namespace ls_emulation

void ls_emulation_configure(int thread_order, int block_order, uint64_t seed, int64_t first,
                            int64_t last) {
    settings = {thread_order, block_order, seed, first, last};
}

int64_t ls_emulation_blocks(void) { return last_blocks; }
