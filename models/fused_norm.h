// Normalisation with the addition and the ReLU after it as one operation on a GPU, with its gradient. Only in builds with CUDA.
//
// Reads and writes of activations are what a step waits for: batch normalisation, sum and ReLU apart take 8 passes over them
// forward and 10 backward; here it is 4 and 7. Sums run in a fixed order, so results are the same in every run.
#pragma once

#include "semiseg/types.h"

namespace semiseg::fused_norm {

// A batch normalisation's parameters and statistics, float32 [C]. In training it uses the batch's own statistics, which the
// running ones follow.
struct BatchNorm {
  Tensor weight_C, bias_C, running_mean_C, running_var_C;
  bool training;
  double momentum, epsilon;
};

// Whether device, layout, type and number of channels are served, and what is wanted: not the gradient of running statistics.
bool serves_batch_norm(const Tensor& x_BCHW, bool training);
bool serves_group_norm(const Tensor& x_BCHW, int64_t groups);

// norm(x) + residual, of it max(0, .) with relu; residual may be undefined.
Tensor batch_norm(const Tensor& x_BCHW, const BatchNorm& norm, bool relu, const Tensor& residual_BCHW);
Tensor group_norm(const Tensor& x_BCHW, int64_t groups, const Tensor& weight_C, const Tensor& bias_C, double epsilon, bool relu,
                  const Tensor& residual_BCHW);

}  // namespace semiseg::fused_norm
