#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "ops/colours_cuda.h"
#include "ops/cuda/colours.cuh"
#include "ops/cuda/launch.h"

namespace semiseg::ops::colours_cuda {

const int64_t kPlanBytes = sizeof(ColourPlan);

Tensor strong_views(const Tensor& image_BHWC, const Tensor& plan_BN, const std::array<float, 3>& scale,
                    const std::array<float, 3>& shift) {
  TORCH_CHECK(image_BHWC.is_contiguous() && plan_BN.is_contiguous() && plan_BN.size(1) == kPlanBytes);
  const c10::cuda::CUDAGuard guard(image_BHWC.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const int64_t B = image_BHWC.size(0), H = image_BHWC.size(1), W = image_BHWC.size(2), pixels = H * W;
  const auto changed_BHWC = at::empty_like(image_BHWC);
  const auto view_BHWC = at::empty(image_BHWC.sizes(), image_BHWC.options().dtype(at::kFloat));
  const auto sums_B = at::zeros({B}, image_BHWC.options().dtype(at::kLong));
  const auto* plan_B = reinterpret_cast<const ColourPlan*>(plan_BN.const_data_ptr<uint8_t>());
  auto* sums = reinterpret_cast<unsigned long long*>(sums_B.data_ptr<int64_t>());
  const auto* image = image_BHWC.const_data_ptr<uint8_t>();
  auto* changed = changed_BHWC.data_ptr<uint8_t>();

  constexpr int64_t kPixelsOfAThread = 8;  // so that blocks read their plan seldom
  const dim3 grid(cuda::grid_side(pixels, cuda::kColourThreads * kPixelsOfAThread), static_cast<unsigned>(B));
  cuda::grey_sums_kernel<<<grid, cuda::kColourThreads, 0, stream>>>(image, plan_B, pixels, sums);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  cuda::change_colours_kernel<<<grid, cuda::kColourThreads, 0, stream>>>(image, plan_B, pixels, sums, changed);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  const dim3 tiles(cuda::grid_side(W, cuda::kBlurColumns), cuda::grid_side(H, cuda::kBlurRows), static_cast<unsigned>(B));
  cuda::blur_kernel<<<tiles, dim3(cuda::kBlurColumns, cuda::kBlurRows), 0, stream>>>(
      changed, plan_B, static_cast<int>(H), static_cast<int>(W),
      {{scale[0], scale[1], scale[2]}, {shift[0], shift[1], shift[2]}}, view_BHWC.data_ptr<float>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return view_BHWC.permute({0, 3, 1, 2});
}

}  // namespace semiseg::ops::colours_cuda
