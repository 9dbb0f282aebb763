#include "semiseg/loss.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
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
  const SupervisedLoss plain(LossConfig{}, {}, {}, torch::kCPU), weighted(LossConfig{}, {1, 3}, {}, torch::kCPU);
  EXPECT_NEAR(plain(logits, label).item<double>(), (first + second) / 2, 1e-6);
  EXPECT_NEAR(weighted(logits, label).item<double>(), (first + 3 * second) / 4, 1e-6);
}

TEST(SupervisedLoss, IsZeroWithoutACountedPixel) {
  for (const std::string kind : {"ce", "ohem", "focal"}) {
    for (const auto& weights : {std::vector<double>{}, std::vector<double>{0, 2}}) {
      LossConfig config;
      config.kind = kind;
      config.ohem_min_kept = 3;
      config.focal_gamma = 0.5;
      auto logits = at::tensor({0.f, 40.f, 1.f, -40.f}).view({1, 2, 1, 2}).requires_grad_();
      const SupervisedLoss loss(config, weights, {}, torch::kCPU);
      // With weights {0, 2} a pixel of class 0 counts for nothing.
      const auto value = loss(logits, weights.empty() ? labels({kIgnore, kIgnore}) : labels({0, kIgnore}));
      EXPECT_EQ(value.item<double>(), 0) << kind;
      value.backward();
      EXPECT_TRUE(logits.grad().eq(0).all().item<bool>()) << kind;
    }
  }
}

TEST(SupervisedLoss, SmoothsLabelsAsPyTorchDoes) {
  LossConfig config;
  config.label_smoothing = 0.1;
  const auto logits = at::tensor({2.f, 0.f}).view({1, 2, 1, 1});
  // (1 - e) CE(true class) + e / K sum of CE over classes
  const double hit = std::log(1 + std::exp(-2.0)), miss = hit + 2;
  EXPECT_NEAR(SupervisedLoss(config, {}, {}, torch::kCPU)(logits, labels({0})).item<double>(), 0.9 * hit + 0.05 * (hit + miss),
              1e-6);
}

// Two classes whose probabilities of class 0 are p.
Tensor logits_of(const std::vector<double>& p) {
  std::vector<float> logits(2 * p.size(), 0.0F);
  for (size_t i = 0; i < p.size(); ++i) logits[i] = static_cast<float>(std::log(p[i] / (1 - p[i])));
  return at::tensor(logits).view({1, 2, 1, -1});
}

double mean_cross_entropy(const std::vector<double>& p) {
  double sum = 0;
  for (const double value : p) sum -= std::log(value);
  return sum / static_cast<double>(p.size());
}

TEST(SupervisedLoss, OhemKeepsTheHardPixels) {
  const auto logits = logits_of({0.9, 0.2, 0.65, 0.95, 0.8, 0.01});
  const auto label = labels({0, 0, 0, 0, 0, kIgnore});
  struct Case {
    double threshold, min_kept;
    std::vector<double> kept;
  };
  for (const auto& [threshold, min_kept, kept] :
       std::vector<Case>{{0.7, 0, {0.2, 0.65}},                       // the threshold alone
                         {0.7, 1.5, {0.2, 0.65}},                     // the lowest is below it
                         {0.7, 3, {0.2, 0.65, 0.8}},                  // the third lowest is above it
                         {0.7, 0.5, {0.2, 0.65, 0.8}},                // .5 of six pixels, the ignored one among them
                         {0.1, 1, {0.2, 0.65, 0.8, 0.9, 0.95}},       // a share of 1: all pixels
                         {0.1, 6, {0.2, 0.65, 0.8, 0.9, 0.95}},       // fewer than six count
                         {0.1, 200000, {0.2, 0.65, 0.8, 0.9, 0.95}},  // fewer than that are there
                         {0.1, 2, {0.2, 0.65}}}) {
    LossConfig config;
    config.kind = "ohem";
    config.ohem_threshold = threshold;
    config.ohem_min_kept = min_kept;
    EXPECT_NEAR(SupervisedLoss(config, {}, {}, torch::kCPU)(logits, label).item<double>(), mean_cross_entropy(kept), 1e-6)
        << threshold << ", " << min_kept;
  }
}

TEST(SupervisedLoss, OhemTakesTheWeightedMeanOfWhatItKeeps) {
  LossConfig config;
  config.kind = "ohem";
  config.ohem_min_kept = 0;
  // p_y = .6 (class 0), .3 (class 1), .8 (class 1, easy).
  const auto value = SupervisedLoss(config, {1, 3}, {}, torch::kCPU)(logits_of({0.6, 0.7, 0.2}), labels({0, 1, 1}));
  EXPECT_NEAR(value.item<double>(), -(std::log(0.6) + 3 * std::log(0.3)) / 4, 1e-6);
  // Smoothing changes the loss of a kept pixel, (1 - e) CE + e / 2 of both classes' CE, and not which are kept.
  config.label_smoothing = 0.2;
  const auto smooth = SupervisedLoss(config, {}, {}, torch::kCPU)(logits_of({0.6, 0.2}), labels({0, 1}));
  EXPECT_NEAR(smooth.item<double>(), -(0.9 * std::log(0.6) + 0.1 * std::log(0.4)), 1e-6);
}

// UniMatch's form, by sorting.
double ohem_by_sorting(const Tensor& logits_BKhw, const Tensor& label_BHW, double threshold, int64_t min_kept) {
  const auto log_p_KN =
      upsample_logits(logits_BKhw, label_BHW.size(1), label_BHW.size(2)).log_softmax(1).transpose(0, 1).flatten(1);
  const auto label_N = label_BHW.flatten();
  std::vector<double> probabilities;
  for (int64_t i = 0; i < label_N.numel(); ++i)
    if (label_N[i].item<int64_t>() != kIgnore) probabilities.push_back(std::exp(log_p_KN[label_N[i]][i].item<float>()));
  std::sort(probabilities.begin(), probabilities.end());
  if (min_kept > static_cast<int64_t>(probabilities.size())) threshold = 1;
  if (min_kept <= static_cast<int64_t>(probabilities.size())) threshold = std::max(threshold, probabilities[min_kept - 1]);
  std::vector<double> kept;
  for (const double p : probabilities)
    if (p <= threshold) kept.push_back(p);
  return mean_cross_entropy(kept);
}

TEST(SupervisedLoss, OhemAgreesWithSorting) {
  const auto logits = 3 * at::sin(7 * at::arange(2 * 3 * 4 * 5, at::kFloat)).view({2, 3, 4, 5});
  auto label = at::arange(2 * 9 * 11).mul(5).remainder(7).view({2, 9, 11});
  label = at::where(label > 2, at::where(label > 4, kIgnore, label - 3), label);
  for (const double threshold : {0.1, 0.5, 0.9}) {
    for (const int64_t min_kept : {2, 20, 100, 140, 142, 198, 1000}) {
      LossConfig config;
      config.kind = "ohem";
      config.ohem_threshold = threshold;
      config.ohem_min_kept = static_cast<double>(min_kept);
      EXPECT_NEAR(SupervisedLoss(config, {}, {}, torch::kCPU)(logits, label).item<double>(),
                  ohem_by_sorting(logits, label, threshold, min_kept), 1e-5)
          << threshold << ", " << min_kept;
    }
  }
}

TEST(SupervisedLoss, FocalWeighsByDoubt) {
  LossConfig config;
  config.kind = "focal";
  const auto logits = logits_of({0.9, 0.6, 0.5});
  const auto label = labels({0, 1, kIgnore});  // p_y = .9, .4
  const double easy = -std::log(0.9), hard = -std::log(0.4);
  EXPECT_NEAR(SupervisedLoss(config, {}, {}, torch::kCPU)(logits, label).item<double>(), (0.01 * easy + 0.36 * hard) / 2, 1e-6);
  EXPECT_NEAR(SupervisedLoss(config, {1, 3}, {}, torch::kCPU)(logits, label).item<double>(),
              (0.01 * easy + 3 * 0.36 * hard) / 4, 1e-6);
  config.focal_gamma = 0;
  EXPECT_NEAR(SupervisedLoss(config, {}, {}, torch::kCPU)(logits, label).item<double>(), (easy + hard) / 2, 1e-6);
}

TEST(SupervisedLoss, FocalHasAFiniteGradientAtCertainty) {
  LossConfig config;
  config.kind = "focal";
  for (const double gamma : {0.0, 0.5, 2.0}) {
    config.focal_gamma = gamma;
    auto logits = at::tensor({200.f, 0.f}).view({1, 2, 1, 1}).requires_grad_();
    SupervisedLoss(config, {}, {}, torch::kCPU)(logits, labels({0})).backward();
    EXPECT_TRUE(logits.grad().isfinite().all().item<bool>()) << gamma;
  }
}

TEST(SupervisedLoss, LogitAdjustmentAddsThePriorOfTheLabelledShare) {
  LossConfig config;
  config.logit_adjustment = 1;
  const auto logits = at::zeros({1, 3, 1, 1});
  const SupervisedLoss loss(config, {}, {0.8, 0.2, 0}, torch::kCPU);
  // Equal logits: the softmax is the share itself, with 1e-6 for the class without a pixel.
  const double sum = 1 + 1e-6;
  EXPECT_NEAR(loss(logits, labels({0})).item<double>(), -std::log(0.8 / sum), 1e-6);
  EXPECT_NEAR(loss(logits, labels({1})).item<double>(), -std::log(0.2 / sum), 1e-6);
  EXPECT_NEAR(loss(logits, labels({2})).item<double>(), -std::log(1e-6 / sum), 1e-5);
  config.logit_adjustment = 2;  // shares .64 : .04
  EXPECT_NEAR(SupervisedLoss(config, {}, {0.8, 0.2}, torch::kCPU)(at::zeros({1, 2, 1, 1}), labels({1})).item<double>(),
              -std::log(0.04 / 0.68), 1e-6);
}

// Eight of ten pixels are of class 0. With weights 1 and 4 and shares .9 and .1 the loss is least where
// softmax(z + ln share) ~ (1 x .8, 4 x .2), so z = ln .5 - ln share; its bias is ln weight - ln share.
TEST(SupervisedLoss, ClassBiasIsWhatItsMinimumAddsToTheClassProbabilities) {
  LossConfig config;
  config.logit_adjustment = 1;
  const SupervisedLoss loss(config, {1, 4}, {0.9, 0.1}, torch::kCPU);
  auto z_K = at::tensor({std::log(0.5 / 0.9), std::log(0.5 / 0.1)}, at::kFloat).requires_grad_();
  loss(z_K.view({1, 2, 1, 1}).expand({1, 2, 1, 10}), at::tensor({0, 0, 0, 0, 0, 0, 0, 0, 1, 1}, at::kLong).view({1, 1, 10}))
      .backward();
  EXPECT_LT(z_K.grad().abs().max().item<double>(), 1e-6);
  const auto bias_K = loss.class_bias_K();
  EXPECT_NEAR(bias_K[0].item<double>(), -std::log(0.9), 1e-6);
  EXPECT_NEAR(bias_K[1].item<double>(), std::log(4) - std::log(0.1), 1e-6);
  const auto probability_K = (z_K - bias_K).softmax(0);
  EXPECT_NEAR(probability_K[0].item<double>(), 0.8, 1e-6);

  // A class that no labelled pixel has is not raised.
  EXPECT_EQ(SupervisedLoss({}, {2, 0}, {}, torch::kCPU).class_bias_K()[1].item<double>(), 0);
  EXPECT_FALSE(SupervisedLoss({}, {}, {}, torch::kCPU).class_bias_K().defined());
}

TEST(SupervisedLoss, LogitAdjustmentIsThatOfTheUpsampledLogits) {
  LossConfig plain, adjusted;
  adjusted.logit_adjustment = 1.5;
  const auto logits = at::sin(at::arange(3 * 2 * 3, at::kFloat)).view({1, 3, 2, 3});
  const auto label = at::arange(5 * 7).remainder(3).view({1, 5, 7});
  const auto prior = at::tensor({0.7f, 0.25f, 0.05f}).log().mul(1.5).view({3, 1, 1});
  for (const std::string kind : {"ce", "ohem", "focal"}) {
    plain.kind = adjusted.kind = kind;
    EXPECT_NEAR(SupervisedLoss(adjusted, {}, {0.7, 0.25, 0.05}, torch::kCPU)(logits, label).item<double>(),
                SupervisedLoss(plain, {}, {}, torch::kCPU)(upsample_logits(logits, 5, 7) + prior, label).item<double>(), 1e-5)
        << kind;
  }
}

TEST(SupervisedLoss, GradientsPassFiniteDifferences) {
  const auto start = 2 * at::sin(at::arange(2 * 3 * 2 * 3, at::kFloat)).view({2, 3, 2, 3});
  const auto label = at::arange(2 * 5 * 7).remainder(4).view({2, 5, 7});  // 3 stands for ignored below
  const auto target = at::where(label == 3, kIgnore, label);
  for (const std::string kind : {"ce", "ohem", "focal"}) {
    LossConfig config;
    config.kind = kind;
    config.logit_adjustment = 0.5;
    config.ohem_threshold = 0.35;
    config.ohem_min_kept = 0;
    if (kind != "focal") config.label_smoothing = 0.1;
    const SupervisedLoss loss(config, {1, 2, 0.5}, {0.6, 0.3, 0.1}, torch::kCPU);
    const auto logits = start.clone().requires_grad_();
    loss(logits, target).backward();
    EXPECT_GT(logits.grad().abs().max().item<double>(), 1e-3);
    for (const int64_t i : {0, 7, 20, 35}) {
      const double step = 1e-3;  // too small for a pixel to cross OHEM's threshold
      auto up = start.clone(), down = start.clone();
      up.view(-1)[i] += step;
      down.view(-1)[i] -= step;
      const double slope = (loss(up, target).item<double>() - loss(down, target).item<double>()) / (2 * step);
      EXPECT_NEAR(logits.grad().reshape(-1)[i].item<double>(), slope, 5e-4) << kind << ' ' << i;
    }
  }
}

}  // namespace
}  // namespace semiseg
