#include "semiseg/pseudo_label.h"

#include <ATen/ATen.h>

#include <cmath>

#include "semiseg/distributed.h"
#include "semiseg/ops.h"

namespace semiseg {
namespace {

// Of the quantile threshold's histogram: bin b holds confidences p with 1 - p in (2^(-(b + 1) / 20), 2^(-b / 20)]. Networks
// that have learned say .99 and more of most pixels, so that bins of one width would hold them all in the last one.
constexpr int64_t kBins = 512, kBlock = 16, kBinsPerHalving = 20;

// Shares are never 0: a class that is not met yet has no logarithm.
constexpr double kLeastShare = 1e-6;

// bool [B, H, W] -> float32 [B, h, w] at the size of the logits.
Tensor at_stride(const Tensor& mask_BHW, const Tensor& logits_BKhw) {
  return at::upsample_nearest2d(mask_BHW.unsqueeze(1).to(at::kFloat), {logits_BKhw.size(2), logits_BKhw.size(3)}).squeeze(1);
}

// Weight of each pixel by its pseudo-label: float32 [B, H, W].
Tensor pixel_weight(const Tensor& class_BHW, const Tensor& weight_K) {
  return weight_K.index_select(0, class_BHW.flatten()).view_as(class_BHW);
}

}  // namespace

PseudoLabels make_pseudo_labels(const Tensor& logits_BKhw, const Tensor& valid_BHW, const Tensor& truth_BHW) {
  auto [class_BHW, confidence_BHW] = upsample_predict(logits_BKhw, {.H = valid_BHW.size(1), .W = valid_BHW.size(2)});
  return {class_BHW, confidence_BHW, valid_BHW, truth_BHW};
}

Tensor mean_probability(const Tensor& logits_BKhw, const Tensor& valid_BHW) {
  const auto valid_B1hw = at_stride(valid_BHW, logits_BKhw).unsqueeze(1);
  const auto sum_K = (logits_BKhw.to(at::kFloat).softmax(1) * valid_B1hw).sum({0, 2, 3});
  return sum_over_processes(sum_K) / sum_over_processes(valid_B1hw.sum()).clamp_min(1);
}

Tensor without_class_bias(const Tensor& logits_BKhw, const Tensor& class_bias_K) {
  return class_bias_K.defined() ? logits_BKhw.to(at::kFloat) - class_bias_K.view({1, -1, 1, 1}) : logits_BKhw;
}

Threshold::Threshold(const ThresholdConfig& config, int64_t num_classes) : config_(config), num_classes_(num_classes) {
  if (config.kind == "class_adaptive") {
    const double begin = 1.0 / static_cast<double>(num_classes);
    confidence_ = register_buffer("confidence", at::full({}, begin, at::kFloat));
    probability_K_ = register_buffer("probability", at::full({num_classes}, begin, at::kFloat));
  } else if (config.kind == "quantile") {
    histogram_KN_ = register_buffer("histogram", at::zeros({num_classes, kBins}, at::kFloat));
  }
}

void Threshold::observe(const Tensor& logits_BKhw, const PseudoLabels& labels) {
  at::NoGradGuard no_grad;
  if (confidence_.defined()) {
    const auto sum = sum_over_processes((labels.confidence_BHW * labels.valid_BHW).sum());
    const auto mean = sum / sum_over_processes(labels.valid_BHW.sum()).clamp_min(1);
    confidence_.lerp_(mean, 1 - config_.momentum);
    probability_K_.lerp_(mean_probability(logits_BKhw, labels.valid_BHW), 1 - config_.momentum);
  } else if (histogram_KN_.defined()) {
    // Padding goes to one more bin, which is cut off.
    const auto halvings_BHW = (1 - labels.confidence_BHW).clamp_min(0).log2().neg();
    const auto bin =
        (halvings_BHW * kBinsPerHalving).nan_to_num(0).clamp(0, kBins - 1).to(at::kLong) + labels.class_BHW * kBins;
    const int64_t bins = num_classes_ * kBins;
    const auto counted = at::where(labels.valid_BHW, bin, bins);
    const auto own_counts = count_classes(counted, at::ones_like(labels.valid_BHW), bins + 1).narrow(0, 0, bins);
    const auto counts = sum_over_processes(own_counts);
    histogram_KN_.mul_(config_.momentum).add_(counts.view_as(histogram_KN_), 1 - config_.momentum);
  }
}

Tensor Threshold::of_class() const {
  if (confidence_.defined()) return (confidence_ * probability_K_ / probability_K_.max()).clamp_max(config_.value);
  // Pixels at least as sure as each bin's lower edge; of the bins that hold the wanted share of them, the highest. The sums
  // from a bin to the last one: within its block, and of the blocks behind. Not by cumsum, which on a GPU warns of its order of
  // additions at each call.
  const auto from_here_on = [](const Tensor& x_n) {
    const int64_t n = x_n.size(-1);
    return (x_n.unsqueeze(-2) * at::ones({n, n}, x_n.options()).triu()).sum(-1);
  };
  const auto block_Kbn = histogram_KN_.view({num_classes_, kBins / kBlock, kBlock});
  const auto sum_Kb1 = block_Kbn.sum(2, /*keepdim=*/true);
  const auto behind_Kb1 = from_here_on(sum_Kb1.squeeze(2)).unsqueeze(2) - sum_Kb1;
  const auto above_KN = (from_here_on(block_Kbn) + behind_Kb1).flatten(1);
  const auto wanted_K1 = histogram_KN_.sum(1, /*keepdim=*/true) * config_.share;
  const auto reached_K = (above_KN >= wanted_K1).sum(1) - 1;
  return 1 - at::exp2(reached_K.to(at::kFloat) / static_cast<double>(-kBinsPerHalving));
}

Tensor Threshold::accept(const PseudoLabels& labels) const {
  if (config_.kind == "fixed") return (labels.confidence_BHW >= config_.value).logical_and(labels.valid_BHW);
  return (labels.confidence_BHW >= pixel_weight(labels.class_BHW, of_class())).logical_and(labels.valid_BHW);
}

DistributionAlignment::DistributionAlignment(const std::vector<double>& target_K)
    : target_K_(register_buffer("target", at::tensor(target_K, at::kFloat))),
      model_K_(register_buffer("model", at::full_like(target_K_, 1.0 / static_cast<double>(target_K.size())))),
      seen_(register_buffer("seen", at::zeros({}, at::kFloat))) {}

void DistributionAlignment::observe(const Tensor& logits_BKhw, const Tensor& valid_BHW) {
  constexpr double kMomentum = 0.999;
  at::NoGradGuard no_grad;
  const auto keep = (1 - 1 / (seen_ + 1)).clamp_max(kMomentum);
  model_K_.copy_(keep * model_K_ + (1 - keep) * mean_probability(logits_BKhw, valid_BHW));
  seen_.add_(1);
}

Tensor DistributionAlignment::align(const Tensor& logits_BKhw) const {
  const auto shift_K = target_K_.clamp_min(kLeastShare).log() - model_K_.clamp_min(kLeastShare).log();
  return logits_BKhw.to(at::kFloat) + shift_K.view({1, -1, 1, 1});
}

Labeler::Labeler(const SemiConfig& config, const std::vector<double>& label_share_K, int64_t num_classes,
                 const Tensor& class_bias_K)
    : threshold_(register_module("threshold", std::make_shared<Threshold>(config.threshold, num_classes))) {
  if (config.align_distribution)
    alignment_ = register_module("alignment", std::make_shared<DistributionAlignment>(label_share_K));
  if (config.undo_class_bias) class_bias_K_ = class_bias_K;
}

Tensor Labeler::correct(const Tensor& logits_BKhw) const {
  const auto unbiased_BKhw = without_class_bias(logits_BKhw, class_bias_K_);
  return alignment_ ? alignment_->align(unbiased_BKhw) : unbiased_BKhw;
}

PseudoLabels Labeler::observe(const Tensor& logits_BKhw, const UnlabeledBatch& images) {
  if (alignment_) alignment_->observe(without_class_bias(logits_BKhw, class_bias_K_), images.valid_BHW);
  const auto corrected_BKhw = correct(logits_BKhw);
  const auto labels = make_pseudo_labels(corrected_BKhw, images.valid_BHW, images.truth_BHW);
  threshold_->observe(corrected_BKhw, labels);
  return labels;
}

PseudoLabels Labeler::label(const Tensor& logits_BKhw, const UnlabeledBatch& images) const {
  return make_pseudo_labels(correct(logits_BKhw), images.valid_BHW, images.truth_BHW);
}

Tensor box_mask(const Tensor& box_B4, int64_t H, int64_t W) {
  const auto row_H1 = at::arange(H, box_B4.options()).view({1, H, 1});
  const auto column_1W = at::arange(W, box_B4.options()).view({1, 1, W});
  const auto edge = [&](int64_t i) { return box_B4.select(1, i).view({-1, 1, 1}); };
  return (row_H1 >= edge(0)).logical_and(row_H1 < edge(2)).logical_and(column_1W >= edge(1)).logical_and(column_1W < edge(3));
}

Tensor class_mask(const Tensor& source_class_BHW, const Tensor& source_valid_BHW, const Tensor& draw_BD, int64_t num_classes) {
  const int64_t B = source_class_BHW.size(0);
  // Which classes each image holds: padding is counted as one more class, which is cut off.
  const auto class_BN = at::where(source_valid_BHW, source_class_BHW, num_classes).view({B, -1});
  const auto present_BK =
      at::zeros({B, num_classes + 1}, class_BN.options()).scatter_(1, class_BN, 1).narrow(1, 0, num_classes).to(at::kBool);
  // Rank of each class among those present, by its key; an absent one comes last.
  const auto key_BK = at::where(present_BK, draw_BD.narrow(1, 0, num_classes), 2.0);
  const auto rank_BK = key_BK.argsort(/*stable=*/true, 1, /*descending=*/false).argsort(/*stable=*/true, 1, false);
  const auto half_B1 = (present_BK.sum(1, /*keepdim=*/true) + 1).div(2, "floor");
  const auto taken_BK = present_BK.logical_and(rank_BK < half_B1);
  return taken_BK.gather(1, source_class_BHW.view({B, -1})).view_as(source_class_BHW).logical_and(source_valid_BHW);
}

Tensor mix_mask(const std::string& mix, const PseudoLabels& source, const UnlabeledBatch& unlabeled, size_t view) {
  if (mix == "cutmix") return box_mask(unlabeled.cutmix_box_B4.at(view), source.class_BHW.size(1), source.class_BHW.size(2));
  const auto& draw_BD = unlabeled.draw_BD.at(view);
  return class_mask(source.class_BHW, source.valid_BHW, draw_BD, /*num_classes=*/draw_BD.size(1) - 1);
}

PseudoLabels paste(const Tensor& mask_BHW, const PseudoLabels& source, const PseudoLabels& target) {
  return paste(mask_BHW, LabelledView{{}, source}, LabelledView{{}, target}).labels;
}

Tensor paste(const Tensor& mask_BHW, const Tensor& source_BCHW, const Tensor& target_BCHW) {
  return paste_where(mask_BHW, {source_BCHW}, {target_BCHW})[0];
}

LabelledView paste(const Tensor& mask_BHW, const LabelledView& source, const LabelledView& target) {
  const auto tensors_of = [](const LabelledView& view) {
    const auto& [class_BHW, confidence_BHW, valid_BHW, truth_BHW] = view.labels;
    return std::vector<Tensor>{view.image_BCHW, class_BHW, confidence_BHW, valid_BHW, truth_BHW};
  };
  const auto pasted = paste_where(mask_BHW, tensors_of(source), tensors_of(target));
  return {pasted[0], {pasted[1], pasted[2], pasted[3], pasted[4]}};
}

Tensor in_reverse(const Tensor& x) { return x.defined() ? x.flip(0) : x; }

PseudoLabels in_reverse(const PseudoLabels& labels) {
  return {in_reverse(labels.class_BHW), in_reverse(labels.confidence_BHW), in_reverse(labels.valid_BHW),
          in_reverse(labels.truth_BHW)};
}

Tensor pseudo_label_loss(const Tensor& logits_BKhw, const PseudoLabels& labels, const Tensor& accepted_BHW,
                         const Tensor& weight_K, bool divide_by_accepted) {
  const auto accepted =
      upsample_cross_entropy(logits_BKhw, labels.class_BHW, {.weight_K = weight_K, .pixel_weight_BHW = accepted_BHW});
  if (divide_by_accepted) return mean_of(accepted);
  const auto valid = weight_K.defined() ? (pixel_weight(labels.class_BHW, weight_K) * labels.valid_BHW).sum()
                                        : labels.valid_BHW.sum().to(at::kFloat);
  return mean_of({accepted.loss, valid});
}

void count_pseudo_labels(const PseudoLabels& labels, const Tensor& accepted_BHW, int64_t num_classes, StepOutput* out) {
  at::NoGradGuard no_grad;
  const auto& class_BHW = labels.class_BHW;
  out->pseudo_2K =
      at::stack({count_classes(class_BHW, labels.valid_BHW, num_classes), count_classes(class_BHW, accepted_BHW, num_classes)});
  if (!labels.truth_BHW.defined()) return;
  const auto known_BHW = labels.valid_BHW.logical_and(labels.truth_BHW != kIgnore);
  const auto used_BHW = known_BHW.logical_and(accepted_BHW);
  out->truth_3K =
      at::stack({count_classes(class_BHW, used_BHW.logical_and(class_BHW == labels.truth_BHW), num_classes),
                 count_classes(class_BHW, used_BHW, num_classes), count_classes(labels.truth_BHW, known_BHW, num_classes)});
}

bool weight_is_final(const SemiConfig& config, const Progress& progress) {
  return progress.step >= (config.burn_in_epochs + config.ramp_up_epochs) * progress.steps_per_epoch;
}

double unsupervised_weight(const SemiConfig& config, const Progress& progress) {
  if (weight_is_final(config, progress)) return config.weight;
  const int64_t since = progress.step - config.burn_in_epochs * progress.steps_per_epoch;
  if (since < 0) return 0;
  const double length = static_cast<double>(config.ramp_up_epochs * progress.steps_per_epoch);
  const double left = 1 - static_cast<double>(since) / length;
  return config.weight * std::exp(-5 * left * left);
}

}  // namespace semiseg
