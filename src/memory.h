// How much memory this process may take, and how much a piece of work took.
#pragma once

#include <torch/types.h>

#include <exception>
#include <string>

namespace semiseg {

// MiB that this process can hold in all: what it holds and what is free. Of the host: the least that /proc/meminfo
// (MemAvailable) and the limits of its control groups, version 1 or 2, leave; `root` stands before /proc and /sys. 0 where
// neither tells.
double usable_host_memory_mb(const std::string& root = "");
// The same of the memory that networks on `device` take.
double usable_memory_mb(torch::Device device);

// The most memory held since it was made, or since the process began where the system cannot forget that peak (then it is
// right of work that takes more than all work before). On CUDA what the allocator has reserved. One at a time.
class PeakMemory {
 public:
  explicit PeakMemory(torch::Device device);
  double mb() const;

 private:
  torch::Device device_;
};

// Whether memory was missing. The allocators of host and device have no exception in common.
bool is_out_of_memory(const std::exception& e);

// MiB that may still be written at `path`, which need not exist yet.
double free_disk_mb(const std::string& path);

// "512 MiB", "1.9 GiB".
std::string size_text(double mb);

}  // namespace semiseg
