// ONNX, written without its library. https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
#pragma once

#include <map>
#include <string>

#include "export/graph.h"

namespace semiseg {

inline constexpr int kOnnxOpset = 17;

// The bytes of an .onnx file: input "image" float32 [batch, 3, height, width], one output named output_name(output); batch,
// height and width are free. `metadata` becomes its metadata_props.
std::string to_onnx(const graph::Graph& graph, graph::Output output, const std::map<std::string, std::string>& metadata);

}  // namespace semiseg
