#include "fold.h"

#include "models/layers.h"

namespace semiseg {
namespace {

// The convolution that gives the module's output, or null.
Conv2d* last_convolution(torch::nn::Module& module) {
  if (auto* convolution = dynamic_cast<Conv2d*>(&module)) return convolution;
  if (dynamic_cast<Sequential*>(&module) == nullptr || module.children().empty()) return nullptr;
  return last_convolution(*module.children().back());
}

}  // namespace

void fold_batch_norms(torch::nn::Module& module) {
  Conv2d* before = nullptr;
  for (const auto& child : module.named_children()) {
    auto* norm = dynamic_cast<BatchNorm2d*>(child.value().get());
    if (norm != nullptr && before != nullptr) {
      before->absorb(norm->dissolve());
      module.unregister_module(child.key());
    } else {
      fold_batch_norms(*child.value());
    }
    before = last_convolution(*child.value());
  }
}

}  // namespace semiseg
