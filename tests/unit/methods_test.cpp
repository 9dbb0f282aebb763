#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "methods/parts.h"

namespace semiseg {
namespace {

constexpr int64_t K = 3, kSide = 32;

MethodParts make_parts() {
  ModelConfig model;
  model.backbone = "resnet18";
  model.dropout = 0;
  return {[model] { return make_segmenter(model, K, 7); }, SupervisedLoss(LossConfig{}, {}, torch::kCPU), K};
}

// Smooth images, so that nothing depends on a generator.
Tensor image(int64_t count, double phase) {
  return at::sin(at::arange(count * 3 * kSide * kSide, at::kFloat) * 0.01 + phase).view({count, 3, kSide, kSide});
}

UnlabeledBatch unlabeled(double phase) {
  UnlabeledBatch batch;
  batch.weak_BCHW = image(2, phase);
  batch.strong_BCHW = {image(2, phase + 0.3)};
  batch.valid_BHW = at::ones({2, kSide, kSide}, at::kBool);
  batch.valid_BHW.narrow(1, 0, 8).fill_(false);
  batch.cutmix_box_B4 = {at::tensor({4, 4, 20, 28, 0, 0, 0, 0}, at::kLong).view({2, 4})};
  return batch;
}

TrainBatch make_batch() {
  TrainBatch batch;
  batch.labeled.image_BCHW = image(2, 0);
  batch.labeled.label_BHW = at::arange(2 * kSide * kSide).remainder(K).view({2, kSide, kSide});
  batch.unlabeled = unlabeled(1);
  batch.mix = unlabeled(2);
  return batch;
}

TEST(Methods, AreAllRegistered) {
  EXPECT_EQ(methods().names(), (std::vector<std::string>{"fixmatch", "mean_teacher", "pseudo_label", "supervised"}));
  for (const std::string& name : methods().names()) EXPECT_NO_THROW(settings_of_method(name));
}

TEST(Methods, EachGivesAFiniteLossAndGradientsForTheStudentAlone) {
  for (const std::string& name : methods().names()) {
    SemiConfig config;
    config.threshold = 0;
    config.teacher = "ema";
    const auto method = methods().at(name)(config, make_parts());
    method->student().train();
    const auto out = method->step(make_batch(), {});
    EXPECT_TRUE(std::isfinite(out.loss.item<double>())) << name;
    out.loss.backward();
    for (const auto& p : method->student().named_parameters())
      EXPECT_TRUE(p.value().grad().defined()) << name << " " << p.key();
    if (&method->predictor() == &method->student()) continue;
    for (const auto& p : method->predictor().parameters()) EXPECT_FALSE(p.grad().defined()) << name;
  }
}

TEST(FixMatch, WithNothingAcceptedIsHalfTheSupervisedLoss) {
  SemiConfig config;
  config.threshold = 1.0;  // an untrained network never reaches it
  const auto method = methods().at("fixmatch")(config, make_parts());
  const auto out = method->step(make_batch(), {});
  EXPECT_EQ(out.scalars.at("loss_unsupervised").item<double>(), 0);
  EXPECT_NEAR(out.loss.item<double>(), out.scalars.at("loss_supervised").item<double>() / 2, 1e-6);
  EXPECT_EQ(out.pseudo_2K[1].sum().item<int64_t>(), 0);
}

TEST(FixMatch, AgreesWithAPlainFormOfThePublishedStep) {
  // Written as the Python step is, on a network with the same weights.
  const auto batch = make_batch();
  const auto network = make_parts().make_network();
  const auto up = [](const Tensor& x) { return at::upsample_bilinear2d(x, {kSide, kSide}, true); };
  network->eval();
  const auto mix = up(network->forward(batch.mix.weak_BCHW)).softmax(1).detach();
  network->train();
  auto strong = batch.unlabeled.strong_BCHW[0].clone();
  using at::indexing::Slice;
  strong.index_put_({0, Slice(), Slice(4, 20), Slice(4, 28)},
                    batch.mix.strong_BCHW[0].index({0, Slice(), Slice(4, 20), Slice(4, 28)}));
  const auto both = up(network->forward(at::cat({batch.labeled.image_BCHW, batch.unlabeled.weak_BCHW})));
  const auto strong_logits = up(network->forward(strong));
  auto [confidence, label] = both.narrow(0, 2, 2).detach().softmax(1).max(1);
  auto [mix_confidence, mix_label] = mix.max(1);
  auto valid = batch.unlabeled.valid_BHW.clone();
  for (auto& [to, from] :
       {std::pair(confidence, mix_confidence), std::pair(label, mix_label), std::pair(valid, batch.mix.valid_BHW)})
    Tensor(to).index_put_({0, Slice(4, 20), Slice(4, 28)}, from.index({0, Slice(4, 20), Slice(4, 28)}));
  SemiConfig config;
  config.threshold = confidence.median().item<double>();  // accepts about half of the pixels
  const auto keep = (confidence >= config.threshold).logical_and(valid);
  const auto supervised = at::cross_entropy_loss(both.narrow(0, 0, 2), batch.labeled.label_BHW);
  const auto pixel = at::cross_entropy_loss(strong_logits, label, {}, at::Reduction::None);
  const auto unsupervised = (pixel * keep).sum() / valid.sum();

  const double accepted = static_cast<double>(keep.sum().item<int64_t>()) / static_cast<double>(valid.sum().item<int64_t>());
  const auto method = methods().at("fixmatch")(config, make_parts());
  method->student().train();
  const auto out = method->step(batch, {});
  EXPECT_GT(accepted, 0.01);
  EXPECT_LT(accepted, 0.99);
  EXPECT_EQ(out.pseudo_2K[1].sum().item<int64_t>(), keep.sum().item<int64_t>());
  EXPECT_NEAR(out.loss.item<double>(), ((supervised + unsupervised) / 2).item<double>(), 1e-5);
}

TEST(EmaTeacher, CopiesFirstThenAverages) {
  const auto parts = make_parts();
  const auto student = parts.make_network();
  EmaTeacher teacher(parts.make_network(), 0.75);
  const auto weight = student->named_parameters()["encoder.conv1.weight"];
  const auto mean = student->named_buffers()["encoder.bn1.running_mean"];
  {
    at::NoGradGuard no_grad;
    weight.fill_(1);
    mean.fill_(2);
  }
  teacher.follow(*student, 0);
  const auto teacher_weight = teacher.network().named_parameters()["encoder.conv1.weight"];
  EXPECT_TRUE(teacher_weight.equal(weight));
  {
    at::NoGradGuard no_grad;
    weight.fill_(5);
    mean.fill_(6);
  }
  teacher.follow(*student, 1);  // 1 - 1/2 = .5
  EXPECT_FLOAT_EQ(teacher_weight.flatten()[0].item<float>(), 3);
  EXPECT_FLOAT_EQ(teacher.network().named_buffers()["encoder.bn1.running_mean"][0].item<float>(), 4);
  teacher.follow(*student, 1000);  // capped at .75
  EXPECT_FLOAT_EQ(teacher_weight.flatten()[0].item<float>(), 0.75 * 3 + 0.25 * 5);
}

TEST(RampUp, GrowsToOne) {
  SemiConfig config;
  EXPECT_EQ(ramp_up(config, {0, 100, 10}), 1);
  config.ramp_up_epochs = 2;
  EXPECT_DOUBLE_EQ(ramp_up(config, {0, 100, 10}), std::exp(-5.0));
  EXPECT_DOUBLE_EQ(ramp_up(config, {10, 100, 10}), std::exp(-5.0 / 4));
  EXPECT_EQ(ramp_up(config, {20, 100, 10}), 1);
}

TEST(PseudoLabelLoss, DividesByAllValidPixels) {
  const auto logits = at::zeros({1, 2, 2, 2});
  const auto accepted = at::tensor({1, 0, 0, 0}, at::kLong).view({1, 2, 2}) > 0;
  const auto valid = at::tensor({1, 1, 1, 0}, at::kLong).view({1, 2, 2}) > 0;
  const auto label = at::zeros({1, 2, 2}, at::kLong);
  EXPECT_NEAR(pseudo_label_loss(logits, label, accepted, valid).item<double>(), std::log(2.0) / 3, 1e-6);
  const auto none = at::zeros_like(valid);
  EXPECT_EQ(pseudo_label_loss(logits, label, none, none).item<double>(), 0);
}

}  // namespace
}  // namespace semiseg
