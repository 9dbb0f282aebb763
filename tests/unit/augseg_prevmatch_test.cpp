#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "methods/parts.h"
#include "models/layers.h"
#include "semiseg/checkpoint.h"
#include "semiseg/ops.h"

namespace semiseg {
namespace {

constexpr int64_t K = 3, kSide = 32;

// A network of a few hundred weights with everything that methods rely on: several features, BatchNorm, and dropout.
class TinyBackbone : public Backbone {
 public:
  TinyBackbone()
      : conv_(register_module("conv", std::make_shared<Conv2d>(3, 8, 5, ConvOptions{.stride = 4, .padding = 2}))),
        norm_(register_module("norm", std::make_shared<BatchNorm2d>(8))) {}
  std::vector<Tensor> forward(Tensor image_BCHW) override {
    const auto fine = at::relu(norm_->forward(conv_->forward(image_BCHW)));
    return {fine, at::avg_pool2d(fine, {2, 2})};
  }
  std::vector<int64_t> channels() const override { return {8, 8}; }

 private:
  std::shared_ptr<Conv2d> conv_;
  std::shared_ptr<BatchNorm2d> norm_;
};

class TinyDecoder : public Decoder {
 public:
  explicit TinyDecoder(double dropout)
      : conv_(register_module("conv", std::make_shared<Conv2d>(16, 8, 3, ConvOptions{.padding = 1}))),
        dropout_(register_module("dropout", std::make_shared<Dropout2d>(dropout))) {}
  Tensor forward(const std::vector<Tensor>& features) override {
    const auto coarse = at::upsample_nearest2d(features[1], {features[0].size(2), features[0].size(3)});
    return dropout_->forward(at::relu(conv_->forward(at::cat({features[0], coarse}, 1))));
  }
  int64_t channels() const override { return 8; }

 private:
  std::shared_ptr<Conv2d> conv_;
  std::shared_ptr<Dropout2d> dropout_;
};

MethodParts make_parts(uint64_t seed = 7, double dropout = 0) {
  const auto make_network = [dropout](uint32_t) {
    at::NoGradGuard no_grad;
    auto network = std::make_shared<Segmenter>(std::make_shared<TinyBackbone>(), std::make_shared<TinyDecoder>(dropout), K);
    for (const auto& item : network->named_parameters()) {
      const auto& weight = item.value();
      if (weight.dim() == 4)
        Tensor(weight).copy_(at::sin(at::arange(weight.numel(), at::kFloat) * 1.7).mul(0.5).view_as(weight));
      else
        Tensor(weight).fill_(item.key().ends_with("bias") ? 0 : 1);
    }
    return network;
  };
  return {make_network, SupervisedLoss(LossConfig{}, {}, {}, torch::kCPU), K, {}, {0.5, 0.3, 0.2}, torch::kCPU, seed};
}

// Smooth images, so that nothing depends on a generator.
Tensor image(int64_t count, double phase) {
  return at::sin(at::arange(count * 3 * kSide * kSide, at::kFloat) * 0.01 + phase).view({count, 3, kSide, kSide});
}

UnlabeledBatch unlabeled(int64_t count, double phase, int64_t views) {
  UnlabeledBatch batch;
  batch.weak_BCHW = image(count, phase);
  for (int64_t view = 0; view < views; ++view) {
    batch.strong_BCHW.push_back(image(count, phase + 0.3 * static_cast<double>(view + 1)));
    batch.cutmix_box_B4.push_back(at::tensor(std::vector<int64_t>{4, 4, 20, 28 - 8 * view}, at::kLong).repeat({count, 1}));
    batch.draw_BD.push_back(at::cos(at::arange(count * (K + 1), at::kFloat)).abs().mul(0.99).view({count, K + 1}));
  }
  batch.valid_BHW = at::ones({count, kSide, kSide}, at::kBool);
  return batch;
}

TrainBatch make_batch(int64_t labeled, int64_t count, int64_t views) {
  TrainBatch batch;
  batch.labeled.image_BCHW = image(labeled, 0);
  batch.labeled.label_BHW = at::arange(labeled * kSide * kSide).remainder(K).view({labeled, kSide, kSide});
  batch.unlabeled = unlabeled(count, 1, views);
  batch.mix = unlabeled(count, 2, views);
  return batch;
}

SemiConfig make_config(const std::string& method) {
  SemiConfig config;
  config.method = method;
  config.history = 2;
  config.views = 2;
  config.feature_dropout = 0.5;
  config.threshold.value = method == "augseg" ? 0 : 0.95;
  return config;
}

std::shared_ptr<Method> make(const SemiConfig& config, const MethodParts& parts = make_parts()) {
  const auto method = methods().at(config.method)(config, parts);
  method->student().train();
  return method;
}

// Makes the network predict the same probabilities everywhere, whatever it sees.
void fix_prediction(Segmenter& network, const std::vector<double>& probability_K) {
  at::NoGradGuard no_grad;
  const auto parameters = network.named_parameters();
  Tensor(parameters["segmentation_head.0.weight"]).fill_(0);
  Tensor(parameters["segmentation_head.0.bias"]).copy_(at::tensor(probability_K, at::kFloat).log());
}

Tensor up(const Tensor& logits_BKhw) { return upsample_logits(logits_BKhw, kSide, kSide); }

Tensor pixel_loss(const Tensor& logits_BKHW, const Tensor& class_BHW) {
  return at::cross_entropy_loss(logits_BKHW, class_BHW, {}, at::Reduction::None, kIgnore);
}

TEST(AugSegAndPrevMatch, GiveGradientsToTheStudentAlone) {
  for (const std::string name : {"augseg", "prevmatch"}) {
    SemiConfig config = make_config(name);
    config.threshold.value = 0;
    config.align_distribution = true;
    const auto method = make(config);
    method->end_epoch({5, 20, 5}, 0.5);
    const auto out = method->step(make_batch(2, 2, 2), {10, 20, 5});
    EXPECT_TRUE(std::isfinite(out.loss.item<double>())) << name;
    EXPECT_EQ(out.pseudo_2K[0].sum().item<int64_t>(), 2 * kSide * kSide) << name;  // mixed-in pixels are not counted
    out.loss.backward();
    for (const auto& p : method->named_parameters())
      EXPECT_EQ(p.value().grad().defined(), p.key().rfind("student.", 0) == 0) << name << " " << p.key();
  }
}

// --- AugSeg ---

// Batches of two labelled and three unlabelled images: perm is {2, 0, 1}, so that its direction shows.
TrainBatch augseg_batch() {
  TrainBatch batch = make_batch(2, 3, 1);
  batch.unlabeled.cutmix_box_B4 = {at::tensor({0, 0, 16, 20, 4, 8, 30, 32, 10, 10, 20, 20}, at::kLong).view({3, 4}),
                                   at::tensor({8, 8, 32, 32, 0, 0, 12, 32, 5, 0, 25, 25}, at::kLong).view({3, 4})};
  batch.unlabeled.draw_BD = {at::zeros({3, K + 1})};
  batch.unlabeled.draw_BD[0].select(1, 0).copy_(at::tensor({0.5, 0.9, 0.1}));
  return batch;
}

TEST(AugSeg, AgreesWithAPlainFormOfThePublishedStep) {
  using at::indexing::Slice;
  for (const bool ignored_labels : {false, true}) {
    TrainBatch batch = augseg_batch();
    if (ignored_labels) batch.labeled.label_BHW.narrow(1, 6, 8).fill_(kIgnore);
    const auto student = make_parts().make_network(0), teacher = make_parts().make_network(0);
    teacher->eval();
    const auto p = up(teacher->forward(batch.unlabeled.weak_BCHW)).softmax(1).detach();
    auto [maxprob, label] = p.max(1);
    const auto entropy = -(p * (p + 1e-10).log()).sum(1) / std::log(3.0);
    const auto confidence = ((1 - entropy) * maxprob).mean({1, 2});
    const auto median = maxprob.median().item<double>();

    // The coin of image 1 lies below its confidence, those of the others above.
    std::vector<bool> injected{true, false, true};
    for (int64_t i = 0; i < 3; ++i) {
      const double c = confidence[i].item<double>();
      batch.unlabeled.draw_BD[0][i][K] = injected[static_cast<size_t>(i)] ? (1 + c) / 2 : c / 2;
    }
    const std::vector<int64_t> perm{2, 0, 1};
    auto picture = batch.unlabeled.strong_BCHW[0].clone();
    auto mix_picture = picture.clone(), mix_label = label.clone(), mix_maxprob = maxprob.clone();
    const auto box = [&](size_t kind, int64_t i) {
      const auto edge = [&](int64_t e) { return batch.unlabeled.cutmix_box_B4[kind][i][e].item<int64_t>(); };
      return std::pair(Slice(edge(0), edge(2)), Slice(edge(1), edge(3)));
    };
    for (int64_t i = 0; i < 3; ++i) {
      if (!injected[static_cast<size_t>(i)]) continue;
      const auto [rows, columns] = box(0, i);
      const int64_t from = perm[static_cast<size_t>(i)] % 2;
      mix_picture.index_put_({i, Slice(), rows, columns}, batch.labeled.image_BCHW.index({from, Slice(), rows, columns}));
      mix_label.index_put_({i, rows, columns}, batch.labeled.label_BHW.index({from, rows, columns}));
      mix_maxprob.index_put_({i, rows, columns}, 1.0);
    }
    for (int64_t i = 0; i < 3; ++i) {
      const auto [rows, columns] = box(1, i);
      const int64_t from = perm[static_cast<size_t>(i)];
      picture.index_put_({i, Slice(), rows, columns}, mix_picture.index({from, Slice(), rows, columns}));
      label.index_put_({i, rows, columns}, mix_label.index({from, rows, columns}));
      maxprob.index_put_({i, rows, columns}, mix_maxprob.index({from, rows, columns}));
    }
    EXPECT_EQ((label == kIgnore).any().item<bool>(), ignored_labels);
    student->train();
    const auto logits = up(student->forward(at::cat({batch.labeled.image_BCHW, picture})));
    const auto supervised =
        pixel_loss(logits.narrow(0, 0, 2), batch.labeled.label_BHW).sum() / (batch.labeled.label_BHW != kIgnore).sum();
    const auto target = at::where(maxprob >= median, label, kIgnore);
    // The published mean is over all pixels, which differ from those that count only where labels are ignored.
    const auto unsupervised = pixel_loss(logits.narrow(0, 2, 3), target).sum() / (label != kIgnore).sum();

    SemiConfig config = make_config("augseg");
    config.threshold.value = median;
    config.weight = 1.5;
    const auto method = make(config);
    const auto out = method->step(batch, {});
    EXPECT_NEAR(out.scalars.at("loss_supervised").item<double>(), supervised.item<double>(), 1e-5);
    EXPECT_NEAR(out.scalars.at("loss_unsupervised").item<double>(), unsupervised.item<double>(), 1e-5);
    EXPECT_NEAR(out.loss.item<double>(), (supervised + 1.5 * unsupervised).item<double>(), 1e-5);
  }
}

TEST(AugSeg, InjectsLabelledContentWhereTheCoinExceedsTheConfidence) {
  // p = (.7, .2, .1): H = .80182, c = (1 - .80182 / ln 3) .7 = .18911. A single image takes in B what A brought into itself:
  // the left half, with class 2, whose loss is -ln .1; elsewhere it is -ln .7.
  constexpr double kUntouched = 0.356675, kInjected = (0.356675 + 2.302585) / 2;
  for (const auto& [coin, expected] : {std::pair(0.188, kUntouched), std::pair(0.190, kInjected)}) {
    for (const bool padding : {false, true}) {
      TrainBatch batch = make_batch(2, 1, 1);
      batch.labeled.label_BHW.fill_(2);
      batch.unlabeled.cutmix_box_B4 = {at::tensor({0, 0, 32, 16}, at::kLong).view({1, 4}),
                                       at::tensor({0, 0, 32, 32}, at::kLong).view({1, 4})};
      batch.unlabeled.draw_BD[0][0][K] = coin;
      // Padding on the right is not counted: the quarter beyond column 24.
      if (padding) batch.unlabeled.valid_BHW.narrow(2, 24, 8).fill_(false);
      const double by_hand = padding && expected == kInjected ? (8 * 0.356675 + 16 * 2.302585) / 24 : expected;
      const auto method = make(make_config("augseg"));
      fix_prediction(method->student(), {0.7, 0.2, 0.1});
      fix_prediction(method->predictor(), {0.7, 0.2, 0.1});
      const auto out = method->step(batch, {});
      EXPECT_NEAR(out.scalars.at("loss_unsupervised").item<double>(), by_hand, 1e-5) << coin << padding;
    }
  }
}

TEST(AugSeg, TeacherIsACopyInTheFirstEpochThenAnAverage) {
  const auto method = make(make_config("augseg"));
  const auto bias = [](Segmenter& network) { return network.named_parameters()["segmentation_head.0.bias"]; };
  const auto set = [&](double value) {
    at::NoGradGuard no_grad;
    bias(method->student()).fill_(value);
  };
  set(1);
  method->after_update({0, 4, 2});
  set(2);
  method->after_update({1, 4, 2});
  EXPECT_EQ(bias(method->predictor())[0].item<float>(), 2);
  set(5);
  method->after_update({2, 4, 2});  // keeps min(1 - 1/3, .996)
  EXPECT_NEAR(bias(method->predictor())[0].item<float>(), 3, 1e-6);
}

// --- PrevMatch ---

int64_t stored(Method& method) { return method.named_buffers()["history.stored"].item<int64_t>(); }

TEST(PrevMatch, IsUniMatchWhileNothingIsStored) {
  const auto parts = make_parts(7, /*dropout=*/0.2);
  const auto loss = [&](const std::string& name, const SemiConfig& from) {
    SemiConfig config = from;
    config.method = name;
    const auto method = make(config, parts);
    method->end_epoch({5, 20, 5}, std::nullopt);
    reseed_dropout(*method, 3, 12);
    const auto out = method->step(make_batch(2, 2, 2), {12, 20, 5});
    EXPECT_GT(out.scalars.at("loss_unsupervised").item<double>(), 0);
    return out.loss.item<double>();
  };
  for (const std::string mix : {"cutmix", "classmix", "none"}) {
    SemiConfig config = make_config("prevmatch");
    config.threshold.value = 0.4;
    config.mix = mix;
    config.align_distribution = mix == "classmix";
    config.weight = 0.7;
    EXPECT_EQ(loss("prevmatch", config), loss("unimatch", config)) << mix;
  }
}

TEST(PrevMatch, AgreesWithAPlainFormOfThePublishedStep) {
  using at::indexing::Slice;
  TrainBatch batch = make_batch(2, 2, 2);
  batch.unlabeled.valid_BHW.narrow(1, 0, 6).fill_(false);
  const Progress progress{7, 20, 5};  // epoch 1 of 4: r = 1/2
  SemiConfig config = make_config("prevmatch");

  // One past model, with a head of another sharpness.
  const auto sharpen = [](Segmenter& network, double factor) {
    at::NoGradGuard no_grad;
    Tensor(network.named_parameters()["segmentation_head.0.weight"]).mul_(factor);
  };
  const auto student = make_parts().make_network(0), past = make_parts().make_network(0);
  sharpen(*past, -3);
  student->eval();
  past->eval();
  const auto mix = up(student->forward(batch.mix.weak_BCHW)).softmax(1).max(1);
  const auto mix_past = up(past->forward(batch.mix.weak_BCHW)).softmax(1).max(1);
  const auto weak_past = up(past->forward(batch.unlabeled.weak_BCHW)).softmax(1).max(1);

  // The dropped features' layer draws by its place among the method's dropout layers.
  const auto sample = make(config);
  uint32_t layer = 0;
  for (const auto& module : sample->modules(/*include_self=*/false)) {
    if (module == sample->named_children()["feature_dropout"]) break;
    layer += dynamic_cast<Dropout2d*>(module.get()) != nullptr;
  }
  Dropout2d dropout(0.5);
  dropout.reseed(3, 7, layer);

  student->train();
  auto features = student->encode(at::cat({batch.labeled.image_BCHW, batch.unlabeled.weak_BCHW}));
  for (auto& feature : features) feature = at::cat({feature, dropout.forward(feature.narrow(0, 2, 2))});
  const auto all = up(student->decode(features)).chunk(3);
  const auto weak = all[1].detach().softmax(1).max(1);
  const auto cut = [&](const Tensor& target, const Tensor& source, size_t view) {
    auto result = target.clone();
    const int64_t right = view == 0 ? 28 : 20;
    const std::vector<at::indexing::TensorIndex> place =
        target.dim() == 4 ? std::vector<at::indexing::TensorIndex>{Slice(), Slice(), Slice(4, 20), Slice(4, right)}
                          : std::vector<at::indexing::TensorIndex>{Slice(), Slice(4, 20), Slice(4, right)};
    result.index_put_(place, source.index(place));
    return result;
  };
  const auto s = up(student->forward(at::cat({cut(batch.unlabeled.strong_BCHW[0], batch.mix.strong_BCHW[0], 0),
                                              cut(batch.unlabeled.strong_BCHW[1], batch.mix.strong_BCHW[1], 1)})))
                     .chunk(2);
  const auto weighted = [](const Tensor& loss, const Tensor& confidence, const Tensor& valid, double threshold) {
    return (loss * (confidence >= threshold).logical_and(valid)).sum() / valid.sum();
  };
  // The thresholds accept about half of the pixels; the past models' is the lower of the two settings.
  config.threshold.value = at::cat({std::get<0>(weak).flatten(), std::get<0>(weak_past).flatten()}).median().item<double>();
  const double threshold = config.threshold.value, past_threshold = std::min(0.9, threshold);
  const auto unsupervised = [&](const auto& of_weak, const auto& of_mix, double t) {
    const auto& [confidence, label] = of_weak;
    const auto& [mix_confidence, mix_label] = of_mix;
    const auto& valid = batch.unlabeled.valid_BHW;
    Tensor sum = 0.5 * weighted(pixel_loss(all[2], label), confidence, valid, t);
    for (size_t view = 0; view < 2; ++view)
      sum = sum + 0.25 * weighted(pixel_loss(s[view], cut(label, mix_label, view)), cut(confidence, mix_confidence, view),
                                  cut(valid, batch.mix.valid_BHW, view), t);
    return sum;
  };
  const auto x = pixel_loss(all[0], batch.labeled.label_BHW).mean();
  const auto own = unsupervised(weak, mix, threshold), prev = unsupervised(weak_past, mix_past, past_threshold);
  EXPECT_GT((own - prev).abs().item<double>(), 1e-2);  // the two kinds of labels differ

  const auto method = make(config);
  sharpen(method->student(), -3);
  method->end_epoch({5, 20, 5}, 0.5);
  sharpen(method->student(), -1.0 / 3);
  reseed_dropout(*method, 3, 7);
  EXPECT_NEAR(method->step(batch, progress).loss.item<double>(), ((x + own + 0.5 * prev) / 2.5).item<double>(), 1e-5);
}

// The student says class 0 with .7, a stored model class 1; the labelled images are of class 2, so that by hand
// L = (-ln .1 + -ln .7 - r ln .2) / (2 + r).
std::shared_ptr<Method> with_one_stored(double past_confidence, double threshold) {
  SemiConfig config = make_config("prevmatch");
  config.threshold.value = threshold;
  const auto method = make(config);
  const double rest = (1 - past_confidence) / 2;
  fix_prediction(method->student(), {rest, past_confidence, rest});
  method->end_epoch({5, 20, 5}, 0.5);
  fix_prediction(method->student(), {0.7, 0.2, 0.1});
  return method;
}

TEST(PrevMatch, WeighsPastModelsByATriangleOverTheRun) {
  TrainBatch batch = make_batch(2, 2, 2);
  batch.labeled.label_BHW.fill_(2);
  const auto method = with_one_stored(0.96, 0.6);
  at::NoGradGuard no_grad;
  const std::map<int64_t, std::vector<double>> expected{{4, {0, 0.5, 1, 0.5}}, {5, {0, 0.5, 1, 2.0 / 3, 1.0 / 3}}, {1, {1}}};
  for (const auto& [epochs, weights] : expected) {
    for (size_t epoch = 0; epoch < weights.size(); ++epoch) {
      const double r = weights[epoch];
      // The last epoch may be cut short.
      const auto out = method->step(batch, {static_cast<int64_t>(epoch) * 10 + 3, epochs * 10 - 4, 10});
      EXPECT_NEAR(out.loss.item<double>(), (2.302585 + 0.356675 + r * 1.609438) / (2 + r), 1e-5) << epoch << " of " << epochs;
    }
  }
}

TEST(PrevMatch, AcceptsPastLabelsFromNineTenthsOrTheLowerThreshold) {
  TrainBatch batch = make_batch(2, 2, 2);
  batch.labeled.label_BHW.fill_(2);
  at::NoGradGuard no_grad;
  struct Case {
    double confidence, threshold;
    bool accepted;
  };
  for (const auto& [confidence, threshold, accepted] :
       {Case{0.91, 0.95, true}, Case{0.89, 0.95, false}, Case{0.89, 0.8, true}, Case{0.79, 0.8, false}}) {
    const auto out = with_one_stored(confidence, threshold)->step(batch, {10, 20, 5});  // r = 1
    EXPECT_NEAR(out.loss.item<double>(), (2.302585 + (accepted ? 1.609438 : 0)) / 3, 1e-5) << confidence << " " << threshold;
  }
}

TEST(PrevMatch, StoresNewBestsAloneAndReplacesTheOldest) {
  const auto method = make(make_config("prevmatch"));  // room for two
  const auto first_bias = [](torch::nn::Module& network) {
    return network.named_parameters()["segmentation_head.0.bias"][0].item<float>();
  };
  const auto end_epoch = [&](float bias, std::optional<double> miou) {
    {
      at::NoGradGuard no_grad;
      method->student().named_parameters()["segmentation_head.0.bias"].fill_(bias);
    }
    method->end_epoch({5, 20, 5}, miou);
    std::vector<float> kept;
    for (const std::string name : {"history_0", "history_1"}) kept.push_back(first_bias(*method->named_children()[name]));
    return kept;
  };
  using Kept = std::vector<float>;
  EXPECT_EQ(end_epoch(1, 0.0), (Kept{0, 0}));  // nothing learned yet is no best
  EXPECT_EQ(end_epoch(2, 0.3), (Kept{2, 0}));
  EXPECT_EQ(end_epoch(3, 0.3), (Kept{2, 0}));
  EXPECT_EQ(end_epoch(4, std::nullopt), (Kept{2, 0}));
  EXPECT_EQ(end_epoch(5, 0.4), (Kept{2, 5}));
  EXPECT_EQ(end_epoch(6, 0.35), (Kept{2, 5}));
  EXPECT_EQ(end_epoch(7, 0.5), (Kept{7, 5}));
  EXPECT_EQ(end_epoch(8, 0.6), (Kept{7, 8}));
  EXPECT_EQ(stored(*method), 4);
}

TEST(PrevMatch, DrawsItsVotersFromSeedAndStepAlone) {
  // Two equally sure models, of class 1 and of class 2: each step's labels are of the one that is drawn or weighs more. The
  // student's loss is -ln .2 for class 1 and -ln .1 for class 2.
  TrainBatch batch = make_batch(1, 1, 1);
  at::NoGradGuard no_grad;
  const auto votes = [&](uint64_t seed, const std::vector<int64_t>& steps) {
    SemiConfig config = make_config("prevmatch");
    config.threshold.value = 0;
    config.mix = "none";
    config.views = 1;
    config.feature_dropout = 0;
    const auto method = make(config, make_parts(seed));
    fix_prediction(method->student(), {0.02, 0.96, 0.02});
    method->end_epoch({5, 20, 5}, 0.5);
    fix_prediction(method->student(), {0.02, 0.02, 0.96});
    method->end_epoch({10, 20, 5}, 0.6);
    fix_prediction(method->student(), {0.7, 0.2, 0.1});
    std::string result;
    for (const int64_t step : steps) {
      const double loss = method->step(batch, {step, 40, 20}).scalars.at("loss_unsupervised").item<double>() - 0.356675;
      result += std::abs(loss - 1.609438) < 1e-4 ? '1' : std::abs(loss - 2.302585) < 1e-4 ? '2' : '?';
    }
    return result;
  };
  std::vector<int64_t> steps(16);
  for (int64_t i = 0; i < 16; ++i) steps[static_cast<size_t>(i)] = 20 + i % 8;  // r = 1
  const std::string first = votes(1, steps);
  EXPECT_EQ(first.substr(0, 8), first.substr(8));  // the same steps again
  EXPECT_EQ(first.find('?'), std::string::npos) << first;
  EXPECT_NE(first.find('1'), std::string::npos) << first;
  EXPECT_NE(first.find('2'), std::string::npos) << first;
  EXPECT_NE(first, votes(2, steps));
}

TEST(PrevMatch, GoesOnFromACheckpointExactly) {
  const std::string path = testing::TempDir() + "/semiseg_prevmatch.safetensors";
  Config config;
  config.data.format = "synthetic";
  config.semi = make_config("prevmatch");
  config.optim.epochs = 4;
  ClassSet classes;
  classes.names = {"a", "b", "c"};
  classes.colours.resize(3);
  const auto saved = make(config.semi), resumed = make(config.semi);
  fix_prediction(saved->student(), {0.1, 0.8, 0.1});
  saved->end_epoch({5, 20, 5}, 1.0 / 3);
  fix_prediction(saved->student(), {0.1, 0.1, 0.8});
  saved->end_epoch({10, 20, 5}, 0.4);
  fix_prediction(saved->student(), {0.2, 0.1, 0.7});
  saved->end_epoch({15, 20, 5}, 0.45);
  Optimizer optimizer(saved->trained(), config.optim), other_optimizer(resumed->trained(), config.optim);
  save_checkpoint(path, config, classes, TrainState{}, *saved, optimizer);

  at::NoGradGuard no_grad;
  const auto batch = make_batch(2, 2, 2);
  resumed->step(batch, {});  // so that a copy of the counters of before is there
  restore(read_checkpoint(path), *resumed, other_optimizer);
  EXPECT_EQ(stored(*resumed), 3);
  resumed->end_epoch({15, 20, 5}, 0.45);  // no new best
  EXPECT_EQ(stored(*resumed), 3);
  for (int64_t step = 10; step < 14; ++step) {
    for (Method* method : {saved.get(), resumed.get()}) reseed_dropout(*method, 1, step);
    const double expected = saved->step(batch, {step, 20, 5}).loss.item<double>();
    EXPECT_EQ(resumed->step(batch, {step, 20, 5}).loss.item<double>(), expected);
  }
  // The next model goes to the same place.
  for (Method* method : {saved.get(), resumed.get()}) {
    fix_prediction(method->student(), {0.5, 0.3, 0.2});
    method->end_epoch({20, 20, 5}, 0.5);
  }
  const auto expected = saved->named_parameters(), found = resumed->named_parameters();
  for (const auto& item : expected) EXPECT_TRUE(found[item.key()].equal(item.value())) << item.key();
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace semiseg
