// Training by several processes, one a GPU. Together they compute what one process would of the same batch: batch sizes are
// those of all, each process loads and learns from its share, and gradients, denominators of losses, running statistics and
// confusion matrices are sums over all. Every process ends a step with the same weights. One process, the writer, keeps the run
// folder.
//
// For a process that is alone everything here does nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "semiseg/types.h"

namespace semiseg {

int64_t process_count();  // 1 where it is alone
int64_t process_rank();   // 0 .. process_count() - 1
// Among the processes on this machine: which GPU is its own.
int64_t local_rank();
inline bool is_writer() { return process_rank() == 0; }

// The group that the environment names as torchrun and `semiseg train --processes` do, by RANK, WORLD_SIZE, LOCAL_RANK,
// MASTER_ADDR and MASTER_PORT; none where WORLD_SIZE is not set or 1. One at a time. Ranks are known as soon as the environment
// is read, before anybody is met.
class ProcessGroup {
 public:
  // Reads the environment. Throws Error(kConfig) for one that makes no sense, or a build without process groups.
  ProcessGroup();
  ~ProcessGroup();
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  // Meets the others. `backend` is distributed.backend: gloo (CPU), nccl (CUDA) or auto. False where `stop` said so while it
  // waited. Throws Error(kConfig) for a backend that the build or the device has not, Error(kPeer) when they do not come within
  // `patience_s` seconds.
  bool meet(const std::string& backend, torch::Device device, const std::function<bool()>& stop, int64_t patience_s = 600);
};

// All of these must be called by all processes, in the same order, with tensors alike. They throw Error(kPeer) when another
// process has ended or cannot be reached.

// In place: each tensor becomes the sum over the processes of theirs, or their mean (of floating point). All are on one device.
// On a GPU the host does not wait, except with gloo, which takes them over the host.
void add_over_processes(std::vector<Tensor> tensors);
void average_over_processes(std::vector<Tensor> tensors);
// New tensors, without gradient; the tensor itself where the process is alone.
Tensor sum_over_processes(const Tensor& tensor);
Tensor mean_over_processes(const Tensor& tensor);  // REQUIRES: floating point
int64_t largest_over_processes(int64_t value);
// Which of `texts` are not the same in all processes. All give as many.
std::vector<size_t> differing_over_processes(const std::vector<std::string>& texts);
void wait_for_processes();
// Runs `work` in the first process of each machine, then in all others: they find what it has put into caches.
void first_then_others(const std::function<void()>& work);

}  // namespace semiseg
