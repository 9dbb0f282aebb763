#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "ops/cuda/launch.h"
#include "ops/cuda/pool.cuh"
#include "ops/pool_cuda.h"

namespace semiseg::ops::pool_cuda {
namespace {

cuda::PoolShape shape_of(int64_t H, int64_t W, int64_t h, int64_t w, int64_t C) {
  return {static_cast<int>(H), static_cast<int>(W), static_cast<int>(h), static_cast<int>(w), static_cast<int>(C)};
}

template <class T>
dim3 grid_of(int64_t rows, int64_t columns, int64_t C) {
  return cuda::grid_of_rows(rows, columns, C / cuda::kPack<T>, cuda::kPoolThreads);
}

}  // namespace

bool serves(const Tensor& x_BCHW) { return cuda::is_in_packs(x_BCHW) && x_BCHW.size(0) * x_BCHW.size(2) <= cuda::kMostRows; }

Pooled max_pool(const Tensor& x_BCHW, bool want_place) {
  const c10::cuda::CUDAGuard guard(x_BCHW.device());
  const int64_t B = x_BCHW.size(0), C = x_BCHW.size(1), H = x_BCHW.size(2), W = x_BCHW.size(3);
  const int64_t h = cuda::quotient_up(H, cuda::kPoolStride), w = cuda::quotient_up(W, cuda::kPoolStride);
  Pooled pooled{at::empty({B, C, h, w}, x_BCHW.options(), at::MemoryFormat::ChannelsLast), {}};
  if (want_place) pooled.place_BChw = at::empty_like(pooled.largest_BChw, x_BCHW.options().dtype(at::kByte));
  cuda::with_type(x_BCHW.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    cuda::max_pool_kernel<T><<<grid_of<T>(B * h, w, C), cuda::kPoolThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        x_BCHW.const_data_ptr<T>(), shape_of(H, W, h, w, C), pooled.largest_BChw.data_ptr<T>(),
        want_place ? pooled.place_BChw.data_ptr<uint8_t>() : nullptr);
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return pooled;
}

Tensor gradient(const Tensor& above_BChw, const Tensor& place_BChw, int64_t H, int64_t W) {
  const c10::cuda::CUDAGuard guard(above_BChw.device());
  const auto above = above_BChw.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t B = above.size(0), C = above.size(1), h = above.size(2), w = above.size(3);
  const auto of_x_BCHW = at::empty({B, C, H, W}, above.options(), at::MemoryFormat::ChannelsLast);
  cuda::with_type(above.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    cuda::max_pool_gradient_kernel<T><<<grid_of<T>(B * H, W, C), cuda::kPoolThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        above.const_data_ptr<T>(), place_BChw.const_data_ptr<uint8_t>(), shape_of(H, W, h, w, C), of_x_BCHW.data_ptr<T>());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return of_x_BCHW;
}

}  // namespace semiseg::ops::pool_cuda
