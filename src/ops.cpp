#include "semiseg/ops.h"

#include <ATen/ATen.h>

namespace semiseg {

Tensor upsample_logits(const Tensor& logits_BKhw, int64_t H, int64_t W) {
  // Interpolation of contiguous float32 is the fastest plain form, and bfloat16 logits lose nothing more.
  return at::upsample_bilinear2d(logits_BKhw.to(at::kFloat).contiguous(), {H, W}, /*align_corners=*/true);  // [B, K, H, W]
}

Tensor upsample_cross_entropy(const Tensor& logits_BKhw, const Tensor& label_BHW, const Tensor& weight_K,
                              double label_smoothing) {
  const auto logits_BKHW = upsample_logits(logits_BKhw, label_BHW.size(-2), label_BHW.size(-1));
  return at::cross_entropy_loss(logits_BKHW, label_BHW, weight_K.defined() ? std::optional<Tensor>(weight_K) : std::nullopt,
                                at::Reduction::None, kIgnore, label_smoothing);
}

Prediction upsample_predict(const Tensor& logits_BKhw, int64_t H, int64_t W) {
  at::NoGradGuard no_grad;
  const auto probability_BKHW = upsample_logits(logits_BKhw, H, W).softmax(1);
  auto [confidence_BHW, class_BHW] = probability_BKHW.max(1);
  return {class_BHW, confidence_BHW};
}

Tensor count_classes(const Tensor& class_BHW, const Tensor& mask_BHW, int64_t num_classes) {
  // Pixels outside the mask are counted in one more bin, which is cut off: no boolean indexing, so the host never waits.
  const auto bin = at::where(mask_BHW, class_BHW, at::scalar_tensor(num_classes, class_BHW.options())).flatten();
  return at::zeros({num_classes + 1}, class_BHW.options()).scatter_add_(0, bin, at::ones_like(bin)).narrow(0, 0, num_classes);
}

}  // namespace semiseg
