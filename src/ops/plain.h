// The operations of semiseg/ops.h in plain ATen: for every device and type, and the fused forms' oracle.
#pragma once

#include "semiseg/ops.h"

namespace semiseg::ops::plain {

// [B, K, H, W], float32.
Tensor upsample(const Tensor& logits_BKhw, const Upsampling& to);
CrossEntropy cross_entropy(const Tensor& logits_BKhw, const Tensor& label_BHW, const CrossEntropyOptions& options);
Tensor label_probability(const Tensor& logits_BKhw, const Tensor& label_BHW, bool align_corners);
Prediction predict(const Tensor& logits_BKhw, const Upsampling& to);
Tensor argmax(const Tensor& logits_BKhw, const Upsampling& to);
// counts_KK[label][class], int64, grows by the pixels whose label is in [0, K). Integer tensors of one shape.
void count_confusion(const Tensor& class_of, const Tensor& label, Tensor& counts_KK);
Tensor confusion(const Tensor& logits_BKhw, const Tensor& label_BHW, const Upsampling& to, Tensor& counts_KK);
void add_softmax(const Tensor& logits_BKhw, const Upsampling& to, const Tensor& sum_BKHW);

std::vector<Tensor> paste_where(const Tensor& mask_BHW, const std::vector<Tensor>& sources, const std::vector<Tensor>& targets);

}  // namespace semiseg::ops::plain
