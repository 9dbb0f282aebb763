// Batch and group normalisation with what follows it, on a GPU (cuda/norm.cuh): relu(weight_c (x - mean) rstd + bias_c +
// residual). Only in builds with CUDA, and without autograd, which is models/fused_norm.h's.
//
// x is channels-last [B, C, H, W] of float32, float16 or bfloat16; parameters and statistics are float32. groups is 0 for batch
// normalisation, whose statistics are those of all images: wherever it says [B, C] below, they are [1, C] then.
#pragma once

#include "semiseg/types.h"

namespace semiseg::ops::norm_cuda {

struct Norm {
  Tensor weight_C, bias_C;
  int64_t groups;
  double epsilon;
  bool relu;
};
struct Running {
  Tensor mean_C, var_C;
  double momentum;
};
struct Statistics {
  Tensor scale_BC, shift_BC, mean_BC, rstd_BC;
};
struct Gradients {
  Tensor x_BCHW, residual_BCHW, weight_C, bias_C;
};

// Whether the layout and the numbers of channels and groups are served.
bool serves(const Tensor& x_BCHW, int64_t groups);

// Those of x; `running`, which may be null, follows them (batch normalisation alone).
Statistics measure(const Tensor& x_BCHW, const Norm& norm, const Running* running);
// Those that were learned: scale and shift alone.
Statistics of_running(const Running& running, const Norm& norm);
// residual may be undefined.
Tensor apply(const Tensor& x_BCHW, const Tensor& residual_BCHW, const Norm& norm, const Statistics& statistics);
// y_BCHW: the output, where there were a ReLU and a residual; else it may be undefined. The residual's gradient comes only with
// it.
Gradients gradients(const Tensor& above_BCHW, const Tensor& x_BCHW, const Tensor& y_BCHW, const Norm& norm,
                    const Statistics& statistics);

}  // namespace semiseg::ops::norm_cuda
