#include "semiseg/ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "ops/fused_cpu.h"
#include "ops/plain.h"
#include "unit/ops_cases.h"

namespace semiseg {
namespace {

// Cells wider than a vector and not, several chunks of strips, every kind of scale.
const UpsamplingCase kSizes[] = {
    {"four times", 20, 37, 80, 148}, {"not whole", 7, 5, 31, 33}, {"one to one", 6, 9, 6, 9},
    {"smaller", 12, 21, 5, 8},       {"one column", 4, 1, 16, 5}, {"one row", 1, 4, 5, 16},
    {"one sample", 1, 1, 3, 4},      {"one pixel", 3, 3, 1, 1},   {"exactly two vectors", 9, 33, 36, 132},
    {"eight times", 3, 18, 24, 144},
};

class FusedOps : public testing::Test {
 protected:
  void SetUp() override {
    if (!ops::fused_cpu::serves(waves({1, 2, 2, 2}))) GTEST_SKIP() << "this processor has no AVX2";
  }
};

TEST_F(FusedOps, CrossEntropyAndItsGradientAreThePlainOnes) {
  constexpr int64_t B = 2, K = 19;
  CrossEntropyOptions plain, weighted, masked, smooth, focal;
  weighted.weight_K = at::arange(1, K + 1, at::kFloat) / 7;
  smooth.weight_K = weighted.weight_K;
  smooth.label_smoothing = 0.2;
  focal.focal_gamma = 2;
  focal.weight_K = weighted.weight_K;
  for (const UpsamplingCase& size : kSizes) {
    const auto label = labels_of(B, size.H, size.W, K);
    masked.pixel_weight_BHW = (at::arange(label.numel(), at::kLong).remainder(3) > 0).view_as(label);
    smooth.pixel_weight_BHW = at::sin(at::arange(label.numel(), at::kFloat)).abs().view_as(label);
    for (const auto& [name, options] :
         {std::pair("plain", plain), {"weighted", weighted}, {"masked", masked}, {"smooth", smooth}, {"focal", focal}})
      for (const bool align_corners : {true, false}) {
        const std::string what = std::string(size.what) + ", " + name + (align_corners ? ", aligned" : ", not aligned");
        auto used = options;
        used.align_corners = align_corners;
        const auto of_fused = waves({B, K, size.h, size.w}).requires_grad_();
        const auto of_plain = of_fused.detach().clone().requires_grad_();
        const auto fused = upsample_cross_entropy(of_fused, label, used);
        const auto oracle = ops::plain::cross_entropy(of_plain, label, used);
        expect_close(fused.loss.detach(), oracle.loss.detach(), 3e-6, what);
        expect_close(fused.weight, oracle.weight, 1e-6, what);
        (fused.loss * 0.5).backward();
        (oracle.loss * 0.5).backward();
        expect_close(of_fused.grad(), of_plain.grad(), 1e-5, what + ", gradient");
      }
  }
}

TEST_F(FusedOps, TakesEveryTypeAndLayout) {
  const auto label = labels_of(2, 40, 48, 11);
  const auto logits = waves({2, 11, 10, 12});
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf})
    for (const auto layout : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      const auto used = logits.to(type).contiguous(layout).detach().requires_grad_();
      const auto oracle = logits.to(type).to(at::kFloat).detach().requires_grad_();
      const auto loss = upsample_cross_entropy(used, label).loss, wanted = ops::plain::cross_entropy(oracle, label, {}).loss;
      expect_close(loss.detach(), wanted.detach(), 3e-6, "loss");
      loss.backward();
      wanted.backward();
      ASSERT_EQ(used.grad().scalar_type(), type);
      expect_close(used.grad(), oracle.grad(), type == at::kFloat ? 1e-5 : 1e-2, "gradient");
    }
  // A part of a batch, as a step cuts it out of one pass.
  const auto part = logits.contiguous(at::MemoryFormat::ChannelsLast).narrow(0, 1, 1);
  expect_close(upsample_cross_entropy(part, label.narrow(0, 1, 1)).loss,
               ops::plain::cross_entropy(part, label.narrow(0, 1, 1), {}).loss, 3e-6, "part of a batch");
}

TEST_F(FusedOps, ResultsDoNotDependOnTheNumberOfThreads) {
  const auto label = labels_of(2, 80, 80, 5);
  const auto logits = waves({2, 5, 40, 20});
  const int threads = at::get_num_threads();
  std::vector<Tensor> losses, gradients;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    const auto used = logits.clone().requires_grad_();
    losses.push_back(upsample_cross_entropy(used, label).loss);
    losses.back().backward();
    gradients.push_back(used.grad());
  }
  at::set_num_threads(threads);
  for (const size_t i : {1, 2}) {
    EXPECT_TRUE(losses[i].equal(losses[0]));
    EXPECT_TRUE(gradients[i].equal(gradients[0]));
  }
}

TEST_F(FusedOps, StaysExactWithLogitsFarApart) {
  // Half way between two columns that are sure of different classes: both logits are -100, so the softmax is 1/2 each.
  const auto logits = at::tensor({0.f, -200.f, -200.f, 0.f}).view({1, 2, 1, 2}).requires_grad_();
  const auto label = at::zeros({1, 1, 3}, at::kLong);
  const auto loss = upsample_cross_entropy(logits, label).loss;
  EXPECT_NEAR(loss.item<double>(), 0 + std::log(2.0) + 200, 1e-4);
  loss.backward();
  // d/dz of class 0: 0, -1/2, -1 at the three pixels; the middle one belongs to both columns by halves.
  EXPECT_NEAR(logits.grad()[0][0][0][0].item<double>(), -0.25, 1e-6);
  EXPECT_NEAR(logits.grad()[0][0][0][1].item<double>(), -1.25, 1e-6);
}

TEST_F(FusedOps, LetsNotANumberThrough) {
  auto logits = waves({1, 3, 4, 4});
  logits[0][1][2][2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(upsample_cross_entropy(logits, labels_of(1, 16, 16, 3)).loss.item<float>()));
}

TEST_F(FusedOps, RefusesALabelThatIsNoClass) {
  EXPECT_THROW(upsample_cross_entropy(waves({1, 3, 2, 2}), at::full({1, 8, 8}, 3, at::kLong)), c10::Error);
  EXPECT_THROW(upsample_label_probability(waves({1, 3, 2, 2}), at::full({1, 8, 8}, -1, at::kLong)), c10::Error);
}

TEST_F(FusedOps, LabelProbabilityIsThePlainOne) {
  for (const UpsamplingCase& size : kSizes)
    for (const bool align_corners : {true, false}) {
      const auto logits = waves({2, 19, size.h, size.w});
      const auto label = labels_of(2, size.H, size.W, 19);
      expect_close(upsample_label_probability(logits, label, align_corners),
                   ops::plain::label_probability(logits, label, align_corners), 3e-6, size.what);
    }
}

TEST_F(FusedOps, PredictionsAreThePlainOnes) {
  for (const UpsamplingCase& size : kSizes)
    for (const bool align_corners : {true, false})
      for (const int64_t pad : {0, 3}) {
        const auto logits = waves({2, 19, size.h, size.w});
        const Upsampling to{
            .H = size.H, .W = size.W, .grid_H = size.H + pad, .grid_W = size.W + pad, .align_corners = align_corners};
        const auto fused = upsample_predict(logits, to), oracle = ops::plain::predict(logits, to);
        expect_close(fused.confidence_BHW, oracle.confidence_BHW, 3e-6, size.what);
        // Where two classes are as good as equal either is right.
        const auto top = at::upsample_bilinear2d(logits, {to.grid_H, to.grid_W}, align_corners)
                             .narrow(2, 0, to.H)
                             .narrow(3, 0, to.W)
                             .softmax(1)
                             .topk(2, 1);
        const auto clear_BHW = std::get<0>(top).select(1, 0) - std::get<0>(top).select(1, 1) > 1e-5;
        EXPECT_GT(clear_BHW.to(at::kFloat).mean().item<double>(), 0.99);
        EXPECT_TRUE(fused.class_BHW.mul(clear_BHW).equal(oracle.class_BHW.mul(clear_BHW))) << size.what;
        EXPECT_TRUE(upsample_argmax(logits, to).equal(fused.class_BHW)) << size.what;
      }
}

TEST_F(FusedOps, ConfusionCountsTheFusedPredictions) {
  constexpr int64_t K = 6;
  for (const UpsamplingCase& size : kSizes)
    for (const auto type : {at::kLong, at::kByte}) {
      const auto logits = waves({2, K, size.h, size.w});
      const auto label = labels_of(2, size.H, size.W, K).to(type);
      const Upsampling to{.H = size.H, .W = size.W};
      auto counts = at::ones({K, K}, at::kLong), wanted = at::ones({K, K}, at::kLong);
      const auto class_BHW = upsample_confusion(logits, label, to, counts, /*want_prediction=*/true);
      EXPECT_TRUE(class_BHW.equal(upsample_argmax(logits, to)));
      for (int64_t i = 0; i < label.numel(); ++i) {
        const auto truth = label.flatten()[i].item<int64_t>();
        if (truth < K) wanted[truth][class_BHW.flatten()[i].item<int64_t>()] += 1;
      }
      EXPECT_TRUE(counts.equal(wanted)) << size.what;
      EXPECT_FALSE(upsample_confusion(logits, label, to, counts, /*want_prediction=*/false).defined());
    }
}

TEST_F(FusedOps, WindowsAddTheirSoftmax) {
  const auto logits = waves({1, 5, 6, 8});
  const Upsampling to{.H = 20, .W = 27, .grid_H = 24, .grid_W = 32};
  auto sum = at::full({1, 5, 40, 40}, 0.5f), wanted = sum.clone();
  upsample_add_softmax(logits, to, sum.narrow(2, 3, 20).narrow(3, 9, 27));
  ops::plain::add_softmax(logits, to, wanted.narrow(2, 3, 20).narrow(3, 9, 27));
  expect_close(sum, wanted, 1e-6, "sum");
}

TEST(Ops, PastesEveryTypeAndLayoutInOnePass) {
  const auto image_BCHW = waves({2, 3, 5, 7}), over_BCHW = -image_BCHW;
  const auto class_BHW = labels_of(2, 5, 7, 4), other_BHW = class_BHW + 10;
  const auto mask_BHW = waves({2, 5, 7}) > 0.3;
  const auto layouts = {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast};
  for (const auto from : layouts)
    for (const auto to : layouts) {
      const std::vector<Tensor> sources{image_BCHW.contiguous(from), class_BHW, class_BHW > 1, image_BCHW.to(at::kBFloat16)};
      const std::vector<Tensor> targets{over_BCHW.contiguous(to), other_BHW, class_BHW > 2, over_BCHW.to(at::kBFloat16)};
      // A mask that is no contiguous tensor, and those that hold everywhere and nowhere.
      for (const auto& mask : {mask_BHW, mask_BHW.flip({2}).transpose(1, 2).contiguous().transpose(1, 2),
                               at::ones_like(mask_BHW), at::zeros_like(mask_BHW)}) {
        const auto fused = ops::fused_cpu::paste_where(mask, sources, targets);
        const auto plain = ops::plain::paste_where(mask, sources, targets);
        ASSERT_EQ(fused.size(), 4u);
        for (size_t i = 0; i < fused.size(); ++i) {
          EXPECT_TRUE(fused[i].equal(plain[i])) << i;
          EXPECT_EQ(fused[i].strides(), targets[i].strides()) << i;
        }
      }
    }
  EXPECT_THROW(ops::fused_cpu::paste_where(mask_BHW, {class_BHW}, {class_BHW.to(at::kInt)}), c10::Error);
}

TEST(Ops, PlainFormsAreTakenWhereTheyAreAskedFor) {
  const auto logits = waves({1, 4, 6, 6});
  const auto label = labels_of(1, 23, 23, 4);
  use_fused_ops(false);
  const auto loss = upsample_cross_entropy(logits, label).loss;
  use_fused_ops(true);
  EXPECT_TRUE(loss.equal(ops::plain::cross_entropy(logits, label, {}).loss));
}

TEST(Ops, GradientOfUpsampledCrossEntropyPassesFiniteDifferences) {
  const auto logits = at::sin(at::arange(2 * 3 * 2 * 3, at::kFloat)).view({2, 3, 2, 3}).requires_grad_();
  const auto target = labels_of(2, 5, 7, 3);
  for (const double gamma : {0.0, 2.0}) {
    const CrossEntropyOptions options{
        .weight_K = at::tensor({1.f, 2.f, 0.5f}), .label_smoothing = gamma > 0 ? 0 : 0.1, .focal_gamma = gamma};
    const auto loss_of = [&](const Tensor& x) { return upsample_cross_entropy(x, target, options).loss.to(at::kDouble); };
    logits.mutable_grad() = Tensor();
    loss_of(logits).backward();
    for (const int64_t i : {0, 7, 20, 35}) {
      const double step = 1e-2;
      auto up = logits.detach().clone(), down = up.clone();
      up.view(-1)[i] += step;
      down.view(-1)[i] -= step;
      const double slope = (loss_of(up) - loss_of(down)).item<double>() / (2 * step);
      EXPECT_NEAR(logits.grad().reshape(-1)[i].item<double>(), slope, 2e-3 * std::max(1.0, std::abs(slope)));
    }
  }
}

TEST(Ops, UpsampleAlignsCorners) {
  const auto row = upsample_logits(at::tensor({0.f, 3.f}).view({1, 1, 1, 2}), 1, 4);
  EXPECT_TRUE(at::allclose(row.flatten(), at::tensor({0.f, 1.f, 2.f, 3.f})));
}

TEST(Ops, PredictGivesClassAndSoftmaxProbability) {
  const auto p = upsample_predict(at::tensor({0.f, std::log(3.f)}).view({1, 2, 1, 1}), {.H = 1, .W = 1});
  EXPECT_EQ(p.class_BHW.item<int64_t>(), 1);
  EXPECT_NEAR(p.confidence_BHW.item<double>(), 0.75, 1e-6);
  // Of equal logits the first class is taken.
  EXPECT_EQ(upsample_argmax(at::zeros({1, 3, 1, 1}), {.H = 1, .W = 1}).item<int64_t>(), 0);
}

TEST(Ops, KthSmallestIsThatOfTheSortedValues) {
  const auto values = waves({1000}, 1).abs();
  const auto sorted = std::get<0>(values.sort());
  for (const bool fused : {true, false}) {
    use_fused_ops(fused);
    for (const int64_t k : {1, 2, 77, 500, 1000})
      EXPECT_EQ(kth_smallest(values, k).item<float>(), sorted[k - 1].item<float>()) << k;
    EXPECT_EQ(kth_smallest(at::tensor({0.5f, 0.5f, 0.f, 2.f}), 3).item<float>(), 0.5f);
  }
  use_fused_ops(true);
}

TEST(Ops, CountsClassesUnderAMask) {
  const auto counts = count_classes(at::tensor({0, 2, 2, 1}, at::kLong).view({1, 2, 2}),
                                    at::tensor({1, 1, 0, 1}, at::kLong).view({1, 2, 2}) > 0, 3);
  EXPECT_TRUE(counts.equal(at::tensor({1, 1, 1}, at::kLong)));
}

}  // namespace
}  // namespace semiseg
