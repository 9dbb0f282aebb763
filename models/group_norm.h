// Group normalisation (Wu and He, ECCV 2018) and the ReLU after it as one operation.
#pragma once

#include "semiseg/types.h"

namespace semiseg {

// relu(weight_c (x - mean) / sqrt(variance + epsilon) + bias_c), mean and variance over the pixels and channels of an image's
// group, float32 or bfloat16 [B, C, H, W] with float32 [C] parameters.
//
// On a CPU, in channels-last and where a gradient is wanted it is computed here: only x is kept for the gradient, which takes
// two passes over memory where ATen's two operations take six. Elsewhere it is ATen's. Results do not depend on the number of
// threads.
Tensor group_norm_relu(const Tensor& x_BCHW, int64_t groups, const Tensor& weight_C, const Tensor& bias_C, double epsilon);

}  // namespace semiseg
