#include "semiseg/model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "../../models/layers.h"
#include "semiseg/error.h"

namespace semiseg {
namespace {

ModelConfig config_of(const std::string& backbone, bool stride_in_1x1 = false) {
  ModelConfig config;
  config.backbone = backbone;
  config.stride_in_1x1 = stride_in_1x1;
  return config;
}

// Without the pass that draws initial weights, which takes most of make_segmenter's time; all parameters are `value`.
std::shared_ptr<Segmenter> constant_network(const ModelConfig& config, int64_t num_classes, double value) {
  at::NoGradGuard no_grad;
  const auto backbone = backbones().at(config.backbone)(config);
  const auto model = std::make_shared<Segmenter>(backbone, decoders().at("fpn")(config, backbone->channels()), num_classes);
  for (Tensor& parameter : model->parameters()) parameter.fill_(value);
  return model;
}

TEST(Registries, NameWhatIsThere) {
  EXPECT_EQ(backbones().names(), (std::vector<std::string>{"resnet101", "resnet152", "resnet18", "resnet34", "resnet50"}));
  EXPECT_TRUE(decoders().contains("fpn"));
  try {
    make_segmenter(config_of("resnet19"), 3, 0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_NE(std::string(error.what()).find("resnet18"), std::string::npos) << error.what();
  }
}

// Parameters of torchvision's models without the classifier (512 or 2048 x 1000 + 1000).
TEST(ResNet, HasTorchvisionsParameterCounts) {
  const std::map<std::string, int64_t> with_classifier = {
      {"resnet18", 11689512}, {"resnet34", 21797672}, {"resnet50", 25557032}, {"resnet101", 44549160}, {"resnet152", 60192808}};
  for (const auto& [name, expected] : with_classifier) {
    const auto backbone = backbones().at(name)(config_of(name));
    int64_t count = 0;
    for (const auto& parameter : backbone->parameters()) count += parameter.numel();
    EXPECT_EQ(count, expected - (backbone->channels().back() + 1) * 1000) << name;
  }
}

TEST(Segmenter, NamesAreThoseOfThePeers) {
  const auto model = constant_network(config_of("resnet50"), 19, 0);
  std::set<std::string> names;
  for (const auto& item : model->named_parameters()) names.insert(item.key());
  for (const auto& item : model->named_buffers()) names.insert(item.key());
  for (const char* name :
       {"encoder.conv1.weight", "encoder.bn1.running_mean", "encoder.bn1.num_batches_tracked", "encoder.layer1.0.conv3.weight",
        "encoder.layer1.0.downsample.0.weight", "encoder.layer1.0.downsample.1.bias", "encoder.layer4.2.bn3.running_var",
        "decoder.p5.weight", "decoder.p5.bias", "decoder.p4.skip_conv.weight", "decoder.p2.skip_conv.bias",
        "decoder.seg_blocks.0.block.0.block.0.weight", "decoder.seg_blocks.0.block.2.block.1.bias",
        "decoder.seg_blocks.3.block.0.block.1.weight", "segmentation_head.0.weight", "segmentation_head.0.bias"})
    EXPECT_EQ(names.count(name), 1u) << name;
  EXPECT_EQ(names.count("decoder.seg_blocks.3.block.1.block.0.weight"), 0u);
  EXPECT_EQ(names.count("decoder.seg_blocks.0.block.0.block.0.bias"), 0u);
}

TEST(Segmenter, AnySideGivesLogitsAtStrideFour) {
  at::NoGradGuard no_grad;
  for (const bool stride_in_1x1 : {false, true}) {
    const auto model = constant_network(config_of("resnet50", stride_in_1x1), 5, 0);
    model->eval();
    struct Case {
      int64_t H, W, h, w;
    };
    for (const Case& c : {Case{64, 96, 16, 24}, Case{50, 71, 13, 18}, Case{33, 32, 9, 8}}) {
      const auto image_BCHW = at::ones({1, 3, c.H, c.W});
      const auto features = model->encode(image_BCHW);
      ASSERT_EQ(features.size(), 4u);
      for (size_t i = 0; i < 4; ++i) {
        const int64_t stride = 4 << i;
        EXPECT_EQ(features[i].size(1), 256 << i);
        EXPECT_EQ(features[i].size(2), (c.H + stride - 1) / stride);
        EXPECT_EQ(features[i].size(3), (c.W + stride - 1) / stride);
      }
      EXPECT_EQ(model->decode(features).sizes(), (at::IntArrayRef{1, 5, c.h, c.w}));
    }
  }
}

TEST(Segmenter, EveryParameterGetsAGradientInChannelsLast) {
  const auto model = make_segmenter(config_of("resnet18"), 3, 0);
  const auto image_BCHW =
      at::arange(2 * 3 * 64 * 64, at::kFloat).sin().reshape({2, 3, 64, 64}).contiguous(at::MemoryFormat::ChannelsLast);
  const auto logits_BKhw = model->forward(image_BCHW);
  EXPECT_TRUE(logits_BKhw.is_contiguous(at::MemoryFormat::ChannelsLast));
  logits_BKhw.square().mean().backward();
  for (const auto& item : model->named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    EXPECT_GT(item.value().grad().abs().sum().item<float>(), 0) << item.key();
  }
  EXPECT_EQ(model->named_buffers()["encoder.bn1.num_batches_tracked"].item<int64_t>(), 1);
}

TEST(MakeSegmenter, InitialValuesFollowTheNamedDistributions) {
  const auto parameters = make_segmenter(config_of("resnet18"), 19, 3)->named_parameters();
  const auto deviation = [&](const char* name) { return parameters[name].std().item<double>(); };
  // Kaiming normal, fan out: sqrt(2 / (512 * 9)).
  EXPECT_NEAR(deviation("encoder.layer4.1.conv2.weight"), std::sqrt(2.0 / 4608), 2e-5);
  EXPECT_NEAR(parameters["encoder.layer4.1.conv2.weight"].mean().item<double>(), 0, 5e-5);
  EXPECT_GT(parameters["encoder.layer4.1.conv2.weight"].abs().max().item<double>(), 4 * std::sqrt(2.0 / 4608));
  // Kaiming uniform, fan in: bound sqrt(6 / (256 * 9)), deviation bound / sqrt(3).
  EXPECT_LE(parameters["decoder.seg_blocks.0.block.0.block.0.weight"].abs().max().item<double>(), std::sqrt(6.0 / 2304));
  EXPECT_NEAR(deviation("decoder.seg_blocks.0.block.0.block.0.weight"), std::sqrt(2.0 / 2304), 1e-4);
  // Xavier uniform: bound sqrt(6 / (128 + 19)).
  EXPECT_LE(parameters["segmentation_head.0.weight"].abs().max().item<double>(), std::sqrt(6.0 / 147));
  EXPECT_NEAR(deviation("segmentation_head.0.weight"), std::sqrt(2.0 / 147), 5e-3);
  for (const auto& item : parameters) {
    if (item.value().dim() == 4) continue;
    const bool bias = item.key().find(".bias") != std::string::npos;
    EXPECT_TRUE(at::equal(item.value(), bias ? at::zeros_like(item.value()) : at::ones_like(item.value()))) << item.key();
  }
}

TEST(MakeSegmenter, IsAFunctionOfSeedAndPurpose) {
  const auto head = [](uint64_t seed, uint32_t purpose) {
    return make_segmenter(config_of("resnet18"), 19, seed, purpose)->named_parameters()["encoder.layer1.0.conv1.weight"];
  };
  const Tensor first = head(1, 0);
  EXPECT_TRUE(at::equal(first, head(1, 0)));
  EXPECT_FALSE(at::equal(first, head(2, 0)));
  EXPECT_FALSE(at::equal(first, head(1, 1)));
}

TEST(CopyModule, CopiesParametersAndBuffers) {
  const auto a = constant_network(config_of("resnet18"), 3, 1), b = constant_network(config_of("resnet18"), 3, 2);
  a->named_buffers()["encoder.bn1.num_batches_tracked"].fill_(9);
  copy_module(*a, *b);
  for (const auto& item : a->named_parameters()) EXPECT_TRUE(at::equal(item.value(), b->named_parameters()[item.key()]));
  EXPECT_EQ(b->named_buffers()["encoder.bn1.num_batches_tracked"].item<int64_t>(), 9);
  EXPECT_THROW(copy_module(*constant_network(config_of("resnet18"), 4, 1), *b), std::logic_error);
}

// A module with one dropout, as reseed_dropout finds it.
struct WithDropout : torch::nn::Module {
  std::shared_ptr<Dropout2d> first = register_module("first", std::make_shared<Dropout2d>(0.25));
  std::shared_ptr<Dropout2d> second = register_module("second", std::make_shared<Dropout2d>(0.25));
};

TEST(Dropout2d, MasksAreAFunctionOfSeedStepLayerAndCall) {
  WithDropout module;
  const auto x = at::ones({64, 128, 2, 3});
  reseed_dropout(module, 1, 5);
  const Tensor first_call = module.first->forward(x), second_call = module.first->forward(x),
               other_layer = module.second->forward(x);
  EXPECT_FALSE(at::equal(first_call, second_call));
  EXPECT_FALSE(at::equal(first_call, other_layer));
  reseed_dropout(module, 1, 5);
  EXPECT_TRUE(at::equal(module.first->forward(x), first_call));
  EXPECT_TRUE(at::equal(module.first->forward(x), second_call));
  reseed_dropout(module, 1, 6);
  EXPECT_FALSE(at::equal(module.first->forward(x), first_call));
  reseed_dropout(module, 2, 5);
  EXPECT_FALSE(at::equal(module.first->forward(x), first_call));

  // Whole channels: 0 or 4/3 over all pixels; a quarter of 8192 dropped (deviation 39).
  EXPECT_TRUE(at::equal(first_call.amax({2, 3}), first_call.amin({2, 3})));
  EXPECT_TRUE(((first_call == 0) | (first_call == static_cast<float>(4.0 / 3))).all().item<bool>());
  EXPECT_NEAR((first_call.amax({2, 3}) == 0).sum().item<int64_t>(), 2048, 200);
  module.eval();
  EXPECT_TRUE(at::equal(module.first->forward(x), x));
}

TEST(BatchNorm2d, RefusesOneValuePerChannel) {
  BatchNorm2d norm(2);
  EXPECT_THROW(norm.forward(at::ones({1, 2, 1, 1})), Error);
  norm.eval();
  EXPECT_NO_THROW(norm.forward(at::ones({1, 2, 1, 1})));
}

TEST(PaddedSide, IsTheNextMultipleOf32) {
  EXPECT_EQ(padded_side(1), 32);
  EXPECT_EQ(padded_side(32), 32);
  EXPECT_EQ(padded_side(33), 64);
  EXPECT_EQ(padded_side(1024), 1024);
}

}  // namespace
}  // namespace semiseg
