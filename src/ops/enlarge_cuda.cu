#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "ops/cuda/enlarge.cuh"
#include "ops/cuda/launch.h"
#include "ops/enlarge_cuda.h"

namespace semiseg::ops::enlarge_cuda {
namespace {

// Calls take with a cuda::Enlargement of the kind, from h x w to H x W.
template <class Take>
void with_kind(Kind kind, int64_t h, int64_t w, int64_t H, int64_t W, int64_t C, const Take& take) {
  const auto call = [&](auto y, auto x) {
    take(cuda::Enlargement<decltype(x)>{y, x, static_cast<int>(h), static_cast<int>(w), static_cast<int>(H),
                                        static_cast<int>(W), static_cast<int>(C)});
  };
  if (kind == Kind::kNearest)
    call(cuda::nearest_of(h, H), cuda::nearest_of(w, W));
  else
    call(cuda::linear_of(h, H), cuda::linear_of(w, W));
}

template <class T>
dim3 grid_of(int64_t rows, int64_t columns, int64_t C) {
  return cuda::grid_of_rows(rows, columns, C / cuda::kPack<T>, cuda::kEnlargeThreads);
}

Tensor empty_channels_last(const Tensor& like_BCHW, int64_t H, int64_t W) {
  return at::empty({like_BCHW.size(0), like_BCHW.size(1), H, W}, like_BCHW.options(), at::MemoryFormat::ChannelsLast);
}

}  // namespace

bool serves(const Tensor& x_BChw, int64_t H) {
  return cuda::is_in_packs(x_BChw) && x_BChw.size(0) * std::max(x_BChw.size(2), H) <= cuda::kMostRows;
}

Tensor enlarge(const Tensor& x_BChw, const Tensor& sum_BCHW, int64_t H, int64_t W, Kind kind) {
  const c10::cuda::CUDAGuard guard(x_BChw.device());
  const int64_t B = x_BChw.size(0), C = x_BChw.size(1);
  const auto y_BCHW = empty_channels_last(x_BChw, H, W);
  const auto sum = sum_BCHW.defined() ? sum_BCHW.contiguous(at::MemoryFormat::ChannelsLast) : sum_BCHW;
  cuda::with_type(x_BChw.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    with_kind(kind, x_BChw.size(2), x_BChw.size(3), H, W, C, [&](const auto& of) {
      cuda::enlarge_kernel<T><<<grid_of<T>(B * H, W, C), cuda::kEnlargeThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
          x_BChw.const_data_ptr<T>(), sum.defined() ? sum.const_data_ptr<T>() : nullptr, of, y_BCHW.data_ptr<T>());
    });
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y_BCHW;
}

Tensor gradient(const Tensor& above_BCHW, int64_t h, int64_t w, Kind kind) {
  const c10::cuda::CUDAGuard guard(above_BCHW.device());
  const int64_t B = above_BCHW.size(0), C = above_BCHW.size(1);
  const auto above = above_BCHW.contiguous(at::MemoryFormat::ChannelsLast);
  const auto of_x_BChw = empty_channels_last(above, h, w);
  cuda::with_type(above.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    with_kind(kind, h, w, above.size(2), above.size(3), C, [&](const auto& of) {
      cuda::enlarge_gradient_kernel<T>
          <<<grid_of<T>(B * h, w, C), cuda::kEnlargeThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
              above.const_data_ptr<T>(), of, of_x_BChw.data_ptr<T>());
    });
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return of_x_BChw;
}

}  // namespace semiseg::ops::enlarge_cuda
