#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "methods/parts.h"
#include "models/layers.h"
#include "semiseg/error.h"
#include "semiseg/pseudo_label.h"
#include "tests/tiny_network.h"

namespace semiseg {
namespace {

constexpr int64_t K = 3, kSide = 32, kImages = 2;

std::function<std::shared_ptr<Segmenter>(uint32_t)> network_maker(int64_t num_classes, bool decodes_images_apart = false) {
  return [=](uint32_t purpose) {
    at::NoGradGuard no_grad;
    const auto network = make_tiny_network(num_classes, decodes_images_apart);
    for (const auto& item : network->named_parameters()) {
      const Tensor& weight = item.value();
      if (weight.dim() == 4)
        Tensor(weight).copy_(at::sin(at::arange(weight.numel(), at::kFloat) * 1.7 + purpose).mul(0.3).view_as(weight));
      else
        Tensor(weight).fill_(item.key().ends_with("bias") ? 0 : 1);
    }
    return network;
  };
}

MethodParts make_parts(bool decodes_images_apart = false) {
  LossConfig loss;
  loss.logit_adjustment = 0.5;
  const std::vector<double> weights{1, 2, 3}, shares{0.5, 0.3, 0.2};
  return {network_maker(K, decodes_images_apart), SupervisedLoss(loss, weights, shares, torch::kCPU), K, weights, shares};
}

// Smooth images, so that nothing depends on a generator.
Tensor image(double phase) {
  return at::sin(at::arange(kImages * 3 * kSide * kSide, at::kFloat) * 0.01 + phase).view({kImages, 3, kSide, kSide});
}

Tensor stripes() { return at::arange(kImages * kSide * kSide).remainder(K).view({kImages, kSide, kSide}); }

UnlabeledBatch unlabeled(double phase, int views, int64_t padded_rows) {
  UnlabeledBatch batch;
  batch.weak_BCHW = image(phase);
  for (int view = 0; view < views; ++view) batch.strong_BCHW.push_back(image(phase + 0.3 * (view + 1)));
  batch.valid_BHW = at::ones({kImages, kSide, kSide}, at::kBool);
  batch.valid_BHW.narrow(1, 0, padded_rows).fill_(false);
  batch.truth_BHW = stripes();
  return batch;
}

// What a method asks for, and nothing else.
TrainBatch make_batch(const BatchNeeds& needs, double phase = 0) {
  TrainBatch batch;
  batch.labeled = {image(phase), stripes()};
  if (!needs.unlabeled) return batch;
  batch.unlabeled = unlabeled(phase + 1, needs.strong_views, 8);
  if (needs.mix) batch.mix = unlabeled(phase + 2, needs.strong_views, 0);
  const auto box_B4 = at::tensor({4, 4, 20, 28, 0, 0, 0, 0}, at::kLong).view({kImages, 4});
  if (needs.mix || needs.mix_within || needs.augseg_boxes) {
    batch.unlabeled.cutmix_box_B4 = {box_B4, box_B4 + 2};
    batch.unlabeled.draw_BD = {at::arange(kImages * (K + 1), at::kFloat).view({kImages, K + 1}) / 10,
                               at::full({kImages, K + 1}, 0.5f)};
  }
  return batch;
}

// All but self_training, which is a chain of runs and cannot be built.
std::vector<std::string> methods_with_a_step() {
  auto names = methods().names();
  std::erase(names, "self_training");
  return names;
}

bool reads(const std::string& method, const std::string& key) {
  const auto& keys = settings_of_method(method).reads;
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

// The config of a method with its own defaults, as far as they matter here.
SemiConfig config_of(const std::string& name) {
  SemiConfig config;
  config.method = name;
  config.threshold.value = 0;
  if (name == "unimatch" || name == "prevmatch") config.views = 2, config.feature_dropout = 0.5;
  if (name == "unimatch_v2") config.feature_dropout = 0.5;
  return config;
}

// With each part that the method reads.
std::vector<SemiConfig> variants_of(const std::string& name) {
  std::vector<SemiConfig> variants;
  const auto vary = [&](const char* key, const auto& change) {
    if (!reads(name, key)) return;
    variants.push_back(config_of(name));
    change(variants.back());
  };
  for (const char* kind : {"class_adaptive", "quantile"})
    vary("semi.threshold", [&](SemiConfig& c) { c.threshold = {.kind = kind, .value = 0.95, .momentum = 0.5}; });
  for (const char* teacher : {"ema", "twin", "history"}) vary("semi.teacher", [&](SemiConfig& c) { c.teacher = teacher; });
  for (const char* mix : {"none", "classmix"}) vary("semi.mix", [&](SemiConfig& c) { c.mix = mix; });
  vary("semi.align_distribution", [](SemiConfig& c) { c.align_distribution = true; });
  vary("semi.undo_class_bias", [](SemiConfig& c) { c.undo_class_bias = true; });
  vary("semi.class_weights", [](SemiConfig& c) { c.class_weights = true; });
  vary("semi.normalize", [](SemiConfig& c) { c.normalize = "accepted"; });
  vary("semi.views", [](SemiConfig& c) { c.views = 3 - c.views; });
  vary("semi.feature_dropout", [](SemiConfig& c) { c.feature_dropout = 0.6; });
  vary("semi.weight", [](SemiConfig& c) { c.weight = 0.5; });
  return variants;
}

std::vector<SemiConfig> default_and_variants_of(const std::string& name) {
  std::vector<SemiConfig> configs = variants_of(name);
  configs.push_back(config_of(name));
  return configs;
}

std::string describe(const SemiConfig& c) {
  return c.method + ", threshold " + c.threshold.kind + ", teacher " + c.teacher + ", mix " + c.mix + ", views " +
         std::to_string(c.views) + ", align " + std::to_string(c.align_distribution) + ", undo " +
         std::to_string(c.undo_class_bias) + ", weights " + std::to_string(c.class_weights) + ", normalize " + c.normalize;
}

std::shared_ptr<Method> make(const SemiConfig& config, bool decodes_images_apart = false) {
  return methods().at(config.method)(config, make_parts(decodes_images_apart));
}

StepOutput step(Method& method, int64_t step = 0) {
  for (const NamedModule& trained : method.trained()) trained.module->train();
  reseed_dropout(method, 1, step);
  return method.step(make_batch(method.needs(), 0.2 * static_cast<double>(step)), {step, 100, 2});
}

// A step, an update by plain gradient descent, and after every second one the end of an epoch.
void train(Method& method, int64_t index) {
  method.zero_grad();
  step(method, index).loss.backward();
  at::NoGradGuard no_grad;
  for (const NamedModule& trained : method.trained())
    for (const auto& parameter : trained.module->parameters()) Tensor(parameter).sub_(parameter.grad(), 0.02);
  method.after_update({index, 100, 2});
  if (index % 2 == 1) method.end_epoch({index + 1, 100, 2}, 0.1 * static_cast<double>(index));
}

TEST(Methods, AreAllRegistered) {
  EXPECT_EQ(methods().names(),
            (std::vector<std::string>{"augseg", "cps", "fixmatch", "mean_teacher", "prevmatch", "pseudo_label", "retrain",
                                      "self_training", "supervised", "u2pl", "unimatch", "unimatch_v2"}));
  for (const std::string& name : methods().names()) EXPECT_NO_THROW(settings_of_method(name));
}

TEST(Methods, GiveGradientsToWhatTheyTrainAlone) {
  for (const std::string& name : methods_with_a_step()) {
    SemiConfig config = config_of(name);
    config.teacher = "ema";
    const auto method = make(config);
    const auto out = step(*method, 1);
    EXPECT_TRUE(std::isfinite(out.loss.item<double>())) << name;
    out.loss.backward();
    int64_t with_gradient = 0, of_trained = 0;
    for (const auto& parameter : method->parameters()) with_gradient += parameter.grad().defined();
    for (const NamedModule& trained : method->trained())
      for (const auto& item : trained.module->named_parameters()) {
        EXPECT_TRUE(item.value().grad().defined()) << name << " " << trained.name << " " << item.key();
        ++of_trained;
      }
    EXPECT_EQ(with_gradient, of_trained) << name;
  }
}

// Parts of the loss learned from early, and images decoded in one pass or in several, are a matter of time and memory.
TEST(Methods, LearnTheSameEarlyAndWithImagesDecodedApart) {
  for (const std::string& name : methods_with_a_step()) {
    for (const SemiConfig& config : default_and_variants_of(name)) {
      SCOPED_TRACE(describe(config));
      const auto whole = make(config);
      const auto wanted = step(*whole, 1);
      wanted.loss.backward();
      for (const auto& [early, apart] : {std::pair(true, false), std::pair(false, true), std::pair(true, true)}) {
        const auto method = make(config, apart);
        if (early) method->learn_early([](const Tensor& part) { part.backward(); });
        const auto out = step(*method, 1);
        if (out.loss.requires_grad()) out.loss.backward();  // else all of it was learned from
        EXPECT_NEAR(out.loss.item<double>(), wanted.loss.item<double>(), 1e-5);
        const auto gradients = whole->named_parameters();
        for (const auto& item : method->named_parameters()) {
          const Tensor& expected = gradients[item.key()].grad();
          ASSERT_EQ(item.value().grad().defined(), expected.defined()) << item.key();
          if (expected.defined()) {
            EXPECT_TRUE(at::allclose(item.value().grad(), expected, 1e-4, 1e-6)) << item.key();
          }
        }
      }
    }
  }
}

// As UniMatch decodes them: what a decoder normalises together are the labelled images, the weak views and the dropped features
// of both.
TEST(FirstPass, DecodesWhatADecoderNormalisesInOneBatch) {
  ModelConfig model;
  model.backbone = "resnet18";
  model.decoder = "deeplabv3plus";
  model.output_stride = 16;
  model.dropout = 0;
  const auto labeled_BCHW = image(0), weak_BCHW = image(1);
  const auto passed = make_segmenter(model, K, 1), plain = make_segmenter(model, K, 1);
  ASSERT_FALSE(passed->decodes_images_apart());
  Dropout2d dropout(0.5), same_draws(0.5);
  const FirstPass pass = first_pass(*passed, labeled_BCHW, weak_BCHW, &dropout, /*wants_weak=*/true);

  auto features = plain->encode(at::cat({labeled_BCHW, weak_BCHW}));
  for (auto& feature : features) {
    const auto of_both = feature.split(kImages);
    feature = at::cat({feature, same_draws.forward(at::cat({of_both[1], of_both[0]}))});
  }
  const auto logits = plain->decode(features).split(kImages);
  EXPECT_TRUE(at::allclose(pass.labeled_BKhw, logits.at(0), 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(pass.weak_BKhw, logits.at(1), 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(pass.dropped_BKhw, logits.at(2), 1e-5, 1e-5));
  EXPECT_FALSE(pass.weak_BKhw.requires_grad());
}

// semi.teacher: history. The student itself, then what it was after one epoch, then the mean of the last two.
TEST(Teacher, OfPastEpochsAveragesTheirProbabilities) {
  SemiConfig config = config_of("fixmatch");
  config.teacher = "history";
  config.history = 2;
  const MethodParts parts = make_parts();
  torch::nn::Module owner;
  const auto student = parts.make_network(0);
  Teacher teacher(config, parts, owner, student, {});
  const auto image_BCHW = image(0);
  const auto probability = [&](const Tensor& logits_BKhw) { return logits_BKhw.softmax(1); };
  std::vector<Tensor> past{probability(predict_logits(*student, image_BCHW))};
  for (int64_t epoch = 1; epoch <= 3; ++epoch) {
    teacher.end_epoch({4 * epoch, 100, 4});
    {
      at::NoGradGuard no_grad;
      for (const auto& parameter : student->parameters()) Tensor(parameter).mul_(1.3);
    }
    past.push_back(probability(predict_logits(*student, image_BCHW)));
    const auto now = probability(teacher.predict(image_BCHW, {4 * epoch, 100, 4}));
    const auto last = past[static_cast<size_t>(epoch - 1)];  // at the end of this epoch, before the change
    EXPECT_TRUE(at::allclose(now, epoch == 1 ? last : (last + past[static_cast<size_t>(epoch - 2)]) / 2, 1e-5, 1e-6)) << epoch;
  }
}

TEST(Methods, LearnWithEveryPartTheyRead) {
  const auto loss_after_an_epoch = [](const SemiConfig& config) {
    const auto method = make(config);
    for (int64_t index = 0; index < 2; ++index) train(*method, index);
    return step(*method, 2).loss.item<double>();
  };
  for (const std::string& name : methods_with_a_step()) {
    const double plain = loss_after_an_epoch(config_of(name));
    for (const SemiConfig& config : variants_of(name)) {
      SCOPED_TRACE(describe(config));
      const double loss = loss_after_an_epoch(config);
      EXPECT_TRUE(std::isfinite(loss));
      // What a method says it reads changes what it does. (With every label accepted both normalisations are the same.)
      if (config.normalize == "valid") {
        EXPECT_NE(loss, plain);
      }
    }
  }
}

TEST(Methods, GoOnFromTheirTensorsAlone) {
  // Whatever moves from step to step is a parameter or a buffer: a copy of these continues with the same loss.
  const std::vector<std::pair<std::string, std::string>> parts{
      {"class_adaptive", "ema"}, {"class_adaptive", "twin"}, {"quantile", "history"}};
  for (const std::string& name : methods_with_a_step())
    for (const auto& [threshold, teacher] : parts) {
      SemiConfig config = config_of(name);
      config.threshold = {.kind = threshold, .value = 0.95, .momentum = 0.5};
      config.teacher = teacher;
      config.align_distribution = true;
      SCOPED_TRACE(describe(config));
      const auto method = make(config), copy = make(config);
      for (int64_t index = 0; index < 3; ++index) train(*method, index);
      copy_module(*method, *copy);
      for (int64_t index = 3; index < 5; ++index) {
        EXPECT_EQ(step(*method, index).loss.item<double>(), step(*copy, index).loss.item<double>()) << "step " << index;
        train(*method, index);
        train(*copy, index);
      }
    }
}

TEST(Methods, CountTheLabelsOfWeakViewsBeforeMixing) {
  // Images that are mixed in have no padding: counted with them, more pixels would be valid.
  const int64_t valid = kImages * kSide * (kSide - 8);
  for (const std::string& name : methods_with_a_step()) {
    SemiConfig config = config_of(name);
    if (name == "u2pl") config.mix = "none";  // it knows no acceptance but that of mixed images, so it counts these
    const auto method = make(config);
    const auto out = step(*method);
    EXPECT_EQ(out.pseudo_2K.defined(), method->needs().unlabeled) << name;
    if (!out.pseudo_2K.defined()) continue;
    EXPECT_EQ(out.pseudo_2K[0].sum().item<int64_t>(), valid) << name;
    EXPECT_LE(out.pseudo_2K[1].sum().item<int64_t>(), valid) << name;
    if (name == "retrain") continue;  // its truth is what it learns from
    ASSERT_TRUE(out.truth_3K.defined()) << name;
    EXPECT_TRUE(out.truth_3K[1].equal(out.pseudo_2K[1])) << name;  // every true class is known
    EXPECT_EQ(out.truth_3K[2].sum().item<int64_t>(), valid) << name;
  }
}

TEST(Methods, LabelForAReportWhatTheyCountAndLeaveNoTrace) {
  for (const std::string& name : methods_with_a_step()) {
    for (const SemiConfig& config : default_and_variants_of(name)) {
      SCOPED_TRACE(describe(config));
      const auto asked = make(config), alone = make(config);
      for (int64_t i = 0; i < 2; ++i) train(*asked, i), train(*alone, i);
      const TrainBatch batch = make_batch(asked->needs(), 0.4);
      const auto labels = asked->pseudo_labels(batch.unlabeled, {2, 100, 2});
      ASSERT_EQ(labels.has_value(), name != "supervised");
      if (labels) {
        EXPECT_EQ(labels->class_BHW.sizes(), batch.unlabeled.valid_BHW.sizes());
        EXPECT_FALSE(labels->accepted_BHW.logical_and(batch.unlabeled.valid_BHW.logical_not()).any().item<bool>());
        EXPECT_FALSE(labels->class_BHW.requires_grad());
        EXPECT_TRUE(labels->class_BHW.lt(K).all().item<bool>());
      }
      for (const NamedModule& trained : asked->trained()) EXPECT_TRUE(trained.module->is_training());
      train(*asked, 2), train(*alone, 2);
      const auto tensors = asked->named_parameters(), others = alone->named_parameters();
      for (const auto& item : tensors) EXPECT_TRUE(item.value().equal(others[item.key()])) << item.key();
      const auto buffers = asked->named_buffers(), other_buffers = alone->named_buffers();
      for (const auto& item : buffers) EXPECT_TRUE(item.value().equal(other_buffers[item.key()])) << item.key();
    }
  }
}

TEST(Methods, LearnFromLabelsAloneDuringBurnIn) {
  for (const std::string& name : methods_with_a_step()) {
    if (!reads(name, "semi.burn_in_epochs")) continue;
    SemiConfig config = config_of(name);
    config.burn_in_epochs = 1;
    const auto method = make(config);
    const auto share = [&](int64_t index) {
      const auto out = step(*method, index);
      return out.loss.item<double>() / out.scalars.at("loss_supervised").item<double>();
    };
    // UniMatch and its kin take half of the sum of both losses.
    const bool halved = name == "fixmatch" || name == "unimatch" || name == "unimatch_v2" || name == "prevmatch";
    EXPECT_NEAR(share(1), halved ? 0.5 : 1, 1e-6) << name;
    EXPECT_GT(share(2), halved ? 0.501 : 1.001) << name;
  }
}

TEST(UniMatch, IsFixMatchWithMoreStreams) {
  const auto loss_of = [](const char* name, int64_t views, double dropout) {
    SemiConfig config = config_of(name);
    config.views = views;
    config.feature_dropout = dropout;
    return step(*make(config)).loss.item<double>();
  };
  const double one = loss_of("fixmatch", 1, 0);
  EXPECT_EQ(loss_of("unimatch", 1, 0), one);
  EXPECT_NE(loss_of("unimatch", 2, 0), one);
  EXPECT_NE(loss_of("unimatch", 1, 0.5), one);
}

TEST(FixMatch, WithNothingAcceptedIsHalfTheSupervisedLoss) {
  SemiConfig config = config_of("fixmatch");
  config.threshold.value = 1.01;
  const auto out = step(*make(config));
  EXPECT_EQ(out.scalars.at("loss_unsupervised").item<double>(), 0);
  EXPECT_NEAR(out.loss.item<double>(), out.scalars.at("loss_supervised").item<double>() / 2, 1e-6);
  EXPECT_EQ(out.pseudo_2K[1].sum().item<int64_t>(), 0);
}

// Each learns the hard labels that the other gives in eval mode; their losses are added up.
TEST(PseudoLabel, TwinsTeachEachOther) {
  SemiConfig config = config_of("pseudo_label");
  config.teacher = "twin";
  const auto method = make(config);
  EXPECT_EQ(method->trained().size(), 2u);
  EXPECT_EQ(&method->predictor(), &method->student());
  const auto out = step(*method);

  const auto parts = make_parts();
  const auto batch = make_batch(method->needs());
  const std::vector<std::shared_ptr<Segmenter>> networks{parts.make_network(0), parts.make_network(1)};
  std::vector<Tensor> labels;
  for (const auto& network : networks)
    labels.push_back(
        make_pseudo_labels(predict_logits(*network, batch.unlabeled.weak_BCHW), batch.unlabeled.valid_BHW, {}).class_BHW);
  ASSERT_FALSE(labels[0].equal(labels[1]));
  double supervised = 0, unsupervised = 0;
  for (size_t i = 0; i < 2; ++i) {
    networks[i]->train();
    const auto logits = networks[i]->forward(at::cat({batch.labeled.image_BCHW, batch.unlabeled.weak_BCHW}));
    supervised += parts.supervised_loss(logits.narrow(0, 0, kImages), batch.labeled.label_BHW).item<double>();
    const auto full = at::upsample_bilinear2d(logits.narrow(0, kImages, kImages), {kSide, kSide}, /*align_corners=*/true);
    unsupervised += at::cross_entropy_loss(full, labels[1 - i], {}, at::Reduction::None)
                        .masked_select(batch.unlabeled.valid_BHW)
                        .mean()
                        .item<double>();
  }
  EXPECT_NEAR(out.scalars.at("loss_supervised").item<double>(), supervised, 1e-5);
  EXPECT_NEAR(out.scalars.at("loss_unsupervised").item<double>(), unsupervised, 1e-5);
  EXPECT_NEAR(out.loss.item<double>(), supervised + unsupervised, 2e-5);
}

// With few images a step BatchNorm's statistics of the labelled ones alone would be too rough.
TEST(FixMatch, WithATeacherLabelledImagesGoWithTheStrongViews) {
  for (const char* teacher : {"ema", "history"})
    for (const int64_t views : {1, 2}) {
      SCOPED_TRACE(str(teacher, ", ", views, " views"));
      SemiConfig config = config_of("fixmatch");
      config.teacher = teacher;
      config.views = views;
      config.mix = "none";
      const auto method = make(config);
      const auto out = step(*method);
      const auto parts = make_parts();
      const auto network = parts.make_network(0);
      network->train();
      const auto batch = make_batch(method->needs());
      auto images = batch.unlabeled.strong_BCHW;
      images.push_back(batch.labeled.image_BCHW);
      const auto logits = network->forward(at::cat(images));
      const auto expected = parts.supervised_loss(logits.narrow(0, views * kImages, kImages), batch.labeled.label_BHW);
      EXPECT_NEAR(out.scalars.at("loss_supervised").item<double>(), expected.item<double>(), 1e-5);
    }
}

// Without dropped channels it is FixMatch with two views, but for what is mixed in: each image's other one of the batch, which
// FixMatch is given here as its mix list.
TEST(UniMatchV2, MixesTheBatchWithItselfInReverse) {
  for (const char* mix : {"cutmix", "classmix"}) {
    SCOPED_TRACE(mix);
    SemiConfig config = config_of("unimatch_v2");
    config.feature_dropout = 0;
    config.threshold.value = 0.4;
    config.mix = mix;
    SemiConfig other = config;
    other.method = "fixmatch";
    other.teacher = "ema";
    other.views = 2;
    const auto loss_of = [](const SemiConfig& of, const TrainBatch& batch) {
      const auto method = make(of);
      for (const NamedModule& trained : method->trained()) trained.module->train();
      return method->step(batch, {0, 100, 2}).loss.item<double>();
    };
    TrainBatch batch = make_batch(make(config)->needs());
    EXPECT_FALSE(batch.mix.weak_BCHW.defined());
    const double within = loss_of(config, batch);
    batch.mix = batch.unlabeled;
    for (Tensor* x : {&batch.mix.weak_BCHW, &batch.mix.valid_BHW, &batch.mix.truth_BHW, &batch.mix.strong_BCHW[0],
                      &batch.mix.strong_BCHW[1]})
      *x = x->flip(0);
    EXPECT_NEAR(within, loss_of(other, batch), 1e-6);
    batch.mix = batch.unlabeled;  // each image with itself
    EXPECT_GT(std::abs(within - loss_of(other, batch)), 1e-4);
  }
}

TEST(U2pl, LabelsAreWithoutClassBiasWhereThatIsAskedFor) {
  SemiConfig config = config_of("u2pl");
  const auto batch = unlabeled(1, 1, 0);
  const auto labels_of = [&] { return make(config)->pseudo_labels(batch, {0, 100, 2})->class_BHW; };
  const auto biased = labels_of();
  config.undo_class_bias = true;
  const auto unbiased = labels_of();
  const auto parts = make_parts();
  const auto logits = predict_logits(*parts.make_network(0), batch.weak_BCHW);
  const auto expected = [&](const Tensor& of) { return make_pseudo_labels(of, batch.valid_BHW, {}).class_BHW; };
  EXPECT_TRUE(biased.equal(expected(logits)));
  EXPECT_TRUE(unbiased.equal(expected(without_class_bias(logits, parts.supervised_loss.class_bias_K()))));
  EXPECT_FALSE(biased.equal(unbiased));
}

// A projector in plain operations, normalising by the batch.
Tensor project(const Method& method, const std::string& name, const Tensor& x_BChw) {
  const auto parameters = method.named_parameters();
  const auto weight = [&](int layer, const char* what) { return parameters[str(name, ".layers.", layer, ".", what)]; };
  auto y = x_BChw;
  for (const int layer : {0, 3}) {
    y = at::conv2d(y, weight(layer, "weight"), weight(layer, "bias"), 1, 1);
    y = at::batch_norm(y, weight(layer + 1, "weight"), weight(layer + 1, "bias"), {}, {}, /*training=*/true, 0.1, 1e-5, false)
            .relu();
  }
  return at::conv2d(y, weight(6, "weight"), weight(6, "bias"));
}

// Class c's: unlabelled pixels of the most unsure fifth on which c is ranked fourth or lower, and labelled pixels of other
// classes on which it is among the first three. 256 pixels are few enough to be kept all; the ring goes on from its last places
// at its first.
TEST(U2pl, NegativesAreWhatAClassIsNotAndGoIntoARing) {
  constexpr int64_t kClasses = 5, kBank = 2000, kNext = 1990, kOld = 7;
  SemiConfig config = config_of("u2pl");
  config.mix = "none";
  const SupervisedLoss loss({}, {}, {}, torch::kCPU);
  const auto method = methods().at("u2pl")(config, {network_maker(kClasses), loss, kClasses, {}, {}});
  auto buffers = method->named_buffers();
  {
    at::NoGradGuard no_grad;
    buffers["bank.keys"].fill_(kOld);
    buffers["bank.filled"].fill_(kBank);
    buffers["bank.next"].fill_(kNext);
  }
  auto batch = make_batch(method->needs());
  batch.labeled.label_BHW.narrow(1, 0, 8).fill_(kIgnore);
  for (const NamedModule& trained : method->trained()) trained.module->train();
  method->step(batch, {0, 100, 2});

  at::NoGradGuard no_grad;
  const auto network = network_maker(kClasses)(0);
  network->eval();
  const auto feature_BChw =
      network->decode_features(network->encode(at::cat({batch.labeled.image_BCHW, batch.unlabeled.strong_BCHW[0]})));
  const auto probability_BKhw = network->classify(feature_BChw).softmax(1);
  const auto key_BDhw = project(*method, "teacher_projector", feature_BChw);
  const int64_t h = feature_BChw.size(2), stride = kSide / h;
  const auto at_stride = [&](const Tensor& x_BHW) { return x_BHW.slice(1, 0, kSide, stride).slice(2, 0, kSide, stride); };
  const auto label_Bhw = at_stride(batch.labeled.label_BHW), valid_Bhw = at_stride(batch.unlabeled.valid_BHW);
  const auto entropy_Bhw = -(probability_BKhw * probability_BKhw.log()).sum(1).narrow(0, kImages, kImages);
  const auto sorted = std::get<0>(entropy_Bhw.masked_select(valid_Bhw).sort());
  const auto unsure_Bhw =
      (entropy_Bhw >= sorted[static_cast<int64_t>(static_cast<double>(sorted.numel() - 1) * 0.8)]).logical_and(valid_Bhw);

  int64_t of_labeled = 0, of_unlabeled = 0;
  for (int64_t c = 0; c < kClasses; ++c) {
    SCOPED_TRACE(c);
    const auto above_Bhw = (probability_BKhw > probability_BKhw.narrow(1, c, 1)).sum(1);  // classes that are likelier
    const auto confused_Bhw =
        (above_Bhw.narrow(0, 0, kImages) < 3).logical_and(label_Bhw != c).logical_and(label_Bhw != kIgnore);
    const auto is_not_Bhw = (above_Bhw.narrow(0, kImages, kImages) >= 3).logical_and(unsure_Bhw);
    of_labeled += confused_Bhw.sum().item<int64_t>(), of_unlabeled += is_not_Bhw.sum().item<int64_t>();
    const auto mask_N = at::cat({confused_Bhw, is_not_Bhw}).flatten();
    const int64_t count = mask_N.sum().item<int64_t>();
    EXPECT_EQ(buffers["bank.next"][c].item<int64_t>(), (kNext + count) % kBank);
    EXPECT_EQ(buffers["bank.filled"][c].item<int64_t>(), kBank);
    const auto place_E = at::arange(kNext, kNext + count).remainder(kBank);
    const auto key_QD = buffers["bank.keys"][c].narrow(0, 0, kBank);
    EXPECT_EQ((key_QD != kOld).any(1).sum().item<int64_t>(), count);
    const auto wanted_ED = key_BDhw.permute({0, 2, 3, 1}).reshape({-1, key_BDhw.size(1)}).index({mask_N});
    EXPECT_TRUE(at::allclose(key_QD.index({place_E}).sum(0), wanted_ED.sum(0), 1e-4, 1e-4));  // in any order
  }
  EXPECT_GT(of_labeled, 0);
  EXPECT_GT(of_unlabeled, 0);
}

// The published losses in plain operations, where draws make no difference: 256 pixels are few enough to be anchors all, and
// the memory bank holds one vector.
TEST(U2pl, LossesAreThoseOfThePaper) {
  SemiConfig config = config_of("u2pl");
  config.mix = "none";
  const auto method = make(config);
  auto batch = make_batch(method->needs());
  batch.labeled.label_BHW.fill_(kIgnore);  // no negatives are added
  const auto key_D = at::sin(at::arange(256, at::kFloat));
  constexpr double kNegatives = 50, kTemperature = 0.5, kLeft = 0.75;  // of the run
  {
    at::NoGradGuard no_grad;
    method->named_buffers()["bank.keys"].copy_(key_D);
    method->named_buffers()["bank.filled"].fill_(2000);
  }
  for (const NamedModule& trained : method->trained()) trained.module->train();
  const auto out = method->step(batch, {25, 100, 2});

  at::NoGradGuard no_grad;
  const auto network = make_parts().make_network(0);  // the student, and the teacher too
  const auto full_size = [](const Tensor& logits_BKhw) {
    return at::upsample_bilinear2d(logits_BKhw, {kSide, kSide}, /*align_corners=*/true);
  };
  network->eval();
  const auto label_BHW = full_size(network->forward(batch.unlabeled.weak_BCHW)).argmax(1);
  const auto all_BCHW = at::cat({batch.labeled.image_BCHW, batch.unlabeled.strong_BCHW[0]});
  const auto teacher_BChw = network->decode_features(network->encode(all_BCHW));
  const auto probability_BKhw = network->classify(teacher_BChw).softmax(1).narrow(0, kImages, kImages);
  network->train();
  const auto student_BChw = network->decode_features(network->encode(all_BCHW));
  const auto logits_BKhw = network->classify(student_BChw).narrow(0, kImages, kImages);
  const int64_t h = logits_BKhw.size(2), stride = kSide / h;
  ASSERT_LE(2 * kImages * h * h, 256);
  const auto at_stride = [&](const Tensor& x_BHW) { return x_BHW.slice(1, 0, kSide, stride).slice(2, 0, kSide, stride); };
  const auto valid_Bhw = at_stride(batch.unlabeled.valid_BHW);
  const auto entropy_Bhw = -(probability_BKhw * probability_BKhw.log()).sum(1);
  const auto below = [&](double share) {
    const auto sorted = std::get<0>(entropy_Bhw.masked_select(valid_Bhw).sort());
    return sorted[static_cast<int64_t>(static_cast<double>(sorted.numel() - 1) * share)];
  };

  // Four fifths are labels at the start, all at the end; the cross-entropy's mean over them counts all / kept.
  const auto reliable_Bhw = (entropy_Bhw < below(1 - 0.2 * kLeft)).logical_and(valid_Bhw);
  const auto kept_BHW = reliable_Bhw.repeat_interleave(stride, 1).repeat_interleave(stride, 2);
  const auto ce_BHW = at::cross_entropy_loss(full_size(logits_BKhw), label_BHW, {}, at::Reduction::None);
  const double kept = kept_BHW.sum().item<double>(), valid = batch.unlabeled.valid_BHW.sum().item<double>();
  ASSERT_LT(kept, 0.9 * valid);
  EXPECT_NEAR(out.scalars.at("loss_unsupervised").item<double>(),
              ce_BHW.masked_select(kept_BHW).mean().item<double>() * valid / kept, 1e-5);

  // Anchors: pixels of low entropy; positive: the mean of their features in the teacher.
  const auto of_unlabeled = [&](const std::string& name, const Tensor& x_BChw) {
    return project(*method, name, x_BChw).narrow(0, kImages, kImages);
  };
  const auto query_BDhw = of_unlabeled("projector", student_BChw);
  const auto own_key_BDhw = of_unlabeled("teacher_projector", teacher_BChw);
  const auto sure_Bhw = (entropy_Bhw <= below(0.2 * kLeft)).logical_and(valid_Bhw);
  double sum = 0;
  int64_t classes = 0;
  for (int64_t c = 0; c < K; ++c) {
    const auto of_class_Bhw = sure_Bhw.logical_and(at_stride(label_BHW) == c);
    const auto of = [](const Tensor& x_BDhw, const Tensor& mask_Bhw) {
      return x_BDhw.permute({0, 2, 3, 1}).reshape({-1, x_BDhw.size(1)}).index({mask_Bhw.flatten()});
    };
    const auto query_MD = of(query_BDhw, of_class_Bhw.logical_and(probability_BKhw.select(1, c) > 0.3));
    if (query_MD.size(0) == 0) continue;
    const auto prototype_D = of(own_key_BDhw, of_class_Bhw).mean(0);
    const auto alike = [&](const Tensor& other_D) {
      return at::exp(at::cosine_similarity(query_MD, other_D.unsqueeze(0)).to(at::kDouble) / kTemperature);
    };
    const auto positive_M = alike(prototype_D);
    sum -= (positive_M / (positive_M + kNegatives * alike(key_D))).log().mean().item<double>();
    ++classes;
  }
  ASSERT_GE(classes, 1);
  EXPECT_NEAR(out.scalars.at("loss_contrast").item<double>(), sum / static_cast<double>(classes), 1e-4);
}

TEST(U2pl, TheTeachersProjectorNormalisesByTheBatch) {
  const auto method = make(config_of("u2pl"));
  const auto running_mean = [&] { return method->named_buffers()["teacher_projector.layers.1.running_mean"]; };
  EXPECT_EQ(running_mean().abs().max().item<float>(), 0);
  step(*method);
  EXPECT_GT(running_mean().abs().max().item<float>(), 0);
}

TEST(Supervised, IsPredictedWithByTheAverageAlone) {
  SemiConfig config = config_of("supervised");
  config.ema_decay = 0;
  const auto plain = make(config);
  EXPECT_EQ(&plain->predictor(), &plain->student());
  config.ema_decay = 0.75;
  const auto averaged = make(config);
  EXPECT_NE(&averaged->predictor(), &averaged->student());
  const std::string name = "encoder.stage0.0.weight";
  std::vector<Tensor> past;
  for (int64_t index = 0; index < 2; ++index) {
    train(*plain, index), train(*averaged, index);
    past.push_back(averaged->student().named_parameters()[name].detach().clone());
    EXPECT_TRUE(plain->student().named_parameters()[name].equal(past.back()));
  }
  EXPECT_TRUE(at::allclose(averaged->predictor().named_parameters()[name], (past[0] + past[1]) / 2));
  EXPECT_FALSE(past[0].equal(past[1]));
}

// Without the adjustment the unsupervised loss would take back what the labelled one teaches.
TEST(UnsupervisedLoss, AdjustsLogitsWhereLabelsAreWithoutClassBias) {
  LossConfig loss_config;
  loss_config.logit_adjustment = 1;
  MethodParts parts = make_parts();
  parts.supervised_loss = SupervisedLoss(loss_config, {}, {0.9, 0.1}, torch::kCPU);
  const PseudoLabels labels{at::ones({1, 1, 1}, at::kLong), at::ones({1, 1, 1}), at::ones({1, 1, 1}, at::kBool), {}};
  SemiConfig config;
  const auto loss = [&] {
    return UnsupervisedLoss(config, parts)(at::zeros({1, 2, 1, 1}), labels, labels.valid_BHW).item<double>();
  };
  EXPECT_NEAR(loss(), std::log(2), 1e-6);
  config.undo_class_bias = true;
  EXPECT_NEAR(loss(), -std::log(0.1), 1e-6);
}

TEST(EmaTeacher, CopiesFirstThenAverages) {
  const auto parts = make_parts();
  const auto student = parts.make_network(0);
  EmaTeacher teacher(parts.make_network(0), 0.75);
  const auto weight = student->named_parameters()["encoder.stage0.0.weight"];
  const auto mean = student->named_buffers()["encoder.stage0.1.running_mean"];
  {
    at::NoGradGuard no_grad;
    weight.fill_(1);
    mean.fill_(2);
  }
  teacher.follow(*student, 0);
  const auto teacher_weight = teacher.network().named_parameters()["encoder.stage0.0.weight"];
  EXPECT_TRUE(teacher_weight.equal(weight));
  {
    at::NoGradGuard no_grad;
    weight.fill_(5);
    mean.fill_(6);
  }
  teacher.follow(*student, 1);  // 1 - 1/2 = .5
  EXPECT_FLOAT_EQ(teacher_weight.flatten()[0].item<float>(), 3);
  EXPECT_FLOAT_EQ(teacher.network().named_buffers()["encoder.stage0.1.running_mean"][0].item<float>(), 4);
  teacher.follow(*student, 1000);  // capped at .75
  EXPECT_FLOAT_EQ(teacher_weight.flatten()[0].item<float>(), 0.75 * 3 + 0.25 * 5);
}

}  // namespace
}  // namespace semiseg
