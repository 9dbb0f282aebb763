// The device that computes, its precision and its memory.
#pragma once

#include <torch/nn/module.h>

#include <string>

#include "semiseg/types.h"

namespace semiseg {

// "auto" is CUDA where there is one, else the CPU. Throws Error(kConfig) for a device that is not there.
torch::Device resolve_device(const std::string& name);

// Whether to compute in bfloat16 (autocast). "auto" says yes on CUDA and on CPUs with bfloat16 instructions (AVX512-BF16, AMX).
bool resolve_bf16(const std::string& precision, torch::Device device);

// Asks for kernels that give the same result each time; PyTorch warns of one that has no such form. The CPU's all are so.
void prefer_deterministic_kernels(bool on, torch::Device device);

// Autocast to bfloat16 for a scope, or none (`on` false) within one that has it; weights stay float32. The cache of cast
// weights is dropped at the end of the outer one, so it never outlives an update of the weights.
class Autocast {
 public:
  Autocast(torch::Device device, bool on);
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

// Most memory held so far, in MiB: of the process on the CPU, of the allocator on CUDA.
double peak_memory_mb(torch::Device device);

// The device as environment.json names it, such as "cpu (AMD EPYC, 2 threads)".
std::string describe_device(torch::Device device);

}  // namespace semiseg
