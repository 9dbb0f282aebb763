#include "semiseg/loss.h"

#include <ATen/ATen.h>

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

SupervisedLoss::SupervisedLoss(const LossConfig& config, const std::vector<double>& weights_K, torch::Device device)
    : label_smoothing_(config.label_smoothing) {
  if (!weights_K.empty()) weight_K_ = at::tensor(weights_K, at::kFloat).to(device);
}

Tensor SupervisedLoss::operator()(const Tensor& logits_BKhw, const Tensor& label_BHW) const {
  const auto loss_BHW = upsample_cross_entropy(logits_BKhw, label_BHW, weight_K_, label_smoothing_);
  const auto counted_BHW = label_BHW != kIgnore;
  Tensor divisor;
  if (weight_K_.defined()) {
    const auto weight_BHW = weight_K_.index_select(0, at::where(counted_BHW, label_BHW, 0).flatten()).view_as(label_BHW);
    divisor = (weight_BHW * counted_BHW).sum();
  } else {
    divisor = counted_BHW.sum().to(at::kFloat);
  }
  // Where nothing is counted the sum is 0, and so is the loss.
  return loss_BHW.sum() / at::where(divisor > 0, divisor, at::ones_like(divisor));
}

}  // namespace semiseg
