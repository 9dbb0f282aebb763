// The operations of semiseg/ops.h in one pass over the pixels, on the CPU (kernels.h). All without autograd.
#pragma once

#include "semiseg/ops.h"

namespace semiseg::ops::fused_cpu {

// Whether this processor, the tensor's device and type, and the number of classes are served.
bool serves(const Tensor& logits_BKhw);

struct CrossEntropyResult {
  Tensor loss, weight;   // as CrossEntropy
  Tensor gradient_BKhw;  // of the loss, float32 contiguous; undefined where none is wanted
};
CrossEntropyResult cross_entropy(const Tensor& logits_BKhw, const Tensor& label_BHW, const CrossEntropyOptions& options,
                                 bool want_gradient);
Tensor label_probability(const Tensor& logits_BKhw, const Tensor& label_BHW, bool align_corners);
// Confidences only where they are wanted.
Prediction predict(const Tensor& logits_BKhw, const Upsampling& to, bool want_confidence);
Tensor confusion(const Tensor& logits_BKhw, const Tensor& label_BHW, const Upsampling& to, Tensor& counts_KK,
                 bool want_prediction);
// By two histograms of the values' bits, which for values >= 0 are in the order of the values: of the upper half, then of the
// lower half of those that share the upper one.
Tensor kth_smallest(const Tensor& values, int64_t k);
void add_softmax(const Tensor& logits_BKhw, const Upsampling& to, const Tensor& sum_BKHW);

std::vector<Tensor> paste_where(const Tensor& mask_BHW, const std::vector<Tensor>& sources, const std::vector<Tensor>& targets);

}  // namespace semiseg::ops::fused_cpu
