#include "reports/pictures.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "canvas.h"
#include "samples.h"
#include "semiseg/dataset.h"
#include "semiseg/files.h"
#include "semiseg/health.h"
#include "tiny_network.h"

namespace semiseg {
namespace {

constexpr Colour kRed{200, 0, 0}, kGreen{0, 200, 0}, kError{255, 96, 0}, kNotCounted{150, 150, 150};

ClassSet two_classes() {
  ClassSet classes;
  classes.names = {"road", "a class of a rather long name, which is to be cut"};
  classes.colours = {kRed, kGreen};
  return classes;
}

// Pixels of one colour.
int64_t count(const Tensor& image_HWC, const Colour& colour) {
  const auto wanted = at::tensor({int64_t{colour[0]}, int64_t{colour[1]}, int64_t{colour[2]}}).to(at::kByte);
  return (image_HWC == wanted).all(2).sum().item<int64_t>();
}

TEST(Canvas, FillsAndFramesWhatIsAsked) {
  Canvas canvas(20, 10);
  canvas.fill({2, 3, 5, 4}, kRed);
  EXPECT_EQ(count(canvas.image_HWC(), kRed), 20);
  EXPECT_EQ(count(canvas.image_HWC(), kWhite), 180);
  canvas.frame({2, 3, 5, 4}, kGreen);
  EXPECT_EQ(count(canvas.image_HWC(), kGreen), 14);
  canvas.frame({0, 0, 2, 2}, kGreen, 9);  // thicker than it is large
  EXPECT_EQ(count(canvas.image_HWC(), kGreen), 18);
}

TEST(Canvas, TextStaysInsideAndBesideItsAnchor) {
  Canvas canvas(100, 40);
  canvas.text({50, 20}, "Wg", 10, kInk, Anchor::kRight);
  const auto dark_HW = canvas.image_HWC().select(2, 0) < 128;
  EXPECT_GT(dark_HW.sum().item<int64_t>(), 20);
  EXPECT_EQ(dark_HW.narrow(1, 51, 49).sum().item<int64_t>(), 0);
  EXPECT_EQ(dark_HW.narrow(0, 0, 12).sum().item<int64_t>(), 0);  // capitals are 10 pixels high, around 20
  canvas.text({95, 20}, "cut at the edge", 10);
  canvas.text({-500, -500}, "outside", 10);
}

TEST(Canvas, TextThatIsTooWideIsCut) {
  EXPECT_EQ(fitted("road", 10, 400), "road");
  const std::string cut = fitted("a rather long name", 10, 60), end = fitted_end("folder/of/an/image.png", 10, 90);
  EXPECT_LE(text_width(cut, 10), 60);
  EXPECT_EQ(cut.substr(cut.size() - 2), "..");
  EXPECT_LE(text_width(end, 10), 90);
  EXPECT_EQ(end.substr(0, 2), "..");
  EXPECT_EQ(end.substr(end.size() - 4), ".png");
  EXPECT_EQ(fitted("Stra\xc3\x9f"
                   "e",
                   10, 400),
            "Stra?e");  // one sign for a character of two bytes
}

TEST(Canvas, HatchingDarkensTwoOfThreeStripesWhereTheMaskHolds) {
  Canvas canvas(90, 90, kRed);
  auto mask_HW = at::zeros({2, 2}, at::kBool);
  mask_HW[0][0] = true;
  canvas.hatch({0, 0, 90, 90}, mask_HW);
  EXPECT_EQ(count(canvas.image_HWC(), {40, 0, 0}), 45 * 45 * 2 / 3);
  EXPECT_EQ(count(canvas.image_HWC(), kRed), 90 * 90 - 45 * 45 * 2 / 3);
}

// Eight labels of class 0; number 6 holds class 1 too, number 7 classes 1 and 2, number 1 a single pixel of class 2.
class FewLabels : public Dataset {
 public:
  int64_t size(Split) const override { return 8; }
  Sample get(Split split, int64_t index) const override {
    return {at::full({16, 16, 3}, index, at::kByte), label(split, index), id(split, index)};
  }
  Tensor label(Split, int64_t index) const override {
    auto label_HW = at::zeros({16, 16}, at::kByte);
    if (index >= 6) label_HW.narrow(0, 0, 4).fill_(1);
    if (index == 7) label_HW.narrow(0, 4, 4).fill_(2);
    if (index == 1) label_HW[0][0] = 2;
    return label_HW;
  }
  std::string id(Split, int64_t index) const override { return std::to_string(index); }
  const ClassSet& classes() const override { return classes_; }

 private:
  ClassSet classes_ = two_classes();
};

TEST(Samples, AreSpreadAndPreferRareClasses) {
  const FewLabels data;
  const std::vector<double> share{0.9, 0.09, 0.01};
  EXPECT_EQ(choose_samples(data, Split::kVal, 2, share), (std::vector<int64_t>{0, 7}));
  EXPECT_EQ(choose_samples(data, Split::kVal, 1, share), (std::vector<int64_t>{7}));
  EXPECT_EQ(choose_samples(data, Split::kVal, 8, share).size(), 8u);
  EXPECT_EQ(choose_samples(data, Split::kVal, 64, share).size(), 8u);  // no more than there are
  EXPECT_TRUE(choose_samples(data, Split::kVal, 0, share).empty());
}

TEST(Samples, NothingIsWatchedWhereNoneIsWanted) {
  const FewLabels data;
  SampleImages none(data, 0, true, {0.9, 0.09, 0.01});
  EXPECT_TRUE(none.empty());
  EXPECT_FALSE(none.watch());
}

TEST(Samples, TheMiddleOfAnImageIsAllOfItWhereItFits) {
  const auto image_HWC = at::arange(5 * 4 * 3).view({5, 4, 3});
  EXPECT_TRUE(middle_of(image_HWC, 5, 9).equal(image_HWC));
  EXPECT_TRUE(middle_of(image_HWC, 2, 3).equal(image_HWC.slice(0, 1, 3).slice(1, 0, 3)));
  EXPECT_TRUE(middle_of(image_HWC.select(2, 0), 1, 2).equal(image_HWC.slice(0, 2, 3).slice(1, 1, 3).select(2, 0)));
}

class LongImage : public FewLabels {
 public:
  int64_t size(Split) const override { return 1; }
  Sample get(Split, int64_t) const override { return {at::zeros({2248, 40, 3}, at::kByte), {}, "long.png"}; }
};

TEST(MeasureAgreement, LooksAtTheMiddleOfWhatIsTooLarge) {
  Predicting method(make_tiny_network(2));
  EvalOptions options;
  options.mean = {.5, .5, .5};
  options.std = {.25, .25, .25};
  std::map<std::string, Tensor> probe;
  PseudoScores scores;
  measure_agreement(method, {}, LongImage(), options, &probe, &scores);
  EXPECT_EQ(probe.at("0").sizes(), at::IntArrayRef({2048 / 4, 40 / 4}));
  options.eval.mode = "sliding";
  options.eval.window = {64, 32};
  measure_agreement(method, {}, LongImage(), options, &probe, &scores);
  EXPECT_EQ(probe.at("0").sizes(), at::IntArrayRef({64 / 4, 32 / 4}));
}

// Pictures of the width of a cell, so that nothing is resized and pixels can be counted.
TEST(SamplePictures, ShowErrorsIgnoredPixelsAndRejectedLabels) {
  const auto image_HWC = at::full({100, 383, 3}, 255, at::kByte);
  auto label_HW = at::zeros({100, 383}, at::kByte), prediction_HW = label_HW.clone();
  prediction_HW.narrow(1, 0, 10).fill_(1);
  label_HW.narrow(1, 0, 1).fill_(kIgnore);
  EpochSamples samples{3, {{"a.png", image_HWC, label_HW, prediction_HW}}, {}};
  const Tensor scored = draw_samples(samples, two_classes());
  EXPECT_EQ(scored.size(1), 1600);
  EXPECT_EQ(count(scored, kError), 9 * 100);
  EXPECT_EQ(count(scored, kNotCounted), 100);

  auto accepted_HW = at::ones({100, 383}, at::kBool);
  accepted_HW.narrow(1, 0, 90).fill_(false);
  samples.unlabeled = {{"b.png", image_HWC, label_HW.fill_(0), accepted_HW, prediction_HW}};
  const Tensor both = draw_samples(samples, two_classes());
  EXPECT_GT(both.size(0), scored.size(0) + 100);
  EXPECT_EQ(count(both, {40, 0, 0}), 90 * 100 * 2 / 3);  // red at a fifth
}

Scores scores_with(int64_t classes) {
  auto counts_KK = at::eye(classes, at::kLong) * 1000 + 1;
  counts_KK[classes - 1].fill_(0);
  return scores_of(counts_KK);
}

EpochRecord record_of(int64_t epoch, const std::optional<Scores>& val) {
  EpochRecord record;
  record.epoch = epoch;
  record.loss = 1.0 / static_cast<double>(epoch + 1);
  record.val = val;
  return record;
}

TEST(Charts, TheConfusionMatrixOfAnyNumberOfClassesIsLegibleInSize) {
  for (const int64_t classes : {1, 2, 19, 34, 150}) {
    const Tensor picture = draw_confusion_matrix(record_of(1, scores_with(classes)), {"only one name"});
    ASSERT_TRUE(picture.defined()) << classes;
    EXPECT_GE(picture.size(0), 28 * classes) << classes;
  }
  Scores old = scores_with(3);
  old.confusion.clear();
  EXPECT_FALSE(draw_confusion_matrix(record_of(1, old), {}).defined());
  EXPECT_FALSE(draw_confusion_matrix(record_of(1, std::nullopt), {}).defined());
}

TEST(Charts, CurvesTakeAnyHistory) {
  const Scores scores = scores_with(5);
  const std::vector<std::vector<EpochRecord>> histories = {
      {},
      {record_of(1, std::nullopt)},
      {record_of(1, scores)},
      {record_of(0, scores), record_of(1, std::nullopt), record_of(2, scores)},
      std::vector<EpochRecord>(300, record_of(7, scores)),
  };
  for (const auto& history : histories) EXPECT_GE(draw_results(history, {"a", "b"}).size(1), 1500);
  auto broken = record_of(2, scores);
  broken.loss = std::numeric_limits<double>::infinity();
  EXPECT_GE(draw_results({record_of(1, scores), broken}, {}).size(1), 1500);
}

TEST(Charts, TheClassHistogramNamesAClassWithoutPixels) {
  const ClassCounts counts{{1000, 0}, {4, 0}, {1000, 0}, {{250, 0, 0}, {250, 0, 0}, {250, 0, 0}, {250, 0, 0}}};
  const Tensor picture = draw_class_histogram(counts, two_classes());
  EXPECT_GT(count(picture, kRed), 500 * 16);
  EXPECT_EQ(count(picture, kGreen), 0);
}

TEST(FirstBatchPicture, HasAColumnForEachView) {
  const auto images = [](int64_t n, double value) { return at::full({n, 3, 32, 48}, value); };
  TrainBatch batch;
  batch.labeled = {images(2, 0), at::zeros({2, 32, 48}, at::kLong)};
  const std::vector<double> mean{0.5, 0.5, 0.5}, std{0.25, 0.25, 0.25};
  const Colour grey{128, 128, 128}, bright{191, 191, 191}, dark{64, 64, 64};
  EXPECT_GT(count(draw_first_batch({&batch, {}}, mean, std, two_classes()), grey), 50000);

  batch.unlabeled.weak_BCHW = images(3, 1);
  batch.unlabeled.strong_BCHW = {images(3, -1)};
  const Tensor views = draw_first_batch({&batch, {}}, mean, std, two_classes());
  EXPECT_GT(count(views, bright), 50000);  // (1 x .25 + .5) x 255
  EXPECT_GT(count(views, dark), 50000);
  const Tensor mixed = draw_first_batch({&batch, {images(3, -2)}}, mean, std, two_classes());
  EXPECT_GT(count(mixed, {0, 0, 0}), 30000);
  batch.unlabeled.cutmix_box_B4 = {at::tensor({4, 4, 20, 28, 0, 0, 0, 0, 0, 0, 32, 48}, at::kLong).view({3, 4}),
                                   at::zeros({3, 4}, at::kLong)};
  EXPECT_GT(count(draw_first_batch({&batch, {}}, mean, std, two_classes()), {0, 150, 255}), 500);
}

}  // namespace
}  // namespace semiseg
