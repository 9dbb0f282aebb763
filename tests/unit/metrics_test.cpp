#include "semiseg/metrics.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "semiseg/error.h"

namespace semiseg {
namespace {

TEST(ConfusionMatrix, ScoresByHand) {
  // label 0: 3 right, 1 taken for 1; label 1: 2 right, 2 taken for 0; class 2 is predicted once for label 0; class 3 never
  // occurs.
  ConfusionMatrix matrix(4, torch::kCPU);
  const auto label = at::tensor({0, 0, 0, 0, 0, 1, 1, 1, 1}, at::kLong);
  const auto prediction = at::tensor({0, 0, 0, 1, 2, 1, 1, 0, 0}, at::kLong);
  matrix.add(prediction.narrow(0, 0, 4), label.narrow(0, 0, 4));
  matrix.add(prediction.narrow(0, 4, 5), label.narrow(0, 4, 5));
  const Scores s = matrix.scores();
  EXPECT_DOUBLE_EQ(*s.iou[0], 3.0 / 7);  // tp 3, fp 2, fn 2
  EXPECT_DOUBLE_EQ(*s.iou[1], 2.0 / 5);  // tp 2, fp 1, fn 2
  EXPECT_DOUBLE_EQ(*s.iou[2], 0);        // predicted, never labelled
  EXPECT_FALSE(s.iou[3]);                // absent: null, never 0
  EXPECT_DOUBLE_EQ(s.miou, (3.0 / 7 + 2.0 / 5 + 0) / 3);
  EXPECT_DOUBLE_EQ(*s.class_accuracy[0], 3.0 / 5);
  EXPECT_DOUBLE_EQ(*s.class_accuracy[1], 0.5);
  EXPECT_FALSE(s.class_accuracy[2]);
  EXPECT_DOUBLE_EQ(s.mean_class_accuracy, 0.55);
  EXPECT_DOUBLE_EQ(s.pixel_accuracy, 5.0 / 9);
  EXPECT_DOUBLE_EQ(s.label_share[0], 5.0 / 9);
  EXPECT_DOUBLE_EQ(s.prediction_share[0], 5.0 / 9);
  EXPECT_DOUBLE_EQ(s.prediction_share[2], 1.0 / 9);
}

TEST(ConfusionMatrix, IgnoresLabelsOutsideTheClasses) {
  ConfusionMatrix matrix(2, torch::kCPU);
  matrix.add(at::tensor({0, 1, 0, 1}, at::kLong), at::tensor({0, 255, -1, 2}, at::kLong));
  matrix.add(at::tensor({1}, at::kLong), at::tensor({255}, at::kByte));
  EXPECT_EQ(matrix.counts().sum().item<int64_t>(), 1);
  EXPECT_EQ(matrix.counts().scalar_type(), at::kLong);
}

TEST(ConfusionMatrix, CountsBeyondWhatFloatsHold) {
  const Scores s = scores_of(at::tensor({int64_t{1} << 40, int64_t{1}, int64_t{0}, int64_t{1} << 40}, at::kLong).view({2, 2}));
  EXPECT_LT(*s.class_accuracy[0], 1);
  EXPECT_EQ(*s.class_accuracy[1], 1);
}

TEST(ConfusionMatrix, OfNothingHasNoIoU) {
  const Scores s = ConfusionMatrix(2, torch::kCPU).scores();
  EXPECT_FALSE(s.iou[0]);
  EXPECT_EQ(s.miou, 0);
}

TEST(EpochRecord, ReadsLinesWithoutWhatCameLater) {
  EpochRecord record;
  record.pseudo = PseudoScores{};
  record.alarms = {{"a", "b"}};
  auto line = nlohmann::json::parse(to_json(record));
  for (const char* key : {"agreement_by_class", "precision", "recall"}) line["pseudo"].erase(key);
  line["alarms"][0].erase("classes");
  const EpochRecord back = epoch_from_json(line.dump());
  EXPECT_TRUE(back.pseudo->precision.empty());
  EXPECT_FALSE(back.pseudo->agreement);
  EXPECT_TRUE(back.alarms[0].classes.empty());
}

TEST(EpochRecord, RefusesScoresOfDifferentNumbersOfClasses) {
  EpochRecord record;
  record.val = scores_of(at::tensor({3, 1, 0, 4}, at::kLong).view({2, 2}));
  const auto whole = nlohmann::json::parse(to_json(record));
  EXPECT_NO_THROW(epoch_from_json(whole.dump()));
  for (const char* key : {"class_accuracy", "label_share", "prediction_share", "confusion"}) {
    auto cut = whole;
    cut["val"][key].erase(1);
    EXPECT_THROW(epoch_from_json(cut.dump()), Error) << key;
  }
  auto ragged = whole;
  ragged["val"]["confusion"][1].erase(0);
  EXPECT_THROW(epoch_from_json(ragged.dump()), Error);
}

TEST(EpochRecord, SurvivesJson) {
  EpochRecord record;
  record.epoch = 3;
  record.step = 17;
  record.loss = 0.1 + 0.2;
  record.loss_unsupervised = 1.0 / 3;
  record.val = scores_of(at::tensor({5, 1, 0, 0}, at::kLong).view({2, 2}));
  record.pseudo = PseudoScores{0.25, {1, 0}, {0.25, std::nullopt}, 0.5, {0.5, std::nullopt}, {1, std::nullopt}, {0.75, 0}};
  record.alarms = {{"class_vanished", "pole is gone", {"pole"}}};
  const std::string line = to_json(record);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_NE(line.find("\"class_accuracy\":[0.8333333333333334,null]"), std::string::npos) << line;
  const EpochRecord back = epoch_from_json(line);
  EXPECT_EQ(to_json(back), line);
  EXPECT_EQ(back.loss, record.loss);
  EXPECT_FALSE(back.val->class_accuracy[1]);
  EXPECT_EQ(back.pseudo->agreement, 0.5);
  EXPECT_EQ(back.pseudo->agreement_by_class, record.pseudo->agreement_by_class);
  EXPECT_EQ(back.pseudo->precision, record.pseudo->precision);
  EXPECT_EQ(back.pseudo->recall, record.pseudo->recall);
  EXPECT_EQ(back.alarms[0].classes, std::vector<std::string>{"pole"});
  EXPECT_THROW(epoch_from_json("{\"epoch\": 1}"), Error);
  EXPECT_THROW(epoch_from_json("{"), Error);
}

}  // namespace
}  // namespace semiseg
