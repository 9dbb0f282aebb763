// TorchScript: a network with its code, which torch.jit.load reads in Python and torch::jit::load in C++.
#pragma once

#include <string>
#include <vector>

#include "export/graph.h"

namespace semiseg {

// The bytes of a .pt file: a module whose parameters and buffers have the network's names, and whose forward(image) gives
// `output`. `metadata` becomes its extra file semiseg.json.
std::string to_torchscript(const graph::Graph& graph, graph::Output output, const std::string& metadata);

// What such a file gives for each of `images`, float32 [N, 3, H, W].
std::vector<Tensor> run_torchscript(const std::string& bytes, const std::vector<Tensor>& images);

}  // namespace semiseg
