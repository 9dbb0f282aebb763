// Enlarging whose gradient gathers: ATen's on CUDA adds up with atomics, in another order every time.
#pragma once

#include "semiseg/types.h"

namespace semiseg::ops {

// Whether ATen's gradients would give another result every time where run.deterministic wants one.
bool must_gather(const Tensor& x);

// at::upsample_bilinear2d with a gradient that gathers, on every device. [B, C, h, w] -> [B, C, H, W].
Tensor enlarge_gathering(const Tensor& x_BChw, int64_t H, int64_t W, bool align_corners);

}  // namespace semiseg::ops
