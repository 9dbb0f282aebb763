// Exported networks within the program; tests/run/export_test.cpp reads the files back in Python.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "../parity/smp_formula.h"
#include "../tiny_network.h"
#include "commands/command.h"
#include "export/graph.h"
#include "export/torchscript.h"
#include "semiseg/checkpoint.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/ops.h"
#include "semiseg/weights.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

template <class Op>
int64_t count(const graph::Graph& graph) {
  return std::count_if(graph.nodes.begin(), graph.nodes.end(),
                       [](const graph::Node& node) { return std::holds_alternative<Op>(node.operation); });
}

std::shared_ptr<Segmenter> tiny() {
  const auto network = make_tiny_network(5);
  fill(*network);
  network->eval();
  return network;
}

TEST(NetworkGraph, NamesTheOperationsOfANetwork) {
  const auto network = tiny();
  const graph::Graph graph = graph::record(*network);
  // Four stages of three, five projections (the head is one), three enlargements that are added.
  EXPECT_EQ(graph.nodes.size(), 4u * 3 + 5 + 3 + 3);
  EXPECT_EQ(count<graph::Convolution>(graph), 9);
  EXPECT_EQ(count<graph::Bilinear>(graph), 3);
  const auto& first = std::get<graph::Convolution>(graph.nodes[0].operation);
  EXPECT_EQ(first.layer, "encoder.stage0.0");
  EXPECT_EQ(first.options.stride, 4);
  EXPECT_EQ(first.options.padding, 2);
  EXPECT_EQ(graph.nodes[0].inputs, std::vector<size_t>{0});
  for (const graph::Node& node : graph.nodes) {
    if (!std::holds_alternative<graph::Bilinear>(node.operation)) continue;
    EXPECT_EQ(node.inputs.at(1), 1u);  // the first value at stride 4
  }
  EXPECT_EQ(graph.num_classes, 5);
  EXPECT_EQ(graph.parameters.size() + graph.buffers.size(),
            network->named_parameters().size() + network->named_buffers().size());
}

class Softplus : public TinyDecoder {
 public:
  Tensor forward(const std::vector<Tensor>& features) override { return at::softplus(TinyDecoder::forward(features)); }
};

TEST(NetworkGraph, SaysWhichOperationItDoesNotKnow) {
  Segmenter network(std::make_shared<TinyBackbone>(), std::make_shared<Softplus>(), 3);
  network.eval();
  try {
    graph::record(network);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), 2);
    EXPECT_NE(std::string(error.what()).find("aten::softplus"), std::string::npos) << error.what();
  }
}

TEST(TorchScript, GivesTheNetworksOutputsAtAnySizeAndBatch) {
  at::NoGradGuard no_grad;
  const auto network = tiny();
  const graph::Graph graph = graph::record(*network);
  const auto run = [&](graph::Output output, const Tensor& image_BCHW) {
    return run_torchscript(to_torchscript(graph, output, "{}"), {image_BCHW}).at(0);
  };
  for (const auto& [B, H, W] : {std::array<int64_t, 3>{1, 64, 32}, {3, 33, 70}, {2, 1, 1}}) {
    const auto image_BCHW = noise("image", {B, 3, H, W}).to(at::kFloat);
    const auto padded_BCHW = at::constant_pad_nd(image_BCHW, {0, padded_side(W) - W, 0, padded_side(H) - H}, 0);
    const auto low_BKhw = network->forward(padded_BCHW);
    const auto logits_BKHW = upsample_logits(low_BKhw, padded_side(H), padded_side(W)).narrow(2, 0, H).narrow(3, 0, W);
    EXPECT_TRUE(run(graph::Output::kLogits, image_BCHW).allclose(logits_BKHW, 0, 1e-5)) << H;
    EXPECT_TRUE(run(graph::Output::kLogits, image_BCHW).is_contiguous());
    EXPECT_TRUE(run(graph::Output::kLowResolution, image_BCHW).allclose(low_BKhw, 0, 1e-5)) << H;
    EXPECT_TRUE(run(graph::Output::kClasses, image_BCHW).equal(logits_BKHW.argmax(1))) << H;
  }
}

TEST(Export, RefusesWhatItCannotDo) {
  const std::string dir = testing::TempDir() + "/semiseg_export_errors";
  fs::remove_all(dir);
  make_folders(dir + "/folder.onnx");
  write_file(dir + "/there.onnx", "x");
  write_safetensors(dir + "/weights.safetensors", {{"a", at::zeros({1})}}, {});
  write_file(dir + "/config.yaml",
             "data: {format: synthetic}\nmodel: {backbone: resnet18}\nsemi: {method: supervised}\noptim: {epochs: 1}\n");
  struct Case {
    std::vector<std::string> words;  // DIR/ stands before names
    int code;
    std::string problem;
  };
  for (const Case& c : std::vector<Case>{
           {{"weights.safetensors", "-o", "a.tflite"}, 2, ".onnx"},
           {{"weights.safetensors", "-o", "a"}, 2, "ending"},
           {{"weights.safetensors"}, 2, "-o"},
           {{"weights.safetensors", "-o", "there.onnx"}, 2, "--overwrite"},
           {{"weights.safetensors", "-o", "folder.onnx"}, 2, "folder"},
           {{"weights.safetensors", "-o", "weights.safetensors", "--overwrite"}, 2, "the checkpoint itself"},
           {{"weights.safetensors", "-o", "a.onnx"}, 2, "config"},
           {{"weights.safetensors", "config.yaml", "-o", "a.onnx"}, 7, "weights.safetensors"},
           {{"none.safetensors", "-o", "a.onnx"}, 7, "none.safetensors"},
           {{"there.onnx", "-o", "a.onnx"}, 7, "there.onnx"},
           {{"weights.safetensors", "-o", "a.onnx", "--output", "argmax"}, 2, "low_resolution"},
           {{"weights.safetensors", "-o", "a.safetensors", "--output", "classes"}, 2, "--output"},
           {{"weights.safetensors", "-o", "a.onnx", "--reference", "there.onnx"}, 2, "the file exists"},
           {{"weights.safetensors", "-o", "a.onnx", "--reference", "./a.onnx"}, 2, "name one file"},
       }) {
    std::vector<std::string> words{"export"};
    for (const std::string& word : c.words)
      words.push_back(word.find('.') == std::string::npos && word != "a" ? word : dir + "/" + word);
    try {
      run_command_line(words);
      ADD_FAILURE() << c.problem;
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), c.code) << error.what();
      EXPECT_NE(std::string(error.what()).find(c.problem), std::string::npos) << error.what();
    }
    EXPECT_FALSE(fs::exists(dir + "/a.onnx"));
  }
}

}  // namespace
}  // namespace semiseg
