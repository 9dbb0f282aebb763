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
  bool unlabeled_truth = false;
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
    if (split == Split::kUnlabeled) {
      // The truth is the green value, so that it can be compared with the view.
      if (unlabeled_truth) sample.label_HW = sample.image_HWC.select(2, 1).slice(1, mislabeled.count(name)).contiguous();
      return sample;
    }
    sample.label_HW = at::full({H, mislabeled.count(name) != 0 ? W - 1 : W}, index, at::kByte);
    return sample;
  }

  Tensor label(Split split, int64_t index) const override { return get(split, index).label_HW; }
  std::string id(Split split, int64_t index) const override {
    return str("split", static_cast<int>(split), "/", index, ".png");
  }
  const ClassSet& classes() const override { return classes_; }

 private:
  ClassSet classes_{{"a", "b", "c"}, {}, {}, {}};
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
  if (!batch.weak_BCHW.defined()) return;
  all.insert(all.end(), {batch.weak_BCHW, batch.valid_BHW});
  all.insert(all.end(), batch.strong_BCHW.begin(), batch.strong_BCHW.end());
  all.insert(all.end(), batch.cutmix_box_B4.begin(), batch.cutmix_box_B4.end());
  all.insert(all.end(), batch.draw_BD.begin(), batch.draw_BD.end());
  if (batch.truth_BHW.defined()) all.push_back(batch.truth_BHW);
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
  ASSERT_EQ(batch.unlabeled.draw_BD.size(), 2U);
  EXPECT_EQ(batch.unlabeled.draw_BD[0].sizes(), (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(batch.unlabeled.draw_BD[0].scalar_type(), at::kFloat);
  EXPECT_FALSE(batch.unlabeled.truth_BHW.defined());
  EXPECT_EQ(batch.mix.strong_BCHW.size(), 2U);
  EXPECT_TRUE(batch.mix.cutmix_box_B4.empty());
  EXPECT_TRUE(batch.mix.draw_BD.empty());
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

  options.needs = {.unlabeled = true, .strong_views = 2, .mix_within = true};
  const TrainBatch within = Loader(data, options).batch(0);
  EXPECT_FALSE(within.mix.weak_BCHW.defined());
  options.needs = {.unlabeled = true, .strong_views = 2, .mix = true};
  const TrainBatch mixed = Loader(data, options).batch(0);
  ASSERT_EQ(within.unlabeled.cutmix_box_B4.size(), 2U);
  for (size_t view = 0; view < 2; ++view) {
    EXPECT_TRUE(at::equal(within.unlabeled.cutmix_box_B4[view], mixed.unlabeled.cutmix_box_B4[view]));
    EXPECT_TRUE(at::equal(within.unlabeled.draw_BD[view], mixed.unlabeled.draw_BD[view]));
  }
}

// Everything that a batch can hold, one way and the other.
std::vector<BatchNeeds> all_needs() {
  return {{.unlabeled = true, .strong_views = 2, .mix = true},
          {.unlabeled = true, .strong_views = 1, .random_strong_view = true, .augseg_boxes = true, .truth = true}};
}

TEST(Loader, BatchesDoNotDependOnThreadsOrOnTheOrderOfCalls) {
  for (const BatchNeeds& needs : all_needs()) {
    FakeDataset data;
    data.unlabeled_truth = true;
    const auto needing = [&](int64_t workers) {
      LoaderOptions options = options_with(workers);
      options.needs = needs;
      return options;
    };
    Loader alone(data, needing(0));
    std::vector<TrainBatch> expected;
    for (int64_t index = 0; index < 8; ++index) expected.push_back(alone.batch(index));
    EXPECT_FALSE(at::equal(expected[0].labeled.image_BCHW, expected[1].labeled.image_BCHW));

    data.delay = std::chrono::microseconds(100);
    for (const int64_t workers : {0, 1, 8}) {
      Loader loader(data, needing(workers));
      for (const int64_t index : {0, 1, 2, 6, 7, 3, 3, 4, 0, 5}) {
        SCOPED_TRACE(str(workers, " workers, batch ", index));
        expect_equal(loader.batch(index), expected[static_cast<size_t>(index)]);
      }
      // A fresh loader that starts in the middle, as a resumed run does.
      Loader resumed(data, needing(workers));
      expect_equal(resumed.batch(5), expected[5]);
      expect_equal(resumed.batch(6), expected[6]);
    }
  }
}

// What processes that train together load.
TEST(Loader, PartsAreThoseOfTheWholeBatch) {
  for (const BatchNeeds& needs : all_needs()) {
    FakeDataset data;
    data.unlabeled_truth = true;
    LoaderOptions options = options_with(2);
    options.batch_labeled = 4;
    options.batch_unlabeled = 6;
    options.needs = needs;
    Loader whole(data, options);
    options.parts = 2;
    Loader first(data, options);
    options.part = 1;
    Loader second(data, options);
    for (const int64_t index : {0, 1, 7}) {
      SCOPED_TRACE(index);
      const auto all = tensors_of(whole.batch(index)), a = tensors_of(first.batch(index)), b = tensors_of(second.batch(index));
      ASSERT_EQ(a.size(), all.size());
      ASSERT_EQ(b.size(), all.size());
      for (size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(at::equal(at::cat({a[i], b[i]}), all[i])) << "tensor " << i;
    }
  }
}

TEST(Loader, DrawsAreUniformBelowOne) {
  const FakeDataset data;
  Loader loader(data, options_with(0));
  std::vector<Tensor> all;
  for (int64_t index = 0; index < 40; ++index) {
    const std::vector<Tensor> draws = loader.batch(index).unlabeled.draw_BD;
    EXPECT_FALSE(at::equal(draws[0], draws[1]));
    all.insert(all.end(), draws.begin(), draws.end());
  }
  const Tensor draws = at::cat(all);  // [240, 4]
  EXPECT_GE(draws.min().item<float>(), 0);
  EXPECT_LT(draws.max().item<float>(), 1);
  EXPECT_LT(draws.min().item<float>(), 0.02);
  EXPECT_GT(draws.max().item<float>(), 0.98);
  EXPECT_TRUE(((draws.mean(0) - 0.5).abs() < 0.08).all().item<bool>()) << draws.mean(0);
}

TEST(Loader, TruthHasTheGeometryOfTheWeakView) {
  FakeDataset data;
  data.unlabeled_truth = true;
  LoaderOptions options = options_with(1);
  options.needs = {.unlabeled = true, .truth = true};
  options.view = {.crop_H = 43, .crop_W = 53, .scale_low = 1, .scale_high = 1};  // some images are cropped, others padded
  Loader loader(data, options);
  int64_t padded = 0;
  for (int64_t index = 0; index < 10; ++index) {
    const UnlabeledBatch batch = loader.batch(index).unlabeled;
    ASSERT_EQ(batch.truth_BHW.scalar_type(), at::kLong);
    // At scale 1 a view copies pixels.
    const Tensor green = batch.weak_BCHW.select(1, 1).round().to(at::kLong);
    EXPECT_TRUE(at::equal(batch.truth_BHW, at::where(batch.valid_BHW, green, kIgnore))) << index;
    padded += batch.valid_BHW.logical_not().sum().item<int64_t>();
  }
  EXPECT_GT(padded, 0);

  for (int64_t i = 0; i < 7; ++i) data.mislabeled.insert(data.id(Split::kUnlabeled, i));
  EXPECT_THROW(Loader(data, options).batch(0), Error);
}

TEST(Loader, AugsegHasTwoBoxesAndOneDrawForAnyNumberOfViews) {
  const FakeDataset data;
  LoaderOptions options = options_with(0);
  for (const int views : {0, 1, 3}) {
    for (const bool mix : {false, true}) {
      options.needs = {.unlabeled = true, .strong_views = views, .mix = mix, .augseg_boxes = true};
      const TrainBatch batch = Loader(data, options).batch(0);
      EXPECT_EQ(batch.unlabeled.strong_BCHW.size(), static_cast<size_t>(views));
      EXPECT_EQ(batch.unlabeled.cutmix_box_B4.size(), 2U);
      EXPECT_EQ(batch.unlabeled.draw_BD.size(), 1U);
      EXPECT_EQ(batch.mix.weak_BCHW.defined(), mix);
      EXPECT_TRUE(batch.mix.cutmix_box_B4.empty());
    }
  }
  // The boxes are draw_augseg_box's: of labelled content the first.
  Random labeled(3, Purpose::kCutMix, 2, 1), unlabeled(3, Purpose::kCutMix, 2, 1 | 1 << 8);
  const Box first = draw_augseg_box(16, 20, true, labeled), second = draw_augseg_box(16, 20, false, unlabeled);
  const auto boxes = Loader(data, options).batch(0).unlabeled.cutmix_box_B4;
  EXPECT_TRUE(at::equal(boxes[0][2], at::tensor({first.top, first.left, first.bottom, first.right}, at::kLong)));
  EXPECT_TRUE(at::equal(boxes[1][2], at::tensor({second.top, second.left, second.bottom, second.right}, at::kLong)));
}

TEST(Loader, StrongViewsAreOfTheKindAskedFor) {
  const FakeDataset data;
  LoaderOptions options = options_with(0);
  for (const bool random_view : {false, true}) {
    options.needs = {.unlabeled = true, .strong_views = 1, .random_strong_view = random_view};
    const UnlabeledBatch batch = Loader(data, options).batch(0).unlabeled;
    for (int64_t b = 0; b < 3; ++b) {
      const Tensor weak = batch.weak_BCHW[b].round().to(at::kByte).permute({1, 2, 0}).contiguous();
      Random random(3, Purpose::kStrongView, static_cast<uint64_t>(b), 1);
      const Tensor expected = random_view ? random_strong_view(weak, random) : strong_view(weak, random);
      EXPECT_TRUE(at::equal(batch.strong_BCHW[0][b].round().to(at::kByte).permute({1, 2, 0}), expected)) << b;
    }
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

// Waits until the readers have stopped, and gives the number of images they have read.
int reads_at_rest(const FakeDataset& data) {
  int before = -1;
  while (before != data.reads) {
    before = data.reads;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return before;
}

TEST(Loader, ReadsAheadNoFurtherThanAsked) {
  const FakeDataset data;
  LoaderOptions options = options_with(3);
  options.prefetch = 2;
  constexpr int kImages = 2 + 3 + 3;  // of a batch
  Loader loader(data, options);
  for (int index = 0; index < 3; ++index) {
    loader.batch(index);
    EXPECT_EQ(reads_at_rest(data), (index + 1 + 2) * kImages);
  }
  loader.batch(100);  // those read ahead are given up, and as many are read from there on
  EXPECT_EQ(reads_at_rest(data), 5 * kImages + 3 * kImages);
}

TEST(OrderedReader, ReadsAheadTwoSamplesAThread) {
  FakeDataset data;
  data.sizes[Split::kVal] = 50;
  OrderedReader reader(data, Split::kVal, 3);
  for (int index = 0; index < 4; ++index) {
    reader.next();
    EXPECT_EQ(reads_at_rest(data), index + 1 + 6);
  }
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

TEST(OrderedReader, ReadsEveryNth) {
  const FakeDataset data;
  for (const int64_t first : {0, 1}) {
    OrderedReader reader(data, Split::kVal, 2, first, /*stride=*/2);
    for (int64_t index = first; index < data.size(Split::kVal); index += 2)
      EXPECT_EQ(reader.next().id, data.id(Split::kVal, index));
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
