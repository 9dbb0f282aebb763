#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <limits>

#include "ops/cuda/kernels.cuh"
#include "ops/cuda/launch.h"
#include "ops/fused_cuda.h"

namespace semiseg::ops::fused_cuda {
namespace {

using cuda::grid_side;
using cuda::Logits;
using cuda::with_type;

constexpr int64_t kMostClasses = 160;

template <class T>
Logits<T> view_of(const Tensor& contiguous_BKhw, const Upsampling& to) {
  return {contiguous_BKhw.const_data_ptr<T>(), static_cast<int>(contiguous_BKhw.size(1)),
          cuda::axis_of(contiguous_BKhw.size(2), to.H, to.grid_H, to.align_corners),
          cuda::axis_of(contiguous_BKhw.size(3), to.W, to.grid_W, to.align_corners)};
}

int64_t cells_of(int64_t points) { return std::max<int64_t>(points - 1, 1); }

// Loss and weight of a launch: of each of the grid's blocks, added up.
template <class T, class Launch>
Tensor sums_of_blocks(const Tensor& logits_BKhw, dim3 grid, cuda::CrossEntropyArguments<T> arguments, const Launch& launch) {
  const auto sums_N2 = at::empty({static_cast<int64_t>(grid.x) * grid.y * grid.z, 2}, logits_BKhw.options().dtype(at::kFloat));
  arguments.sums_N2 = sums_N2.data_ptr<float>();
  launch(arguments, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return sums_N2.sum(0, /*keepdim=*/false, at::kDouble).to(at::kFloat);
}

template <class T, int kLanes, int kClasses, int kCellsY, int kCellsX, bool kGradient, cuda::Form kForm>
Tensor run_cross_entropy(const Tensor& logits_BKhw, const cuda::CrossEntropyArguments<T>& arguments) {
  const int64_t B = logits_BKhw.size(0), h = logits_BKhw.size(2), w = logits_BKhw.size(3);
  const dim3 grid = kGradient ? dim3(grid_side(w, kCellsX - 1), grid_side(h, kCellsY - 1), B)
                              : dim3(grid_side(cells_of(w), kCellsX), grid_side(cells_of(h), kCellsY), B);
  return sums_of_blocks(logits_BKhw, grid, arguments, [&](const auto& with_sums, cudaStream_t stream) {
    cuda::cross_entropy_kernel<T, kLanes, kClasses, kCellsY, kCellsX, kGradient, kForm>
        <<<grid, kLanes * kCellsY * kCellsX, 0, stream>>>(with_sums);
  });
}

template <class T, int kClasses, bool kGradient, cuda::Form kForm>
Tensor run_cross_entropy_rows(const Tensor& logits_BKhw, const cuda::CrossEntropyArguments<T>& arguments) {
  const int64_t B = logits_BKhw.size(0), h = logits_BKhw.size(2), w = logits_BKhw.size(3);
  // A block begins one row of cells early, so that few blocks do little twice; but those that run at once should all have work.
  const unsigned columns = grid_side(w, cuda::kRowPoints);
  const int64_t at_once = int64_t{cuda::kRowBlocks} * at::cuda::getCurrentDeviceProperties()->multiProcessorCount;
  constexpr int64_t kMostRows = 16;
  int64_t point_rows = 1, least_time = std::numeric_limits<int64_t>::max();
  for (int64_t rows = 1; rows <= kMostRows; ++rows) {
    const int64_t time = cuda::quotient_up(columns * cuda::quotient_up(h, rows) * B, at_once) * (rows + 1);
    if (time < least_time) point_rows = rows, least_time = time;
  }
  const dim3 grid(columns, grid_side(h, point_rows), B);
  return sums_of_blocks(logits_BKhw, grid, arguments, [&](const auto& with_sums, cudaStream_t stream) {
    cuda::cross_entropy_rows_kernel<T, kClasses, kGradient, kForm>
        <<<grid, cuda::kRowThreads, 0, stream>>>(with_sums, static_cast<int>(point_rows));
  });
}

template <class T, bool kGradient, cuda::Form kForm>
Tensor run_for_classes(const Tensor& logits_BKhw, const cuda::CrossEntropyArguments<T>& arguments) {
  const int64_t K = logits_BKhw.size(1);
  if (K <= 20) return run_cross_entropy_rows<T, 20, kGradient, kForm>(logits_BKhw, arguments);
  if (K <= 32) return run_cross_entropy<T, 4, 8, 8, 8, kGradient, kForm>(logits_BKhw, arguments);
  return run_cross_entropy<T, 32, 5, 4, 4, kGradient, kForm>(logits_BKhw, arguments);
}

CrossEntropyResult cross_entropy(const Tensor& logits_BKhw, const Tensor& label_BHW, const CrossEntropyOptions& options,
                                 bool want_gradient) {
  const c10::cuda::CUDAGuard guard(logits_BKhw.device());
  const auto contiguous_BKhw = logits_BKhw.contiguous(), labels_BHW = label_BHW.contiguous();
  Tensor weight_K, pixel_weight_BHW, mask_BHW;
  if (options.weight_K.defined()) weight_K = options.weight_K.to(logits_BKhw.device(), at::kFloat).contiguous();
  if (options.pixel_weight_BHW.defined())
    (options.pixel_weight_BHW.scalar_type() == at::kBool ? mask_BHW : pixel_weight_BHW) = options.pixel_weight_BHW.contiguous();
  Tensor gradient_BKhw;
  if (want_gradient) gradient_BKhw = at::empty(logits_BKhw.sizes(), logits_BKhw.options().dtype(at::kFloat));

  Tensor sums_2;
  with_type(logits_BKhw.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const cuda::CrossEntropyArguments<T> arguments{
        view_of<T>(contiguous_BKhw, {.H = label_BHW.size(1), .W = label_BHW.size(2), .align_corners = options.align_corners}),
        labels_BHW.const_data_ptr<int64_t>(),
        weight_K.defined() ? weight_K.const_data_ptr<float>() : nullptr,
        pixel_weight_BHW.defined() ? pixel_weight_BHW.const_data_ptr<float>() : nullptr,
        mask_BHW.defined() ? mask_BHW.const_data_ptr<bool>() : nullptr,
        static_cast<float>(options.label_smoothing),
        static_cast<float>(options.focal_gamma),
        want_gradient ? gradient_BKhw.data_ptr<float>() : nullptr,
        nullptr};
    using cuda::Form;
    const auto run = [&](auto form) {
      sums_2 = want_gradient ? run_for_classes<T, true, form.value>(contiguous_BKhw, arguments)
                             : run_for_classes<T, false, form.value>(contiguous_BKhw, arguments);
    };
    if (options.focal_gamma > 0)
      run(std::integral_constant<Form, Form::kFocal>{});
    else if (options.label_smoothing > 0)
      run(std::integral_constant<Form, Form::kSmooth>{});
    else
      run(std::integral_constant<Form, Form::kPlain>{});
  });
  return {sums_2[0], sums_2[1], gradient_BKhw};
}

// Launches a kernel that reads pixels: launch(view, grid, threads, stream).
template <class Launch>
void for_each_pixel(const Tensor& logits_BKhw, const Upsampling& to, const Launch& launch) {
  const c10::cuda::CUDAGuard guard(logits_BKhw.device());
  const auto contiguous_BKhw = logits_BKhw.contiguous();
  const dim3 threads(32, 8);
  const dim3 grid(grid_side(cells_of(logits_BKhw.size(3)), threads.x), grid_side(to.H, threads.y), logits_BKhw.size(0));
  with_type(logits_BKhw.scalar_type(), [&](auto zero) {
    launch(view_of<decltype(zero)>(contiguous_BKhw, to), grid, threads, c10::cuda::getCurrentCUDAStream());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor label_probability(const Tensor& logits_BKhw, const Tensor& label_BHW, bool align_corners) {
  const auto labels_BHW = label_BHW.contiguous();
  const auto probability_BHW = at::empty(label_BHW.sizes(), logits_BKhw.options().dtype(at::kFloat));
  for_each_pixel(logits_BKhw, {.H = label_BHW.size(1), .W = label_BHW.size(2), .align_corners = align_corners},
                 [&](const auto& logits, dim3 grid, dim3 threads, cudaStream_t stream) {
                   cuda::label_probability_kernel<<<grid, threads, 0, stream>>>(logits, labels_BHW.const_data_ptr<int64_t>(),
                                                                                probability_BHW.data_ptr<float>());
                 });
  return probability_BHW;
}

Prediction predict(const Tensor& logits_BKhw, const Upsampling& to, bool want_confidence) {
  Prediction result{at::empty({logits_BKhw.size(0), to.H, to.W}, logits_BKhw.options().dtype(at::kLong)), {}};
  if (want_confidence) result.confidence_BHW = at::empty(result.class_BHW.sizes(), logits_BKhw.options().dtype(at::kFloat));
  for_each_pixel(logits_BKhw, to, [&](const auto& logits, dim3 grid, dim3 threads, cudaStream_t stream) {
    cuda::predict_kernel<<<grid, threads, 0, stream>>>(logits, result.class_BHW.data_ptr<int64_t>(),
                                                       want_confidence ? result.confidence_BHW.data_ptr<float>() : nullptr);
  });
  return result;
}

Tensor confusion(const Tensor& logits_BKhw, const Tensor& label_BHW, const Upsampling& to, Tensor& counts_KK,
                 bool want_prediction) {
  const auto labels_BHW = label_BHW.contiguous();
  Tensor class_BHW;
  if (want_prediction) class_BHW = at::empty(label_BHW.sizes(), logits_BKhw.options().dtype(at::kLong));
  for_each_pixel(logits_BKhw, to, [&](const auto& logits, dim3 grid, dim3 threads, cudaStream_t stream) {
    auto* counts = reinterpret_cast<unsigned long long*>(counts_KK.data_ptr<int64_t>());
    int64_t* classes = want_prediction ? class_BHW.data_ptr<int64_t>() : nullptr;
    if (labels_BHW.scalar_type() == at::kByte)
      cuda::confusion_kernel<<<grid, threads, 0, stream>>>(logits, labels_BHW.const_data_ptr<uint8_t>(), counts, classes);
    else
      cuda::confusion_kernel<<<grid, threads, 0, stream>>>(logits, labels_BHW.const_data_ptr<int64_t>(), counts, classes);
  });
  return class_BHW;
}

void add_softmax(const Tensor& logits_BKhw, const Upsampling& to, const Tensor& sum_BKHW) {
  for_each_pixel(logits_BKhw, to, [&](const auto& logits, dim3 grid, dim3 threads, cudaStream_t stream) {
    cuda::add_softmax_kernel<<<grid, threads, 0, stream>>>(logits, sum_BKHW.data_ptr<float>(), sum_BKHW.stride(0),
                                                           sum_BKHW.stride(1), sum_BKHW.stride(2), sum_BKHW.stride(3));
  });
}

}  // namespace

Tensor count_classes(const Tensor& class_BHW, const Tensor& mask_BHW, int64_t num_classes) {
  const c10::cuda::CUDAGuard guard(class_BHW.device());
  const auto classes = class_BHW.contiguous(), mask = mask_BHW.contiguous();
  const auto counts_K = at::zeros({num_classes}, class_BHW.options());
  constexpr int64_t kThreads = 256, kPixelsOfBlock = kThreads * 8, kMostBlocks = 1024;
  cuda::count_kernel<<<static_cast<unsigned>(std::clamp<int64_t>(classes.numel() / kPixelsOfBlock, 1, kMostBlocks)), kThreads,
                       0, c10::cuda::getCurrentCUDAStream()>>>(
      classes.const_data_ptr<int64_t>(), mask.const_data_ptr<bool>(), classes.numel(), static_cast<int>(num_classes),
      reinterpret_cast<unsigned long long*>(counts_K.data_ptr<int64_t>()));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return counts_K;
}

bool serves(const Tensor& logits_BKhw) {
  return logits_BKhw.is_cuda() && logits_BKhw.numel() > 0 && logits_BKhw.size(1) <= kMostClasses &&
         cuda::has_kernels(logits_BKhw.scalar_type());
}

const FusedOps& ops() {
  static const FusedOps all{cross_entropy, label_probability, predict, confusion, add_softmax};
  return all;
}

}  // namespace semiseg::ops::fused_cuda
