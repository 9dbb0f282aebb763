#include "ops/plain.h"

#include <ATen/ATen.h>

#include "ops/gathering.h"

namespace semiseg::ops::plain {
namespace {

Upsampling size_of(const Tensor& label_BHW, bool align_corners) {
  return {.H = label_BHW.size(1), .W = label_BHW.size(2), .align_corners = align_corners};
}

}  // namespace

// Interpolation of contiguous float32 is the fastest plain form, and bfloat16 logits lose nothing more.
Tensor upsample(const Tensor& logits_BKhw, const Upsampling& to) {
  const int64_t grid_H = to.grid_H ? to.grid_H : to.H, grid_W = to.grid_W ? to.grid_W : to.W;
  const auto dense_BKhw = logits_BKhw.to(at::kFloat).contiguous();
  const auto grid_BKHW = must_gather(dense_BKhw) && dense_BKhw.requires_grad()
                             ? enlarge_gathering(dense_BKhw, grid_H, grid_W, to.align_corners)
                             : at::upsample_bilinear2d(dense_BKhw, {grid_H, grid_W}, to.align_corners);
  return grid_BKHW.narrow(2, 0, to.H).narrow(3, 0, to.W);  // [B, K, H, W]
}

CrossEntropy cross_entropy(const Tensor& logits_BKhw, const Tensor& label_BHW, const CrossEntropyOptions& options) {
  const auto logits_BKHW = upsample(logits_BKhw, size_of(label_BHW, options.align_corners));
  const auto counted_BHW = label_BHW != kIgnore;
  auto weight_BHW = counted_BHW.to(at::kFloat);
  auto pixel_weight_BHW = weight_BHW;
  if (options.pixel_weight_BHW.defined()) weight_BHW = pixel_weight_BHW = weight_BHW * options.pixel_weight_BHW;
  if (options.weight_K.defined())
    weight_BHW =
        weight_BHW * options.weight_K.index_select(0, at::where(counted_BHW, label_BHW, 0).flatten()).view_as(label_BHW);
  const auto nll = [&](const std::optional<Tensor>& weight_K, double label_smoothing) {
    return at::cross_entropy_loss(logits_BKHW, label_BHW, weight_K, at::Reduction::None, kIgnore, label_smoothing);
  };
  if (options.focal_gamma > 0) {
    const auto nll_BHW = nll({}, 0);
    const auto doubt_BHW = nll_BHW.neg().expm1().neg().clamp_min(1e-6);
    return {(weight_BHW * doubt_BHW.pow(options.focal_gamma) * nll_BHW).sum(), weight_BHW.sum()};
  }
  const auto weight_K = options.weight_K.defined() ? std::optional<Tensor>(options.weight_K) : std::nullopt;
  return {(pixel_weight_BHW * nll(weight_K, options.label_smoothing)).sum(), weight_BHW.sum()};
}

Tensor label_probability(const Tensor& logits_BKhw, const Tensor& label_BHW, bool align_corners) {
  const auto logits_BKHW = upsample(logits_BKhw, size_of(label_BHW, align_corners));
  return at::cross_entropy_loss(logits_BKHW, label_BHW, std::nullopt, at::Reduction::None, kIgnore).neg_().exp_();
}

Prediction predict(const Tensor& logits_BKhw, const Upsampling& to) {
  auto [confidence_BHW, class_BHW] = upsample(logits_BKhw, to).softmax(1).max(1);
  return {class_BHW, confidence_BHW};
}

Tensor argmax(const Tensor& logits_BKhw, const Upsampling& to) { return upsample(logits_BKhw, to).argmax(1); }

void count_confusion(const Tensor& class_of, const Tensor& label, Tensor& counts_KK) {
  const int64_t K = counts_KK.size(0);
  const auto wide_class = class_of.to(counts_KK.options()), wide_label = label.to(counts_KK.options());
  const auto counted = (wide_label >= 0).logical_and(wide_label < K);
  counts_KK.add_(count_classes(wide_label * K + wide_class, counted, K * K).view({K, K}));
}

Tensor confusion(const Tensor& logits_BKhw, const Tensor& label_BHW, const Upsampling& to, Tensor& counts_KK) {
  const auto class_BHW = argmax(logits_BKhw, to);
  count_confusion(class_BHW, label_BHW, counts_KK);
  return class_BHW;
}

void add_softmax(const Tensor& logits_BKhw, const Upsampling& to, const Tensor& sum_BKHW) {
  sum_BKHW.add_(upsample(logits_BKhw, to).softmax(1));
}

std::vector<Tensor> paste_where(const Tensor& mask_BHW, const std::vector<Tensor>& sources,
                                const std::vector<Tensor>& targets) {
  std::vector<Tensor> pasted;
  for (size_t i = 0; i < targets.size(); ++i) {
    pasted.emplace_back();
    if (!sources[i].defined() || !targets[i].defined()) continue;
    pasted.back() = at::where(targets[i].dim() == 4 ? mask_BHW.unsqueeze(1) : mask_BHW, sources[i], targets[i])
                        .contiguous(targets[i].suggest_memory_format());
  }
  return pasted;
}

}  // namespace semiseg::ops::plain
