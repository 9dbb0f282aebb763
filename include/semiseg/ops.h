// The full-resolution half of a step: each operation takes low-resolution logits and upsamples them inside, so that neither the
// upsampled logits nor their softmax nor their gradients exist in memory. This is their one entry point.
//
// Logits are float32, bfloat16 or float16, contiguous or channels-last; what is computed is float32. Where a fused form serves
// (src/ops: a CPU with AVX2 or AVX-512), it is taken; else, or after use_fused_ops(false), the plain ATen form, which is also
// the oracle of the tests. Both agree to float32 rounding. Fused results do not depend on the number of threads.
#pragma once

#include <vector>

#include "semiseg/types.h"

namespace semiseg {

// Of the whole process, like the number of threads; config key ops.fused. Fused is the default.
void use_fused_ops(bool fused);
bool uses_fused_ops();

// Bilinear upsampling to `grid`, of which the first H rows and W columns are used (an image that was padded on the right and at
// the bottom for the network). align_corners as in torch.nn.functional.interpolate; segmentation_models_pytorch's heads align
// them.
struct Upsampling {
  int64_t H = 0, W = 0;
  int64_t grid_H = 0, grid_W = 0;  // 0: H, W
  bool align_corners = true;
};

// logits_BKhw -> [B, K, H, W], float32.
Tensor upsample_logits(const Tensor& logits_BKhw, int64_t H, int64_t W);

// What a pixel's loss is. With z the upsampled logits, CE_k = log sum exp(z) - z_k, w_k the weight of class k, v the pixel's
// weight, y its label and s the label smoothing, as torch.nn.functional.cross_entropy has it:
//   v ((1 - s) w_y CE_y + s / K sum_k w_k CE_k),   or with focal_gamma g > 0:   v w_y (1 - exp(-CE_y))^g CE_y
struct CrossEntropyOptions {
  Tensor weight_K{};           // float32; undefined: ones
  Tensor pixel_weight_BHW{};   // v, bool or float32; undefined: ones
  double label_smoothing = 0;  // REQUIRES: 0 where focal_gamma > 0
  double focal_gamma = 0;      // 1 - p is kept above 1e-6, where the power's derivative may be infinite
  bool align_corners = true;
};
struct CrossEntropy {
  Tensor loss;    // the sum over the pixels, with gradient to the logits
  Tensor weight;  // the sum of v w_y, without
};
// Scalars, float32. label_BHW is int64 in [0, K) or kIgnore, which is not counted; another value throws c10::Error on the CPU.
// The gradient is made in the forward pass, at low resolution, where one is wanted.
CrossEntropy upsample_cross_entropy(const Tensor& logits_BKhw, const Tensor& label_BHW,
                                    const CrossEntropyOptions& options = {});

// loss / weight. Where nothing is counted both are 0, and so is the mean. Of processes that train together (distributed.h) the
// weight is the mean over them: the mean of their results, and of the gradients, is then that of the whole batch.
Tensor mean_of(const CrossEntropy& sums);

// Softmax probability of each pixel's label, float32 [B, H, W], without gradient; 1 where it is kIgnore.
Tensor upsample_label_probability(const Tensor& logits_BKhw, const Tensor& label_BHW, bool align_corners = true);

// The class of the highest upsampled logit at each pixel, the first of equal ones, and its softmax probability; without
// gradient.
struct Prediction {
  Tensor class_BHW;       // int64
  Tensor confidence_BHW;  // float32
};
Prediction upsample_predict(const Tensor& logits_BKhw, const Upsampling& to);
Tensor upsample_argmax(const Tensor& logits_BKhw, const Upsampling& to);  // int64 [B, H, W]

// counts_KK[label][class of the highest logit], int64, grows by the pixels whose label is in [0, K). Returns the classes where
// they are wanted, int64 [B, H, W], else an undefined tensor: they need not exist to be counted.
Tensor upsample_confusion(const Tensor& logits_BKhw, const Tensor& label_BHW, const Upsampling& to, Tensor& counts_KK,
                          bool want_prediction);

// sum_BKHW, float32 and a view of any strides, grows by the softmax probabilities: one window of a sliding evaluation.
void upsample_add_softmax(const Tensor& logits_BKhw, const Upsampling& to, const Tensor& sum_BKHW);

// Mixing: sources[i] where the mask (bool) holds, targets[i] elsewhere, for images, labels and masks in one pass over the mask,
// of which each run of pixels is copied. A pair is [B, H, W] or [B, C, H, W], of one shape and any one type; the result has the
// target's memory format. Where one of a pair is undefined, so is the result.
std::vector<Tensor> paste_where(const Tensor& mask_BHW, const std::vector<Tensor>& sources, const std::vector<Tensor>& targets);

// The k-th smallest of non-negative float32 values, a scalar, without a sort. REQUIRES: 1 <= k <= the number of values.
Tensor kth_smallest(const Tensor& values, int64_t k);

// Pixels per class, int64 [K], of class_BHW where mask_BHW (bool) holds.
Tensor count_classes(const Tensor& class_BHW, const Tensor& mask_BHW, int64_t num_classes);

}  // namespace semiseg
