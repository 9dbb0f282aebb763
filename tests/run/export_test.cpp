// Exported files, read back by Python's runtimes.
#include "../parity/smp_formula.h"
#include "program.h"
#include "tests/python.h"

namespace semiseg {
namespace {

constexpr int kSkipped = 77;  // export.py's exit code where a package is missing

class Exports : public ProgramTest {
 protected:
  Exports()
      : ProgramTest(R"(data: {format: synthetic, size: [64, 96], counts: [2, 2, 2], crop: 64}
semi: {method: supervised}
optim: {epochs: 1}
)") {}

  Outcome check(const std::string& files) const {
    if (!std::filesystem::exists(kPython)) return {kSkipped, "there is no " + kPython};
    return shell(kPython + " " SEMISEG_SOURCE_DIR "/tools/check/export.py " + files);
  }
};

// Weights by formula, BatchNorm's statistics among them, so that nothing is at its initial value.
TEST_F(Exports, GiveSemisegsOutputsInPythonsRuntimes) {
  struct Case {
    std::string backbone, decoder, output, flags;
    int64_t output_stride;
    bool stride_in_1x1;
    std::string norm;
    std::vector<std::string> endings;
  };
  std::string files;
  for (const Case& c : {Case{"resnet18", "fpn", "logits", "", 32, false, "batch", {".pt", ".onnx"}},
                        Case{"resnet18", "fpn", "classes", "--fold", 32, false, "batch", {".onnx"}},
                        Case{"resnet18", "deeplabv3plus", "low_resolution", "", 16, false, "group", {".pt", ".onnx"}},
                        Case{"resnet50", "deeplabv3plus", "logits", "--fold", 8, true, "batch", {".onnx"}}}) {
    ModelConfig config;
    config.backbone = c.backbone;
    config.decoder = c.decoder;
    config.output_stride = c.output_stride;
    config.stride_in_1x1 = c.stride_in_1x1;
    config.norm = c.norm;
    const auto network = bare_network(config);
    fill(*network, /*damping=*/0.4);
    StateDict weights;
    for (const auto& list : {network->named_parameters(), network->named_buffers()})
      for (const auto& item : list) weights[item.key()] = item.value();
    write_safetensors(dir_ + "/weights.safetensors", weights, {});

    const std::string name = c.backbone + "_" + c.decoder + "_" + c.output;
    for (const std::string& ending : c.endings) {
      const std::string file = name + ending;
      const Outcome exported =
          semiseg(str("export weights.safetensors tiny.yaml model.backbone=", c.backbone, " model.decoder=", c.decoder,
                      " model.output_stride=", c.output_stride, " model.stride_in_1x1=", c.stride_in_1x1 ? "true" : "false",
                      " model.norm=", c.norm, " -o ", file, " --output ", c.output, " ", c.flags, " --reference ", name,
                      ".reference.safetensors --overwrite"));
      ASSERT_EQ(exported.code, 0) << exported.output;
      files += " " + file;
    }
  }
  const Outcome checked = check(files);
  if (checked.code == kSkipped) GTEST_SKIP() << checked.output;
  EXPECT_EQ(checked.code, 0) << checked.output;
}

// No difference to what is no number can be measured.
TEST_F(Exports, OfANetworkWithoutFiniteLogitsAreRefused) {
  ModelConfig config;
  config.backbone = "resnet18";
  const auto network = bare_network(config);
  fill(*network, /*damping=*/0.4);
  StateDict weights;
  for (const auto& list : {network->named_parameters(), network->named_buffers()})
    for (const auto& item : list) weights[item.key()] = item.value().clone();
  weights.at("encoder.bn1.running_var").fill_(-1);
  write_safetensors(dir_ + "/bad.safetensors", weights, {});
  const Outcome refused = semiseg("export bad.safetensors tiny.yaml model.backbone=resnet18 -o bad.onnx");
  EXPECT_EQ(refused.code, 7) << refused.output;
  EXPECT_NE(refused.output.find("no finite numbers"), std::string::npos) << refused.output;
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/bad.onnx"));
}

TEST_F(Exports, OfACheckpointHoldTheWeightsAlone) {
  const Outcome trained =
      semiseg("train tiny.yaml model.backbone=resnet18 semi.method=mean_teacher optim.batch_labeled=2 optim.batch_unlabeled=2");
  ASSERT_EQ(trained.code, 0) << trained.output;
  const Outcome exported = semiseg("export runs/tiny/checkpoints/last.safetensors -o weights.safetensors");
  ASSERT_EQ(exported.code, 0) << exported.output;
  const auto checkpoint = tensors("runs/tiny/checkpoints/last.safetensors");
  const auto file = read_safetensors(dir_ + "/weights.safetensors");
  EXPECT_LT(file.tensors.size(), checkpoint.size());
  for (const auto& [name, tensor] : file.tensors) EXPECT_TRUE(checkpoint.at(name).equal(tensor)) << name;
  EXPECT_EQ(nlohmann::json::parse(file.metadata.at("classes")).size(), 19u);
  EXPECT_EQ(nlohmann::json::parse(file.metadata.at("model"))["backbone"], "resnet18");

  const Outcome settings = semiseg("export runs/tiny/checkpoints/last.safetensors -o a.onnx data.std=[1,1,1]");
  EXPECT_EQ(settings.code, 2) << settings.output;

  // Weights without a run are exported under a config, and can be trained from.
  const Outcome again = semiseg("export weights.safetensors tiny.yaml model.backbone=resnet18 -o again.safetensors");
  ASSERT_EQ(again.code, 0) << again.output;
  expect_equal(file.tensors, tensors("again.safetensors"));
}

}  // namespace
}  // namespace semiseg
