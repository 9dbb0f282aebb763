// Networks for inference alone, without the work of batch normalisation.
#pragma once

#include <torch/nn/module.h>

namespace semiseg {

// Puts each BatchNorm2d below `module` into the convolution whose output it takes: the same outputs as in evaluation mode, to
// float32 rounding. The convolutions get a bias, the normalisations' tensors are gone, and the module can no longer be trained.
// REQUIRES: where a convolution, or a Sequential that ends in one, stands before a BatchNorm2d among the children of a module,
// the BatchNorm2d takes its output, and nothing else does.
void fold_batch_norms(torch::nn::Module& module);

}  // namespace semiseg
