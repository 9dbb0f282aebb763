#include "export/torchscript.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <memory>
#include <sstream>

namespace semiseg {
namespace {

using namespace graph;

// "encoder.layer1.0.conv1" -> getattr(self.encoder.layer1, "0").conv1, as a number is no name in code.
std::string member(const std::string& path) {
  std::istringstream parts(path);
  std::string code = "self";
  for (std::string part; std::getline(parts, part, '.');)
    code = std::isdigit(static_cast<unsigned char>(part[0])) ? "getattr(" + code + ", \"" + part + "\")" : code + "." + part;
  return code;
}

std::string value(size_t index) { return str("x", index); }

std::string size_of(size_t index) { return str("[x", index, ".size(2), x", index, ".size(3)]"); }

std::string number(double value) { return format("%.9g", value); }

// Each operation as an expression.
class Expression {
 public:
  explicit Expression(const std::vector<size_t>& inputs) : inputs_(inputs) {}

  std::string operator()(const Convolution& op) const {
    const auto layer = member(op.layer);
    const auto both = [](int64_t side) { return str("[", side, ", ", side, "]"); };
    return str("torch.conv2d(", x(), ", ", layer, ".weight, ", op.options.bias ? layer + ".bias" : "None", ", ",
               both(op.options.stride), ", ", both(op.options.padding), ", ", both(op.options.dilation), ", ",
               op.options.groups, ")");
  }
  std::string operator()(const BatchNorm& op) const {
    const auto layer = member(op.layer);
    return str("torch.batch_norm(", x(), ", ", layer, ".weight, ", layer, ".bias, ", layer, ".running_mean, ", layer,
               ".running_var, False, 0., ", number(op.epsilon), ", True)");
  }
  std::string operator()(const GroupNorm& op) const {
    const auto layer = member(op.layer);
    return str("torch.group_norm(", x(), ", ", op.groups, ", ", layer, ".weight, ", layer, ".bias, ", number(op.epsilon), ")");
  }
  std::string operator()(const ReLU&) const { return "torch.relu(" + x() + ")"; }
  std::string operator()(const MaxPool& op) const {
    return str("torch.max_pool2d(", x(), ", ", op.kernel, ", ", op.stride, ", ", op.padding, ")");
  }
  std::string operator()(const GlobalMean&) const { return "torch.adaptive_avg_pool2d(" + x() + ", [1, 1])"; }
  std::string operator()(const Add&) const { return x() + " + " + value(inputs_.at(1)); }
  std::string operator()(const Concat&) const {
    std::string list;
    for (const size_t input : inputs_) list += (list.empty() ? "" : ", ") + value(input);
    return "torch.cat([" + list + "], 1)";
  }
  std::string operator()(const Nearest&) const { return "torch.upsample_nearest2d(" + x() + ", " + size() + ")"; }
  std::string operator()(const Bilinear&) const { return "torch.upsample_bilinear2d(" + x() + ", " + size() + ", True)"; }
  std::string operator()(const Expand&) const {
    return str(x(), ".expand(-1, -1, x", inputs_.at(1), ".size(2), x", inputs_.at(1), ".size(3))");
  }

 private:
  std::string x() const { return value(inputs_.at(0)); }
  std::string size() const { return size_of(inputs_.at(1)); }

  const std::vector<size_t>& inputs_;
};

std::string forward_code(const Graph& graph, Output output) {
  const int64_t multiple = padded_side(1);
  std::string code = str("def forward(self, image: Tensor) -> Tensor:\n  bottom = (", multiple, " - image.size(2) % ", multiple,
                         ") % ", multiple, "\n  right = (", multiple, " - image.size(3) % ", multiple, ") % ", multiple,
                         "\n  x0 = torch.constant_pad_nd(image, [0, right, 0, bottom], 0.)\n");
  for (size_t i = 0; i < graph.nodes.size(); ++i)
    code += "  " + value(i + 1) + " = " + std::visit(Expression(graph.nodes[i].inputs), graph.nodes[i].operation) + "\n";
  const size_t last = graph.nodes.size();
  if (output == Output::kLowResolution) return code + "  return " + value(last) + ".contiguous()\n";
  code += "  logits = torch.upsample_bilinear2d(" + value(last) + ", " + size_of(0) +
          ", True)[:, :, :image.size(2), :image.size(3)]\n";
  return code + (output == Output::kClasses ? "  return torch.argmax(logits, 1)\n" : "  return logits.contiguous()\n");
}

// Modules by path, made with those above them when first asked for.
class ModuleTree {
 public:
  torch::jit::Module& at(const std::string& path) {
    const auto found = modules_.find(path);
    if (found != modules_.end()) return found->second;
    torch::jit::Module module(class_name(path), classes_);
    module.register_attribute("training", c10::BoolType::get(), false);
    if (!path.empty()) {
      const size_t dot = path.rfind('.');
      at(dot == std::string::npos ? "" : path.substr(0, dot)).register_module(path.substr(dot + 1), module);
    }
    return modules_.emplace(path, std::move(module)).first->second;
  }

  void add(const StateDict& tensors, bool buffers) {
    for (const auto& [name, tensor] : tensors) {
      const size_t dot = name.rfind('.');
      at(name.substr(0, dot)).register_parameter(name.substr(dot + 1), tensor.detach(), buffers);
    }
  }

 private:
  static std::string class_name(std::string path) {
    std::replace(path.begin(), path.end(), '.', '_');
    return "__torch__.semiseg." + (path.empty() ? "Segmenter" : path);
  }

  std::shared_ptr<torch::jit::CompilationUnit> classes_ = std::make_shared<torch::jit::CompilationUnit>();
  std::map<std::string, torch::jit::Module> modules_;
};

}  // namespace

std::string to_torchscript(const Graph& graph, Output output, const std::string& metadata) {
  ModuleTree tree;
  tree.add(graph.parameters, /*buffers=*/false);
  tree.add(graph.buffers, /*buffers=*/true);
  torch::jit::Module& network = tree.at("");
  network.define(forward_code(graph, output));
  std::ostringstream bytes;
  network.save(bytes, {{"semiseg.json", metadata}});
  return std::move(bytes).str();
}

std::vector<Tensor> run_torchscript(const std::string& bytes, const std::vector<Tensor>& images) {
  at::NoGradGuard no_grad;
  std::istringstream stream(bytes);
  auto network = torch::jit::load(stream, torch::kCPU);
  std::vector<Tensor> outputs;
  for (const Tensor& image_BCHW : images) outputs.push_back(network.forward({image_BCHW}).toTensor());
  return outputs;
}

}  // namespace semiseg
