// Pooling and enlarging inside networks. ATen's CUDA gradients of both add up with atomics, in another order every time. Where
// run.deterministic wants one result, CUDA takes gradients that gather instead; everywhere else they are ATen's own.
#pragma once

#include "semiseg/types.h"

namespace semiseg {

// The largest of 3 x 3 at a stride of 2, with a padding of 1. [B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)].
Tensor max_pool_3x3(const Tensor& x_BCHW);

// Bilinear with aligned corners, [B, C, h, w] -> [B, C, H, W].
Tensor enlarge_bilinear(const Tensor& x_BChw, int64_t H, int64_t W);

// The same with gathering gradients, on every device.
namespace gathering {
Tensor max_pool_3x3(const Tensor& x_BCHW);
Tensor enlarge_bilinear(const Tensor& x_BChw, int64_t H, int64_t W);
}  // namespace gathering

}  // namespace semiseg
