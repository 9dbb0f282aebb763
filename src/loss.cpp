#include "semiseg/loss.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "semiseg/ops.h"

namespace semiseg {
namespace {

// Median of the values, the mean of the two middle ones where their number is even.
double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

void scale_to_sum(std::vector<double>& weights, double sum) {
  const double now = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (now > 0)
    for (double& weight : weights) weight *= sum / now;
}

// The pixels that OHEM keeps, bool [B, H, W]; of ignored ones it may keep any. probability_BHW is that of the label.
Tensor hard_pixels(const Tensor& probability_BHW, const Tensor& label_BHW, const LossConfig& config) {
  constexpr double kAboveAll = 2;  // ignored pixels are the last to be taken
  const auto sortable_BHW = probability_BHW.masked_fill(label_BHW == kIgnore, kAboveAll);
  const auto pixels = static_cast<double>(label_BHW.numel());
  const double wanted = config.ohem_min_kept > 1 ? config.ohem_min_kept : config.ohem_min_kept * pixels;
  const auto min_kept = static_cast<int64_t>(std::min(wanted, pixels));
  const auto kept_BHW = sortable_BHW <= config.ohem_threshold;
  if (min_kept == 0) return kept_BHW;
  return kept_BHW.logical_or(sortable_BHW <= kth_smallest(sortable_BHW, min_kept));
}

}  // namespace

std::vector<double> class_weights(const std::string& kind, const ClassCounts& counts) {
  const size_t K = counts.pixels.size();
  std::vector<double> weights(K, 1.0);
  if (kind == "none") return weights;

  const double total = std::accumulate(counts.pixels.begin(), counts.pixels.end(), 0.0);
  std::vector<size_t> present;
  for (size_t c = 0; c < K; ++c)
    if (counts.pixels[c] > 0) present.push_back(c);
  weights.assign(K, 0.0);

  if (kind == "inverse") {
    for (const size_t c : present) weights[c] = total / static_cast<double>(counts.pixels[c]);
    scale_to_sum(weights, static_cast<double>(present.size()));
  } else if (kind == "median") {
    std::vector<double> frequency(K, 0.0), of_present;
    for (const size_t c : present) {
      frequency[c] = static_cast<double>(counts.pixels[c]) / static_cast<double>(counts.pixels_of_those[c]);
      of_present.push_back(frequency[c]);
    }
    const double middle = median(of_present);
    for (const size_t c : present) weights[c] = middle / frequency[c];
  } else if (kind == "enet") {
    for (const size_t c : present) weights[c] = 1 / std::log(1.02 + static_cast<double>(counts.pixels[c]) / total);
  } else if (kind == "effective") {
    constexpr double kBeta = 0.9999;
    for (const size_t c : present) weights[c] = (1 - kBeta) / (1 - std::pow(kBeta, static_cast<double>(counts.pixels[c])));
    scale_to_sum(weights, static_cast<double>(K));
  } else {
    throw Error(ErrorKind::kConfig, "unknown class weighting \"" + kind + "\"", "loss.class_weights",
                "known: none, inverse, median, enet, effective, or a list of numbers");
  }
  return weights;
}

SupervisedLoss::SupervisedLoss(const LossConfig& config, const std::vector<double>& weights_K,
                               const std::vector<double>& label_share_K, torch::Device device)
    : config_(config) {
  if (!weights_K.empty()) weight_K_ = at::tensor(weights_K, at::kFloat).to(device);
  if (config.logit_adjustment > 0) {
    TORCH_CHECK(!label_share_K.empty(), "logit adjustment needs the labelled share of each class");
    constexpr double kLeastShare = 1e-6;
    std::vector<double> adjustment_K;
    for (const double share : label_share_K)
      adjustment_K.push_back(config.logit_adjustment * std::log(std::max(share, kLeastShare)));
    adjustment_K11_ = at::tensor(adjustment_K, at::kFloat).view({-1, 1, 1}).to(device);
  }
}

Tensor SupervisedLoss::class_bias_K() const {
  Tensor bias_K;
  // A class without labelled pixels has weight 0 and is not learned at all.
  if (weight_K_.defined()) bias_K = at::where(weight_K_ > 0, weight_K_, 1.0).log();
  if (!adjustment_K11_.defined()) return bias_K;
  const auto adjustment_K = adjustment_K11_.flatten();
  return bias_K.defined() ? bias_K - adjustment_K : adjustment_K.neg();
}

Tensor SupervisedLoss::adjust(const Tensor& logits_BKhw) const {
  return adjustment_K11_.defined() ? logits_BKhw.to(at::kFloat) + adjustment_K11_ : logits_BKhw;
}

Tensor SupervisedLoss::operator()(const Tensor& logits_BKhw, const Tensor& label_BHW) const {
  // Bilinear weights sum to 1: what is added before upsampling is added after it.
  const auto adjusted_BKhw = adjust(logits_BKhw);
  CrossEntropyOptions options{.weight_K = weight_K_, .label_smoothing = config_.label_smoothing};
  if (config_.kind == "ohem")
    options.pixel_weight_BHW = hard_pixels(upsample_label_probability(adjusted_BKhw, label_BHW), label_BHW, config_);
  if (config_.kind == "focal") {
    options.label_smoothing = 0;
    options.focal_gamma = config_.focal_gamma;
  }
  return mean_of(upsample_cross_entropy(adjusted_BKhw, label_BHW, options));
}

}  // namespace semiseg
