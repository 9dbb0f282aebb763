// Watches what the threads of a kernel do to memory where kernels run on the CPU (cuda_on_cpu.h), as compute-sanitizer does on
// a GPU: accesses of two threads, one of which writes, that no barrier orders, and shared memory that is read before it is
// written. Shuffles order nothing, as on a GPU. A file takes part when it is compiled with -fsanitize=thread, whose calls
// arrive here; its own library is not linked.
//
// What threads do between barriers is compared, not what happened to come first: a race is found in whatever order they ran.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace cuda_races {

struct Range {
  const void* begin;
  size_t bytes;
};

// A launch begins, a block of it begins. `words`: variables that stand for CUDA's own (threadIdx) and not for shared memory.
void begin_launch(std::vector<Range> words);
void begin_block();

// The thread that runs from now on, by its number in the block, which has passed `barriers` of the block. What happens on its
// own stack concerns no other. After run_none() what happens is no kernel's doing.
struct Thread {
  int number, barriers;
  const void* stack;
  size_t stack_bytes;
};
void run_thread(const Thread& thread);
void run_none();

// An atomic operation: they do not race with each other.
void touch_atomically(const void* address, size_t bytes);

// The first thing found since the launch began; empty where there is none.
std::string found();

}  // namespace cuda_races
