// Rare class sampling: what it draws, and that draws stay pure functions of their index.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/loader.h"

namespace semiseg {
namespace {

// Ten labelled images of 40 x 50 pixels, all class 0 but for
//   class 1: a patch of 10 x 10 in image 7, two pixels (.001) in image 3
//   class 2: one pixel in images 4 and 5
// Red holds the image's index; two more images are unlabelled. Class 3 is nowhere.
class PatchDataset : public Dataset {
 public:
  int64_t size(Split split) const override { return split == Split::kLabeled ? 10 : 2; }

  Sample get(Split split, int64_t index) const override {
    Sample sample{at::full({40, 50, 3}, index, at::kByte), {}, id(split, index)};
    if (split == Split::kLabeled) sample.label_HW = label(split, index);
    return sample;
  }

  Tensor label(Split, int64_t index) const override {
    Tensor label_HW = at::zeros({40, 50}, at::kByte);
    if (index == 7) label_HW.slice(0, 25, 35).slice(1, 35, 45).fill_(1);
    if (index == 3) label_HW[0].slice(0, 10, 12).fill_(1);
    if (index == 4 || index == 5) label_HW[20][20].fill_(2);
    if (index == 0) label_HW[1].fill_(kIgnore);
    return label_HW;
  }

  std::string id(Split split, int64_t index) const override { return str(split_name(split), "/", index); }
  const ClassSet& classes() const override { return classes_; }

 private:
  ClassSet classes_{{"road", "patch", "dot", "nowhere"}, {}, {}, {}};
};

LoaderOptions options_with(double temperature, int64_t workers = 0) {
  LoaderOptions options;
  options.seed = 5;
  options.batch_labeled = 4;
  options.batch_unlabeled = 2;
  options.view = {.crop_H = 16, .crop_W = 20, .scale_low = 1, .scale_high = 1};
  options.needs = {.unlabeled = true, .strong_views = 1, .mix = true};
  options.workers = workers;
  options.mean = {0, 0, 0};
  options.std = {1 / 255.0, 1 / 255.0, 1 / 255.0};  // pixels keep their values
  options.rare_class_temperature = temperature;
  return options;
}

int64_t image_of(const Tensor& image_BCHW, int64_t b) { return std::lround(image_BCHW[b][0][0][0].item<float>()); }

TEST(RareClassProbabilities, AreASoftmaxOfRarity) {
  // f = .75, .25, 0: exp(.25 / .5) : exp(.75 / .5), and nothing for the class without a pixel.
  const std::vector<double> probability = rare_class_probabilities({300, 100, 0}, 0.5);
  const double common = std::exp(0.5), rare = std::exp(1.5);
  ASSERT_EQ(probability.size(), 3U);
  EXPECT_NEAR(probability[0], common / (common + rare), 1e-12);
  EXPECT_NEAR(probability[1], rare / (common + rare), 1e-12);
  EXPECT_EQ(probability[2], 0);
}

TEST(RareClassProbabilities, SurviveSmallTemperatures) {
  for (const double temperature : {1e-2, 1e-4, 1e-300}) {
    const std::vector<double> probability = rare_class_probabilities({1'000'000, 1, 0, 1}, temperature);
    EXPECT_NEAR(probability[0], 0, 1e-9) << temperature;
    EXPECT_NEAR(probability[1], 0.5, 1e-9) << temperature;
    EXPECT_EQ(probability[2], 0) << temperature;
    EXPECT_NEAR(probability[3], 0.5, 1e-9) << temperature;
  }
}

TEST(CountClasses, CountsEachImage) {
  const PatchDataset data;
  for (const int64_t workers : {0, 3}) {
    const ClassCounts counts = count_classes(data, Split::kLabeled, workers);
    ASSERT_EQ(counts.of_image.size(), 10U);
    EXPECT_EQ(counts.of_image[0], (std::vector<int64_t>{1950, 0, 0, 0, 50}));
    EXPECT_EQ(counts.of_image[3], (std::vector<int64_t>{1998, 2, 0, 0, 0}));
    EXPECT_EQ(counts.of_image[5], (std::vector<int64_t>{1999, 0, 1, 0, 0}));
    EXPECT_EQ(counts.of_image[7], (std::vector<int64_t>{1900, 100, 0, 0, 0}));
  }
}

// Classes 1 and 2 are about equally rare, so that a third of the draws each fall to 0 (at a high temperature), 1 and 2.
TEST(RareClassSampling, AsksForClassesAndTheirImages) {
  const PatchDataset data;
  Loader loader(data, options_with(100));
  std::map<int64_t, int> draws;
  for (int64_t index = 0; index < 150; ++index) {
    const LabeledBatch batch = loader.batch(index).labeled;
    for (int64_t b = 0; b < 4; ++b) ++draws[image_of(batch.image_BCHW, b)];
  }
  // Of 600 draws class 1 takes 200, all of image 7: image 3 holds too little of it. Class 2 takes 200 of images 4 and 5, which
  // hold too little as well, but no image holds more. Class 0 spreads 200 over all.
  EXPECT_NEAR(draws[7], 220, 45);
  EXPECT_NEAR(draws[4], 120, 35);
  EXPECT_NEAR(draws[5], 120, 35);
  EXPECT_NEAR(draws[3], 20, 15);
  EXPECT_NEAR(draws[0], 20, 15);
}

TEST(RareClassSampling, CropsHoldTheClass) {
  const PatchDataset data;
  Loader with(data, options_with(0.01));  // classes 1 and 2 only
  int crops = 0, with_patch = 0;
  for (int64_t index = 0; index < 60; ++index) {
    const LabeledBatch batch = with.batch(index).labeled;
    for (int64_t b = 0; b < 4; ++b) {
      // Image and label are still of one crop.
      EXPECT_TRUE((batch.image_BCHW[b] == batch.image_BCHW[b][0][0][0]).all().item<bool>());
      if (image_of(batch.image_BCHW, b) != 7) continue;
      ++crops;
      // More than .0007 of 2000 pixels: two at least.
      with_patch += (batch.label_BHW[b] == 1).sum().item<int64_t>() >= 2;
    }
  }
  // 225 of the 775 positions show the patch: one crop misses it with 71 %, eleven with 2 %.
  EXPECT_GT(crops, 60);
  EXPECT_GT(with_patch, 0.93 * crops);
}

TEST(RareClassSampling, LeavesTheRestOfTheBatchAlone) {
  const PatchDataset data;
  Loader with(data, options_with(0.01)), without(data, options_with(0));
  for (int64_t index = 0; index < 4; ++index) {
    const TrainBatch a = with.batch(index), b = without.batch(index);
    EXPECT_FALSE(at::equal(a.labeled.image_BCHW, b.labeled.image_BCHW));
    EXPECT_TRUE(at::equal(a.unlabeled.weak_BCHW, b.unlabeled.weak_BCHW));
    EXPECT_TRUE(at::equal(a.unlabeled.cutmix_box_B4[0], b.unlabeled.cutmix_box_B4[0]));
    EXPECT_TRUE(at::equal(a.mix.weak_BCHW, b.mix.weak_BCHW));
  }
}

TEST(RareClassSampling, BatchesDoNotDependOnThreadsOrOnTheOrderOfCalls) {
  const PatchDataset data;
  Loader alone(data, options_with(0.1));
  std::vector<LabeledBatch> expected;
  for (int64_t index = 0; index < 8; ++index) expected.push_back(alone.batch(index).labeled);
  for (const int64_t workers : {0, 1, 8}) {
    Loader loader(data, options_with(0.1, workers));
    for (const int64_t index : {5, 6, 7, 0, 3, 3, 4, 1}) {
      const LabeledBatch batch = loader.batch(index).labeled;
      EXPECT_TRUE(at::equal(batch.image_BCHW, expected[static_cast<size_t>(index)].image_BCHW)) << workers << ' ' << index;
      EXPECT_TRUE(at::equal(batch.label_BHW, expected[static_cast<size_t>(index)].label_BHW)) << workers << ' ' << index;
    }
  }
}

}  // namespace
}  // namespace semiseg
