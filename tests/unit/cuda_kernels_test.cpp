// The CUDA kernels of src/ops/cuda, run on the CPU against the plain forms.
#include "cuda_on_cpu.h"
// After the above, which gives CUDA's words their meaning.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/cuda/kernels.cuh"
#include "ops/plain.h"
#include "unit/ops_cases.h"

namespace semiseg {
namespace {

using cuda_on_cpu::Dim3;
using cuda_on_cpu::launch;

ops::cuda::Logits<float> view_of(const Tensor& logits_BKhw, int64_t H, int64_t W, bool align_corners) {
  return {logits_BKhw.const_data_ptr<float>(), static_cast<int>(logits_BKhw.size(1)),
          ops::cuda::axis_of(logits_BKhw.size(2), H, 0, align_corners),
          ops::cuda::axis_of(logits_BKhw.size(3), W, 0, align_corners)};
}

unsigned blocks(int64_t of, int64_t each) { return static_cast<unsigned>((of + each - 1) / each); }

struct Result {
  Tensor loss, weight, gradient_BKhw;
};

template <int kLanes, int kClasses, int kCellsY, int kCellsX, bool kGradient>
Result cross_entropy(const Tensor& logits_BKhw, const Tensor& label_BHW, const CrossEntropyOptions& options) {
  const int64_t B = logits_BKhw.size(0), h = logits_BKhw.size(2), w = logits_BKhw.size(3);
  const Dim3 grid = kGradient ? Dim3{blocks(w, kCellsX - 1), blocks(h, kCellsY - 1), static_cast<unsigned>(B)}
                              : Dim3{blocks(std::max<int64_t>(w - 1, 1), kCellsX), blocks(std::max<int64_t>(h - 1, 1), kCellsY),
                                     static_cast<unsigned>(B)};
  auto gradient_BKhw = at::full_like(logits_BKhw, NAN);
  auto sums_N2 = at::full({static_cast<int64_t>(grid.x * grid.y * grid.z), 2}, NAN);
  const auto& weight = options.pixel_weight_BHW;
  const bool mask = weight.defined() && weight.scalar_type() == at::kBool;
  const ops::cuda::CrossEntropyArguments<float> arguments{
      view_of(logits_BKhw, label_BHW.size(1), label_BHW.size(2), options.align_corners),
      label_BHW.const_data_ptr<int64_t>(),
      options.weight_K.defined() ? options.weight_K.const_data_ptr<float>() : nullptr,
      weight.defined() && !mask ? weight.const_data_ptr<float>() : nullptr,
      mask ? weight.const_data_ptr<bool>() : nullptr,
      static_cast<float>(options.label_smoothing),
      static_cast<float>(options.focal_gamma),
      gradient_BKhw.data_ptr<float>(),
      sums_N2.data_ptr<float>()};
  launch(grid, {kLanes * kCellsY * kCellsX},
         [&] { ops::cuda::cross_entropy_kernel<float, kLanes, kClasses, kCellsY, kCellsX, kGradient>(arguments); });
  const auto sums_2 = sums_N2.sum(0);
  return {sums_2[0], sums_2[1], gradient_BKhw};
}

const UpsamplingCase kSizes[] = {
    {"four times", 5, 6, 20, 24}, {"not whole", 7, 5, 16, 11}, {"one to one", 6, 9, 6, 9}, {"smaller", 12, 21, 5, 8},
    {"one column", 4, 1, 9, 5},   {"one row", 1, 4, 5, 10},    {"one sample", 1, 1, 3, 4}, {"one pixel", 3, 3, 1, 1},
};

TEST(CudaKernels, CrossEntropyAndItsGradientAreThePlainOnes) {
  constexpr int64_t B = 1, K = 6;
  CrossEntropyOptions plain, weighted, masked, smooth, focal;
  weighted.weight_K = at::arange(1, K + 1, at::kFloat) / 7;
  smooth.weight_K = weighted.weight_K;
  smooth.label_smoothing = 0.2;
  focal.focal_gamma = 2;
  for (const UpsamplingCase& size : kSizes) {
    const auto logits_BKhw = waves({B, K, size.h, size.w});
    const auto label_BHW = labels_of(B, size.H, size.W, K);
    weighted.pixel_weight_BHW = waves({B, size.H, size.W}).abs();
    masked.pixel_weight_BHW = waves({B, size.H, size.W}) > 0;
    for (const auto* options : {&plain, &weighted, &masked, &smooth, &focal}) {
      if (size.H * size.W > 100 && options != &smooth && options != &masked) continue;  // fibers take their time
      for (const bool align_corners : {true, false}) {
        CrossEntropyOptions with = *options;
        with.align_corners = align_corners;
        const auto leaf = logits_BKhw.clone().requires_grad_();
        const auto wanted = ops::plain::cross_entropy(leaf, label_BHW, with);
        wanted.loss.backward();
        const std::string what = std::string(size.what) + (align_corners ? ", aligned" : "");
        // Three blocks of points in a row and column, classes that do not fill the lanes.
        const auto got = cross_entropy<4, 2, 4, 4, true>(logits_BKhw, label_BHW, with);
        expect_close(got.loss, wanted.loss.detach(), 1e-5, what);
        expect_close(got.weight, wanted.weight, 1e-5, what);
        expect_close(got.gradient_BKhw, leaf.grad(), 1e-5, what);
        const auto loss = cross_entropy<4, 2, 4, 4, false>(logits_BKhw, label_BHW, with);
        expect_close(loss.loss, wanted.loss.detach(), 1e-5, what);
        expect_close(loss.weight, wanted.weight, 1e-5, what);
      }
    }
  }
  // One class a lane, and lanes that fill a warp.
  const auto logits_BKhw = waves({1, 40, 3, 4});
  const auto label_BHW = labels_of(1, 12, 16, 40);
  const auto leaf = logits_BKhw.clone().requires_grad_();
  ops::plain::cross_entropy(leaf, label_BHW, {}).loss.backward();
  expect_close(cross_entropy<32, 2, 2, 4, true>(logits_BKhw, label_BHW, {}).gradient_BKhw, leaf.grad(), 1e-5, "forty classes");
}

TEST(CudaKernels, RefusesALabelThatIsNoClass) {
  const auto label_BHW = at::full({1, 8, 8}, 6, at::kLong);
  EXPECT_THROW((cross_entropy<4, 2, 4, 4, true>(waves({1, 6, 2, 2}), label_BHW, {})), std::runtime_error);
}

TEST(CudaKernels, WhatIsReadOffThePixelsIsThePlainOne) {
  constexpr int64_t B = 2, K = 6;
  for (const UpsamplingCase& size : kSizes)
    for (const bool align_corners : {true, false}) {
      const auto logits_BKhw = waves({B, K, size.h, size.w});
      const auto label_BHW = labels_of(B, size.H, size.W, K);
      const Upsampling to{.H = size.H, .W = size.W, .align_corners = align_corners};
      const auto view = view_of(logits_BKhw, size.H, size.W, align_corners);
      const Dim3 threads{8, 4}, grid{blocks(std::max<int64_t>(size.w - 1, 1), 8), blocks(size.H, 4), static_cast<unsigned>(B)};

      const auto wanted = ops::plain::predict(logits_BKhw, to);
      const auto class_BHW = at::full({B, size.H, size.W}, -1, at::kLong);
      const auto confidence_BHW = at::full({B, size.H, size.W}, NAN);
      launch(grid, threads,
             [&] { ops::cuda::predict_kernel(view, class_BHW.data_ptr<int64_t>(), confidence_BHW.data_ptr<float>()); });
      EXPECT_TRUE(class_BHW.equal(wanted.class_BHW)) << size.what;
      expect_close(confidence_BHW, wanted.confidence_BHW, 1e-5, size.what);

      const auto probability_BHW = at::full({B, size.H, size.W}, NAN);
      launch(grid, threads, [&] {
        ops::cuda::label_probability_kernel(view, label_BHW.const_data_ptr<int64_t>(), probability_BHW.data_ptr<float>());
      });
      expect_close(probability_BHW, ops::plain::label_probability(logits_BKhw, label_BHW, align_corners), 1e-5, size.what);

      auto counts_KK = at::ones({K, K}, at::kLong), wanted_KK = at::ones({K, K}, at::kLong);
      ops::plain::confusion(logits_BKhw, label_BHW, to, wanted_KK);
      const auto small_BHW = label_BHW.to(at::kByte);
      launch(grid, threads, [&] {
        ops::cuda::confusion_kernel(view, small_BHW.const_data_ptr<uint8_t>(),
                                    reinterpret_cast<unsigned long long*>(counts_KK.data_ptr<int64_t>()), nullptr);
      });
      EXPECT_TRUE(counts_KK.equal(wanted_KK)) << size.what;

      auto sum_BKHW = at::ones({B, size.H, K, size.W}).transpose(1, 2), wanted_BKHW = sum_BKHW.clone();
      ops::plain::add_softmax(logits_BKhw, to, wanted_BKHW);
      launch(grid, threads, [&] {
        ops::cuda::add_softmax_kernel(view, sum_BKHW.data_ptr<float>(), sum_BKHW.stride(0), sum_BKHW.stride(1),
                                      sum_BKHW.stride(2), sum_BKHW.stride(3));
      });
      expect_close(sum_BKHW, wanted_BKHW, 1e-5, size.what);
    }
}

}  // namespace
}  // namespace semiseg
