// The networks against segmentation_models_pytorch's DeepLabV3Plus, whose logits tools/goldens/smp_deeplabv3plus.py and
// check_parity.py recorded.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>

#include "semiseg/weights.h"
#include "smp_formula.h"

namespace semiseg {
namespace {

constexpr double kDamping = 0.4;  // smp_deeplabv3plus.py's

std::shared_ptr<Segmenter> network(const std::string& backbone, int64_t output_stride) {
  ModelConfig config;
  config.backbone = backbone;
  config.decoder = "deeplabv3plus";
  config.output_stride = output_stride;
  return bare_network(config);
}

// Backbone and output stride.
class DeepLabV3PlusGolden : public testing::TestWithParam<std::tuple<const char*, int64_t>> {};

TEST_P(DeepLabV3PlusGolden, LogitsAreThoseOfSegmentationModelsPytorch) {
  std::ifstream file(SEMISEG_SOURCE_DIR "/tests/parity/smp_deeplabv3plus.json");
  ASSERT_TRUE(file) << "tests/parity/smp_deeplabv3plus.json is missing";
  const auto golden = nlohmann::json::parse(file);
  const auto& [backbone, output_stride] = GetParam();
  const auto model = network(backbone, output_stride);
  const int64_t names = fill(*model, kDamping);
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
      expect_recorded(upsampled(*model, image_BCHW.contiguous(format)), expected);
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
