#include "export/onnx.h"

#include <ATen/ATen.h>

#include <set>

#include "protobuf.h"

namespace semiseg {
namespace {

using namespace graph;

constexpr int kIrVersion = 8;          // of ONNX 1.12, the first with opset 17
constexpr int kFloat = 1, kInt64 = 7;  // TensorProto.DataType

// --- messages: the numbers are the fields of onnx.proto ---

ProtoMessage attribute(const char* name, int64_t value) {
  return ProtoMessage().bytes(1, name).integer(3, value).integer(20, /*INT=*/2);
}
ProtoMessage attribute(const char* name, double value) {
  return ProtoMessage().bytes(1, name).float32(2, static_cast<float>(value)).integer(20, /*FLOAT=*/1);
}
ProtoMessage attribute(const char* name, const char* value) {
  return ProtoMessage().bytes(1, name).bytes(4, value).integer(20, /*STRING=*/3);
}
ProtoMessage attribute(const char* name, const std::vector<int64_t>& values) {
  ProtoMessage message;
  message.bytes(1, name);
  for (const int64_t value : values) message.integer(8, value);
  return message.integer(20, /*INTS=*/7);
}

ProtoMessage tensor_message(const std::string& name, const Tensor& tensor) {
  const auto contiguous = tensor.detach().contiguous();
  ProtoMessage message;
  for (const int64_t size : contiguous.sizes()) message.integer(1, size);
  message.integer(2, contiguous.scalar_type() == at::kLong ? kInt64 : kFloat);
  message.bytes(8, name);
  return message.bytes(9, {static_cast<const char*>(contiguous.data_ptr()), contiguous.nbytes()});
}

// An axis of the network's input or output: a number, or a name for what is free.
struct Axis {
  int64_t size = 0;
  const char* name = "";
};

ProtoMessage value_info(const char* name, int type, const std::vector<Axis>& axes) {
  ProtoMessage shape;
  for (const Axis& axis : axes)
    shape.message(1, axis.size > 0 ? ProtoMessage().integer(1, axis.size) : ProtoMessage().bytes(2, axis.name));
  const auto tensor_type = ProtoMessage().integer(1, type).message(2, shape);
  return ProtoMessage().bytes(1, name).message(2, ProtoMessage().message(1, tensor_type));
}

// --- the graph ---

class OnnxGraph {
 public:
  OnnxGraph(const Graph& graph, Output output) : graph_(graph) {
    pad_image();
    for (const Node& node : graph.nodes) {
      inputs_ = &node.inputs;
      values_.push_back(std::visit(*this, node.operation));
    }
    finish(output);
    message_.bytes(2, "semiseg");
    message_.message(11, value_info("image", kFloat, {{.name = "batch"}, {.size = 3}, {.name = "height"}, {.name = "width"}}));
  }

  const ProtoMessage& message() const { return message_; }

  std::string operator()(const Convolution& op) {
    const int64_t kernel = graph_.weight(op.layer + ".weight").size(2);
    const auto& [stride, padding, dilation, groups, bias] = op.options;
    std::vector<std::string> inputs{x(), weight(op.layer + ".weight")};
    if (bias) inputs.push_back(weight(op.layer + ".bias"));
    return add(op.layer, "Conv", inputs,
               {attribute("kernel_shape", {kernel, kernel}), attribute("strides", {stride, stride}),
                attribute("pads", {padding, padding, padding, padding}), attribute("dilations", {dilation, dilation}),
                attribute("group", groups)});
  }
  std::string operator()(const BatchNorm& op) {
    return add(op.layer, "BatchNormalization",
               {x(), weight(op.layer + ".weight"), weight(op.layer + ".bias"), weight(op.layer + ".running_mean"),
                weight(op.layer + ".running_var")},
               {attribute("epsilon", op.epsilon)});
  }
  // As instance normalisation of the groups: before opset 21 there is no GroupNormalization with a scale for each channel.
  std::string operator()(const GroupNorm& op) {
    const auto grouped = add(op.layer + "/group", "Reshape", {x(), constant({0, op.groups, -1})});
    const auto normal = add(op.layer + "/normalize", "InstanceNormalization",
                            {grouped, constant(at::ones({op.groups}), "ones"), constant(at::zeros({op.groups}), "zeros")},
                            {attribute("epsilon", op.epsilon)});
    const auto back = add(op.layer + "/ungroup", "Reshape", {normal, add(op.layer + "/shape", "Shape", {x()})});
    const auto scaled = add(op.layer + "/scale", "Mul", {back, weight(op.layer + ".weight", /*over_pixels=*/true)});
    return add(op.layer, "Add", {scaled, weight(op.layer + ".bias", /*over_pixels=*/true)});
  }
  std::string operator()(const ReLU&) { return add(numbered("relu"), "Relu", {x()}); }
  std::string operator()(const MaxPool& op) {
    return add(numbered("max_pool"), "MaxPool", {x()},
               {attribute("kernel_shape", {op.kernel, op.kernel}), attribute("strides", {op.stride, op.stride}),
                attribute("pads", {op.padding, op.padding, op.padding, op.padding})});
  }
  std::string operator()(const GlobalMean&) { return add(numbered("global_mean"), "GlobalAveragePool", {x()}); }
  std::string operator()(const Add&) { return add(numbered("add"), "Add", {x(), input(1)}); }
  std::string operator()(const Concat&) {
    std::vector<std::string> all;
    for (const size_t index : *inputs_) all.push_back(values_.at(index));
    return add(numbered("concat"), "Concat", all, {attribute("axis", int64_t{1})});
  }
  std::string operator()(const Nearest&) {
    return add(numbered("nearest"), "Resize", {x(), "", "", shape_with_size_of(input(1))},
               {attribute("mode", "nearest"), attribute("coordinate_transformation_mode", "asymmetric"),
                attribute("nearest_mode", "floor")});
  }
  std::string operator()(const Bilinear&) { return bilinear(numbered("bilinear"), x(), input(1)); }
  std::string operator()(const Expand&) { return add(numbered("expand"), "Expand", {x(), shape_with_size_of(input(1))}); }

 private:
  std::string x() const { return input(0); }
  std::string input(size_t which) const { return values_.at(inputs_->at(which)); }
  std::string numbered(const char* kind) const { return str(kind, "_", values_.size()); }

  // Its name is that of its result, too.
  std::string add(const std::string& name, const char* type, const std::vector<std::string>& inputs,
                  const std::vector<ProtoMessage>& attributes = {}) {
    ProtoMessage node;
    for (const auto& from : inputs) node.bytes(1, from);
    node.bytes(2, name).bytes(3, name).bytes(4, type);
    for (const auto& one : attributes) node.message(5, one);
    message_.message(1, node);
    return name;
  }

  std::string initializer(const std::string& name, const Tensor& tensor) {
    if (initializers_.insert(name).second) message_.message(5, tensor_message(name, tensor));
    return name;
  }
  // over_pixels: [C, 1, 1] instead of [C].
  std::string weight(const std::string& name, bool over_pixels = false) {
    const Tensor& tensor = graph_.weight(name);
    return initializer(name, over_pixels ? tensor.view({-1, 1, 1}) : tensor);
  }
  std::string constant(const Tensor& values_C, const char* name) {
    return initializer(str(name, "_", values_C.size(0)), values_C);
  }
  std::string constant(const std::vector<int64_t>& values) {
    std::string name = "constant";
    for (const int64_t value : values) name += str("_", value);
    return initializer(name, at::tensor(values, at::kLong));
  }

  // Height and width of a value, int64 [2].
  std::string size_of(const std::string& value) {
    const std::string name = value + "/size";
    if (!sized_.insert(name).second) return name;
    return add(name, "Shape", {value}, {attribute("start", int64_t{2}), attribute("end", int64_t{4})});
  }
  // N and C of a value, height and width of another.
  std::string shape_of(const std::string& name, const std::string& value, const std::string& other) {
    const auto images = add(name + "/images", "Shape", {value}, {attribute("end", int64_t{2})});
    return add(name + "/to", "Concat", {images, size_of(other)}, {attribute("axis", int64_t{0})});
  }
  std::string shape_with_size_of(const std::string& other) { return shape_of(numbered("resize"), x(), other); }

  std::string bilinear(const std::string& name, const std::string& value, const std::string& other) {
    return add(name, "Resize", {value, "", "", shape_of(name, value, other)},
               {attribute("mode", "linear"), attribute("coordinate_transformation_mode", "align_corners")});
  }

  // To multiples m of 32: side + (m - 1) - (side + m - 1) mod m.
  void pad_image() {
    const int64_t multiple = padded_side(1);
    const auto size = size_of("image");
    const auto less = constant({multiple - 1});
    const auto over = add("pad/over", "Mod", {add("pad/above", "Add", {size, less}), constant({multiple})});
    const auto ends = add("pad/ends", "Sub", {less, over});
    const auto pads = add("pad/both", "Concat", {constant({0, 0, 0, 0, 0, 0}), ends}, {attribute("axis", int64_t{0})});
    values_ = {add("pad", "Pad", {"image", pads})};
  }

  void finish(Output output) {
    const char* name = output_name(output);
    const int64_t classes = graph_.num_classes;
    if (output == Output::kLowResolution) {
      add(name, "Identity", {values_.back()});
      message_.message(12,
                       value_info(name, kFloat, {{.name = "batch"}, {classes}, {.name = "low_height"}, {.name = "low_width"}}));
      return;
    }
    const auto padded = bilinear("upsample", values_.back(), values_.front());
    const bool logits = output == Output::kLogits;
    add(logits ? name : "cut", "Slice", {padded, constant({0, 0}), size_of("image"), constant({2, 3})});
    if (logits) {
      message_.message(12, value_info(name, kFloat, {{.name = "batch"}, {classes}, {.name = "height"}, {.name = "width"}}));
    } else {
      add(name, "ArgMax", {"cut"}, {attribute("axis", int64_t{1}), attribute("keepdims", int64_t{0})});
      message_.message(12, value_info(name, kInt64, {{.name = "batch"}, {.name = "height"}, {.name = "width"}}));
    }
  }

  const Graph& graph_;
  ProtoMessage message_;
  std::vector<std::string> values_;              // names, by the graph's numbers
  const std::vector<size_t>* inputs_ = nullptr;  // of the node that is being written
  std::set<std::string> initializers_, sized_;
};

}  // namespace

std::string to_onnx(const Graph& graph, Output output, const std::map<std::string, std::string>& metadata) {
  const OnnxGraph onnx(graph, output);
  ProtoMessage model;
  model.integer(1, kIrVersion).bytes(2, "semiseg").message(7, onnx.message());
  model.message(8, ProtoMessage().bytes(1, "").integer(2, kOnnxOpset));
  for (const auto& [key, value] : metadata) model.message(14, ProtoMessage().bytes(1, key).bytes(2, value));
  return model.serialized();
}

}  // namespace semiseg
