#include <ATen/ATen.h>

#include "methods/parts.h"

namespace semiseg {
namespace {

// Pseudo-Label (Lee, ICML 2013 workshop) on pixels: the class the model itself holds most likely, where its probability reaches
// the threshold, is the target for the same view. With `semi.teacher: ema` an average of past students gives the targets.
//
//   L = L_x + w L_u,   L_u = sum over accepted pixels of CE / number of valid pixels
class PseudoLabel : public Method {
 public:
  PseudoLabel(const SemiConfig& config, const MethodParts& parts)
      : config_(config), loss_(parts.supervised_loss), num_classes_(parts.num_classes) {
    student_ = register_module("student", parts.make_network());
    if (config.teacher == "ema") teacher_.emplace(register_module("teacher", parts.make_network()), config.ema_decay);
  }

  BatchNeeds needs() const override { return {.unlabeled = true}; }
  Segmenter& predictor() override { return teacher_ ? teacher_->network() : *student_; }
  Segmenter& student() override { return *student_; }

  StepOutput step(const TrainBatch& batch, const Progress& progress) override {
    const auto& [image_BCHW, label_BHW] = batch.labeled;
    const auto& weak_BCHW = batch.unlabeled.weak_BCHW;
    const auto& valid_BHW = batch.unlabeled.valid_BHW;

    // One pass over both lists, so that BatchNorm sees them together.
    const auto logits_BKhw = student_->forward(at::cat({image_BCHW, weak_BCHW}));
    const auto labeled_BKhw = logits_BKhw.narrow(0, 0, image_BCHW.size(0));
    const auto weak_BKhw = logits_BKhw.narrow(0, image_BCHW.size(0), weak_BCHW.size(0));
    const auto supervised = loss_(labeled_BKhw, label_BHW);

    const auto teacher_BKhw = teacher_ ? predict_logits(teacher_->network(), weak_BCHW) : weak_BKhw.detach();
    const auto [class_BHW, confidence_BHW] = upsample_predict(teacher_BKhw, valid_BHW.size(1), valid_BHW.size(2));
    const auto accepted_BHW = (confidence_BHW >= config_.threshold).logical_and(valid_BHW);
    const auto unsupervised = pseudo_label_loss(weak_BKhw, class_BHW, accepted_BHW, valid_BHW);

    return {supervised + config_.weight * ramp_up(config_, progress) * unsupervised,
            {{"loss_supervised", supervised.detach()}, {"loss_unsupervised", unsupervised.detach()}},
            pseudo_counts(class_BHW, valid_BHW, accepted_BHW, num_classes_)};
  }

  void after_update(const Progress& progress) override {
    if (teacher_) teacher_->follow(*student_, progress.step);
  }

 private:
  SemiConfig config_;
  SupervisedLoss loss_;
  int64_t num_classes_;
  std::shared_ptr<Segmenter> student_;
  std::optional<EmaTeacher> teacher_;
};

const bool kRegistered = methods().add("pseudo_label", [](const SemiConfig& config, const MethodParts& parts) {
  return std::make_shared<PseudoLabel>(config, parts);
});

}  // namespace
}  // namespace semiseg
