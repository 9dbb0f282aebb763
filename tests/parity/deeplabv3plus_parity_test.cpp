// The networks against segmentation_models_pytorch's DeepLabV3Plus, whose logits tools/goldens/smp_deeplabv3plus.py and
// check_parity.py recorded.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>

#include "semiseg/model.h"
#include "semiseg/random.h"
#include "semiseg/weights.h"

namespace semiseg {
namespace {

constexpr double kTolerance = 1e-4;

// smp_fpn.py's noise(): values in [-1, 1), a pure function of name and index.
Tensor noise(const std::string& name, at::IntArrayRef shape) {
  Tensor result = at::empty(shape, at::kDouble);
  const auto start = static_cast<uint32_t>(hash_name(name));
  double* values = result.data_ptr<double>();
  for (int64_t i = 0; i < result.numel(); ++i) {
    uint32_t x = start + static_cast<uint32_t>(i);
    x ^= x >> 16;
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    x *= 0xC2B2AE35u;
    x ^= x >> 16;
    values[i] = x / 2147483648.0 - 1;
  }
  return result;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// smp_deeplabv3plus.py's damped().
Tensor damped(const std::string& name, at::IntArrayRef shape) {
  Tensor values = noise(name, shape);
  if (shape.size() == 4)
    values *= std::sqrt(6.0 / static_cast<double>(shape[1] * shape[2] * shape[3]));
  else if (contains(name, "running_var"))
    values = 1 + 0.2 * values;
  else if (contains(name, ".weight"))
    values = (contains(name, ".bn2.") || contains(name, ".bn3.") ? 0.4 * 0.5 : 1.0) * (1 + 0.2 * values);
  else
    values *= 0.1;
  return values.to(at::kFloat);
}

int64_t fill(Segmenter& model) {
  at::NoGradGuard no_grad;
  int64_t names = 0;
  for (const auto& list : {model.named_parameters(), model.named_buffers()})
    for (const auto& item : list) {
      ++names;
      if (!contains(item.key(), "num_batches_tracked")) Tensor(item.value()).copy_(damped(item.key(), item.value().sizes()));
    }
  return names;
}

// Without initial weights: every test sets them all.
std::shared_ptr<Segmenter> network(const std::string& name, int64_t output_stride) {
  ModelConfig config;
  config.output_stride = output_stride;
  config.dropout = 0;
  const auto backbone = backbones().at(name)(config);
  return std::make_shared<Segmenter>(backbone, decoders().at("deeplabv3plus")(config, backbone->channels()),
                                     /*num_classes=*/19);
}

Tensor upsampled(Segmenter& model, const Tensor& image_BCHW) {
  at::NoGradGuard no_grad;
  return at::upsample_bilinear2d(model.forward(image_BCHW), {image_BCHW.size(2), image_BCHW.size(3)}, /*align_corners=*/true);
}

// Backbone and output stride.
class DeepLabV3PlusGolden : public testing::TestWithParam<std::tuple<const char*, int64_t>> {};

TEST_P(DeepLabV3PlusGolden, LogitsAreThoseOfSegmentationModelsPytorch) {
  std::ifstream file(SEMISEG_SOURCE_DIR "/tests/parity/smp_deeplabv3plus.json");
  ASSERT_TRUE(file) << "tests/parity/smp_deeplabv3plus.json is missing";
  const auto golden = nlohmann::json::parse(file);
  const auto& [backbone, output_stride] = GetParam();
  const auto model = network(backbone, output_stride);
  const int64_t names = fill(*model);
  const auto image_BCHW = noise("image", {2, 3, golden["size"][0], golden["size"][1]}).to(at::kFloat);

  int cases = 0;
  for (const auto& expected : golden["cases"]) {  // eval, then train
    if (expected["backbone"] != backbone || expected["output_stride"] != output_stride) continue;
    SCOPED_TRACE(expected["mode"].get<std::string>());
    ++cases;
    EXPECT_EQ(names, expected["names"].get<int64_t>());
    model->train(expected["mode"] == "train");
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      // Both formats in evaluation mode; in training mode one pass, since each moves the running statistics.
      if (model->is_training() && format == at::MemoryFormat::Contiguous) continue;
      const auto logits = upsampled(*model, image_BCHW.contiguous(format)).contiguous();
      const float* values = logits.data_ptr<float>();
      const auto step = expected["step"].get<int64_t>();
      const auto& samples = expected["logits"];
      ASSERT_GE(logits.numel(), (static_cast<int64_t>(samples.size()) - 1) * step + 1);
      double worst = 0;
      for (size_t i = 0; i < samples.size(); ++i)
        worst = std::max(worst, std::abs(values[static_cast<int64_t>(i) * step] - samples[i].get<double>()));
      EXPECT_LT(worst, kTolerance);
      EXPECT_NEAR(logits.to(at::kDouble).mean().item<double>(), expected["mean"].get<double>(), kTolerance);
      EXPECT_NEAR(logits.to(at::kDouble).abs().mean().item<double>(), expected["mean_abs"].get<double>(), kTolerance);
    }
    const auto buffers = model->named_buffers();
    for (const auto& [name, mean_abs] : expected["running"].items())
      EXPECT_NEAR(buffers[name].abs().mean().item<double>(), mean_abs.get<double>(), 1e-5) << name;
  }
  EXPECT_EQ(cases, 2);
}

INSTANTIATE_TEST_SUITE_P(BackbonesAndStrides, DeepLabV3PlusGolden,
                         testing::Combine(testing::Values("resnet18", "resnet50"), testing::Values(16, 8)));

// Random weights through torch.save's files; the folder is made by tools/goldens/check_parity.py.
TEST(DeepLabV3PlusParity, FilesOfTorchSaveGiveThePeersLogits) {
  const char* folder = std::getenv("SEMISEG_PARITY_DIR");
  if (folder == nullptr) GTEST_SKIP() << "SEMISEG_PARITY_DIR is not set; tools/goldens/check_parity.py makes its folder";
  for (const std::string backbone : {"resnet18", "resnet50"})
    for (const int64_t output_stride : {16, 8}) {
      const std::string stem = std::string(folder) + "/deeplabv3plus_" + backbone + "_" + std::to_string(output_stride);
      auto io = read_safetensors(stem + ".io.safetensors").tensors;
      for (const char* format : {".zip.pth", ".legacy.pth"}) {
        const std::string path = stem + format;
        SCOPED_TRACE(path);
        const auto model = network(backbone, output_stride);
        const LoadSummary summary = load_weights(*model, read_weights(path), path);
        EXPECT_TRUE(summary.missing.empty());
        EXPECT_TRUE(summary.unexpected.empty());
        for (const std::string mode : {"eval", "train"}) {
          model->train(mode == "train");
          const double difference = (upsampled(*model, io["image"]) - io[mode]).abs().max().item<double>();
          std::cout << backbone << " output stride " << output_stride << format << " " << mode << ": max abs difference "
                    << difference << "\n";
          EXPECT_LT(difference, kTolerance);
        }
      }
    }
}

}  // namespace
}  // namespace semiseg
