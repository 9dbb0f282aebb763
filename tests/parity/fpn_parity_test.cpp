// The networks against segmentation_models_pytorch's FPN, whose logits tools/goldens/smp_fpn.py and check_parity.py recorded.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "semiseg/weights.h"
#include "smp_formula.h"

namespace semiseg {
namespace {

std::shared_ptr<Segmenter> network(const std::string& backbone) {
  ModelConfig config;
  config.backbone = backbone;
  return bare_network(config);
}

class FpnGolden : public testing::TestWithParam<const char*> {};

TEST_P(FpnGolden, LogitsAreThoseOfSegmentationModelsPytorch) {
  std::ifstream file(SEMISEG_SOURCE_DIR "/tests/parity/smp_fpn.json");
  ASSERT_TRUE(file) << "tests/parity/smp_fpn.json is missing";
  const auto golden = nlohmann::json::parse(file);
  const auto model = network(GetParam());
  const int64_t names = fill(*model);
  const auto image_BCHW = noise("image", {2, 3, golden["size"][0], golden["size"][1]}).to(at::kFloat);

  int cases = 0;
  for (const auto& expected : golden["cases"]) {  // eval, then train
    if (expected["backbone"] != GetParam()) continue;
    SCOPED_TRACE(expected["mode"].get<std::string>());
    ++cases;
    EXPECT_EQ(names, expected["names"].get<int64_t>());
    model->train(expected["mode"] == "train");
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      // Both formats in evaluation mode; in training mode one pass, since each moves the running statistics.
      if (model->is_training() && format == at::MemoryFormat::ChannelsLast) continue;
      expect_recorded(upsampled(*model, image_BCHW.contiguous(format)), expected);
    }
    const auto buffers = model->named_buffers();
    EXPECT_NEAR(buffers["encoder.layer4.1.bn2.running_mean"].abs().mean().item<double>(),
                expected["running_mean"].get<double>(), 1e-5);
    EXPECT_NEAR(buffers["encoder.layer4.1.bn2.running_var"].mean().item<double>(), expected["running_var"].get<double>(), 1e-5);
  }
  EXPECT_EQ(cases, 2);
}

INSTANTIATE_TEST_SUITE_P(Backbones, FpnGolden, testing::Values("resnet18", "resnet50"));

// Random weights through torch.save's files; the folder is made by tools/goldens/check_parity.py.
TEST(FpnParity, FilesOfTorchSaveGiveThePeersLogits) {
  const char* folder = std::getenv("SEMISEG_PARITY_DIR");
  if (folder == nullptr) GTEST_SKIP() << "SEMISEG_PARITY_DIR is not set; tools/goldens/check_parity.py makes its folder";
  for (const std::string backbone : {"resnet18", "resnet50"})
    for (const char* format : {".zip.pth", ".legacy.pth"}) {
      const std::string path = std::string(folder) + "/" + backbone + format;
      SCOPED_TRACE(path);
      const auto model = network(backbone);
      const LoadSummary summary = load_weights(*model, read_weights(path), path);
      EXPECT_TRUE(summary.missing.empty());
      EXPECT_TRUE(summary.unexpected.empty());
      auto io = read_safetensors(std::string(folder) + "/" + backbone + ".io.safetensors").tensors;
      for (const std::string mode : {"eval", "train"}) {
        model->train(mode == "train");
        const double difference = (upsampled(*model, io["image"]) - io[mode]).abs().max().item<double>();
        std::cout << backbone << format << " " << mode << ": max abs difference " << difference << "\n";
        EXPECT_LT(difference, kTolerance);
      }
    }
}

}  // namespace
}  // namespace semiseg
