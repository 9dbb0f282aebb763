#include "export/graph.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string_view>

namespace semiseg::graph {
namespace {

using Inputs = c10::ArrayRef<const c10::IValue>;

// Sides of which no two strides make the same size.
constexpr int64_t kImage_H = 160, kImage_W = 224;

// Why a call cannot be written down. An exception must not leave an observer.
struct Unknown {
  std::string detail;
};

int64_t equal_sides(const c10::IValue& sizes) {
  const auto values = sizes.toIntVector();
  if (values.empty() || std::any_of(values.begin(), values.end(), [&](int64_t value) { return value != values[0]; }))
    throw Unknown{"with other numbers along the height than along the width"};
  return values[0];
}

void require(bool holds, const char* otherwise) {
  if (!holds) throw Unknown{otherwise};
}

// Follows the values of one forward pass from call to call. Tensors are told apart by their implementation, which a tensor
// changed in place keeps: it then stands for its newest value.
class Recorder {
 public:
  Recorder(const Graph& weights, const Tensor& image_BCHW) : graph_(weights) {
    for (const auto* list : {&graph_.parameters, &graph_.buffers})
      for (const auto& [name, tensor] : *list) names_[tensor.unsafeGetTensorImpl()] = name;
    add_value(image_BCHW);
  }

  // A call that is about to run, and its result. Calls that it makes itself are no matter of the graph.
  struct Call : at::ObserverContext {
    std::optional<Node> node;
    std::optional<size_t> copied;  // the value that the result equals
  };
  std::unique_ptr<Call> begin(const at::RecordFunction& function) {
    auto call = std::make_unique<Call>();
    if (depth_++ > 0 || !problem_.empty()) return call;
    const std::string_view name = function.name();
    try {
      if (name == "aten::contiguous")
        call->copied = value(function.inputs()[0]);
      else if (reads_a_value(function.inputs()))
        call->node = node_of(name, function.inputs());
    } catch (const Unknown& unknown) {
      problem_ = str(name, " ", unknown.detail);
    }
    return call;
  }
  void end(const at::RecordFunction& function, const Call& call) {
    --depth_;
    if (!call.node && !call.copied) return;
    const Tensor result = function.outputs().at(0).toTensor();
    if (call.copied) {
      values_[result.unsafeGetTensorImpl()] = *call.copied;
      alive_.push_back(result);
    } else {
      graph_.nodes.push_back(*call.node);
      add_value(result);
    }
  }

  // logits: what the pass gave.
  Graph graph(const Tensor& logits) && {
    if (problem_.empty() && (!is_value(logits) || value(logits) != graph_.nodes.size())) problem_ = "at its end";
    if (!problem_.empty())
      throw Error(ErrorKind::kConfig, "the network has an operation that export does not know: " + problem_, "model");
    return std::move(graph_);
  }

 private:
  void add_value(const Tensor& tensor) {
    values_[tensor.unsafeGetTensorImpl()] = sizes_.size();
    sizes_.push_back({tensor.size(2), tensor.size(3)});
    alive_.push_back(tensor);  // so that no later tensor takes its place in memory
  }

  bool reads_a_value(Inputs inputs) const {
    return std::any_of(inputs.begin(), inputs.end(), [&](const c10::IValue& input) {
      if (input.isTensorList()) return !input.toTensorVector().empty() && is_value(input.toTensorVector()[0]);
      return input.isTensor() && is_value(input.toTensor());
    });
  }
  bool is_value(const Tensor& tensor) const { return values_.count(tensor.unsafeGetTensorImpl()) != 0; }

  size_t value(const Tensor& tensor) const {
    const auto found = values_.find(tensor.unsafeGetTensorImpl());
    require(found != values_.end(), "of a tensor that does not come from the image");
    return found->second;
  }
  size_t value(const c10::IValue& input) const {
    require(input.isTensor(), "of something that is no tensor");
    return value(input.toTensor());
  }

  size_t value_of_size(const c10::IValue& sizes) const {
    auto wanted = sizes.toIntVector();
    wanted.erase(wanted.begin(), wanted.end() - 2);
    const auto found = std::find(sizes_.begin(), sizes_.end(), wanted);
    require(found != sizes_.end(), "to a size that no earlier value has");
    return static_cast<size_t>(found - sizes_.begin());
  }

  std::string layer_of(const c10::IValue& weight) const {
    constexpr std::string_view kSuffix = ".weight";
    const auto found = weight.isTensor() ? names_.find(weight.toTensor().unsafeGetTensorImpl()) : names_.end();
    require(found != names_.end() && found->second.ends_with(kSuffix), "with a weight that is no parameter of a layer");
    return found->second.substr(0, found->second.size() - kSuffix.size());
  }

  // The arguments stand as in ATen's native_functions.yaml.
  Node node_of(std::string_view name, Inputs in) const {
    if (name == "aten::conv2d")
      return {Convolution{layer_of(in[1]),
                          {.stride = equal_sides(in[3]),
                           .padding = equal_sides(in[4]),
                           .dilation = equal_sides(in[5]),
                           .groups = in[6].toInt(),
                           .bias = in[2].isTensor() && in[2].toTensor().defined()}},
              {value(in[0])}};
    if (name == "aten::batch_norm") return {BatchNorm{layer_of(in[1]), in[7].toDouble()}, {value(in[0])}};
    if (name == "aten::group_norm") return {GroupNorm{layer_of(in[2]), in[1].toInt(), in[4].toDouble()}, {value(in[0])}};
    if (name == "aten::relu" || name == "aten::relu_") return {ReLU{}, {value(in[0])}};
    if (name == "aten::add" || name == "aten::add_") {
      require(in[2].toScalar().equal(1), "with a factor");
      return {Add{}, {value(in[0]), value(in[1])}};
    }
    if (name == "aten::cat") {
      require(in[1].toInt() == 1, "along another axis than the channels");
      Node node{Concat{}, {}};
      for (const Tensor& tensor : in[0].toTensorVector()) node.inputs.push_back(value(tensor));
      return node;
    }
    if (name == "aten::max_pool2d") {
      require(equal_sides(in[4]) == 1 && !in[5].toBool(), "with dilation or rounding up");
      return {MaxPool{equal_sides(in[1]), equal_sides(in[2]), equal_sides(in[3])}, {value(in[0])}};
    }
    if (name == "aten::adaptive_avg_pool2d") {
      require(equal_sides(in[1]) == 1, "to more than one pixel");
      return {GlobalMean{}, {value(in[0])}};
    }
    if (name == "aten::expand") {
      require(sizes_[value(in[0])] == std::vector<int64_t>{1, 1}, "of more than one pixel");
      return {Expand{}, {value(in[0]), value_of_size(in[1])}};
    }
    if (name == "aten::upsample_nearest2d") return {Nearest{}, {value(in[0]), value_of_size(in[1])}};
    if (name == "aten::upsample_bilinear2d") {
      require(in[2].toBool(), "without aligned corners");
      return {Bilinear{}, {value(in[0]), value_of_size(in[1])}};
    }
    throw Unknown{""};
  }

  Graph graph_;
  std::map<const at::TensorImpl*, std::string> names_;  // of parameters and buffers
  std::map<const at::TensorImpl*, size_t> values_;
  std::vector<std::vector<int64_t>> sizes_;  // of each value: height, width
  std::vector<Tensor> alive_;
  std::string problem_;
  int depth_ = 0;  // of calls within calls
};

// RecordFunction takes plain functions, without a place for a pointer.
thread_local Recorder* recorder = nullptr;

class Observer {
 public:
  explicit Observer(Recorder& to) {
    recorder = &to;
    const auto begin = [](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
      return recorder->begin(function);
    };
    const auto end = [](const at::RecordFunction& function, at::ObserverContext* call) {
      recorder->end(function, *static_cast<Recorder::Call*>(call));
    };
    handle_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback(begin, end).needsInputs(true).needsOutputs(true).scopes({at::RecordScope::FUNCTION}));
  }
  ~Observer() {
    at::removeCallback(handle_);
    recorder = nullptr;
  }
  Observer(const Observer&) = delete;
  Observer& operator=(const Observer&) = delete;

 private:
  at::CallbackHandle handle_;
};

}  // namespace

const char* output_name(Output output) {
  switch (output) {
    case Output::kLogits:
      return "logits";
    case Output::kLowResolution:
      return "low_resolution";
    case Output::kClasses:
      return "classes";
  }
  throw std::logic_error("output_name: no such output");
}

Graph record(Segmenter& network) {
  at::NoGradGuard no_grad;
  Graph weights;
  weights.num_classes = network.num_classes();
  for (const auto& item : network.named_parameters()) weights.parameters[item.key()] = item.value();
  for (const auto& item : network.named_buffers()) weights.buffers[item.key()] = item.value();
  const auto image_BCHW = at::zeros({1, 3, kImage_H, kImage_W});
  Recorder recorder_of_pass(weights, image_BCHW);
  const auto logits_BKhw = [&] {
    const Observer observer(recorder_of_pass);
    return network.forward(image_BCHW);
  }();
  return std::move(recorder_of_pass).graph(logits_BKhw);
}

}  // namespace semiseg::graph
