// The operations of semiseg/ops.h in one pass over the pixels, on a GPU (cuda/kernels.cuh). Only in builds with CUDA.
#pragma once

#include "ops/fused.h"

namespace semiseg::ops::fused_cuda {

// Whether the tensor's device and type, and the number of classes are served.
bool serves(const Tensor& logits_BKhw);
const FusedOps& ops();

// As semiseg::count_classes, of tensors on a GPU.
Tensor count_classes(const Tensor& class_BHW, const Tensor& mask_BHW, int64_t num_classes);

}  // namespace semiseg::ops::fused_cuda
