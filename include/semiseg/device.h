// The device that computes, its precision and its memory.
#pragma once

#include <torch/nn/module.h>

#include <string>

#include "semiseg/types.h"

namespace semiseg {

int64_t count_gpus();

// "auto" is CUDA where there is one, else the CPU. Of several processes on a machine each has a GPU of its own. From then on it
// is LibTorch's current one. Throws Error(kConfig) for a device that is not there.
torch::Device resolve_device(const std::string& name);

// Of the network's arithmetic, by autocast; weights are float32 in each. fp16 holds no gradient below 2^-24: training scales
// its loss (optim.h).
enum class Precision { kFp32, kBf16, kFp16 };
// "fp32", "bf16", "fp16"; "auto" is bf16 where the device has instructions for it (GPUs since compute capability 8.0, CPUs with
// AVX512-BF16 or AMX), else fp16 on a GPU and fp32 on a CPU.
Precision resolve_precision(const std::string& name, torch::Device device);
std::string precision_name(Precision precision);
at::ScalarType scalar_type(Precision precision);

// Asks for kernels that give the same result each time; PyTorch warns of one that has no such form. The CPU's all are so.
void prefer_deterministic_kernels(bool on, torch::Device device);

// Autocast for a scope, or none (kFp32) within one that has it. The cache of cast weights is dropped at the end of the outer
// one, so it never outlives an update of the weights.
class Autocast {
 public:
  Autocast(torch::Device device, Precision precision);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  torch::Device device_;
  bool on_, was_on_;
};

// Moves a module's tensors to the device, convolution weights to channels-last.
void move_module(torch::nn::Module& module, torch::Device device);

// Ends when all that was queued on the device is done.
void wait_for(torch::Device device);
// The same, with an end to its patience: false where something is still under way, such as an exchange with a process that is
// no more.
bool finishes_within(double seconds, torch::Device device);

// Most memory held so far, in MiB: of the process on the CPU, of the allocator on CUDA.
double peak_memory_mb(torch::Device device);

// The device as environment.json names it, such as "cpu (AMD EPYC, 2 threads)".
std::string describe_device(torch::Device device);

}  // namespace semiseg
