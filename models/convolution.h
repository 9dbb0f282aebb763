// Convolution with a gradient of the weight that is faster than oneDNN's where that is slow.
#pragma once

#include "semiseg/types.h"

namespace semiseg {

struct ConvOptions {
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t dilation = 1;
  int64_t groups = 1;
  bool bias = false;
};

// at::conv2d; bias may be undefined.
//
// On x86 processors without AVX-512, oneDNN computes a channels-last weight gradient at half the rate of the other passes.
// There, in float32, it is a matrix product of the output's gradient with the input's patches, which are laid out block by
// block so that they stay in the cache. Sums run in another order, so the last bits differ from oneDNN's; they are the same
// each time.
Tensor convolve(const Tensor& x_BCHW, const Tensor& weight_OCkk, const Tensor& bias_O, const ConvOptions& options);

// The gradient of the weight [O, C, k, k] in channels-last, of float32 on the CPU. REQUIRES: options.groups is 1.
Tensor weight_gradient(const Tensor& gradient_BOhw, const Tensor& x_BCHW, at::IntArrayRef weight_sizes,
                       const ConvOptions& options);

}  // namespace semiseg
