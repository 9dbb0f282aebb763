// A network as a list of operations: what the formats of `semiseg export` are printed from.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "models/convolution.h"
#include "semiseg/model.h"
#include "semiseg/weights.h"

namespace semiseg::graph {

// What an operation does to its first input x_NCHW. `layer` is the module that holds its weights: layer + ".weight", ...
struct Convolution {
  std::string layer;  // .weight; .bias where options.bias
  ConvOptions options;
};
struct BatchNorm {
  std::string layer;  // .weight, .bias, .running_mean, .running_var
  double epsilon;
};
struct GroupNorm {
  std::string layer;  // .weight, .bias
  int64_t groups;
  double epsilon;
};
struct ReLU {};
struct MaxPool {
  int64_t kernel, stride, padding;
};
struct GlobalMean {};  // [N, C, 1, 1]
struct Add {};         // the second input
struct Concat {};      // all inputs, along the channels
// To the height and width of the second input:
struct Nearest {};
struct Bilinear {};  // with aligned corners
struct Expand {};    // of one pixel
using Operation =
    std::variant<Convolution, BatchNorm, GroupNorm, ReLU, MaxPool, GlobalMean, Add, Concat, Nearest, Bilinear, Expand>;

struct Node {
  Operation operation;
  std::vector<size_t> inputs;  // values
};

// Value 0 is the image [N, 3, H, W], whose sides are padded_side()s; value i + 1 is what nodes[i] gives. The last one is the
// logits at stride 4.
struct Graph {
  std::vector<Node> nodes;
  StateDict parameters, buffers;
  int64_t num_classes = 0;

  const Tensor& weight(const std::string& name) const {
    const auto parameter = parameters.find(name);
    return parameter != parameters.end() ? parameter->second : buffers.at(name);
  }
};

// What an exported network gives for an image [N, 3, H, W] of any size. Inside, it is padded at the right and the bottom to a
// multiple of 32 with zeros, as evaluation does.
enum class Output {
  kLogits,         // [N, K, H, W], upsampled with aligned corners and cut back to the image
  kLowResolution,  // [N, K, h, w] at stride 4 of the padded image
  kClasses         // int64 [N, H, W], the class of the highest logit
};
const char* output_name(Output output);  // logits, low_resolution, classes

// Runs the network once and writes down its operations, so that they are those of the network that was trained whatever parts
// it is made of. An enlargement's size is taken to be that of the first value of this size.
// REQUIRES: the network is in eval mode on the CPU. Throws Error(kConfig) for an operation that is none of those above.
Graph record(Segmenter& network);

}  // namespace semiseg::graph
