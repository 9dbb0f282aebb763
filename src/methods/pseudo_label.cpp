#include "semiseg/pseudo_label.h"

#include <ATen/ATen.h>

#include "methods/parts.h"

namespace semiseg {
namespace {

// Pseudo-Label (Lee, ICML 2013 workshop) on pixels: the class the teacher holds most likely, where its probability reaches the
// threshold, is the target for the same view. The teacher is the model itself unless semi.teacher says otherwise.
//
//   L = L_x + w L_u,   L_u = sum over accepted pixels of CE / number of valid pixels
class PseudoLabel : public Method {
 public:
  PseudoLabel(const SemiConfig& config, const MethodParts& parts)
      : config_(config),
        loss_(parts.supervised_loss),
        num_classes_(parts.num_classes),
        unsupervised_loss_(config, parts),
        student_(register_module("student", parts.make_network(0))),
        teacher_(config, parts, *this, student_),
        labeler_(register_module("labeler", make_labeler(config, parts))) {}

  BatchNeeds needs() const override { return {.unlabeled = true}; }
  Segmenter& predictor() override { return teacher_.predictor(); }
  Segmenter& student() override { return *student_; }

  bool repeats(const Progress& progress) const override { return teacher_.stays() && weight_is_final(config_, progress); }

  StepOutput step(const TrainBatch& batch, const Progress& progress) override {
    const auto& [image_BCHW, label_BHW] = batch.labeled;
    const auto& unlabeled = batch.unlabeled;

    // One pass over both lists, so that BatchNorm sees them together.
    const auto logits_BKhw = student_->forward(at::cat({image_BCHW, unlabeled.weak_BCHW}));
    const auto labeled_BKhw = logits_BKhw.narrow(0, 0, image_BCHW.size(0));
    const auto weak_BKhw = logits_BKhw.narrow(0, image_BCHW.size(0), unlabeled.weak_BCHW.size(0));
    const auto supervised = loss_(labeled_BKhw, label_BHW);

    const auto labels = labeler_->observe(
        teacher_.is_student() ? weak_BKhw.detach() : teacher_.predict(unlabeled.weak_BCHW, progress), unlabeled);
    const auto accepted_BHW = labeler_->accept(labels);
    const auto unsupervised = unsupervised_loss_(weak_BKhw, labels, accepted_BHW);

    return step_output(supervised + unsupervised_weight(config_, progress) * unsupervised, supervised, unsupervised, labels,
                       accepted_BHW, num_classes_);
  }

  std::optional<AcceptedLabels> pseudo_labels(const UnlabeledBatch& images, const Progress& progress) override {
    return accepted_labels(*labeler_, teacher_.predict(images.weak_BCHW, progress), images);
  }

  void after_update(const Progress& progress) override { teacher_.after_update(progress); }
  void end_epoch(const Progress& progress, std::optional<double>) override { teacher_.end_epoch(progress); }

 private:
  SemiConfig config_;
  SupervisedLoss loss_;
  int64_t num_classes_;
  UnsupervisedLoss unsupervised_loss_;
  std::shared_ptr<Segmenter> student_;
  Teacher teacher_;
  std::shared_ptr<Labeler> labeler_;
};

const bool kRegistered = methods().add("pseudo_label", [](const SemiConfig& config, const MethodParts& parts) {
  return std::make_shared<PseudoLabel>(config, parts);
});

}  // namespace
}  // namespace semiseg
