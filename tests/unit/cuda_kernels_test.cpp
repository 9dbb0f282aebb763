// The CUDA kernels of src/ops/cuda, run on the CPU against the plain forms, with tensors that end where memory ends. What races
// or reads unwritten shared memory fails.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
// After LibTorch, whose assertions of kernels it replaces, and before the kernels, to which it gives CUDA's words.
#include "cuda_on_cpu.h"
#include "guarded_memory.h"
#include "ops/cuda/colours.cuh"
#include "ops/cuda/enlarge.cuh"
#include "ops/cuda/kernels.cuh"
#include "ops/cuda/norm.cuh"
#include "ops/cuda/pixels.cuh"
#include "ops/cuda/pool.cuh"
#include "ops/plain.h"
#include "semiseg/error.h"
#include "strong_view.h"
#include "unit/ops_cases.h"

namespace semiseg {
namespace {

using cuda_on_cpu::Dim3;
using cuda_on_cpu::launch;

class CudaKernels : public testing::TestWithParam<Guard> {
  GuardedMemory memory_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Guard, CudaKernels, testing::Values(Guard::kBehind, Guard::kInFront),
                         [](const auto& guard) { return guard.param == Guard::kBehind ? "Behind" : "InFront"; });

ops::cuda::Logits<float> view_of(const Tensor& logits_BKhw, int64_t H, int64_t W, bool align_corners) {
  return {logits_BKhw.const_data_ptr<float>(), static_cast<int>(logits_BKhw.size(1)),
          ops::cuda::axis_of(logits_BKhw.size(2), H, 0, align_corners),
          ops::cuda::axis_of(logits_BKhw.size(3), W, 0, align_corners)};
}

unsigned blocks(int64_t of, int64_t each) { return static_cast<unsigned>((of + each - 1) / each); }

struct Result {
  Tensor loss, weight, gradient_BKhw;
};

// run(form, arguments) on each thread, with the form as a constant.
template <class Run>
Result with_arguments(const Tensor& logits_BKhw, const Tensor& label_BHW, const CrossEntropyOptions& options, Dim3 grid,
                      unsigned threads, const Run& run) {
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
  launch(grid, {threads}, [&] {
    using ops::cuda::Form;
    if (options.focal_gamma > 0)
      run(std::integral_constant<Form, Form::kFocal>(), arguments);
    else if (options.label_smoothing > 0)
      run(std::integral_constant<Form, Form::kSmooth>(), arguments);
    else
      run(std::integral_constant<Form, Form::kPlain>(), arguments);
  });
  const auto sums_2 = sums_N2.sum(0);
  return {sums_2[0], sums_2[1], gradient_BKhw};
}

template <int kLanes, int kClasses, int kCellsY, int kCellsX, bool kGradient>
Result cross_entropy(const Tensor& logits_BKhw, const Tensor& label_BHW, const CrossEntropyOptions& options) {
  const int64_t B = logits_BKhw.size(0), h = logits_BKhw.size(2), w = logits_BKhw.size(3);
  const Dim3 grid = kGradient ? Dim3{blocks(w, kCellsX - 1), blocks(h, kCellsY - 1), static_cast<unsigned>(B)}
                              : Dim3{blocks(std::max<int64_t>(w - 1, 1), kCellsX), blocks(std::max<int64_t>(h - 1, 1), kCellsY),
                                     static_cast<unsigned>(B)};
  return with_arguments(
      logits_BKhw, label_BHW, options, grid, kLanes * kCellsY * kCellsX, [](auto form, const auto& arguments) {
        ops::cuda::cross_entropy_kernel<float, kLanes, kClasses, kCellsY, kCellsX, kGradient, form()>(arguments);
      });
}

template <int kClasses, bool kGradient>
Result cross_entropy_rows(const Tensor& logits_BKhw, const Tensor& label_BHW, const CrossEntropyOptions& options,
                          int point_rows) {
  const Dim3 grid{blocks(logits_BKhw.size(3), ops::cuda::kRowPoints), blocks(logits_BKhw.size(2), point_rows),
                  static_cast<unsigned>(logits_BKhw.size(0))};
  return with_arguments(logits_BKhw, label_BHW, options, grid, ops::cuda::kRowThreads, [&](auto form, const auto& arguments) {
    ops::cuda::cross_entropy_rows_kernel<float, kClasses, kGradient, form()>(arguments, point_rows);
  });
}

const UpsamplingCase kSizes[] = {
    {"four times", 5, 6, 20, 24}, {"not whole", 7, 5, 16, 11}, {"one to one", 6, 9, 6, 9}, {"smaller", 12, 21, 5, 8},
    {"one column", 4, 1, 9, 5},   {"one row", 1, 4, 5, 10},    {"one sample", 1, 1, 3, 4}, {"one pixel", 3, 3, 1, 1},
};

TEST_P(CudaKernels, CrossEntropyAndItsGradientAreThePlainOnes) {
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
        // Blocks of rows, classes that are fewer than registers for them.
        const auto rows = cross_entropy_rows<8, true>(logits_BKhw, label_BHW, with, 2);
        expect_close(rows.loss, wanted.loss.detach(), 1e-5, what + ", rows");
        expect_close(rows.weight, wanted.weight, 1e-5, what + ", rows");
        expect_close(rows.gradient_BKhw, leaf.grad(), 1e-5, what + ", rows");
        const auto rows_loss = cross_entropy_rows<8, false>(logits_BKhw, label_BHW, with, 2);
        expect_close(rows_loss.loss, wanted.loss.detach(), 1e-5, what + ", rows");
        expect_close(rows_loss.weight, wanted.weight, 1e-5, what + ", rows");
      }
    }
  }
  // Several blocks of columns, and more rows of pixels than warps.
  {
    const auto logits_BKhw = waves({2, 3, 5, 65});
    const auto label_BHW = labels_of(2, 18, 130, 3);
    const auto leaf = logits_BKhw.clone().requires_grad_();
    const auto wanted = ops::plain::cross_entropy(leaf, label_BHW, {});
    wanted.loss.backward();
    const auto got = cross_entropy_rows<4, true>(logits_BKhw, label_BHW, {}, 4);
    expect_close(got.loss, wanted.loss.detach(), 1e-5, "wide");
    expect_close(got.gradient_BKhw, leaf.grad(), 1e-5, "wide");
  }
  // One class a lane, and lanes that fill a warp.
  const auto logits_BKhw = waves({1, 40, 3, 4});
  const auto label_BHW = labels_of(1, 12, 16, 40);
  const auto leaf = logits_BKhw.clone().requires_grad_();
  ops::plain::cross_entropy(leaf, label_BHW, {}).loss.backward();
  expect_close(cross_entropy<32, 2, 2, 4, true>(logits_BKhw, label_BHW, {}).gradient_BKhw, leaf.grad(), 1e-5, "forty classes");
}

// Between a pair of points that differ by hundreds, the exponentials of some pixels are 0 below the bound of their row.
TEST_P(CudaKernels, CrossEntropyHoldsWhereLogitsAreFarApart) {
  const auto logits_BKhw = waves({1, 6, 3, 3}, 400);
  const auto label_BHW = labels_of(1, 12, 12, 6);
  const auto leaf = logits_BKhw.clone().requires_grad_();
  const auto wanted = ops::plain::cross_entropy(leaf, label_BHW, {});
  wanted.loss.backward();
  const auto got = cross_entropy<4, 2, 4, 4, true>(logits_BKhw, label_BHW, {});
  expect_close(got.loss, wanted.loss.detach(), 1e-5, "loss");
  expect_close(got.gradient_BKhw, leaf.grad(), 1e-4, "gradient");
  const auto rows = cross_entropy_rows<8, true>(logits_BKhw, label_BHW, {}, 2);
  expect_close(rows.loss, wanted.loss.detach(), 1e-5, "loss, rows");
  expect_close(rows.gradient_BKhw, leaf.grad(), 1e-4, "gradient, rows");
}

TEST_P(CudaKernels, RefusesALabelThatIsNoClass) {
  const auto label_BHW = at::full({1, 8, 8}, 6, at::kLong);
  EXPECT_THROW((cross_entropy<4, 2, 4, 4, true>(waves({1, 6, 2, 2}), label_BHW, {})), std::runtime_error);
  EXPECT_THROW((cross_entropy_rows<8, true>(waves({1, 6, 2, 2}), label_BHW, {}, 2)), std::runtime_error);
}

TEST_P(CudaKernels, WhatIsReadOffThePixelsIsThePlainOne) {
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

TEST_P(CudaKernels, CountsClassesUnderAMask) {
  for (const int64_t K : {3, 19, 5000}) {
    const auto class_BHW = labels_of(1, 40, 70, K).remainder(K + 2), mask_BHW = waves({1, 40, 70}) > 0;
    auto counts_K = at::zeros({K}, at::kLong);
    launch({3}, {64}, [&] {
      ops::cuda::count_kernel(class_BHW.const_data_ptr<int64_t>(), mask_BHW.const_data_ptr<bool>(), class_BHW.numel(),
                              static_cast<int>(K), reinterpret_cast<unsigned long long*>(counts_K.data_ptr<int64_t>()));
    });
    const auto kept = class_BHW.masked_select(mask_BHW.logical_and(class_BHW < K));
    EXPECT_TRUE(counts_K.equal(at::bincount(kept, {}, K))) << K;
  }
}

// --- normalisation ---

struct NormResult {
  Tensor y, of_x, of_residual, of_weight, of_bias, mean, rstd, running_mean, running_var;
};

// x, residual and above: [B, P, C]; `most_pixels` of a chunk, kChannels of a block that finishes.
template <bool kReLU, bool kResidual, int kChannels>
NormResult normalise(const Tensor& x, const Tensor& residual, const Tensor& above, const Tensor& weight, const Tensor& bias,
                     int channels_of_group, int most_pixels) {
  namespace cuda = ops::cuda;
  const auto B = static_cast<unsigned>(x.size(0));
  const int C = static_cast<int>(x.size(2)), packs = C / cuda::kPack<float>;
  const auto P = x.size(1);
  const int tile = std::min(packs, 2);  // so that small cases have several
  const int chunks = static_cast<int>((P + most_pixels - 1) / most_pixels);
  const cuda::NormShape shape{P, C, tile, most_pixels, chunks};
  const Dim3 grid{static_cast<unsigned>(chunks), blocks(packs, tile), B}, finish{blocks(C, kChannels), B};
  const Dim3 threads{cuda::kNormThreads}, finish_threads{kChannels, cuda::kFinishParts<kChannels>};
  const auto sums = at::full({x.size(0), chunks, 2, C}, NAN);
  const auto of_BC = [&] { return at::full({x.size(0), C}, NAN); };
  const auto scale = of_BC(), shift = of_BC(), q = of_BC(), r = of_BC();
  NormResult result{at::full_like(x, NAN), at::full_like(x, NAN), at::full_like(x, NAN), of_BC(), of_BC(), of_BC(), of_BC(),
                    at::zeros({C}),        at::ones({C})};
  const cuda::NormParameters parameters{weight.const_data_ptr<float>(), bias.const_data_ptr<float>(), 1e-5f, channels_of_group};
  const auto f = [](const Tensor& tensor) { return tensor.data_ptr<float>(); };
  launch(grid, threads, [&] { cuda::moments_kernel<float>(f(x), shape, f(sums)); });
  launch(finish, finish_threads, [&] {
    cuda::finish_moments_kernel<float, kChannels>(f(x), shape, f(sums), parameters, f(scale), f(shift), f(result.mean),
                                                  f(result.rstd), B == 1 ? f(result.running_mean) : nullptr,
                                                  f(result.running_var), 0.1f);
  });
  launch(grid, threads,
         [&] { cuda::apply_norm_kernel<float, kReLU, kResidual>(f(x), f(residual), shape, f(scale), f(shift), f(result.y)); });
  sums.fill_(NAN);
  launch(grid, threads, [&] {
    cuda::gradient_sums_kernel<float, kReLU, kResidual>(f(x), f(above), f(result.y), shape, f(scale), f(shift), f(result.mean),
                                                        f(result.of_residual), f(sums));
  });
  launch(finish, finish_threads, [&] {
    cuda::finish_gradient_kernel<kChannels>(shape, f(sums), parameters, f(result.mean), f(result.rstd), f(q), f(r),
                                            f(result.of_weight), f(result.of_bias));
  });
  launch(grid, threads, [&] {
    cuda::norm_gradient_kernel<float, kReLU, kResidual>(f(x), kReLU && kResidual ? f(result.of_residual) : f(above), shape,
                                                        f(scale), f(shift), f(q), f(r), f(result.of_x));
  });
  return result;
}

template <bool kReLU, bool kResidual, int kChannels = 32>
void expect_plain_norm(int64_t B, int64_t P, int64_t C, int64_t groups, int most_pixels) {
  const std::string what = str(B, " x ", P, " x ", C, ", ", groups, " groups", kReLU ? ", ReLU" : "", kResidual ? ", sum" : "");
  const auto x = waves({B, P, C}) + 20, residual = waves({B, P, C}, 1).flip(1), above = waves({B, P, C}, 1).flip(2);
  const auto weight = waves({C}) + 0.4, bias = waves({C}, 1);
  const auto leaf = [](const Tensor& values) { return values.to(at::kDouble).requires_grad_(); };
  const auto leaf_x = leaf(x), leaf_residual = leaf(residual), leaf_weight = leaf(weight), leaf_bias = leaf(bias);
  const bool batch = groups == 0;
  const auto running_mean = at::zeros({C}, at::kDouble), running_var = at::ones({C}, at::kDouble);
  const auto x_BCP = leaf_x.transpose(1, 2);
  auto y = batch ? at::batch_norm(x_BCP, leaf_weight, leaf_bias, running_mean, running_var, true, 0.1, 1e-5, false)
                 : at::group_norm(x_BCP, groups, leaf_weight, leaf_bias, 1e-5);
  y = y.transpose(1, 2);
  if (kResidual) y = y + leaf_residual;
  if (kReLU) y = y.relu();
  y.backward(above.to(at::kDouble));

  const auto shaped = [&](const Tensor& tensor) { return batch ? tensor.reshape({1, B * P, C}) : tensor; };
  const auto got = normalise<kReLU, kResidual, kChannels>(shaped(x), shaped(residual), shaped(above), weight, bias,
                                                          batch ? 1 : static_cast<int>(C / groups), most_pixels);
  expect_close(got.y.view({B, P, C}), y.detach(), 1e-4, what);
  expect_close(got.of_x.view({B, P, C}), leaf_x.grad(), 2e-4, what);
  if (kReLU && kResidual) expect_close(got.of_residual.view({B, P, C}), leaf_residual.grad(), 1e-5, what);
  expect_close(got.of_weight.sum(0), leaf_weight.grad(), 2e-4, what);
  expect_close(got.of_bias.sum(0), leaf_bias.grad(), 1e-4, what);
  if (!batch) return;
  expect_close(got.running_mean, running_mean, 1e-5, what);
  expect_close(got.running_var, running_var, 1e-5, what);
}

TEST_P(CudaKernels, NormalisationAndItsGradientAreThePlainOnes) {
  expect_plain_norm<false, false>(2, 9, 12, 0, 256);
  expect_plain_norm<true, false>(2, 300, 12, 0, 256);
  expect_plain_norm<true, true>(1, 150, 4, 0, 64);
  expect_plain_norm<true, true>(2, 20, 36, 0, 128);
  expect_plain_norm<true, false>(2, 130, 16, 4, 128);
  expect_plain_norm<true, false>(3, 5, 64, 2, 128);
  expect_plain_norm<true, true>(2, 20, 36, 9, 128);
  expect_plain_norm<false, false, 64>(2, 7, 128, 2, 128);
}

// --- enlarging ---

template <class Along>
void expect_plain_enlargement(const Along& y, const Along& x, int64_t h, int64_t w, int64_t H, int64_t W,
                              const std::string& what) {
  constexpr int64_t B = 2, C = 8;
  const auto last = at::MemoryFormat::ChannelsLast;
  const auto x_BChw = waves({B, C, h, w}).contiguous(last), sum_BCHW = waves({B, C, H, W}, 1).contiguous(last);
  const auto above_BCHW = waves({B, C, H, W}, 2).flip(1).contiguous(last);
  const auto leaf = x_BChw.detach().clone().requires_grad_();
  const auto enlarged = Along::kOnePoint ? at::upsample_nearest2d(leaf, {H, W}) : at::upsample_bilinear2d(leaf, {H, W}, true);
  enlarged.backward(above_BCHW);

  const auto f = [](const Tensor& tensor) { return tensor.data_ptr<float>(); };
  const ops::cuda::Enlargement<Along> of{
      y, x, static_cast<int>(h), static_cast<int>(w), static_cast<int>(H), static_cast<int>(W), static_cast<int>(C)};
  constexpr int kThreads = ops::cuda::kEnlargeThreads, kPacks = C / ops::cuda::kPack<float>;
  const auto y_BCHW = at::full_like(sum_BCHW, NAN), of_x_BChw = at::full_like(x_BChw, NAN);
  const Dim3 grid{blocks(W * kPacks, kThreads), static_cast<unsigned>(B * H)};
  launch(grid, {kThreads}, [&] { ops::cuda::enlarge_kernel<float>(f(x_BChw), nullptr, of, f(y_BCHW)); });
  expect_close(y_BCHW, enlarged.detach(), 1e-5, what);
  launch(grid, {kThreads}, [&] { ops::cuda::enlarge_kernel<float>(f(x_BChw), f(sum_BCHW), of, f(y_BCHW)); });
  expect_close(y_BCHW, sum_BCHW + enlarged.detach(), 1e-5, what + ", sum");
  launch({blocks(w * kPacks, kThreads), static_cast<unsigned>(B * h)}, {kThreads},
         [&] { ops::cuda::enlarge_gradient_kernel<float>(f(above_BCHW), of, f(of_x_BChw)); });
  expect_close(of_x_BChw, leaf.grad(), 1e-5, what + ", gradient");
}

TEST_P(CudaKernels, EnlargingAndItsGradientAreThePlainOnes) {
  const std::pair<int64_t, int64_t> sizes[] = {{1, 1}, {2, 3}, {5, 4}, {9, 8}, {13, 7}, {4, 150}};
  for (const auto& [h, w] : sizes)
    for (const auto& [H, W] : sizes) {
      if (w * W > 2000) continue;  // fibers take their time
      const std::string what = str(h, " x ", w, " to ", H, " x ", W);
      using namespace ops::cuda;
      expect_plain_enlargement(linear_of(h, H), linear_of(w, W), h, w, H, W, what + ", bilinear");
      expect_plain_enlargement(nearest_of(h, H), nearest_of(w, W), h, w, H, W, what + ", nearest");
    }
}

// --- pooling ---

TEST_P(CudaKernels, PoolingAndItsGradientAreThePlainOnes) {
  namespace cuda = ops::cuda;
  constexpr int64_t B = 2, C = 8;
  const auto last = at::MemoryFormat::ChannelsLast;
  const std::pair<int64_t, int64_t> sizes[] = {{1, 1}, {1, 6}, {2, 3}, {5, 4}, {9, 8}, {3, 300}};
  for (const auto& [H, W] : sizes)
    for (const bool equal : {false, true}) {
      const std::string what = str(H, " x ", W, equal ? ", equal values" : "");
      const auto x_BCHW = (equal ? at::zeros({B, C, H, W}) : waves({B, C, H, W})).contiguous(last);
      const auto leaf = x_BCHW.detach().clone().requires_grad_();
      const auto wanted = at::max_pool2d(leaf, 3, 2, 1);
      const auto above_BChw = waves(wanted.sizes(), 2).flip(1).contiguous(last);
      wanted.backward(above_BChw);

      const int64_t h = wanted.size(2), w = wanted.size(3);
      const cuda::PoolShape shape{static_cast<int>(H), static_cast<int>(W), static_cast<int>(h), static_cast<int>(w), C};
      constexpr int kPacks = C / cuda::kPack<float>;
      const auto y_BChw = at::full_like(above_BChw, NAN), of_x_BCHW = at::full_like(x_BCHW, NAN);
      const auto place_BChw = at::full_like(above_BChw, 99, at::TensorOptions(at::kByte));
      const auto f = [](const Tensor& tensor) { return tensor.data_ptr<float>(); };
      launch({blocks(w * kPacks, cuda::kPoolThreads), static_cast<unsigned>(B * h)}, {cuda::kPoolThreads},
             [&] { cuda::max_pool_kernel<float>(f(x_BCHW), shape, f(y_BChw), place_BChw.data_ptr<uint8_t>()); });
      EXPECT_TRUE(y_BChw.equal(wanted)) << what;
      launch({blocks(W * kPacks, cuda::kPoolThreads), static_cast<unsigned>(B * H)}, {cuda::kPoolThreads}, [&] {
        cuda::max_pool_gradient_kernel<float>(f(above_BChw), place_BChw.data_ptr<uint8_t>(), shape, f(of_x_BCHW));
      });
      expect_close(of_x_BCHW, leaf.grad(), 1e-6, what);
    }
}

// --- pasting, the k-th smallest ---

TEST_P(CudaKernels, PastingIsThePlainOne) {
  namespace cuda = ops::cuda;
  constexpr int64_t B = 2, H = 9, W = 31;
  const auto mask_BHW = waves({B, H, W}) > 0;
  const auto last = at::MemoryFormat::ChannelsLast;
  const auto image = waves({B, 3, H, W}), map = waves({B, H, W}, 1);
  const std::vector<Tensor> sources{image, image.contiguous(last),  image.to(at::kHalf).contiguous(last),
                                    map,   (map * 9).to(at::kLong), map > 0.3};
  cuda::Paste paste{mask_BHW.const_data_ptr<bool>(), B, H * W, {}};
  std::vector<Tensor> targets, pasted;
  for (size_t i = 0; i < sources.size(); ++i) {
    targets.push_back(sources[i].flip(0).contiguous(sources[i].suggest_memory_format()));
    pasted.push_back(at::zeros_like(sources[i]));
    const int64_t channels = sources[i].dim() == 4 ? 3 : 1;
    const bool interleaved = sources[i].is_contiguous(last) && channels > 1;
    paste.pairs[i] = {sources[i].const_data_ptr(), targets[i].const_data_ptr(), pasted[i].data_ptr(),
                      static_cast<int>(interleaved ? 1 : channels),
                      static_cast<int>(sources[i].element_size() * (interleaved ? channels : 1))};
  }
  launch({blocks(B * H * W, cuda::kPasteThreads), static_cast<unsigned>(sources.size())}, {cuda::kPasteThreads},
         [&] { cuda::paste_kernel(paste); });
  const auto wanted = ops::plain::paste_where(mask_BHW, sources, targets);
  for (size_t i = 0; i < sources.size(); ++i) EXPECT_TRUE(pasted[i].equal(wanted[i])) << i;
}

TEST_P(CudaKernels, TheKthSmallestIsThatOfASort) {
  namespace cuda = ops::cuda;
  // Far apart, close together, many that are equal; numbers below the smallest normal one and infinity.
  const Tensor cases[] = {waves({3000}).abs(), 1 - waves({3000}).abs() * 1e-6, (waves({3000}).abs() * 3).floor(),
                          at::tensor({0.0F, 1e-45F, 1e-40F, 0.5F, 0.5F, INFINITY})};
  for (const Tensor& values : cases) {
    const auto sorted = std::get<0>(values.sort());
    const int64_t count = values.numel();
    for (const int64_t k : {int64_t{1}, int64_t{2}, count / 2, count}) {
      const auto counts = at::zeros({cuda::kDigits}, at::kLong);
      auto* at_counts = reinterpret_cast<unsigned long long*>(counts.data_ptr<int64_t>());
      cuda::Rank rank{};
      const auto found = at::full({1}, NAN);
      for (int pass = 0; pass < cuda::kPasses; ++pass) {
        launch({3}, {cuda::kCountThreads},
               [&] { cuda::count_digits_kernel(values.const_data_ptr<float>(), count, pass, &rank, at_counts); });
        launch({1}, {cuda::kPickThreads}, [&] { cuda::pick_digit_kernel(at_counts, k, pass, &rank, found.data_ptr<float>()); });
        EXPECT_EQ(counts.sum().item<int64_t>(), 0);
      }
      EXPECT_EQ(found.item<float>(), sorted[k - 1].item<float>()) << k << " of " << count;
    }
  }
}

// --- strong views ---

TEST_P(CudaKernels, StrongViewsAreTheHostsToTheBit) {
  namespace cuda = ops::cuda;
  // Some with a mean to be measured, grey ones, and blurs of all widths that meet the edges.
  int contrasts = 0, greys = 0, blurs = 0;
  for (uint64_t draw = 0; draw < 24; ++draw) {
    constexpr int64_t B = 2;
    const int64_t H = draw % 2 == 0 ? 19 : 3, W = draw % 3 == 0 ? 37 : 5, pixels = H * W;
    const auto image_BHWC = (waves({B, H, W, 3}) * 127 + 128).clamp(0, 255).to(at::kByte);
    std::array<ColourPlan, B> plans;
    for (size_t b = 0; b < B; ++b) {
      Random random(5, Purpose::kStrongView, draw, static_cast<uint32_t>(b));
      plans[b] = draw_strong_view(random);
      blurs += plans[b].radius > 0;
      for (int i = 0; i < plans[b].count; ++i) {
        contrasts += plans[b].changes[i].kind == ColourChange::kContrast;
        greys += plans[b].changes[i].kind == ColourChange::kGrey;
      }
    }
    const auto* image = image_BHWC.const_data_ptr<uint8_t>();
    const auto changed_BHWC = at::zeros_like(image_BHWC);
    const auto view_BHWC = at::full(image_BHWC.sizes(), NAN);
    std::array<unsigned long long, B> sums{};
    launch({2, B}, {cuda::kColourThreads}, [&] { cuda::grey_sums_kernel(image, plans.data(), pixels, sums.data()); });
    launch({2, B}, {cuda::kColourThreads},
           [&] { cuda::change_colours_kernel(image, plans.data(), pixels, sums.data(), changed_BHWC.data_ptr<uint8_t>()); });
    launch({blocks(W, cuda::kBlurColumns), blocks(H, cuda::kBlurRows), B}, {cuda::kBlurColumns, cuda::kBlurRows}, [&] {
      cuda::blur_kernel(changed_BHWC.const_data_ptr<uint8_t>(), plans.data(), static_cast<int>(H), static_cast<int>(W),
                        {{1, 2, 4}, {0, 1, 0}}, view_BHWC.data_ptr<float>());
    });
    for (int64_t b = 0; b < B; ++b) {
      const auto wanted_HWC = strong_view(image_BHWC[b], plans[static_cast<size_t>(b)]).to(at::kFloat);
      EXPECT_TRUE(view_BHWC[b].equal(wanted_HWC * at::tensor({1.0F, 2.0F, 4.0F}) + at::tensor({0.0F, 1.0F, 0.0F})))
          << draw << ", image " << b;
    }
  }
  EXPECT_GT(contrasts, 24);
  EXPECT_GT(greys, 2);
  EXPECT_GT(blurs, 12);
}

}  // namespace
}  // namespace semiseg
