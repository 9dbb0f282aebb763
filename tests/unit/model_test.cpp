#include "semiseg/model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
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

ModelConfig deeplab_of(const std::string& backbone, int64_t output_stride) {
  ModelConfig config = config_of(backbone);
  config.decoder = "deeplabv3plus";
  config.output_stride = output_stride;
  return config;
}

// Without the pass that draws initial weights, which takes most of make_segmenter's time; all parameters are `value`.
std::shared_ptr<Segmenter> constant_network(const ModelConfig& config, int64_t num_classes, double value) {
  at::NoGradGuard no_grad;
  const auto backbone = backbones().at(config.backbone)(config);
  const auto model =
      std::make_shared<Segmenter>(backbone, decoders().at(config.decoder)(config, backbone->channels()), num_classes);
  for (Tensor& parameter : model->parameters()) parameter.fill_(value);
  return model;
}

TEST(Registries, NameWhatIsThere) {
  EXPECT_EQ(backbones().names(), (std::vector<std::string>{"resnet101", "resnet152", "resnet18", "resnet34", "resnet50"}));
  EXPECT_TRUE(decoders().contains("fpn"));
  EXPECT_TRUE(decoders().contains("deeplabv3plus"));
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

TEST(Segmenter, DeepLabV3PlusNamesAndShapesAreThoseOfThePeer) {
  const auto parameters = constant_network(deeplab_of("resnet50", 16), 19, 0)->named_parameters();
  const std::map<std::string, std::vector<int64_t>> expected = {{"decoder.aspp.0.convs.0.0.weight", {256, 2048, 1, 1}},
                                                                {"decoder.aspp.0.convs.0.1.weight", {256}},
                                                                {"decoder.aspp.0.convs.1.0.0.weight", {2048, 1, 3, 3}},
                                                                {"decoder.aspp.0.convs.1.0.1.weight", {256, 2048, 1, 1}},
                                                                {"decoder.aspp.0.convs.3.1.bias", {256}},
                                                                {"decoder.aspp.0.convs.4.1.weight", {256, 2048, 1, 1}},
                                                                {"decoder.aspp.0.convs.4.2.weight", {256}},
                                                                {"decoder.aspp.0.project.0.weight", {256, 1280, 1, 1}},
                                                                {"decoder.aspp.0.project.1.bias", {256}},
                                                                {"decoder.aspp.1.0.weight", {256, 1, 3, 3}},
                                                                {"decoder.aspp.1.1.weight", {256, 256, 1, 1}},
                                                                {"decoder.aspp.2.weight", {256}},
                                                                {"decoder.block1.0.weight", {48, 256, 1, 1}},
                                                                {"decoder.block1.1.weight", {48}},
                                                                {"decoder.block2.0.0.weight", {304, 1, 3, 3}},
                                                                {"decoder.block2.0.1.weight", {256, 304, 1, 1}},
                                                                {"decoder.block2.1.bias", {256}},
                                                                {"segmentation_head.0.weight", {19, 256, 1, 1}},
                                                                {"segmentation_head.0.bias", {19}}};
  int64_t decoder_values = 0;
  for (const auto& item : parameters)
    if (item.key().rfind("decoder.", 0) == 0) decoder_values += item.value().numel();
  for (const auto& [name, shape] : expected) {
    ASSERT_TRUE(parameters.contains(name)) << name;
    EXPECT_EQ(parameters[name].sizes(), at::IntArrayRef(shape)) << name;
  }
  EXPECT_FALSE(parameters.contains("decoder.aspp.0.convs.1.0.1.bias"));
  EXPECT_EQ(decoder_values, 3169296);  // smp's
}

TEST(DeepLabV3Plus, RefusesOutputStride32) {
  try {
    constant_network(deeplab_of("resnet18", 32), 3, 0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_EQ(error.where(), "model.output_stride");
    EXPECT_EQ(error.hint(), "set it to 16 or 8");
  }
}

TEST(DeepLabV3Plus, TrainingOnOneImageNamesTheSetting) {
  const auto model = constant_network(deeplab_of("resnet18", 16), 3, 0.01);
  const auto image_BCHW = at::ones({1, 3, 32, 64});
  try {
    model->forward(image_BCHW);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_EQ(error.where(), "optim.batch_labeled");
  }
  model->eval();
  EXPECT_NO_THROW(model->forward(image_BCHW));
}

TEST(Segmenter, OutputStrideBoundsTheStrides) {
  at::NoGradGuard no_grad;
  struct Network {
    const char *backbone, *decoder;
    int64_t output_stride;
    bool stride_in_1x1;
  };
  for (const Network& n : {Network{"resnet18", "fpn", 16, false}, Network{"resnet18", "fpn", 8, false},
                           Network{"resnet18", "deeplabv3plus", 16, false}, Network{"resnet18", "deeplabv3plus", 8, false},
                           Network{"resnet50", "deeplabv3plus", 8, false}, Network{"resnet50", "deeplabv3plus", 16, true}}) {
    SCOPED_TRACE(str(n.backbone, " ", n.decoder, " ", n.output_stride));
    ModelConfig config = config_of(n.backbone, n.stride_in_1x1);
    config.decoder = n.decoder;
    config.output_stride = n.output_stride;
    const auto model = constant_network(config, 5, 0);
    model->eval();
    struct Case {
      int64_t H, W, h, w;
    };
    for (const Case& c : {Case{32, 64, 8, 16}, Case{50, 71, 13, 18}, Case{33, 5, 9, 2}}) {
      const auto features = model->encode(at::ones({1, 3, c.H, c.W}));
      ASSERT_EQ(features.size(), 4u);
      for (size_t i = 0; i < 4; ++i) {
        const int64_t stride = std::min<int64_t>(4 << i, n.output_stride);
        EXPECT_EQ(features[i].size(2), (c.H + stride - 1) / stride);
        EXPECT_EQ(features[i].size(3), (c.W + stride - 1) / stride);
      }
      EXPECT_EQ(model->decode(features).sizes(), (at::IntArrayRef{1, 5, c.h, c.w}));
    }
  }
}

// An impulse in the input of layer 4, all of whose weights are positive: each of the four 3x3 convolutions reaches one dilation
// further to each side.
TEST(ResNet, DilationWidensEveryConvolutionOfALayer) {
  at::NoGradGuard no_grad;
  for (const int64_t output_stride : {16, 8}) {
    const auto backbone = backbones().at("resnet18")(deeplab_of("resnet18", output_stride));
    for (const auto& item : backbone->named_parameters()) Tensor(item.value()).fill_(item.value().dim() == 4 ? 1e-3 : 0);
    for (const auto& item : backbone->named_parameters())
      if (item.value().dim() == 1 && item.key().find(".weight") != std::string::npos) Tensor(item.value()).fill_(1);
    backbone->eval();
    auto* layer4 = dynamic_cast<Layer*>(backbone->named_children()["layer4"].get());
    ASSERT_NE(layer4, nullptr);
    Tensor x = at::zeros({1, 256, 1, 65});
    x.select(3, 32).fill_(1);
    const Tensor reached = layer4->forward(x)[0][0][0] > 0;
    const int64_t dilation = 32 / output_stride;
    for (int64_t i = 0; i < 65; ++i)
      EXPECT_EQ(reached[i].item<bool>(), std::abs(i - 32) % dilation == 0 && std::abs(i - 32) <= 4 * dilation) << i;
  }
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

class EveryDecoder : public testing::TestWithParam<ModelConfig> {};

TEST_P(EveryDecoder, GivesEveryParameterAGradientInChannelsLast) {
  const auto model = make_segmenter(GetParam(), 3, 0);
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

INSTANTIATE_TEST_SUITE_P(Decoders, EveryDecoder, testing::Values(config_of("resnet18"), deeplab_of("resnet18", 16)),
                         [](const auto& tested) { return tested.param.decoder; });

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

TEST(MakeSegmenter, ASeparableConvolutionsFanInIsOneChannel) {
  const auto parameters = make_segmenter(deeplab_of("resnet18", 16), 19, 3)->named_parameters();
  // Kaiming uniform, fan in 1 * 9: bound sqrt(6 / 9), deviation sqrt(2 / 9); 512 * 9 values.
  const Tensor depthwise = parameters["decoder.aspp.0.convs.1.0.0.weight"];
  EXPECT_LE(depthwise.abs().max().item<double>(), std::sqrt(6.0 / 9));
  EXPECT_NEAR(depthwise.std().item<double>(), std::sqrt(2.0 / 9), 0.02);
  EXPECT_NEAR(parameters["decoder.aspp.0.convs.1.0.1.weight"].std().item<double>(), std::sqrt(2.0 / 512), 5e-4);
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

// A module with two dropouts, as reseed_dropout finds them.
template <class Kind>
struct WithDropout : torch::nn::Module {
  std::shared_ptr<Kind> first = register_module("first", std::make_shared<Kind>(0.25));
  std::shared_ptr<Kind> second = register_module("second", std::make_shared<Kind>(0.25));
};

template <class Kind>
class DropoutKinds : public testing::Test {};
using Kinds = testing::Types<Dropout, Dropout2d, ComplementaryDropout>;
TYPED_TEST_SUITE(DropoutKinds, Kinds);

TYPED_TEST(DropoutKinds, MasksAreAFunctionOfSeedStepLayerAndCall) {
  WithDropout<TypeParam> module;
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
  module.eval();
  EXPECT_TRUE(at::equal(module.first->forward(x), x));
}

TEST(Dropout2d, DropsWholeChannels) {
  WithDropout<Dropout2d> module;
  reseed_dropout(module, 1, 5);
  const Tensor first_call = module.first->forward(at::ones({64, 128, 2, 3}));
  // Whole channels: 0 or 4/3 over all pixels; a quarter of 8192 dropped (deviation 39).
  EXPECT_TRUE(at::equal(first_call.amax({2, 3}), first_call.amin({2, 3})));
  EXPECT_TRUE(((first_call == 0) | (first_call == static_cast<float>(4.0 / 3))).all().item<bool>());
  EXPECT_NEAR((first_call.amax({2, 3}) == 0).sum().item<int64_t>(), 2048, 200);
}

TEST(ComplementaryDropout, GivesEachChannelToOneOfTwoViews) {
  struct : torch::nn::Module {
    std::shared_ptr<ComplementaryDropout> dropout = register_module("dropout", std::make_shared<ComplementaryDropout>(0.3));
  } module;
  constexpr int64_t kImages = 7;  // of which floor(4.9) keep all
  const std::vector<Tensor> features{at::ones({2 * kImages, 64, 4, 3}), at::ones({2 * kImages, 256, 2, 1})};
  std::vector<Tensor> kept_before;
  for (const int64_t step : {5, 6}) {
    reseed_dropout(module, 1, step);
    const auto dropped = module.dropout->drop(features, 2 * kImages);
    ASSERT_EQ(dropped.size(), 2U);
    std::vector<Tensor> kept;
    for (size_t level = 0; level < 2; ++level) {
      ASSERT_EQ(dropped[level].sizes(), features[level].sizes());
      EXPECT_TRUE(at::equal(dropped[level].amax({2, 3}), dropped[level].amin({2, 3})));  // whole channels
      const auto factor_2BC = dropped[level].amax({2, 3});
      const auto first = factor_2BC.narrow(0, 0, kImages), second = factor_2BC.narrow(0, kImages, kImages);
      EXPECT_TRUE((first + second == 2).all().item<bool>());
      EXPECT_TRUE(((first == 0) | (first == 1) | (first == 2)).all().item<bool>());
      kept.push_back((first == 1).all(1));
      EXPECT_TRUE(kept.back().equal((first == 1).any(1)));
      EXPECT_EQ(kept.back().sum().item<int64_t>(), 4);
      // A fair coin for each channel of the other three: 192 or 768 of them, deviations 7 and 14.
      const int64_t coins = 3 * first.size(1);
      EXPECT_NEAR((first == 2).sum().item<double>(), static_cast<double>(coins) / 2, coins == 192 ? 35 : 70);
    }
    EXPECT_TRUE(kept[0].equal(kept[1]));  // the same images at all strides
    if (!kept_before.empty()) {
      EXPECT_FALSE(kept[0].equal(kept_before[0]));
    }
    kept_before = kept;
  }
  reseed_dropout(module, 1, 6);  // what follows the views stays as it is
  const auto with_others = module.dropout->drop({at::ones({2 * kImages + 3, 64, 4, 3})}, 2 * kImages)[0];
  EXPECT_TRUE((with_others.narrow(0, 2 * kImages, 3) == 1).all().item<bool>());
  EXPECT_FALSE((with_others == 1).all().item<bool>());
  module.eval();
  EXPECT_TRUE(module.dropout->drop(features, 2 * kImages)[0].equal(features[0]));
}

TEST(Dropout, DropsSingleValuesAlikeForAnyThreadsAndFormat) {
  WithDropout<Dropout> module;
  const auto x = at::ones({4, 64, 16, 32}).requires_grad_();
  reseed_dropout(module, 1, 5);
  const Tensor y = module.first->forward(x);
  // 0 or 4/3; a quarter of 131072 dropped (deviation 157), in every plane of 512 (deviation 10) and at every pixel of 256 (7).
  const Tensor dropped = y == 0;
  EXPECT_TRUE((dropped | (y == static_cast<float>(4.0 / 3))).all().item<bool>());
  EXPECT_NEAR(dropped.sum().item<int64_t>(), 32768, 800);
  EXPECT_GT(dropped.sum(at::IntArrayRef{2, 3}).min().item<int64_t>(), 128 - 60);
  EXPECT_LT(dropped.sum(at::IntArrayRef{2, 3}).max().item<int64_t>(), 128 + 60);
  EXPECT_GT(dropped.sum(at::IntArrayRef{0, 1}).min().item<int64_t>(), 64 - 42);
  EXPECT_LT(dropped.sum(at::IntArrayRef{0, 1}).max().item<int64_t>(), 64 + 42);
  y.sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), y));

  reseed_dropout(module, 1, 5);
  const Tensor channels_last = module.first->forward(x.detach().contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(channels_last.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(at::equal(channels_last, y));
  const int threads = at::get_num_threads();
  at::set_num_threads(threads == 1 ? 2 : 1);
  reseed_dropout(module, 1, 5);
  EXPECT_TRUE(at::equal(module.first->forward(x), y));
  at::set_num_threads(threads);
}

TEST(Conv2d, GroupsSeeTheirOwnChannels) {
  at::NoGradGuard no_grad;
  Conv2d convolution(4, 2, 1, ConvOptions{.groups = 2});
  convolution.parameters()[0].copy_(at::tensor({1.0f, 10.0f, 100.0f, 1000.0f}).reshape({2, 2, 1, 1}));
  const auto y = convolution.forward(at::tensor({1.0f, 2.0f, 3.0f, 4.0f}).reshape({1, 4, 1, 1}));
  EXPECT_TRUE(at::equal(y.flatten(), at::tensor({21.0f, 4300.0f})));
}

TEST(GroupNorm2d, IsThePlainOneWithWhatFollows) {
  for (const auto& [C, groups] : {std::pair<int64_t, int64_t>{64, 32}, {48, 16}}) {
    GroupNorm2d norm(C);
    at::NoGradGuard no_grad;
    at::manual_seed(1);
    for (Tensor& parameter : norm.parameters()) parameter.uniform_(-1, 1);
    const auto x = at::randn({2, C, 5, 3}), residual = at::randn({2, C, 5, 3});
    const auto parameters = norm.named_parameters();
    const auto plain = at::group_norm(x, groups, parameters["weight"], parameters["bias"], 1e-5);
    EXPECT_TRUE(at::allclose(norm.forward(x), plain, 1e-5, 1e-6));
    EXPECT_TRUE(at::allclose(norm.forward_relu(x), plain.relu(), 1e-5, 1e-6));
    EXPECT_TRUE(at::allclose(norm.forward_relu(x, residual), (plain + residual).relu(), 1e-5, 1e-6));
  }
}

// A network normalised by groups sees each image alone, in training too, and learns from a single one.
TEST(Segmenter, NormalisedByGroupsTakesImagesApart) {
  for (ModelConfig config : {config_of("resnet18"), deeplab_of("resnet18", 16)}) {
    config.norm = "group";
    config.dropout = 0;
    const auto network = make_segmenter(config, 3, 1);
    EXPECT_TRUE(network->buffers().empty());
    network->train();
    at::manual_seed(2);
    const auto image_BCHW = at::randn({2, 3, 64, 64});
    const auto both = network->forward(image_BCHW), first = network->forward(image_BCHW.narrow(0, 0, 1));
    EXPECT_TRUE(at::allclose(both.narrow(0, 0, 1), first, 1e-4, 1e-5));
    first.sum().backward();
    for (const auto& item : network->named_parameters()) EXPECT_TRUE(item.value().grad().defined()) << item.key();
  }
}

TEST(BatchNorm2d, RefusesOneValuePerChannel) {
  BatchNorm2d norm(2);
  try {
    norm.forward(at::ones({1, 2, 1, 1}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.where(), "optim.batch_labeled");
  }
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
