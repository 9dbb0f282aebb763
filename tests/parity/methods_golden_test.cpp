// FixMatch, UniMatch, UniMatch V2 and CPS against plain Python forms of their published steps, and thresholds against numpy,
// all recorded by tools/goldens/methods.py.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "methods/parts.h"
#include "semiseg/pseudo_label.h"
#include "semiseg/weights.h"
#include "tests/tiny_network.h"

namespace semiseg {
namespace {

constexpr int64_t K = 4;
constexpr double kTolerance = 1e-5;

const Tensor& golden(const std::string& name) {
  static const auto file = read_safetensors(SEMISEG_SOURCE_DIR "/tests/parity/methods.safetensors");
  return file.tensors.at(name);
}

Tensor image(const std::string& name) { return (golden("batch." + name).to(at::kFloat) - 128) / 64; }

UnlabeledBatch unlabeled(const std::string& prefix) {
  UnlabeledBatch batch;
  batch.weak_BCHW = image(prefix + "weak");
  batch.strong_BCHW = {image(prefix + "strong0"), image(prefix + "strong1")};
  batch.valid_BHW = golden("batch." + prefix + "ignore") != kIgnore;
  return batch;
}

TrainBatch make_batch() {
  TrainBatch batch;
  batch.labeled = {image("image"), golden("batch.label").to(at::kLong)};
  batch.unlabeled = unlabeled("");
  batch.unlabeled.cutmix_box_B4 = {golden("batch.box0"), golden("batch.box1")};
  batch.mix = unlabeled("mix.");
  return batch;
}

MethodParts make_parts() {
  const auto make_network = [](uint32_t purpose) {
    at::NoGradGuard no_grad;
    const auto network = make_tiny_network(K);
    const std::string prefix = "network" + std::to_string(purpose) + ".";
    for (const auto& item : network->named_parameters()) Tensor(item.value()).copy_(golden(prefix + item.key()));
    for (const auto& item : network->named_buffers()) Tensor(item.value()).copy_(golden(prefix + item.key()));
    return network;
  };
  return {make_network, SupervisedLoss(LossConfig{}, {}, {}, torch::kCPU), K, {}, {}};
}

struct Case {
  std::string method, threshold;
  std::string name() const { return method + "." + threshold; }
  friend void PrintTo(const Case& c, std::ostream* stream) { *stream << c.name(); }
};

class MethodGolden : public testing::TestWithParam<Case> {
 protected:
  std::shared_ptr<Method> make() const {
    SemiConfig config;
    config.method = GetParam().method;
    config.threshold.value = expected("threshold").item<double>();
    if (config.method == "unimatch") config.views = 2, config.feature_dropout = 0.5;
    if (config.method == "unimatch_v2") config.feature_dropout = 0.5;
    if (config.method == "cps") config.weight = 1.5;
    const auto method = methods().at(config.method)(config, make_parts());
    for (const NamedModule& trained : method->trained()) trained.module->train();
    reseed_dropout(*method, /*seed=*/11, /*step=*/5);
    return method;
  }

  static StepOutput step(Method& method) {
    auto batch = make_batch();
    const auto views = static_cast<size_t>(method.needs().strong_views);
    for (auto* part : {&batch.unlabeled, &batch.mix}) part->strong_BCHW.resize(views);
    return method.step(batch, {});
  }

  const Tensor& expected(const std::string& key) const { return golden(GetParam().name() + "." + key); }
};

TEST_P(MethodGolden, AgreesWithThePublishedStep) {
  const auto method = make();
  const auto out = step(*method);
  const auto losses = expected("losses");
  EXPECT_NEAR(out.loss.item<double>(), losses[0].item<double>(), kTolerance);
  EXPECT_NEAR(out.scalars.at("loss_supervised").item<double>(), losses[1].item<double>(), kTolerance);
  EXPECT_TRUE(out.pseudo_2K.equal(expected("pseudo_2K"))) << out.pseudo_2K << expected("pseudo_2K");

  out.loss.backward();
  std::vector<Tensor> norms;
  for (const NamedModule& trained : method->trained())
    for (const auto& parameter : trained.module->parameters()) norms.push_back(parameter.grad().norm());
  EXPECT_NEAR(at::stack(norms).norm().item<double>(), losses[2].item<double>(), 1e-4);
  // Every pass in training mode moves the running statistics, in this order.
  const auto mean = method->student().named_buffers()["encoder.stage3.1.running_mean"].to(at::kDouble);
  EXPECT_LT((mean - expected("running_mean")).abs().max().item<double>(), kTolerance);
}

TEST_P(MethodGolden, NoticesAnotherWeight) {
  for (const char* name : {"encoder.stage0.0.weight", "decoder.conv3.weight", "segmentation_head.0.bias"}) {
    const auto method = make();
    {
      at::NoGradGuard no_grad;
      Tensor(method->student().named_parameters()[name]).view(-1)[0] += 0.05;
    }
    EXPECT_GT(std::abs(step(*method).loss.item<double>() - expected("losses")[0].item<double>()), 3 * kTolerance) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Steps, MethodGolden,
                         testing::Values(Case{"fixmatch", "0"}, Case{"fixmatch", "middle"}, Case{"unimatch", "0"},
                                         Case{"unimatch", "middle"}, Case{"unimatch_v2", "0"}, Case{"unimatch_v2", "middle"},
                                         Case{"cps", "0"}),
                         [](const auto& param) { return param.param.method + "_" + param.param.threshold; });

double distance(const Tensor& actual, const Tensor& expected) {
  return (actual.to(at::kDouble) - expected).abs().max().item<double>();
}

TEST(ThresholdGolden, FreeMatchAgreesWithNumpy) {
  ThresholdConfig config;
  config.kind = "class_adaptive";
  config.momentum = golden("threshold.momentum").item<double>();
  config.value = golden("threshold.bound").item<double>();
  Threshold threshold(config, K);
  for (int64_t n = 0; n < golden("threshold.logits").size(0); ++n) {
    const auto logits_BKhw = golden("threshold.logits")[n];
    threshold.observe(logits_BKhw, make_pseudo_labels(logits_BKhw, golden("threshold.valid"), {}));
    EXPECT_LT(distance(threshold.of_class(), golden("threshold.expected")[n]), 1e-6) << n;
  }
}

TEST(ThresholdGolden, DistributionAlignmentAgreesWithNumpy) {
  const auto target = golden("alignment.target");
  DistributionAlignment alignment({target.data_ptr<double>(), target.data_ptr<double>() + target.numel()});
  for (int64_t n = 0; n < golden("threshold.logits").size(0); ++n) {
    const auto logits_BKhw = golden("threshold.logits")[n];
    alignment.observe(logits_BKhw, golden("threshold.valid"));
    EXPECT_LT(distance(alignment.align(logits_BKhw).softmax(1), golden("alignment.expected")[n]), 1e-6) << n;
  }
}

}  // namespace
}  // namespace semiseg
