// The operations of semiseg/ops.h in one pass over the pixels, on the CPU (kernels.h). All without autograd.
#pragma once

#include "ops/fused.h"

namespace semiseg::ops::fused_cpu {

// Whether this processor, the tensor's device and type, and the number of classes are served.
bool serves(const Tensor& logits_BKhw);
const FusedOps& ops();

// Those that any processor serves.
// By two histograms of the values' bits, which for values >= 0 are in the order of the values: of the upper half, then of the
// lower half of those that share the upper one.
Tensor kth_smallest(const Tensor& values, int64_t k);
std::vector<Tensor> paste_where(const Tensor& mask_BHW, const std::vector<Tensor>& sources, const std::vector<Tensor>& targets);

}  // namespace semiseg::ops::fused_cpu
