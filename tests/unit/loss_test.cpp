#include "semiseg/loss.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "semiseg/ops.h"

namespace semiseg {
namespace {

void expect_near(const std::vector<double>& got, const std::vector<double>& wanted, double tolerance) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], wanted[i], tolerance) << "at " << i;
}

Tensor labels(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong).view({1, 1, -1}); }

TEST(ClassWeights, FollowTheirFormulas) {
  // p = .6, .3, .1, and a class without a pixel. f = .6, .6, .5.
  const ClassCounts counts{{600, 300, 100, 0}, {1, 1, 1, 0}, {1000, 500, 200, 0}};
  expect_near(class_weights("none", counts), {1, 1, 1, 1}, 0);
  expect_near(class_weights("inverse", counts), {1.0 / 3, 2.0 / 3, 2, 0}, 1e-12);
  expect_near(class_weights("median", counts), {1, 1, 1.2, 0}, 1e-12);
  expect_near(class_weights("enet", counts), {2.07286, 3.60190, 8.82390, 0}, 2e-5);
  EXPECT_THROW(class_weights("enett", counts), Error);
}

TEST(ClassWeights, EffectiveNumberOfTwoSmallClasses) {
  // (1 - b) / (1 - b^1) = 1 and (1 - b) / (1 - b^2) = 1 / (1 + b) = 1 / 1.9999, scaled to sum 2.
  const double second = 1 / 1.9999, scale = 2 / (1 + second);
  expect_near(class_weights("effective", {{1, 2}, {1, 1}, {1, 2}}), {scale, second * scale}, 1e-9);
}

TEST(ClassWeights, EnetOfRoadIsAboutThree) {
  expect_near(class_weights("enet", {{369, 631}, {1, 1}, {1000, 1000}}), {1 / std::log(1.389), 1 / std::log(1.651)}, 1e-12);
  EXPECT_NEAR(1 / std::log(1.389), 3.04, 0.01);
}

TEST(SupervisedLoss, IsTheWeightedMeanOverCountedPixels) {
  // Logits (0, 0), (1, 0), (5, -5) with labels 0, 1, ignored: CE ln 2 and ln(1 + e).
  const auto logits = at::tensor({0.f, 1.f, 5.f, 0.f, 0.f, -5.f}).view({1, 2, 1, 3});
  const auto label = labels({0, 1, kIgnore});
  const double first = std::log(2.0), second = std::log(1 + std::exp(1.0));
  const SupervisedLoss plain(LossConfig{}, {}, torch::kCPU), weighted(LossConfig{}, {1, 3}, torch::kCPU);
  EXPECT_NEAR(plain(logits, label).item<double>(), (first + second) / 2, 1e-6);
  EXPECT_NEAR(weighted(logits, label).item<double>(), (first + 3 * second) / 4, 1e-6);
}

TEST(SupervisedLoss, IsZeroWithoutACountedPixel) {
  auto logits = at::randn({1, 2, 1, 2}).requires_grad_();
  for (const auto& weights : {std::vector<double>{}, std::vector<double>{0, 2}}) {
    const SupervisedLoss loss(LossConfig{}, weights, torch::kCPU);
    // With weights {0, 2} a pixel of class 0 counts for nothing.
    const auto value = loss(logits, weights.empty() ? labels({kIgnore, kIgnore}) : labels({0, kIgnore}));
    EXPECT_EQ(value.item<double>(), 0);
    value.backward();
    EXPECT_TRUE(logits.grad().isfinite().all().item<bool>());
  }
}

TEST(SupervisedLoss, SmoothsLabelsAsPyTorchDoes) {
  LossConfig config;
  config.label_smoothing = 0.1;
  const auto logits = at::tensor({2.f, 0.f}).view({1, 2, 1, 1});
  // (1 - e) CE(true class) + e / K sum of CE over classes
  const double hit = std::log(1 + std::exp(-2.0)), miss = hit + 2;
  EXPECT_NEAR(SupervisedLoss(config, {}, torch::kCPU)(logits, labels({0})).item<double>(), 0.9 * hit + 0.05 * (hit + miss),
              1e-6);
}

TEST(Ops, GradientOfUpsampledCrossEntropyPassesFiniteDifferences) {
  const auto logits = at::sin(at::arange(2 * 3 * 2 * 3, at::kFloat)).view({2, 3, 2, 3}).requires_grad_();
  const auto label = at::arange(2 * 5 * 7).remainder(4).view({2, 5, 7});  // 3 stands for ignored below
  const auto target = at::where(label == 3, kIgnore, label);
  const auto weight = at::tensor({1.f, 2.f, 0.5f});
  const auto loss_of = [&](const Tensor& x) { return upsample_cross_entropy(x, target, weight, 0.1).to(at::kDouble).sum(); };
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

TEST(Ops, UpsampleAlignsCorners) {
  const auto row = upsample_logits(at::tensor({0.f, 3.f}).view({1, 1, 1, 2}), 1, 4);
  EXPECT_TRUE(at::allclose(row.flatten(), at::tensor({0.f, 1.f, 2.f, 3.f})));
}

TEST(Ops, PredictGivesClassAndSoftmaxProbability) {
  const auto p = upsample_predict(at::tensor({0.f, std::log(3.f)}).view({1, 2, 1, 1}), 1, 1);
  EXPECT_EQ(p.class_BHW.item<int64_t>(), 1);
  EXPECT_NEAR(p.confidence_BHW.item<double>(), 0.75, 1e-6);
}

TEST(Ops, PastesInsideTheBoxOnly) {
  const auto target = at::zeros({2, 4, 4}, at::kLong), source = at::ones({2, 4, 4}, at::kLong);
  const auto pasted = paste_boxes(target, source, at::tensor({1, 2, 3, 4, 0, 0, 0, 0}, at::kLong).view({2, 4}));
  EXPECT_EQ(pasted[0].sum().item<int64_t>(), 4);
  EXPECT_EQ(pasted[0].narrow(0, 1, 2).narrow(1, 2, 2).sum().item<int64_t>(), 4);
  EXPECT_EQ(pasted[1].sum().item<int64_t>(), 0);
  EXPECT_EQ(
      paste_boxes(at::zeros({2, 3, 4, 4}), at::ones({2, 3, 4, 4}), at::tensor({1, 2, 3, 4, 0, 0, 4, 4}, at::kLong).view({2, 4}))
          .sum()
          .item<double>(),
      3 * 4 + 3 * 16);
}

TEST(Ops, CountsClassesUnderAMask) {
  const auto counts = count_classes(at::tensor({0, 2, 2, 1}, at::kLong).view({1, 2, 2}),
                                    at::tensor({1, 1, 0, 1}, at::kLong).view({1, 2, 2}) > 0, 3);
  EXPECT_TRUE(counts.equal(at::tensor({1, 1, 1}, at::kLong)));
}

}  // namespace
}  // namespace semiseg
