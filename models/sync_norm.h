// Batch normalisation over the images of all processes that train together (distributed.h): model.norm: sync.
#pragma once

#include "semiseg/types.h"

namespace semiseg {

// What at::batch_norm computes in training mode of the whole batch, each process of its part [B, C, H, W], float32, bfloat16 or
// float16; parameters and running statistics are float32 [C]. Sums over the processes go two by two forward, and once backward
// (Zhang et al., Context Encoding, CVPR 2018; torch.nn.SyncBatchNorm). REQUIRES: two values per channel in all of them
// together.
Tensor sync_batch_norm(const Tensor& x_BCHW, const Tensor& weight_C, const Tensor& bias_C, const Tensor& running_mean_C,
                       const Tensor& running_var_C, double momentum, double epsilon);

}  // namespace semiseg
