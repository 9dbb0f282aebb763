// What the parity tests against segmentation_models_pytorch share: weights and inputs by the formula of
// tools/goldens/smp_fpn.py, and the comparison with recorded logits.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "semiseg/model.h"
#include "semiseg/random.h"

namespace semiseg {

inline constexpr double kTolerance = 1e-4;

// smp_fpn.py's noise(): values in [-1, 1), a pure function of name and index.
inline Tensor noise(const std::string& name, at::IntArrayRef shape) {
  Tensor result = at::empty(shape, at::kDouble);
  const auto start = static_cast<uint32_t>(hash_name(name));
  double* values = result.data_ptr<double>();
  for (int64_t i = 0; i < result.numel(); ++i) {
    uint32_t x = start + static_cast<uint32_t>(i);
    x ^= x >> 16;
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    x *= 0xC2B2AE35u;
    x ^= x >> 16;
    values[i] = x / 2147483648.0 - 1;
  }
  return result;
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// smp_fpn.py's closed_form(). `damping`: further scale of the normalisations that end a residual branch.
inline Tensor closed_form(const std::string& name, at::IntArrayRef shape, double damping) {
  Tensor values = noise(name, shape);
  if (shape.size() == 4)
    values *= std::sqrt(6.0 / static_cast<double>(shape[1] * shape[2] * shape[3]));
  else if (contains(name, "running_var"))
    values = 1 + 0.2 * values;
  else if (contains(name, ".weight"))
    values = (contains(name, ".bn2.") || contains(name, ".bn3.") ? damping * 0.5 : 1.0) * (1 + 0.2 * values);
  else
    values *= 0.1;
  return values.to(at::kFloat);
}

// Sets all parameters and buffers by the formula; returns how many names there are.
inline int64_t fill(Segmenter& model, double damping = 1) {
  at::NoGradGuard no_grad;
  int64_t names = 0;
  for (const auto& list : {model.named_parameters(), model.named_buffers()})
    for (const auto& item : list) {
      ++names;
      if (!contains(item.key(), "num_batches_tracked"))
        Tensor(item.value()).copy_(closed_form(item.key(), item.value().sizes(), damping));
    }
  return names;
}

// Without initial weights: every test sets them all.
inline std::shared_ptr<Segmenter> bare_network(ModelConfig config) {
  config.dropout = 0;
  const auto backbone = backbones().at(config.backbone)(config);
  return std::make_shared<Segmenter>(backbone, decoders().at(config.decoder)(config, backbone->channels()), /*num_classes=*/19);
}

inline Tensor upsampled(Segmenter& model, const Tensor& image_BCHW) {
  at::NoGradGuard no_grad;
  return at::upsample_bilinear2d(model.forward(image_BCHW), {image_BCHW.size(2), image_BCHW.size(3)}, /*align_corners=*/true);
}

// Logits against the samples, the mean and the mean absolute value of a recorded case.
inline void expect_recorded(const Tensor& logits_BKHW, const nlohmann::json& expected) {
  const auto logits = logits_BKHW.contiguous();
  const float* values = logits.data_ptr<float>();
  const auto step = expected["step"].get<int64_t>();
  const auto& samples = expected["logits"];
  ASSERT_GE(logits.numel(), (static_cast<int64_t>(samples.size()) - 1) * step + 1);
  double worst = 0;
  for (size_t i = 0; i < samples.size(); ++i)
    worst = std::max(worst, std::abs(values[static_cast<int64_t>(i) * step] - samples[i].get<double>()));
  EXPECT_LT(worst, kTolerance);
  EXPECT_NEAR(logits.to(at::kDouble).mean().item<double>(), expected["mean"].get<double>(), kTolerance);
  EXPECT_NEAR(logits.to(at::kDouble).abs().mean().item<double>(), expected["mean_abs"].get<double>(), kTolerance);
}

}  // namespace semiseg
