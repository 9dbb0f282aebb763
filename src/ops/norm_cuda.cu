#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "ops/cuda/launch.h"
#include "ops/cuda/norm.cuh"
#include "ops/norm_cuda.h"

namespace semiseg::ops::norm_cuda {
namespace {

using cuda::grid_side;
using cuda::NormShape;
using cuda::quotient_up;
using cuda::with_type;

// Calls take(relu, residual) with both as constants.
template <class Take>
void with_flags(bool relu, bool residual, const Take& take) {
  if (relu && residual)
    take(std::true_type{}, std::true_type{});
  else if (relu)
    take(std::true_type{}, std::false_type{});
  else if (residual)
    take(std::false_type{}, std::true_type{});
  else
    take(std::false_type{}, std::false_type{});
}

int pack_of(const Tensor& x) { return static_cast<int>(16 / x.element_size()); }

int64_t images(const Tensor& x_BCHW, const Norm& norm) { return norm.groups == 0 ? 1 : x_BCHW.size(0); }

// `most_blocks` bounds the blocks, which sums that meet again in one place want few of.
NormShape shape_of(const Tensor& x_BCHW, const Norm& norm, int64_t most_blocks) {
  const int64_t C = x_BCHW.size(1), B = images(x_BCHW, norm), P = x_BCHW.numel() / C / B;
  const int64_t packs = C / pack_of(x_BCHW), tile = std::min<int64_t>(packs, cuda::kMostPacks),
                lanes = cuda::kNormThreads / tile;
  constexpr int64_t kLeastPixels = 4;  // of a thread
  const int64_t chunks =
      std::clamp<int64_t>(most_blocks / (B * quotient_up(packs, tile)), 1, quotient_up(P, lanes * kLeastPixels));
  const int64_t chunk = quotient_up(quotient_up(P, chunks), lanes) * lanes;
  return {P, static_cast<int>(C), static_cast<int>(tile), static_cast<int>(chunk), static_cast<int>(quotient_up(P, chunk))};
}
NormShape shape_for_sums(const Tensor& x_BCHW, const Norm& norm) { return shape_of(x_BCHW, norm, 132 * 8); }
NormShape shape_for_pixels(const Tensor& x_BCHW, const Norm& norm) { return shape_of(x_BCHW, norm, 132 * 64); }

dim3 grid_of(const NormShape& shape, const Tensor& x_BCHW, const Norm& norm) {
  return dim3(static_cast<unsigned>(shape.chunks), grid_side(shape.C / pack_of(x_BCHW), shape.tile),
              static_cast<unsigned>(images(x_BCHW, norm)));
}

// Calls finish(channels, grid, threads) with the channels of a block, which hold whole groups, as a constant.
constexpr int64_t kMostChannelsOfGroup = 64;
int64_t channels_of_group(int64_t C, int64_t groups) { return groups == 0 ? 1 : C / groups; }
template <class Finish>
void with_finish(const NormShape& shape, const Tensor& x_BCHW, const Norm& norm, const Finish& finish) {
  const auto call = [&](auto channels) {
    finish(channels, dim3(grid_side(shape.C, channels.value), static_cast<unsigned>(images(x_BCHW, norm))),
           dim3(channels.value, cuda::kFinishParts<channels.value>));
  };
  if (channels_of_group(shape.C, norm.groups) > 32)
    call(std::integral_constant<int, 64>{});
  else
    call(std::integral_constant<int, 32>{});
}

cuda::NormParameters parameters_of(const Norm& norm, int64_t C) {
  return {norm.weight_C.const_data_ptr<float>(), norm.bias_C.const_data_ptr<float>(), static_cast<float>(norm.epsilon),
          static_cast<int>(channels_of_group(C, norm.groups))};
}

// Channels-last memory, whatever the strides of sides of length 1 say.
template <class T>
const T* data_of(const Tensor& x) {
  return x.defined() ? x.const_data_ptr<T>() : nullptr;
}

Tensor floats(const Tensor& x_BCHW, at::IntArrayRef sizes) { return at::empty(sizes, x_BCHW.options().dtype(at::kFloat)); }

}  // namespace

bool serves(const Tensor& x_BCHW, int64_t groups) {
  if (!cuda::is_in_packs(x_BCHW) || x_BCHW.size(0) > cuda::kMostRows) return false;
  const int64_t C = x_BCHW.size(1);
  return groups == 0 || (C % groups == 0 && kMostChannelsOfGroup % (C / groups) == 0);
}

Statistics measure(const Tensor& x_BCHW, const Norm& norm, const Running* running) {
  const c10::cuda::CUDAGuard guard(x_BCHW.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const NormShape shape = shape_for_sums(x_BCHW, norm);
  const int64_t B = images(x_BCHW, norm), C = shape.C;
  const auto sums_BN2C = floats(x_BCHW, {B, shape.chunks, 2, C});
  const auto all_4BC = floats(x_BCHW, {4, B, C});
  const Statistics result{all_4BC[0], all_4BC[1], all_4BC[2], all_4BC[3]};
  with_type(x_BCHW.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    cuda::moments_kernel<T><<<grid_of(shape, x_BCHW, norm), cuda::kNormThreads, 0, stream>>>(data_of<T>(x_BCHW), shape,
                                                                                             sums_BN2C.data_ptr<float>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    with_finish(shape, x_BCHW, norm, [&](auto channels, dim3 grid, dim3 threads) {
      cuda::finish_moments_kernel<T, channels.value><<<grid, threads, 0, stream>>>(
          data_of<T>(x_BCHW), shape, sums_BN2C.const_data_ptr<float>(), parameters_of(norm, C),
          result.scale_BC.data_ptr<float>(), result.shift_BC.data_ptr<float>(), result.mean_BC.data_ptr<float>(),
          result.rstd_BC.data_ptr<float>(), running ? running->mean_C.data_ptr<float>() : nullptr,
          running ? running->var_C.data_ptr<float>() : nullptr, running ? static_cast<float>(running->momentum) : 0.0f);
    });
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return result;
}

Statistics of_running(const Running& running, const Norm& norm) {
  const c10::cuda::CUDAGuard guard(running.mean_C.device());
  const int64_t C = running.mean_C.size(0);
  const auto both_2C = floats(running.mean_C, {2, C});
  constexpr int64_t kThreads = 256;
  cuda::affine_of_running_kernel<<<grid_side(C, kThreads), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
      running.mean_C.const_data_ptr<float>(), running.var_C.const_data_ptr<float>(), parameters_of(norm, C),
      static_cast<int>(C), both_2C[0].data_ptr<float>(), both_2C[1].data_ptr<float>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {both_2C[0], both_2C[1], {}, {}};
}

Tensor apply(const Tensor& x_BCHW, const Tensor& residual_BCHW, const Norm& norm, const Statistics& statistics) {
  const c10::cuda::CUDAGuard guard(x_BCHW.device());
  const auto y_BCHW = at::empty_like(x_BCHW);
  const NormShape shape = shape_for_pixels(x_BCHW, norm);
  with_type(x_BCHW.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    with_flags(norm.relu, residual_BCHW.defined(), [&](auto relu, auto residual) {
      cuda::apply_norm_kernel<T, relu.value, residual.value>
          <<<grid_of(shape, x_BCHW, norm), cuda::kNormThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
              data_of<T>(x_BCHW), data_of<T>(residual_BCHW), shape, statistics.scale_BC.const_data_ptr<float>(),
              statistics.shift_BC.const_data_ptr<float>(), y_BCHW.data_ptr<T>());
    });
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y_BCHW;
}

Gradients gradients(const Tensor& above_BCHW, const Tensor& x_BCHW, const Tensor& y_BCHW, const Norm& norm,
                    const Statistics& statistics) {
  const c10::cuda::CUDAGuard guard(x_BCHW.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const NormShape shape = shape_for_sums(x_BCHW, norm), of_pixels = shape_for_pixels(x_BCHW, norm);
  const int64_t B = images(x_BCHW, norm), C = shape.C;
  const auto sums_BN2C = floats(x_BCHW, {B, shape.chunks, 2, C});
  const auto all_4BC = floats(x_BCHW, {4, B, C});
  const auto q_BC = all_4BC[0], r_BC = all_4BC[1], of_weight_BC = all_4BC[2], of_bias_BC = all_4BC[3];
  const auto of_x_BCHW = at::empty_like(x_BCHW);
  const auto *scale = statistics.scale_BC.const_data_ptr<float>(), *shift = statistics.shift_BC.const_data_ptr<float>(),
             *mean = statistics.mean_BC.const_data_ptr<float>(), *rstd = statistics.rstd_BC.const_data_ptr<float>();
  Tensor of_residual_BCHW;
  if (y_BCHW.defined()) of_residual_BCHW = at::empty_like(x_BCHW);
  with_type(x_BCHW.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    with_flags(norm.relu, y_BCHW.defined(), [&](auto relu, auto residual) {
      const T *x = data_of<T>(x_BCHW), *above = data_of<T>(above_BCHW);
      T* of_residual = residual.value ? of_residual_BCHW.data_ptr<T>() : nullptr;
      cuda::gradient_sums_kernel<T, relu.value, residual.value>
          <<<grid_of(shape, x_BCHW, norm), cuda::kNormThreads, 0, stream>>>(x, above, data_of<T>(y_BCHW), shape, scale, shift,
                                                                            mean, of_residual, sums_BN2C.data_ptr<float>());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
      with_finish(shape, x_BCHW, norm, [&](auto channels, dim3 grid, dim3 threads) {
        cuda::finish_gradient_kernel<channels.value><<<grid, threads, 0, stream>>>(
            shape, sums_BN2C.const_data_ptr<float>(), parameters_of(norm, C), mean, rstd, q_BC.data_ptr<float>(),
            r_BC.data_ptr<float>(), of_weight_BC.data_ptr<float>(), of_bias_BC.data_ptr<float>());
      });
      C10_CUDA_KERNEL_LAUNCH_CHECK();
      cuda::norm_gradient_kernel<T, relu.value, residual.value>
          <<<grid_of(of_pixels, x_BCHW, norm), cuda::kNormThreads, 0, stream>>>(
              x, residual.value ? of_residual : above, of_pixels, scale, shift, q_BC.const_data_ptr<float>(),
              r_BC.const_data_ptr<float>(), of_x_BCHW.data_ptr<T>());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  });
  return {of_x_BCHW, of_residual_BCHW, B == 1 ? of_weight_BC[0] : of_weight_BC.sum(0),
          B == 1 ? of_bias_BC[0] : of_bias_BC.sum(0)};
}

}  // namespace semiseg::ops::norm_cuda
