#include "cuda_races.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>

// The program's variables lie between these, and so do those that stand for shared memory: a kernel's static ones.
extern "C" char __data_start[], _end[];

namespace cuda_races {
namespace {

enum class Kind { kRead, kWrite, kAtomic };

// What happened to a byte last, within a launch.
struct Byte {
  int write_block = -1, write_thread = 0, write_barriers = 0;
  bool write_atomic = false;
  bool written_by_more = false;  // threads of the block since its last barrier, all by atomics
  int read_block = -1, read_thread = 0, read_barriers = 0;
  bool read_by_more = false;    // threads of the block since its last barrier
  bool read_by_blocks = false;  // more than the last one
};
using Page = std::array<Byte, 4096>;

std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
uintptr_t last_page = 0;
Page* last = nullptr;
std::vector<Range> words;
int block = 0;
Thread thread{-1, 0, nullptr, 0};  // -1: none
std::string first_found;

Byte& byte_at(uintptr_t address) {
  if (const uintptr_t page = address / 4096; page != last_page || !last) {
    auto& of = pages[page];
    if (!of) of = std::make_unique<Page>();
    last_page = page;
    last = of.get();
  }
  return (*last)[address % 4096];
}

bool lies_in(const Range& range, uintptr_t address) { return address - reinterpret_cast<uintptr_t>(range.begin) < range.bytes; }
bool is_shared(uintptr_t address) {
  return address >= reinterpret_cast<uintptr_t>(__data_start) && address < reinterpret_cast<uintptr_t>(_end);
}

void report(const char* what, bool shared, uintptr_t address, int other) {
  if (!first_found.empty()) return;
  first_found = std::string(what) + (shared ? " shared" : " global") + " memory at " + std::to_string(address) + ": thread " +
                std::to_string(thread.number) + (other < 0 ? "" : " and thread " + std::to_string(other)) + ", block " +
                std::to_string(block);
}

void touch_byte(uintptr_t address, bool shared, Kind kind) {
  Byte& byte = byte_at(address);
  // A block's shared memory is its own.
  if (shared && byte.write_block != block && byte.read_block != block) byte = {};

  const bool reads = kind == Kind::kRead, atomic = kind == Kind::kAtomic;
  if (byte.write_block >= 0 && !(atomic && byte.write_atomic)) {
    if (byte.write_block != block)
      report("two blocks race for", shared, address, byte.write_thread);
    else if (byte.write_barriers == thread.barriers && (byte.write_thread != thread.number || byte.written_by_more))
      report("a race for", shared, address, byte.write_thread);
  }
  if (shared && kind != Kind::kWrite && byte.write_block < 0) report("a read of unwritten", shared, address, -1);
  if (reads) {
    if (byte.read_block >= 0 && byte.read_block != block) byte.read_by_blocks = true;
    const bool same = byte.read_block == block && byte.read_barriers == thread.barriers;
    byte.read_by_more = same && (byte.read_by_more || byte.read_thread != thread.number);
    byte.read_block = block, byte.read_thread = thread.number, byte.read_barriers = thread.barriers;
    return;
  }
  if (byte.read_by_blocks || (byte.read_block >= 0 && byte.read_block != block))
    report("two blocks race for", shared, address, byte.read_thread);
  else if (byte.read_block == block && byte.read_barriers == thread.barriers &&
           (byte.read_by_more || byte.read_thread != thread.number))
    report("a race for", shared, address, byte.read_thread);
  const bool again = byte.write_block == block && byte.write_barriers == thread.barriers;
  byte.written_by_more = again && (byte.written_by_more || byte.write_thread != thread.number);
  byte.write_block = block, byte.write_thread = thread.number, byte.write_barriers = thread.barriers;
  byte.write_atomic = atomic;
}

void touch(const void* at, size_t bytes, Kind kind) {
  static bool inside = false;  // the library's functions that this one calls may be watched, too
  if (thread.number < 0 || inside) return;
  inside = true;
  const auto address = reinterpret_cast<uintptr_t>(at);
  const bool own = lies_in({thread.stack, thread.stack_bytes}, address) ||
                   std::any_of(words.begin(), words.end(), [&](const Range& word) { return lies_in(word, address); });
  const bool shared = is_shared(address);
  for (size_t i = 0; i < bytes && !own; ++i) touch_byte(address + i, shared, kind);
  inside = false;
}

}  // namespace

void begin_launch(std::vector<Range> of) {
  words = std::move(of);
  pages.clear();
  last = nullptr;
  block = -1;
  first_found.clear();
}
void begin_block() { ++block; }
void run_thread(const Thread& running) { thread = running; }
void run_none() { thread.number = -1; }
void touch_atomically(const void* address, size_t bytes) { touch(address, bytes, Kind::kAtomic); }
std::string found() { return first_found; }

}  // namespace cuda_races

// What g++ calls in a file that is compiled with -fsanitize=thread.
extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}

#define SEMISEG_TOUCH(bytes)                                                                             \
  void __tsan_read##bytes(void* at) { cuda_races::touch(at, bytes, cuda_races::Kind::kRead); }           \
  void __tsan_write##bytes(void* at) { cuda_races::touch(at, bytes, cuda_races::Kind::kWrite); }         \
  void __tsan_unaligned_read##bytes(void* at) { cuda_races::touch(at, bytes, cuda_races::Kind::kRead); } \
  void __tsan_unaligned_write##bytes(void* at) { cuda_races::touch(at, bytes, cuda_races::Kind::kWrite); }
SEMISEG_TOUCH(1)
SEMISEG_TOUCH(2)
SEMISEG_TOUCH(4)
SEMISEG_TOUCH(8)
SEMISEG_TOUCH(16)
#undef SEMISEG_TOUCH
void __tsan_read_range(void* at, unsigned long bytes) { cuda_races::touch(at, bytes, cuda_races::Kind::kRead); }
void __tsan_write_range(void* at, unsigned long bytes) { cuda_races::touch(at, bytes, cuda_races::Kind::kWrite); }

// Counters of references, in headers of LibTorch's and the standard library's.
#define SEMISEG_FETCH(bits, type, operation)                                         \
  type __tsan_atomic##bits##_fetch_##operation(volatile type* at, type value, int) { \
    return __atomic_fetch_##operation(at, value, __ATOMIC_SEQ_CST);                  \
  }
#define SEMISEG_ATOMIC(bits, type)                                                                                        \
  SEMISEG_FETCH(bits, type, add)                                                                                          \
  SEMISEG_FETCH(bits, type, sub)                                                                                          \
  SEMISEG_FETCH(bits, type, and)                                                                                          \
  SEMISEG_FETCH(bits, type, or)                                                                                           \
  SEMISEG_FETCH(bits, type, xor)                                                                                          \
  type __tsan_atomic##bits##_load(const volatile type* at, int) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }         \
  void __tsan_atomic##bits##_store(volatile type* at, type value, int) { __atomic_store_n(at, value, __ATOMIC_SEQ_CST); } \
  type __tsan_atomic##bits##_exchange(volatile type* at, type value, int) {                                               \
    return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);                                                              \
  }                                                                                                                       \
  bool __tsan_atomic##bits##_compare_exchange_strong(volatile type* at, type* expected, type value, int, int) {           \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                   \
  }                                                                                                                       \
  bool __tsan_atomic##bits##_compare_exchange_weak(volatile type* at, type* expected, type value, int, int) {             \
    return __atomic_compare_exchange_n(at, expected, value, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                    \
  }
SEMISEG_ATOMIC(8, unsigned char)
SEMISEG_ATOMIC(16, unsigned short)
SEMISEG_ATOMIC(32, unsigned)
SEMISEG_ATOMIC(64, unsigned long)
#undef SEMISEG_ATOMIC
#undef SEMISEG_FETCH
void __tsan_atomic_signal_fence(int) {}
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
}
