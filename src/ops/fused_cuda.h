// The operations of semiseg/ops.h in one pass over the pixels, on a GPU (cuda/kernels.cuh). Only in builds with CUDA.
#pragma once

#include "ops/fused.h"

namespace semiseg::ops::fused_cuda {

// Whether the tensor's device and type, and the number of classes are served.
bool serves(const Tensor& logits_BKhw);
const FusedOps& ops();

}  // namespace semiseg::ops::fused_cuda
