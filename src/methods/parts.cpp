#include "methods/parts.h"

#include <ATen/ATen.h>

namespace semiseg {
void follow_as_average(torch::nn::Module& average, const torch::nn::Module& module, double decay, int64_t step) {
  at::NoGradGuard no_grad;
  const double keep = std::min(1.0 - 1.0 / static_cast<double>(step + 1), decay);
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
  pair_up(average.parameters(), module.parameters());
  pair_up(average.buffers(), module.buffers());
  at::_foreach_lerp_(teacher, target, 1.0 - keep);
}

Teacher::Teacher(const SemiConfig& config, const MethodParts& parts, torch::nn::Module& owner,
                 std::shared_ptr<Segmenter> student, std::shared_ptr<Segmenter> twin)
    : student_(std::move(student)), twin_(std::move(twin)) {
  if (config.teacher == "ema") ema_.emplace(owner.register_module("teacher", parts.make_network(0)), config.ema_decay);
  if (config.teacher == "history")
    for (int64_t i = 0; i < config.history; ++i)
      history_.push_back(owner.register_module("history_" + std::to_string(i), frozen(parts.make_network(0))));
}

Tensor Teacher::predict(const Tensor& image_BCHW, const Progress& progress) {
  const auto kept = static_cast<int64_t>(history_.size());
  const int64_t voters = std::min(kept, progress.step / progress.steps_per_epoch);
  if (voters == 0) return predict_logits(twin_ ? *twin_ : predictor(), image_BCHW);
  Tensor sum_BKhw;
  for (int64_t i = 0; i < voters; ++i) {
    const auto probability_BKhw = predict_logits(*history_[i], image_BCHW).to(at::kFloat).softmax(1);
    sum_BKhw = sum_BKhw.defined() ? sum_BKhw.add_(probability_BKhw) : probability_BKhw;
  }
  return sum_BKhw.div_(voters).clamp_min_(1e-12).log_();
}

void Teacher::after_update(const Progress& progress) {
  if (ema_) ema_->follow(*student_, progress.step);
}

void Teacher::end_epoch(const Progress& progress) {
  if (history_.empty()) return;
  const int64_t ended = (progress.step + progress.steps_per_epoch - 1) / progress.steps_per_epoch;
  copy_module(*student_, *history_[(ended - 1) % static_cast<int64_t>(history_.size())]);
}

FirstPass first_pass(Segmenter& student, const Tensor& labeled_BCHW, const Tensor& weak_BCHW, Dropout2d* dropout,
                     bool wants_weak) {
  const int64_t labeled = labeled_BCHW.size(0), B = weak_BCHW.size(0);
  auto features = student.encode(at::cat({labeled_BCHW, weak_BCHW}));

  FirstPass pass;
  if (wants_weak && student.decodes_images_apart()) {
    at::NoGradGuard no_grad;
    auto weak_features = features;
    for (auto& feature : weak_features) feature = feature.narrow(0, labeled, B);
    pass.weak_BKhw = student.decode(weak_features);
  }
  const bool with_weak = wants_weak && !pass.weak_BKhw.defined();
  for (auto& feature : features) {
    const auto of_labeled = feature.narrow(0, 0, labeled), of_weak = feature.narrow(0, labeled, B);
    const auto kept = with_weak ? feature : of_labeled;
    // Where the decoder normalises them together, the labelled images' dropped features are part of its statistics. They come
    // last, so that what is dropped of the weak views depends on nothing else.
    const auto to_drop = student.decodes_images_apart() ? of_weak : at::cat({of_weak, of_labeled});
    feature = dropout ? at::cat({kept, dropout->forward(to_drop)}) : kept;
  }
  const auto logits_BKhw = student.decode(features);
  pass.labeled_BKhw = logits_BKhw.narrow(0, 0, labeled);
  if (with_weak) pass.weak_BKhw = logits_BKhw.narrow(0, labeled, B).detach();
  if (dropout) pass.dropped_BKhw = logits_BKhw.narrow(0, labeled + (with_weak ? B : 0), B);
  return pass;
}

Tensor predict_logits(Segmenter& network, const Tensor& image_BCHW) {
  at::NoGradGuard no_grad;
  const EvaluationMode evaluating(network);
  return network.forward(image_BCHW);
}

UnsupervisedLoss::UnsupervisedLoss(const SemiConfig& config, const MethodParts& parts)
    : supervised_(parts.supervised_loss),
      adjusts_(config.undo_class_bias),
      divides_by_accepted_(config.normalize == "accepted") {
  if (config.class_weights && !parts.class_weights.empty())
    weight_K_ = at::tensor(parts.class_weights, at::kFloat).to(parts.device);
}

Tensor UnsupervisedLoss::operator()(const Tensor& student_BKhw, const PseudoLabels& labels, const Tensor& accepted_BHW) const {
  return pseudo_label_loss(adjusts_ ? supervised_.adjust(student_BKhw) : student_BKhw, labels, accepted_BHW, weight_K_,
                           divides_by_accepted_);
}

std::shared_ptr<Labeler> make_labeler(const SemiConfig& config, const MethodParts& parts) {
  return std::make_shared<Labeler>(config, parts.label_share, parts.num_classes, parts.supervised_loss.class_bias_K());
}

AcceptedLabels accepted_labels(const Labeler& labeler, const Tensor& logits_BKhw, const UnlabeledBatch& images) {
  const auto labels = labeler.label(logits_BKhw, images);
  return {labels.class_BHW, labeler.accept(labels)};
}

StepOutput step_output(const Tensor& loss, const Tensor& supervised, const Tensor& unsupervised, const PseudoLabels& labels,
                       const Tensor& accepted_BHW, int64_t num_classes) {
  StepOutput out{loss, {{"loss_supervised", supervised.detach()}, {"loss_unsupervised", unsupervised.detach()}}, {}, {}};
  count_pseudo_labels(labels, accepted_BHW, num_classes, &out);
  return out;
}

}  // namespace semiseg
