// Pooling on a GPU (ops/cuda/pool.cuh).
#pragma once

#include "semiseg/types.h"

namespace semiseg::ops::pool_cuda {

// Whether the kernels serve the map: on a GPU, channels-last, of a type and a number of channels that fill packs.
bool serves(const Tensor& x_BCHW);

// The largest of 3 x 3 at a stride of 2 with a padding of 1; `place`, uint8 0..8, says which one, and is undefined where it is
// not wanted. [B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)]. REQUIRES: serves(x).
struct Pooled {
  Tensor largest_BChw, place_BChw;
};
Pooled max_pool(const Tensor& x_BCHW, bool want_place);

// The gradient of x [B, C, H, W] from that of the pooled map.
Tensor gradient(const Tensor& above_BChw, const Tensor& place_BChw, int64_t H, int64_t W);

}  // namespace semiseg::ops::pool_cuda
