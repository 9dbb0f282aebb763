// The full-resolution half of a step: each operation takes low-resolution logits and upsamples them inside. This is their one
// entry point; the forms here are the plain ATen ones.
#pragma once

#include "semiseg/types.h"

namespace semiseg {

// Bilinear upsampling with aligned corners, as segmentation_models_pytorch's head does it. logits_BKhw -> [B, K, H, W].
Tensor upsample_logits(const Tensor& logits_BKhw, int64_t H, int64_t W);

// Weighted cross-entropy of each pixel at the label's size, float32 [B, H, W], 0 where label is kIgnore; not yet normalised.
// weight_K may be undefined. With label smoothing e the target is (1 - e) one-hot + e / K, as PyTorch's.
Tensor upsample_cross_entropy(const Tensor& logits_BKhw, const Tensor& label_BHW, const Tensor& weight_K,
                              double label_smoothing);

// The class and its softmax probability at each pixel of the upsampled logits, without gradient.
struct Prediction {
  Tensor class_BHW;       // int64
  Tensor confidence_BHW;  // float32
};
Prediction upsample_predict(const Tensor& logits_BKhw, int64_t H, int64_t W);

// Pixels per class, int64 [K], of class_BHW where mask_BHW (bool) holds.
Tensor count_classes(const Tensor& class_BHW, const Tensor& mask_BHW, int64_t num_classes);

}  // namespace semiseg
