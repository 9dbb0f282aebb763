#include <ATen/ATen.h>

#include "methods/parts.h"

namespace semiseg {
namespace {

// FixMatch (Sohn et al., NeurIPS 2020) on pixels with CutMix, step for step as UniMatch's repository runs it
// (LiheYoung/UniMatch, fixmatch.py): the weak view's prediction comes from the train-mode pass that also gives the labelled
// logits, the mixed-in images' from an eval-mode pass; the mix is a second, independent draw of unlabelled images.
//
//   L = (L_x + w L_s) / 2,   L_s = sum over accepted pixels of CE(strong, pseudo-label of weak) / number of valid pixels
//
// With `semi.teacher: ema` both predictions come from an average of past students, in eval mode.
class FixMatch : public Method {
 public:
  FixMatch(const SemiConfig& config, const MethodParts& parts)
      : config_(config), loss_(parts.supervised_loss), num_classes_(parts.num_classes), cutmix_(config.mix == "cutmix") {
    student_ = register_module("student", parts.make_network());
    if (config.teacher == "ema") teacher_.emplace(register_module("teacher", parts.make_network()), config.ema_decay);
  }

  BatchNeeds needs() const override { return {.unlabeled = true, .strong_views = 1, .mix = cutmix_}; }
  Segmenter& predictor() override { return teacher_ ? teacher_->network() : *student_; }
  Segmenter& student() override { return *student_; }

  StepOutput step(const TrainBatch& batch, const Progress& progress) override {
    const auto& [image_BCHW, label_BHW] = batch.labeled;
    const auto& weak_BCHW = batch.unlabeled.weak_BCHW;
    auto strong_BCHW = batch.unlabeled.strong_BCHW.at(0);
    auto valid_BHW = batch.unlabeled.valid_BHW;
    const int64_t H = weak_BCHW.size(2), W = weak_BCHW.size(3);
    Segmenter& teacher = predictor();

    Prediction mix;
    if (cutmix_) {
      mix = upsample_predict(predict_logits(teacher, batch.mix.weak_BCHW), H, W);
      strong_BCHW = paste_boxes(strong_BCHW, batch.mix.strong_BCHW.at(0), batch.unlabeled.cutmix_box_B4.at(0));
    }

    Tensor labeled_BKhw, weak_BKhw;
    if (teacher_) {
      labeled_BKhw = student_->forward(image_BCHW);
      weak_BKhw = predict_logits(teacher, weak_BCHW);
    } else {
      const auto logits_BKhw = student_->forward(at::cat({image_BCHW, weak_BCHW}));
      labeled_BKhw = logits_BKhw.narrow(0, 0, image_BCHW.size(0));
      weak_BKhw = logits_BKhw.narrow(0, image_BCHW.size(0), weak_BCHW.size(0)).detach();
    }
    const auto strong_BKhw = student_->forward(strong_BCHW);
    const auto supervised = loss_(labeled_BKhw, label_BHW);

    auto [class_BHW, confidence_BHW] = upsample_predict(weak_BKhw, H, W);
    if (cutmix_) {
      const auto& box_B4 = batch.unlabeled.cutmix_box_B4.at(0);
      class_BHW = paste_boxes(class_BHW, mix.class_BHW, box_B4);
      confidence_BHW = paste_boxes(confidence_BHW, mix.confidence_BHW, box_B4);
      valid_BHW = paste_boxes(valid_BHW, batch.mix.valid_BHW, box_B4);
    }
    const auto accepted_BHW = (confidence_BHW >= config_.threshold).logical_and(valid_BHW);
    const auto unsupervised = pseudo_label_loss(strong_BKhw, class_BHW, accepted_BHW, valid_BHW);

    return {(supervised + config_.weight * ramp_up(config_, progress) * unsupervised) / 2,
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
  bool cutmix_;
  std::shared_ptr<Segmenter> student_;
  std::optional<EmaTeacher> teacher_;
};

const bool kRegistered = methods().add(
    "fixmatch", [](const SemiConfig& config, const MethodParts& parts) { return std::make_shared<FixMatch>(config, parts); });

}  // namespace
}  // namespace semiseg
