#include "semiseg/loader.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <set>
#include <thread>

#include "semiseg/error.h"

namespace semiseg {
namespace {

// Images in memory: noise in green and blue, while red and the label hold the image's index.
class FakeDataset : public Dataset {
 public:
  std::map<Split, int64_t> sizes{{Split::kLabeled, 5}, {Split::kUnlabeled, 7}, {Split::kVal, 6}};
  std::set<std::string> broken, mislabeled;
  std::chrono::microseconds delay{0};
  mutable std::atomic<int> reads{0};

  int64_t size(Split split) const override { return sizes.at(split); }

  Sample get(Split split, int64_t index) const override {
    ++reads;
    // Later images are read faster, so that several threads finish out of order.
    std::this_thread::sleep_for(delay * (8 - index % 8));
    const std::string name = id(split, index);
    if (broken.count(name) != 0) throw Error(ErrorKind::kData, "the file is truncated", name);
    const int64_t H = 40 + index, W = 50 + index;
    Random random(99, Purpose::kScene, static_cast<uint64_t>(index), static_cast<uint32_t>(split));
    Sample sample{at::empty({H, W, 3}, at::kByte), {}, name};
    auto* values = sample.image_HWC.data_ptr<uint8_t>();
    for (int64_t i = 0; i < 3 * H * W; ++i) values[i] = static_cast<uint8_t>(i % 3 == 0 ? index : random.below(256));
    if (split != Split::kUnlabeled) sample.label_HW = at::full({H, mislabeled.count(name) != 0 ? W - 1 : W}, index, at::kByte);
    return sample;
  }

  Tensor label(Split split, int64_t index) const override { return get(split, index).label_HW; }
  std::string id(Split split, int64_t index) const override {
    return str("split", static_cast<int>(split), "/", index, ".png");
  }
  const ClassSet& classes() const override { return classes_; }

 private:
  ClassSet classes_;
};

// Normalisation with these is the identity on 0..255.
const std::vector<double> kNoMean{0, 0, 0}, kByteStd{1 / 255.0, 1 / 255.0, 1 / 255.0};

LoaderOptions options_with(int64_t workers) {
  LoaderOptions options;
  options.seed = 3;
  options.batch_labeled = 2;
  options.batch_unlabeled = 3;
  options.view = {.crop_H = 16, .crop_W = 20, .scale_low = 0.7, .scale_high = 1.5};
  options.needs = {.unlabeled = true, .strong_views = 2, .mix = true};
  options.workers = workers;
  options.mean = kNoMean;
  options.std = kByteStd;
  return options;
}

void append(std::vector<Tensor>& all, const UnlabeledBatch& batch) {
  all.insert(all.end(), {batch.weak_BCHW, batch.valid_BHW});
  all.insert(all.end(), batch.strong_BCHW.begin(), batch.strong_BCHW.end());
  all.insert(all.end(), batch.cutmix_box_B4.begin(), batch.cutmix_box_B4.end());
}

std::vector<Tensor> tensors_of(const TrainBatch& batch) {
  std::vector<Tensor> all{batch.labeled.image_BCHW, batch.labeled.label_BHW};
  append(all, batch.unlabeled);
  append(all, batch.mix);
  return all;
}

void expect_equal(const TrainBatch& a, const TrainBatch& b) {
  const std::vector<Tensor> left = tensors_of(a), right = tensors_of(b);
  ASSERT_EQ(left.size(), right.size());
  for (size_t i = 0; i < left.size(); ++i) EXPECT_TRUE(at::equal(left[i], right[i])) << "tensor " << i;
}

// The image indices that a batch [B, 3, H, W] of the fake's images shows: red, at the least padded corner.
std::vector<int64_t> images_of(const Tensor& image_BCHW) {
  std::vector<int64_t> indices;
  for (int64_t b = 0; b < image_BCHW.size(0); ++b) indices.push_back(std::lround(image_BCHW[b][0][0][0].item<float>()));
  return indices;
}

TEST(Normalize, NumbersByHand) {
  const std::vector<double> mean{0.5, 0.25, 0.0}, std{0.5, 0.25, 2.0};
  const Tensor image = at::tensor({0, 51, 255, 255, 102, 0}, at::kByte).view({1, 1, 2, 3});
  const Tensor result = normalize(image, mean, std);
  ASSERT_EQ(result.sizes(), (std::vector<int64_t>{1, 3, 1, 2}));
  EXPECT_EQ(result.scalar_type(), at::kFloat);
  EXPECT_TRUE(result.is_contiguous(at::MemoryFormat::ChannelsLast));
  const Tensor expected = at::tensor({-1.0, 1.0, -0.2, 0.6, 0.5, 0.0}, at::kFloat).view({1, 3, 1, 2});
  EXPECT_TRUE(at::allclose(result, expected, 1e-6, 1e-6)) << result;
}

TEST(Loader, ShapesAndTypes) {
  const FakeDataset data;
  Loader loader(data, options_with(1));
  const TrainBatch batch = loader.batch(0);
  EXPECT_EQ(batch.labeled.image_BCHW.sizes(), (std::vector<int64_t>{2, 3, 16, 20}));
  EXPECT_TRUE(batch.labeled.image_BCHW.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_EQ(batch.labeled.label_BHW.sizes(), (std::vector<int64_t>{2, 16, 20}));
  EXPECT_EQ(batch.labeled.label_BHW.scalar_type(), at::kLong);
  EXPECT_EQ(batch.unlabeled.weak_BCHW.sizes(), (std::vector<int64_t>{3, 3, 16, 20}));
  EXPECT_EQ(batch.unlabeled.valid_BHW.scalar_type(), at::kBool);
  EXPECT_TRUE(batch.unlabeled.valid_BHW.all().item<bool>());
  ASSERT_EQ(batch.unlabeled.strong_BCHW.size(), 2U);
  EXPECT_FALSE(at::equal(batch.unlabeled.strong_BCHW[0], batch.unlabeled.strong_BCHW[1]));
  ASSERT_EQ(batch.unlabeled.cutmix_box_B4.size(), 2U);
  EXPECT_EQ(batch.unlabeled.cutmix_box_B4[0].sizes(), (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(batch.unlabeled.cutmix_box_B4[0].scalar_type(), at::kLong);
  EXPECT_EQ(batch.mix.strong_BCHW.size(), 2U);
  EXPECT_TRUE(batch.mix.cutmix_box_B4.empty());
}

TEST(Loader, ReadsOnlyWhatIsNeeded) {
  FakeDataset data;
  data.sizes[Split::kUnlabeled] = 0;
  LoaderOptions options = options_with(1);
  options.needs = {};
  const TrainBatch labeled = Loader(data, options).batch(0);
  EXPECT_TRUE(labeled.labeled.image_BCHW.defined());
  EXPECT_FALSE(labeled.unlabeled.weak_BCHW.defined());
  EXPECT_FALSE(labeled.mix.weak_BCHW.defined());

  data.sizes[Split::kUnlabeled] = 7;
  options.needs = {.unlabeled = true, .strong_views = 1, .mix = false};
  const TrainBatch unmixed = Loader(data, options).batch(0);
  EXPECT_EQ(unmixed.unlabeled.strong_BCHW.size(), 1U);
  EXPECT_TRUE(unmixed.unlabeled.cutmix_box_B4.empty());
  EXPECT_FALSE(unmixed.mix.weak_BCHW.defined());
}

TEST(Loader, BatchesDoNotDependOnThreadsOrOnTheOrderOfCalls) {
  FakeDataset data;
  Loader alone(data, options_with(0));
  std::vector<TrainBatch> expected;
  for (int64_t index = 0; index < 8; ++index) expected.push_back(alone.batch(index));
  EXPECT_FALSE(at::equal(expected[0].labeled.image_BCHW, expected[1].labeled.image_BCHW));

  data.delay = std::chrono::microseconds(100);
  for (const int64_t workers : {0, 1, 8}) {
    Loader loader(data, options_with(workers));
    for (const int64_t index : {0, 1, 2, 6, 7, 3, 3, 4, 0, 5}) {
      SCOPED_TRACE(str(workers, " workers, batch ", index));
      expect_equal(loader.batch(index), expected[static_cast<size_t>(index)]);
    }
    // A fresh loader that starts in the middle, as a resumed run does.
    Loader resumed(data, options_with(workers));
    expect_equal(resumed.batch(5), expected[5]);
    expect_equal(resumed.batch(6), expected[6]);
  }
}

TEST(Loader, AnotherSeedGivesOtherBatches) {
  const FakeDataset data;
  LoaderOptions other = options_with(0);
  other.seed = 4;
  const TrainBatch a = Loader(data, options_with(0)).batch(0), b = Loader(data, other).batch(0);
  EXPECT_FALSE(at::equal(a.unlabeled.weak_BCHW, b.unlabeled.weak_BCHW));
}

TEST(Loader, EveryImageIsSeenOnceAPassAndEachPassHasItsOrder) {
  const FakeDataset data;
  Loader loader(data, options_with(2));
  std::vector<int64_t> labeled, unlabeled, mix;
  for (int64_t index = 0; index < 35; ++index) {
    const TrainBatch batch = loader.batch(index);
    const auto collect = [](std::vector<int64_t>& all, const std::vector<int64_t>& more) {
      all.insert(all.end(), more.begin(), more.end());
    };
    collect(labeled, images_of(batch.labeled.image_BCHW));
    collect(unlabeled, images_of(batch.unlabeled.weak_BCHW));
    collect(mix, images_of(batch.mix.weak_BCHW));
    for (int64_t b = 0; b < 2; ++b) {  // label and image are of one file
      EXPECT_TRUE((batch.labeled.label_BHW[b] == batch.labeled.label_BHW[b][0][0]).all().item<bool>());
      EXPECT_EQ(batch.labeled.label_BHW[b][0][0].item<int64_t>(), images_of(batch.labeled.image_BCHW)[static_cast<size_t>(b)]);
    }
  }
  EXPECT_NE(unlabeled, mix);
  for (const auto& [draws, size] : {std::pair(labeled, 5), std::pair(unlabeled, 7), std::pair(mix, 7)}) {
    std::set<std::vector<int64_t>> orders;
    for (auto begin = draws.begin(); draws.end() - begin >= size; begin += size) {
      EXPECT_EQ(std::set<int64_t>(begin, begin + size).size(), static_cast<size_t>(size));
      orders.emplace(begin, begin + size);
    }
    EXPECT_GT(orders.size(), 10U);
  }
}

TEST(Loader, OrderIsThePermutationOfThePass) {
  const FakeDataset data;
  Loader loader(data, options_with(0));
  std::vector<int64_t> first;
  for (int64_t index = 0; index < 3; ++index) {
    for (const int64_t image : images_of(loader.batch(index).labeled.image_BCHW)) first.push_back(image);
  }
  Random pass0(3, Purpose::kOrder, 0, 0), pass1(3, Purpose::kOrder, 1, 0);
  std::vector<int64_t> expected = pass0.permutation(5);
  expected.push_back(pass1.permutation(5)[0]);
  EXPECT_EQ(first, expected);
}

TEST(Loader, AnErrorNamesTheFirstFileOfTheBatchThatNeedsIt) {
  FakeDataset data;
  data.delay = std::chrono::microseconds(50);
  const Random order(3, Purpose::kOrder, 0, 0);
  const std::vector<int64_t> images = Random(order).permutation(5);
  // Both images of batch 1 are broken; batch 0 is not touched.
  data.broken = {data.id(Split::kLabeled, images[2]), data.id(Split::kLabeled, images[3])};
  for (const int64_t workers : {0, 1, 4}) {
    Loader loader(data, options_with(workers));
    EXPECT_NO_THROW(loader.batch(0));
    for (int attempt = 0; attempt < 2; ++attempt) {
      try {
        loader.batch(1);
        ADD_FAILURE() << "no error with " << workers << " workers";
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kData);
        EXPECT_EQ(error.where(), data.id(Split::kLabeled, images[2]));
      }
    }
    EXPECT_NO_THROW(loader.batch(0));
  }
}

TEST(Loader, ALabelOfAnotherSizeIsAnError) {
  FakeDataset data;
  for (int64_t i = 0; i < 5; ++i) data.mislabeled.insert(data.id(Split::kLabeled, i));
  Loader loader(data, options_with(1));
  EXPECT_THROW(loader.batch(0), Error);
}

TEST(Loader, EmptyListsAreErrors) {
  FakeDataset data;
  data.sizes[Split::kUnlabeled] = 0;
  EXPECT_THROW(Loader(data, options_with(1)), Error);
  LoaderOptions supervised = options_with(1);
  supervised.needs = {};
  EXPECT_NO_THROW(Loader(data, supervised));
  data.sizes[Split::kLabeled] = 0;
  EXPECT_THROW(Loader(data, supervised), Error);
}

TEST(Loader, DestructionDropsWhatIsReadAhead) {
  FakeDataset data;
  data.delay = std::chrono::microseconds(500);
  LoaderOptions options = options_with(1);
  options.prefetch = 20;
  { Loader(data, options).batch(0); }
  EXPECT_GE(data.reads, 8);
  EXPECT_LT(data.reads, 20);  // of 168
}

TEST(Loader, CountsTheWaitOnce) {
  FakeDataset data;
  data.delay = std::chrono::microseconds(1000);
  Loader loader(data, options_with(0));
  loader.batch(0);
  EXPECT_GT(loader.take_wait_seconds(), 0.008);
  EXPECT_EQ(loader.take_wait_seconds(), 0.0);
}

TEST(OrderedReader, ReadsInOrder) {
  FakeDataset data;
  data.delay = std::chrono::microseconds(100);
  for (const int64_t workers : {0, 1, 4}) {
    OrderedReader reader(data, Split::kVal, workers);
    for (int64_t index = 0; index < 6; ++index) {
      const Sample sample = reader.next();
      EXPECT_EQ(sample.id, data.id(Split::kVal, index));
      EXPECT_EQ(sample.label_HW[0][0].item<int64_t>(), index);
    }
  }
}

TEST(OrderedReader, ThrowsWhereTheBrokenImageStands) {
  FakeDataset data;
  data.broken = {data.id(Split::kVal, 3)};
  for (const int64_t workers : {0, 1, 4}) {
    OrderedReader reader(data, Split::kVal, workers);
    for (int64_t index = 0; index < 3; ++index) EXPECT_EQ(reader.next().id, data.id(Split::kVal, index));
    EXPECT_THROW(reader.next(), Error);
    EXPECT_EQ(reader.next().id, data.id(Split::kVal, 4));
  }
}

}  // namespace
}  // namespace semiseg
