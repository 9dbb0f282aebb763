// Pooling and enlarging inside networks. ATen's CUDA gradients of both add up with atomics, in another order every time, its
// pooling keeps eight bytes a value to know where it came from, and autocast has it enlarge in float32. On a GPU both are
// kernels of our own, where these serve, else ATen's operations with a gradient that gathers where run.deterministic wants one
// result; on the CPU, ATen's.
#pragma once

#include "semiseg/types.h"

namespace semiseg {

// The largest of 3 x 3 at a stride of 2, with a padding of 1. [B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)].
Tensor max_pool_3x3(const Tensor& x_BCHW);

// [B, C, h, w] -> [B, C, H, W], bilinear with aligned corners or nearest, plus sum_BCHW where it is given.
Tensor enlarge_bilinear(const Tensor& x_BChw, int64_t H, int64_t W, const Tensor& sum_BCHW = {});
Tensor enlarge_nearest(const Tensor& x_BChw, int64_t H, int64_t W, const Tensor& sum_BCHW = {});

// The first with a gradient that gathers, on every device.
Tensor max_pool_3x3_gathering(const Tensor& x_BCHW);

}  // namespace semiseg
