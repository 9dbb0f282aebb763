// The fused forms of one kind of device, which ops.cpp chooses from. All work without autograd.
#pragma once

#include "semiseg/ops.h"

namespace semiseg::ops {

struct CrossEntropyResult {
  Tensor loss, weight;   // as CrossEntropy
  Tensor gradient_BKhw;  // of the loss, float32 contiguous; undefined where none is wanted
};

struct FusedOps {
  CrossEntropyResult (*cross_entropy)(const Tensor& logits_BKhw, const Tensor& label_BHW, const CrossEntropyOptions& options,
                                      bool want_gradient);
  Tensor (*label_probability)(const Tensor& logits_BKhw, const Tensor& label_BHW, bool align_corners);
  // Confidences only where they are wanted.
  Prediction (*predict)(const Tensor& logits_BKhw, const Upsampling& to, bool want_confidence);
  Tensor (*confusion)(const Tensor& logits_BKhw, const Tensor& label_BHW, const Upsampling& to, Tensor& counts_KK,
                      bool want_prediction);
  void (*add_softmax)(const Tensor& logits_BKhw, const Upsampling& to, const Tensor& sum_BKHW);
};

}  // namespace semiseg::ops
