#include "methods/parts.h"

#include <ATen/ATen.h>

namespace semiseg {

void EmaTeacher::follow(const Segmenter& student, int64_t step) {
  at::NoGradGuard no_grad;
  const double keep = std::min(1.0 - 1.0 / static_cast<double>(step + 1), decay_);
  std::vector<Tensor> teacher, target;
  const auto pair_up = [&](const std::vector<Tensor>& to, const std::vector<Tensor>& from) {
    for (size_t i = 0; i < to.size(); ++i) {
      if (to[i].is_floating_point()) {
        teacher.push_back(to[i]);
        target.push_back(from[i]);
      } else {
        to[i].copy_(from[i], /*non_blocking=*/true);  // BatchNorm's counters
      }
    }
  };
  pair_up(network_->parameters(), student.parameters());
  pair_up(network_->buffers(), student.buffers());
  at::_foreach_lerp_(teacher, target, 1.0 - keep);
}

Tensor predict_logits(Segmenter& network, const Tensor& image_BCHW) {
  at::NoGradGuard no_grad;
  const bool training = network.is_training();
  network.eval();
  auto logits_BKhw = network.forward(image_BCHW);
  network.train(training);
  return logits_BKhw;
}

double ramp_up(const SemiConfig& config, const Progress& progress) {
  const double length = static_cast<double>(config.ramp_up_epochs * progress.steps_per_epoch);
  if (static_cast<double>(progress.step) >= length) return 1;
  const double left = 1 - static_cast<double>(progress.step) / length;
  return std::exp(-5 * left * left);
}

Tensor pseudo_counts(const Tensor& class_BHW, const Tensor& valid_BHW, const Tensor& accepted_BHW, int64_t num_classes) {
  return at::stack({count_classes(class_BHW, valid_BHW, num_classes), count_classes(class_BHW, accepted_BHW, num_classes)});
}

Tensor pseudo_label_loss(const Tensor& logits_BKhw, const Tensor& class_BHW, const Tensor& accepted_BHW,
                         const Tensor& valid_BHW) {
  const auto target_BHW = at::where(accepted_BHW, class_BHW, kIgnore);
  const auto loss_BHW = upsample_cross_entropy(logits_BKhw, target_BHW, /*weight_K=*/{}, /*label_smoothing=*/0);
  return loss_BHW.sum() / valid_BHW.sum().clamp_min(1);
}

}  // namespace semiseg
