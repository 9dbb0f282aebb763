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

// sum(loss) / sum(weight), the loss being weighted already. Where nothing is counted the sum is 0, and so is the mean.
Tensor mean(const Tensor& loss_BHW, const Tensor& weight_BHW) {
  const auto divisor = weight_BHW.sum();
  return loss_BHW.sum() / at::where(divisor > 0, divisor, at::ones_like(divisor));
}

// The pixels that OHEM keeps, bool [B, H, W]; of ignored ones it may keep any. cross_entropy_BHW is -ln p_y.
Tensor hard_pixels(const Tensor& cross_entropy_BHW, const Tensor& label_BHW, const LossConfig& config) {
  at::NoGradGuard no_grad;
  constexpr double kAboveAll = 2;  // ignored pixels are the last to be taken
  const auto probability_BHW = cross_entropy_BHW.neg().exp().masked_fill(label_BHW == kIgnore, kAboveAll);
  const auto pixels = static_cast<double>(label_BHW.numel());
  const double wanted = config.ohem_min_kept > 1 ? config.ohem_min_kept : config.ohem_min_kept * pixels;
  const auto min_kept = static_cast<int64_t>(std::min(wanted, pixels));
  const auto kept_BHW = probability_BHW <= config.ohem_threshold;
  if (min_kept == 0) return kept_BHW;
  // kthvalue would do, but has no deterministic CUDA kernel.
  const auto highest_kept =
      std::get<0>(probability_BHW.flatten().topk(min_kept, /*dim=*/0, /*largest=*/false, /*sorted=*/false)).max();
  return kept_BHW.logical_or(probability_BHW <= highest_kept);
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

Tensor SupervisedLoss::operator()(const Tensor& logits_BKhw, const Tensor& label_BHW) const {
  // Bilinear weights sum to 1: what is added before upsampling is added after it.
  const auto adjusted_BKhw = adjustment_K11_.defined() ? logits_BKhw.to(at::kFloat) + adjustment_K11_ : logits_BKhw;
  const auto weight_BHW = weight_of(label_BHW);
  if (config_.kind == "focal") {
    const auto cross_entropy_BHW = upsample_cross_entropy(adjusted_BKhw, label_BHW, /*weight_K=*/{}, 0);
    // 1 - p_y, kept off 0, where the power's derivative may be infinite.
    const auto doubt_BHW = cross_entropy_BHW.neg().expm1().neg().clamp_min(1e-6);
    return mean(weight_BHW * doubt_BHW.pow(config_.focal_gamma) * cross_entropy_BHW, weight_BHW);
  }
  const auto loss_BHW = upsample_cross_entropy(adjusted_BKhw, label_BHW, weight_K_, config_.label_smoothing);
  if (config_.kind == "ce") return mean(loss_BHW, weight_BHW);
  // Without weights and smoothing the loss itself tells p_y.
  const bool plain = !weight_K_.defined() && config_.label_smoothing == 0;
  const auto cross_entropy_BHW = plain ? loss_BHW : upsample_cross_entropy(adjusted_BKhw.detach(), label_BHW, {}, 0);
  const auto kept_BHW = hard_pixels(cross_entropy_BHW, label_BHW, config_);
  return mean(loss_BHW * kept_BHW, weight_BHW * kept_BHW);
}

Tensor SupervisedLoss::weight_of(const Tensor& label_BHW) const {
  const auto counted_BHW = label_BHW != kIgnore;
  if (!weight_K_.defined()) return counted_BHW.to(at::kFloat);
  return weight_K_.index_select(0, at::where(counted_BHW, label_BHW, 0).flatten()).view_as(label_BHW) * counted_BHW;
}

}  // namespace semiseg
