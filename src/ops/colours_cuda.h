// Strong views on a GPU. Only in builds with CUDA.
#pragma once

#include <array>

#include "semiseg/types.h"

namespace semiseg::ops::colours_cuda {

// Bytes of a plan (src/colours.h) in plan_BN.
extern const int64_t kPlanBytes;

// Strong views of image_BHWC, uint8 on a GPU, normalised with a scale and a shift of bytes' values by channel: float32 [B, 3,
// H, W] in channels-last. plan_BN: ColourPlans as uint8 [B, kPlanBytes], on the same GPU. Never waits for the GPU.
Tensor strong_views(const Tensor& image_BHWC, const Tensor& plan_BN, const std::array<float, 3>& scale,
                    const std::array<float, 3>& shift);

}  // namespace semiseg::ops::colours_cuda
