// Runs CUDA kernels on the CPU, to test them where there is no GPU: a block's threads are fibers that take turns between
// barriers, so that shared memory, __syncthreads and shuffles mean what they mean on a GPU. Blocks run one after the other.
// In a file compiled with -fsanitize=thread, races and reads of unwritten shared memory fail too (cuda_races.h); tensors whose
// end is the end of what may be touched are made by guarded_memory.h.
//
// Include it before a kernel's header, then: cuda_on_cpu::launch(grid, block, [&] { kernel(arguments); }).
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_races.h"

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#undef CUDA_KERNEL_ASSERT
#define CUDA_KERNEL_ASSERT(condition) \
  if (!(condition)) cuda_on_cpu::fail(#condition)

namespace cuda_on_cpu {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

constexpr size_t kStack = 64 << 10;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Dim3 thread;
  int barriers = 0;  // of the block that it has passed
  bool done = false;
  std::vector<size_t>* waits_for = nullptr;  // the fibers of the barrier that it has reached
  float given = 0;                           // to a shuffle
};

// The block that runs.
struct Block {
  ucontext_t scheduler;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<size_t> everyone;
  std::vector<std::vector<size_t>> groups;  // of shuffles, by fiber
  size_t current = 0;
  std::function<void()> body;
  std::string failure;
};
inline Block* block = nullptr;

inline void wait_for(std::vector<size_t>* fibers) {
  cuda_races::run_none();
  Fiber& self = *block->fibers[block->current];
  self.waits_for = fibers;
  swapcontext(&self.context, &block->scheduler);
}

[[noreturn]] inline void fail(const std::string& what) {
  cuda_races::run_none();
  block->failure = what;
  Fiber& self = *block->fibers[block->current];
  self.done = true;
  swapcontext(&self.context, &block->scheduler);
  std::abort();
}

inline void run_fiber() {
  block->body();
  cuda_races::run_none();
  Fiber& self = *block->fibers[block->current];
  self.done = true;
  swapcontext(&self.context, &block->scheduler);
}

}  // namespace cuda_on_cpu

inline cuda_on_cpu::Dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { cuda_on_cpu::wait_for(&cuda_on_cpu::block->everyone); }

namespace cuda_on_cpu {

// What the lane `from` of the same warp gives; all lanes of the mask meet here. Lanes do not race for what they give each
// other.
__attribute__((no_sanitize("thread"))) inline float shuffle(unsigned mask, float value, size_t from) {
  cuda_races::run_none();
  auto& running = *block;
  const size_t self = running.current, warp = self / 32 * 32;
  auto& group = running.groups[self];
  group.clear();
  for (size_t lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) group.push_back(warp + lane);
  running.fibers[self]->given = value;
  wait_for(&group);
  const float taken = running.fibers[warp + from]->given;
  wait_for(&group);
  return taken;
}
inline size_t own_lane() { return block->current % 32; }

}  // namespace cuda_on_cpu

inline float __shfl_xor_sync(unsigned mask, float value, int distance) {
  return cuda_on_cpu::shuffle(mask, value, cuda_on_cpu::own_lane() ^ static_cast<size_t>(distance));
}
// A lane without such a neighbour keeps its own value.
inline float __shfl_up_sync(unsigned mask, float value, unsigned distance) {
  const size_t lane = cuda_on_cpu::own_lane();
  return cuda_on_cpu::shuffle(mask, value, lane >= distance ? lane - distance : lane);
}
inline float __shfl_down_sync(unsigned mask, float value, unsigned distance) {
  const size_t lane = cuda_on_cpu::own_lane();
  return cuda_on_cpu::shuffle(mask, value, lane + distance < 32 ? lane + distance : lane);
}

template <class T>
__attribute__((no_sanitize("thread"))) T atomicAdd(T* to, T value) {
  cuda_races::touch_atomically(to, sizeof(T));
  const T before = *to;
  *to += value;
  return before;
}

namespace cuda_on_cpu {

// In a function of its own: getcontext may return twice.
inline void prepare(Fiber& fiber) {
  fiber.stack = std::make_unique_for_overwrite<char[]>(kStack);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStack;
  fiber.context.uc_link = &block->scheduler;
  makecontext(&fiber.context, run_fiber, 0);
}

// Lets every fiber run to its next barrier; false where none could. `left`: whether any is not done.
inline bool run_to_barriers(bool* left) {
  bool moved = false;
  *left = false;
  for (size_t t = 0; t < block->fibers.size(); ++t) {
    Fiber& fiber = *block->fibers[t];
    if (fiber.done) continue;
    *left = true;
    if (fiber.waits_for) continue;
    moved = true;
    block->current = t;
    threadIdx = fiber.thread;
    cuda_races::run_thread({static_cast<int>(t), fiber.barriers, fiber.stack.get(), kStack});
    swapcontext(&block->scheduler, &fiber.context);
    if (!block->failure.empty()) throw std::runtime_error(block->failure);
  }
  return moved;
}

// A barrier opens when all of its fibers that still run have reached one of the same fibers.
inline bool open_barriers() {
  bool moved = false;
  for (const auto& fiber : block->fibers) {
    if (fiber->done || !fiber->waits_for) continue;
    const std::vector<size_t> members = *fiber->waits_for;
    const bool at_sync = fiber->waits_for == &block->everyone;
    const bool all = std::all_of(members.begin(), members.end(), [&](size_t m) {
      const Fiber& other = *block->fibers[m];
      return other.done || (other.waits_for && (other.waits_for == &block->everyone) == at_sync && *other.waits_for == members);
    });
    if (!all) continue;
    moved = true;
    for (const size_t m : members) {
      if (at_sync) ++block->fibers[m]->barriers;
      block->fibers[m]->waits_for = nullptr;
    }
  }
  return moved;
}

// Throws std::runtime_error where a kernel's assertion fails, its threads race, or they wait for each other forever.
inline void launch(Dim3 grid, Dim3 threads, const std::function<void()>& kernel) {
  cuda_races::begin_launch({{&threadIdx, sizeof threadIdx},
                            {&blockIdx, sizeof blockIdx},
                            {&blockDim, sizeof blockDim},
                            {&gridDim, sizeof gridDim},
                            {&block, sizeof block}});
  gridDim = grid;
  blockDim = threads;
  for (unsigned b = 0; b < grid.x * grid.y * grid.z; ++b) {
    blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
    Block running;
    block = &running;
    cuda_races::begin_block();
    running.body = kernel;
    const unsigned count = threads.x * threads.y * threads.z;
    running.groups.resize(count);
    for (unsigned t = 0; t < count; ++t) {
      running.fibers.push_back(std::make_unique<Fiber>());
      running.fibers.back()->thread = {t % threads.x, t / threads.x % threads.y, t / threads.x / threads.y};
      running.everyone.push_back(t);
      prepare(*running.fibers.back());
    }
    bool left = true;
    while (left) {
      const bool moved = run_to_barriers(&left);
      if (!open_barriers() && left && !moved) throw std::runtime_error("the threads of a block wait for each other");
    }
    if (const std::string race = cuda_races::found(); !race.empty()) throw std::runtime_error(race);
  }
}

}  // namespace cuda_on_cpu
