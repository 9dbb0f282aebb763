// Feature maps brought to another size on a GPU (cuda/enlarge.cuh), in the type they have: autocast would have float32. Only in
// builds with CUDA, and without autograd, which is models/resampling.h's.
#pragma once

#include "semiseg/types.h"

namespace semiseg::ops::enlarge_cuda {

enum class Kind { kBilinear, kNearest };  // bilinear: with aligned corners

// Whether device, type and layout (channels-last) are served, from and to this number of rows.
bool serves(const Tensor& x_BChw, int64_t H);

// x enlarged + sum_BCHW, which may be undefined and else has x's type.
Tensor enlarge(const Tensor& x_BChw, const Tensor& sum_BCHW, int64_t H, int64_t W, Kind kind);
// The gradient of x from that of the above.
Tensor gradient(const Tensor& above_BCHW, int64_t h, int64_t w, Kind kind);

}  // namespace semiseg::ops::enlarge_cuda
