// Tensors beside memory that nobody may touch: a kernel that reads or writes beyond one ends the test with SIGSEGV, as
// compute-sanitizer's memcheck ends it on a GPU. For kernels that run on the CPU (cuda_on_cpu.h).
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <new>

enum class Guard { kBehind, kInFront };  // of a tensor; on its other side there may be up to a page

// While one exists, tensors on the CPU are allocated so. They lie at multiples of 16 bytes, as packs of values must, so that
// behind one whose size is no such multiple a few bytes more can be touched.
class GuardedMemory : public c10::Allocator {
 public:
  explicit GuardedMemory(Guard guard) : guard_(guard), before_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this); }
  ~GuardedMemory() override { c10::SetCPUAllocator(before_); }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, c10::Device(c10::kCPU)};
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), size = (bytes + 15) / 16 * 16;
    const size_t usable = (size + page - 1) / page * page;
    auto* begin = static_cast<char*>(mmap(nullptr, usable + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (begin == MAP_FAILED || mprotect(begin + page, usable, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    auto* mapping = new Mapping{begin, usable + 2 * page};
    return {begin + page + (guard_ == Guard::kBehind ? usable - size : 0), mapping, release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }

 private:
  struct Mapping {
    void* begin;
    size_t bytes;
  };
  static void release(void* context) {
    const auto* mapping = static_cast<Mapping*>(context);
    munmap(mapping->begin, mapping->bytes);
    delete mapping;
  }

  Guard guard_;
  c10::Allocator* before_;
};
