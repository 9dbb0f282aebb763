#include "semiseg/pseudo_label.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace semiseg {
namespace {

constexpr double kTolerance = 1e-6;

// One image of one row: the logits of the given probabilities, [1, K, 1, w].
Tensor logits_of(const std::vector<std::vector<float>>& probability_wK) {
  std::vector<Tensor> pixels;
  for (const auto& probability_K : probability_wK) pixels.push_back(at::tensor(probability_K).log());
  return at::stack(pixels, 1).unsqueeze(0).unsqueeze(2);
}

Tensor row(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong).view({1, 1, -1}); }
Tensor mask(const std::vector<int64_t>& values) { return row(values) != 0; }

PseudoLabels labels_of(const std::vector<int64_t>& classes, const std::vector<float>& confidences,
                       const std::vector<int64_t>& valid) {
  return {row(classes), at::tensor(confidences).view({1, 1, -1}), mask(valid), {}};
}

void expect_values(const Tensor& actual, const std::vector<double>& expected) {
  ASSERT_EQ(actual.numel(), static_cast<int64_t>(expected.size()));
  const auto flat = actual.detach().to(at::kDouble).flatten();
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(flat[static_cast<int64_t>(i)].item<double>(), expected[i], kTolerance) << "value " << i;
}

Tensor threshold_after(Threshold& threshold, const std::vector<std::vector<float>>& probability_wK,
                       const std::vector<int64_t>& valid) {
  const auto logits = logits_of(probability_wK);
  threshold.observe(logits, make_pseudo_labels(logits, mask(valid), {}));
  return threshold.of_class();
}

TEST(PseudoLabels, AreMadeAtTheSizeOfTheImages) {
  const auto logits = logits_of({{0.25, 0.75}}).requires_grad_();
  const auto valid = at::ones({1, 2, 4}, at::kBool), truth = at::full({1, 2, 4}, 7, at::kLong);
  const auto labels = make_pseudo_labels(logits, valid, truth);
  EXPECT_TRUE(labels.class_BHW.equal(at::ones({1, 2, 4}, at::kLong)));
  expect_values(labels.confidence_BHW, std::vector<double>(8, 0.75));
  EXPECT_FALSE(labels.confidence_BHW.requires_grad());
  EXPECT_TRUE(labels.valid_BHW.equal(valid));
  EXPECT_TRUE(labels.truth_BHW.equal(truth));
  EXPECT_FALSE(make_pseudo_labels(logits, valid, {}).truth_BHW.defined());
}

TEST(MeanProbability, LeavesPaddingOut) {
  const auto logits = logits_of({{0.75, 0.25}, {0.2, 0.8}});
  auto valid = at::ones({1, 2, 4}, at::kBool);
  expect_values(mean_probability(logits, valid), {0.475, 0.525});
  valid.narrow(2, 2, 2).fill_(false);
  expect_values(mean_probability(logits, valid), {0.75, 0.25});
  valid.fill_(false);
  expect_values(mean_probability(logits, valid), {0, 0});
}

TEST(FixedThreshold, AcceptsValidPixelsThatReachIt) {
  const Threshold threshold({.value = 0.5}, 2);
  EXPECT_TRUE(threshold.accept(labels_of({0, 1, 1, 0}, {0.5, 0.75, 0.4375, 0.75}, {1, 1, 1, 0})).equal(mask({1, 1, 0, 0})));
  const Threshold none({.value = 0}, 2);
  EXPECT_TRUE(none.accept(labels_of({0, 1}, {0.5, 0.75}, {1, 0})).equal(mask({1, 0})));
  EXPECT_EQ(threshold.buffers().size(), 0U);
}

TEST(ClassAdaptiveThreshold, FollowsFreeMatchOverTwoUpdates) {
  Threshold threshold({.kind = "class_adaptive", .value = 0.95, .momentum = 0.9}, 2);
  expect_values(threshold.of_class(), {0.5, 0.5});
  // t = .9 (.5) + .1 (.8 + .6) / 2 = .52, q = .9 (.5, .5) + .1 (.6, .4) = (.51, .49)
  expect_values(threshold_after(threshold, {{0.8, 0.2}, {0.4, 0.6}}, {1, 1}), {0.52, 0.52 * 0.49 / 0.51});
  // The second pixel is padding: t = .9 (.52) + .1 (.9) = .558, q = .9 (.51, .49) + .1 (.9, .1) = (.549, .451)
  expect_values(threshold_after(threshold, {{0.9, 0.1}, {0.3, 0.7}}, {1, 0}), {0.558, 0.558 * 0.451 / 0.549});  // .4584

  const auto labels = labels_of({0, 0, 1, 1, 1}, {0.55, 0.56, 0.45, 0.46, 0.99}, {1, 1, 1, 1, 0});
  EXPECT_TRUE(threshold.accept(labels).equal(mask({0, 1, 0, 1, 0})));
  const auto buffers = threshold.named_buffers();
  expect_values(buffers["confidence"], {0.558});
  expect_values(buffers["probability"], {0.549, 0.451});
}

TEST(ClassAdaptiveThreshold, IsBoundedByItsValue) {
  Threshold threshold({.kind = "class_adaptive", .value = 0.5, .momentum = 0.9}, 2);
  expect_values(threshold_after(threshold, {{0.8, 0.2}, {0.4, 0.6}}, {1, 1}), {0.5, 0.52 * 0.49 / 0.51});
}

TEST(QuantileThreshold, AcceptsTheSurestShareOfEachClass) {
  // Without memory the histogram is that of the last batch, with 20 bins to each halving of 1 - confidence.
  Threshold threshold({.kind = "quantile", .momentum = 0, .share = 0.5}, 3);
  // Class 0: half of four pixels, so down to .8, in bin 46. Class 1: padding alone. Class 2: half of one pixel takes it whole.
  const auto labels = labels_of({0, 0, 0, 0, 1, 2}, {0.6f, 0.9f, 0.7f, 0.8f, 0.3f, 1.0f}, {1, 1, 1, 1, 0, 1});
  threshold.observe({}, labels);
  expect_values(threshold.of_class(), {1 - std::exp2(-46 / 20.0), 1, 1});
  EXPECT_TRUE(threshold.accept(labels).equal(mask({0, 1, 0, 1, 0, 1})));
  EXPECT_EQ(threshold.named_buffers()["histogram"].sum().item<double>(), 5);
}

TEST(QuantileThreshold, RemembersEarlierBatches) {
  Threshold threshold({.kind = "quantile", .momentum = 0.5, .share = 0.5}, 1);
  threshold.observe({}, labels_of({0, 0, 0, 0}, {0.9f, 0.8f, 0.7f, 0.6f}, {1, 1, 1, 1}));
  expect_values(threshold.of_class(), {1 - std::exp2(-46 / 20.0)});
  // Weights are now 1/2 at .95 and 1/4 each at .9, .8, .7, .6: half of 3/2 is reached at .9, in bin 66.
  threshold.observe({}, labels_of({0}, {0.95f}, {1}));
  expect_values(threshold.of_class(), {1 - std::exp2(-66 / 20.0)});
}

// As before a loss that became NaN is told.
TEST(QuantileThreshold, TakesConfidencesThatAreNoNumbers) {
  Threshold threshold({.kind = "quantile", .momentum = 0, .share = 0.5}, 1);
  const float none = std::numeric_limits<float>::quiet_NaN();
  threshold.observe({}, labels_of({0, 0}, {none, 0.9f}, {1, 1}));
  expect_values(threshold.of_class(), {1 - std::exp2(-66 / 20.0)});
}

TEST(QuantileThreshold, TellsSurePixelsFromSurerOnes) {
  // 1 - confidence: 2^-9.5 down to 2^-18.5, all above 255 / 256.
  std::vector<float> confidence;
  for (int i = 9; i < 19; ++i) confidence.push_back(1 - std::exp2(-(static_cast<float>(i) + 0.5f)));
  Threshold threshold({.kind = "quantile", .momentum = 0, .share = 0.3}, 1);
  const auto labels = labels_of(std::vector<int64_t>(10, 0), confidence, std::vector<int64_t>(10, 1));
  threshold.observe({}, labels);
  EXPECT_TRUE(threshold.accept(labels).equal(mask({0, 0, 0, 0, 0, 0, 0, 1, 1, 1})));
}

// A network that weights 1 and 4 have taught says (.5, .5) of pixels that are of class 0 in four of five cases.
TEST(Labeler, LabelsWithoutTheClassBiasAreTheLikeliestClasses) {
  const auto logits = logits_of({{0.5, 0.5}, {0.3, 0.7}, {0.1, 0.9}});
  const auto bias_K = at::tensor({1.0f, 4.0f}).log();
  SemiConfig config;
  for (const bool undone : {false, true}) {
    config.undo_class_bias = undone;
    const Labeler labeler(config, {0.5, 0.5}, 2, bias_K);
    UnlabeledBatch images;
    images.valid_BHW = mask({1, 1, 1});
    const auto labels = labeler.label(logits, images);
    if (undone) {
      EXPECT_TRUE(labels.class_BHW.equal(row({0, 0, 1})));
      // .5 : .5 / 4, .3 : .7 / 4, .1 : .9 / 4, normalised
      expect_values(labels.confidence_BHW, {0.8, 0.3 / 0.475, 0.225 / 0.325});
    } else {
      expect_values(labels.confidence_BHW, {0.5, 0.7, 0.9});
    }
  }
}

TEST(DistributionAlignment, DrawsPredictionsTowardsTheTarget) {
  DistributionAlignment alignment({0.25, 0.75});
  const auto aligned = [&](const std::vector<float>& probability_K) {
    return alignment.align(logits_of({probability_K})).softmax(1);
  };
  const auto observe = [&](const std::vector<std::vector<float>>& probability_wK, const std::vector<int64_t>& valid) {
    alignment.observe(logits_of(probability_wK), mask(valid));
  };
  expect_values(aligned({0.5, 0.5}), {0.25, 0.75});
  observe({{0.6, 0.4}, {0.1, 0.9}}, {1, 0});  // the first batch alone is the mean
  expect_values(alignment.named_buffers()["model"], {0.6, 0.4});
  observe({{0.8, 0.2}}, {1});  // (.6 + .8) / 2
  expect_values(alignment.named_buffers()["model"], {0.7, 0.3});
  // .5 (.25 / .7), .5 (.75 / .3), normalised
  expect_values(aligned({0.5, 0.5}), {0.125, 0.875});
  observe({{0.1, 0.9}}, {1});  // two thirds of the mean and a third of the batch
  expect_values(alignment.named_buffers()["model"], {0.5, 0.5});
  expect_values(aligned({0.6, 0.4}), {0.6 * 0.25 / (0.6 * 0.25 + 0.4 * 0.75), 0.4 * 0.75 / (0.6 * 0.25 + 0.4 * 0.75)});
  // A later mean keeps .999 of itself.
  alignment.named_buffers()["seen"].fill_(1e6);
  observe({{0.9, 0.1}}, {1});
  expect_values(alignment.named_buffers()["model"], {0.5004, 0.4996});
}

TEST(DistributionAlignment, StaysFiniteForClassesThatNobodyHas) {
  DistributionAlignment alignment({1, 0});
  alignment.observe(at::tensor({60.0f, -60.0f}).view({1, 2, 1, 1}), mask({1}));
  EXPECT_TRUE(alignment.align(at::zeros({1, 2, 1, 1})).isfinite().all().item<bool>());
}

TEST(BoxMask, HoldsTheInsideOfEachBox) {
  const auto box_B4 = at::tensor({1, 0, 3, 2, 0, 0, 0, 0, 0, 1, 4, 3}, at::kLong).view({3, 4});  // top, left, bottom, right
  const auto expected = at::tensor({0, 0, 0, 1, 1, 0, 1, 1, 0, 0, 0, 0,                          //
                                    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,                          //
                                    0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1})                         //
                            .view({3, 4, 3});
  EXPECT_TRUE(box_mask(box_B4, 4, 3).equal(expected != 0));
}

TEST(ClassMask, TakesHalfOfThePresentClassesRoundedUp) {
  constexpr int64_t kClasses = 5;
  struct Case {
    const char* what;
    std::vector<int64_t> classes, valid, expected;
    std::vector<float> keys;
  };
  const std::vector<Case> cases{
      {"two of three, those of the smallest keys",
       {0, 1, 2, 1, 0, 2},
       {1, 1, 1, 1, 1, 1},
       {0, 1, 1, 1, 0, 1},
       {.9, .1, .5, .8, .7}},
      {"absent classes do not count", {0, 0, 1, 1, 1, 0}, {1, 1, 1, 1, 1, 1}, {1, 1, 0, 0, 0, 1}, {.4, .6, 0, .1, .2}},
      {"one of one", {3, 3, 3, 3, 3, 3}, {1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1}, {0, 0, 0, .9, 0}},
      {"three of five", {0, 1, 2, 3, 4, 4}, {1, 1, 1, 1, 1, 1}, {0, 1, 0, 1, 1, 1}, {.9, .1, .8, .2, .3}},
      {"padding is neither pasted nor present", {0, 0, 1, 2, 2, 1}, {1, 1, 1, 0, 0, 0}, {0, 0, 1, 0, 0, 0}, {.5, .4, .3, 0, 0}},
      {"padding alone gives nothing", {0, 0, 1, 1, 2, 2}, {0, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 0}, {.5, .4, .3, .2, .1}},
      {"the least key is taken even at 0", {0, 1, 0, 1, 0, 1}, {1, 1, 1, 1, 1, 1}, {1, 0, 1, 0, 1, 0}, {0, .01, 0, 0, 0}}};
  std::vector<Tensor> classes, valid, keys, expected;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    auto keys_and_coin = c.keys;
    keys_and_coin.push_back(0);  // the coin is no key
    classes.push_back(at::tensor(c.classes, at::kLong).view({2, 3}));
    valid.push_back(at::tensor(c.valid, at::kLong).view({2, 3}) != 0);
    expected.push_back(at::tensor(c.expected, at::kLong).view({2, 3}) != 0);
    keys.push_back(at::tensor(keys_and_coin));
    const auto pasted = class_mask(classes.back().unsqueeze(0), valid.back().unsqueeze(0), keys.back().unsqueeze(0), kClasses);
    EXPECT_TRUE(pasted.equal(expected.back().unsqueeze(0)));
  }
  // Images of one batch do not know of each other.
  EXPECT_TRUE(class_mask(at::stack(classes), at::stack(valid), at::stack(keys), kClasses).equal(at::stack(expected)));
}

TEST(Paste, TakesTheSourceWhereTheMaskHolds) {
  auto source = labels_of({5, 6, 7}, {0.5, 0.6f, 0.7f}, {1, 0, 1}),
       target = labels_of({1, 2, 3}, {0.1f, 0.2f, 0.3f}, {0, 1, 1});
  const auto pasted = paste(mask({1, 1, 0}), source, target);
  EXPECT_TRUE(pasted.class_BHW.equal(row({5, 6, 3})));
  expect_values(pasted.confidence_BHW, {0.5, 0.6, 0.3});
  EXPECT_TRUE(pasted.valid_BHW.equal(mask({1, 0, 1})));
  EXPECT_FALSE(pasted.truth_BHW.defined());

  source.truth_BHW = row({11, 12, 13});
  EXPECT_FALSE(paste(mask({1, 1, 0}), source, target).truth_BHW.defined());  // known for one of them alone
  target.truth_BHW = row({21, 22, 23});
  EXPECT_TRUE(paste(mask({1, 1, 0}), source, target).truth_BHW.equal(row({11, 12, 23})));

  const auto image = paste(mask({0, 1, 0}), at::ones({1, 3, 1, 3}), at::zeros({1, 3, 1, 3}));
  EXPECT_TRUE(image.equal(at::tensor({0.0f, 1.0f, 0.0f}).repeat({1, 3, 1, 1})));

  const auto view = paste(mask({0, 1, 0}), LabelledView{at::ones({1, 3, 1, 3}), source}, {at::zeros({1, 3, 1, 3}), target});
  EXPECT_TRUE(view.image_BCHW.equal(image));
  EXPECT_TRUE(view.labels.truth_BHW.equal(row({21, 12, 23})));
}

// Three valid pixels, of which the first two are accepted, at losses ln 2 (class 0) and ln 4 (class 1).
class PseudoLabelLoss : public testing::Test {
 protected:
  double loss(const Tensor& accepted, const Tensor& weight_K, bool divide_by_accepted) {
    logits_ = logits_of({{0.5, 0.5}, {0.75, 0.25}, {0.1, 0.9}, {0.01, 0.99}}).requires_grad_();
    const auto loss = pseudo_label_loss(logits_, labels_, accepted, weight_K, divide_by_accepted);
    loss.backward();
    EXPECT_TRUE(logits_.grad().isfinite().all().item<bool>());
    return loss.item<double>();
  }

  PseudoLabels labels_ = labels_of({0, 1, 1, 0}, {1, 1, 1, 1}, {1, 1, 1, 0});
  Tensor accepted_ = mask({1, 1, 0, 0}), none_ = mask({0, 0, 0, 0});
  Tensor logits_;
};

TEST_F(PseudoLabelLoss, DividesByAllValidPixelsOrByTheAcceptedOnes) {
  const double ln2 = std::log(2.0);
  EXPECT_NEAR(loss(accepted_, {}, false), (ln2 + 2 * ln2) / 3, kTolerance);
  EXPECT_NEAR(loss(accepted_, {}, true), (ln2 + 2 * ln2) / 2, kTolerance);
  // Rejected pixels and padding teach nothing; (p - 1) / 2 and p / 2 are the gradients of the first pixel.
  EXPECT_EQ(logits_.grad().narrow(3, 2, 2).abs().max().item<double>(), 0);
  expect_values(logits_.grad().select(3, 0), {-0.25, 0.25});
}

TEST_F(PseudoLabelLoss, WeighsNumeratorAndDivisorByClass) {
  const double ln2 = std::log(2.0);
  const auto weight_K = at::tensor({1.0f, 3.0f});
  EXPECT_NEAR(loss(accepted_, weight_K, false), (ln2 + 3 * 2 * ln2) / (1 + 3 + 3), kTolerance);
  EXPECT_NEAR(loss(accepted_, weight_K, true), (ln2 + 3 * 2 * ln2) / (1 + 3), kTolerance);
}

TEST_F(PseudoLabelLoss, IsZeroWithoutAPixelToDivideBy) {
  for (const bool divide_by_accepted : {false, true})
    for (const auto& weight_K : {Tensor(), at::tensor({1.0f, 3.0f}), at::zeros({2})}) {
      EXPECT_EQ(loss(none_, weight_K, divide_by_accepted), 0);
      EXPECT_EQ(logits_.grad().abs().max().item<double>(), 0);
    }
  EXPECT_EQ(loss(accepted_, at::zeros({2}), false), 0);
  labels_.valid_BHW = none_;
  EXPECT_EQ(loss(none_, {}, false), 0);
}

TEST(PseudoLabelLossAtStride, UpsamplesLogitsToTheLabels) {
  const auto labels = PseudoLabels{at::ones({1, 3, 2}, at::kLong), {}, at::ones({1, 3, 2}, at::kBool), {}};
  EXPECT_NEAR(pseudo_label_loss(logits_of({{0.5, 0.5}}), labels, labels.valid_BHW, {}, false).item<double>(), std::log(2.0),
              kTolerance);
}

TEST(CountPseudoLabels, CountsPredictedAcceptedAndRight) {
  auto labels = labels_of({0, 0, 1, 2, 2, 1}, {1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 0});
  const auto accepted = mask({1, 1, 0, 1, 1, 0});
  StepOutput out;
  count_pseudo_labels(labels, accepted, 3, &out);
  EXPECT_TRUE(out.pseudo_2K.equal(at::tensor({2, 1, 2, 2, 0, 2}, at::kLong).view({2, 3})));
  EXPECT_FALSE(out.truth_3K.defined());

  // Right, wrong, rejected, right, of unknown truth, padding.
  labels.truth_BHW = row({0, 2, 1, 2, kIgnore, 1});
  count_pseudo_labels(labels, accepted, 3, &out);
  EXPECT_TRUE(out.truth_3K.equal(at::tensor({1, 0, 1,   // accepted and right
                                             2, 0, 1,   // accepted, of known truth
                                             1, 1, 2},  // true class
                                            at::kLong)
                                     .view({3, 3})));
}

TEST(UnsupervisedWeight, IsZeroInBurnInThenRampsUp) {
  SemiConfig config;
  config.weight = 2;
  const auto weight_at = [&](int64_t step) { return unsupervised_weight(config, {step, 100, 10}); };
  EXPECT_EQ(weight_at(0), 2);
  config.burn_in_epochs = 1;
  EXPECT_EQ(weight_at(0), 0);
  EXPECT_EQ(weight_at(9), 0);
  EXPECT_EQ(weight_at(10), 2);
  config.ramp_up_epochs = 2;
  EXPECT_EQ(weight_at(9), 0);
  EXPECT_DOUBLE_EQ(weight_at(10), 2 * std::exp(-5.0));
  EXPECT_DOUBLE_EQ(weight_at(20), 2 * std::exp(-5.0 / 4));
  EXPECT_DOUBLE_EQ(weight_at(25), 2 * std::exp(-5.0 / 16));
  EXPECT_EQ(weight_at(30), 2);
  config.burn_in_epochs = 0;
  EXPECT_DOUBLE_EQ(weight_at(0), 2 * std::exp(-5.0));
}

}  // namespace
}  // namespace semiseg
