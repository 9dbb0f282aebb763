#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>

#include "ops/cuda/launch.h"
#include "ops/cuda/pixels.cuh"
#include "ops/paste_pairs.h"
#include "ops/pixels_cuda.h"

namespace semiseg::ops::pixels_cuda {

std::vector<Tensor> paste_where(const Tensor& mask_BHW, const std::vector<Tensor>& sources,
                                const std::vector<Tensor>& targets) {
  const c10::cuda::CUDAGuard guard(mask_BHW.device());
  const auto mask = mask_BHW.contiguous();
  cuda::Paste paste{mask.const_data_ptr<bool>(), mask.size(0), mask.size(1) * mask.size(2), {}};
  std::vector<Tensor> pasted;
  const std::vector<PastePair> pairs = paste_pairs(mask_BHW, sources, targets, &pasted);
  TORCH_CHECK(pairs.size() <= cuda::kMostPairs, "more is pasted at once than there is room for");
  for (size_t i = 0; i < pairs.size(); ++i)
    paste.pairs[i] = {pairs[i].source.const_data_ptr(), pairs[i].target.const_data_ptr(), pairs[i].out.data_ptr(),
                      static_cast<int>(pairs[i].planes), static_cast<int>(pairs[i].pixel_bytes)};
  if (pairs.empty() || mask.numel() == 0) return pasted;
  const dim3 grid(cuda::grid_side(mask.numel(), cuda::kPasteThreads), static_cast<unsigned>(pairs.size()));
  cuda::paste_kernel<<<grid, cuda::kPasteThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(paste);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return pasted;
}

Tensor kth_smallest(const Tensor& values, int64_t k) {
  const c10::cuda::CUDAGuard guard(values.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const auto flat = values.contiguous();
  const auto counts = at::zeros({cuda::kDigits}, flat.options().dtype(at::kLong));
  const auto rank = at::empty({sizeof(cuda::Rank)}, flat.options().dtype(at::kByte));
  const auto value = at::empty({}, flat.options());
  constexpr int64_t kValuesOfBlock = cuda::kCountThreads * 16, kMostBlocks = 1024;
  const auto blocks = static_cast<unsigned>(std::clamp<int64_t>(flat.numel() / kValuesOfBlock, 1, kMostBlocks));
  auto* at_counts = reinterpret_cast<unsigned long long*>(counts.data_ptr<int64_t>());
  auto* at_rank = reinterpret_cast<cuda::Rank*>(rank.data_ptr<uint8_t>());
  for (int pass = 0; pass < cuda::kPasses; ++pass) {
    cuda::count_digits_kernel<<<blocks, cuda::kCountThreads, 0, stream>>>(flat.const_data_ptr<float>(), flat.numel(), pass,
                                                                          at_rank, at_counts);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    cuda::pick_digit_kernel<<<1, cuda::kPickThreads, 0, stream>>>(at_counts, k, pass, at_rank, value.data_ptr<float>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return value;
}

}  // namespace semiseg::ops::pixels_cuda
