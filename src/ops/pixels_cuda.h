// Pasting and the k-th smallest on a GPU (ops/cuda/pixels.cuh); semiseg/ops.h says what they do.
#pragma once

#include <vector>

#include "semiseg/types.h"

namespace semiseg::ops::pixels_cuda {

std::vector<Tensor> paste_where(const Tensor& mask_BHW, const std::vector<Tensor>& sources, const std::vector<Tensor>& targets);
Tensor kth_smallest(const Tensor& values, int64_t k);

}  // namespace semiseg::ops::pixels_cuda
