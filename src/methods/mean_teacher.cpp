#include <ATen/ATen.h>

#include "methods/parts.h"
#include "semiseg/ops.h"
#include "semiseg/pseudo_label.h"

namespace semiseg {
namespace {

// Mean Teacher (Tarvainen and Valpola, NeurIPS 2017) on pixels: the student's class probabilities on the strong view are drawn
// towards those of an average of past students on the weak view. No threshold, no hard labels.
//
//   L = L_x + w L_u,   L_u = mean over valid pixels of |softmax(student) - softmax(teacher)|^2, at the logits' own stride
class MeanTeacher : public Method {
 public:
  MeanTeacher(const SemiConfig& config, const MethodParts& parts)
      : config_(config),
        loss_(parts.supervised_loss),
        num_classes_(parts.num_classes),
        student_(register_module("student", parts.make_network(0))),
        teacher_(register_module("teacher", parts.make_network(0)), config.ema_decay) {}

  BatchNeeds needs() const override {
    return {.unlabeled = true, .strong_views = 1, .random_strong_view = config_.strong_view == "random"};
  }
  Segmenter& predictor() override { return teacher_.network(); }
  Segmenter& student() override { return *student_; }

  bool repeats(const Progress& progress) const override { return weight_is_final(config_, progress); }

  StepOutput step(const TrainBatch& batch, const Progress& progress) override {
    const auto& [image_BCHW, label_BHW] = batch.labeled;
    const auto& strong_BCHW = batch.unlabeled.strong_BCHW.at(0);

    const auto logits_BKhw = student_->forward(at::cat({image_BCHW, strong_BCHW}));
    const auto labeled_BKhw = logits_BKhw.narrow(0, 0, image_BCHW.size(0));
    const auto strong_BKhw = logits_BKhw.narrow(0, image_BCHW.size(0), strong_BCHW.size(0));
    const auto supervised = loss_(labeled_BKhw, label_BHW);

    const auto target_BKhw = predict_logits(teacher_.network(), batch.unlabeled.weak_BCHW).to(at::kFloat).softmax(1);
    const auto valid_Bhw = at::upsample_nearest2d(batch.unlabeled.valid_BHW.unsqueeze(1).to(at::kFloat),
                                                  {target_BKhw.size(2), target_BKhw.size(3)})
                               .squeeze(1);
    const auto distance_Bhw = (strong_BKhw.to(at::kFloat).softmax(1) - target_BKhw).square().sum(1);
    const auto unsupervised = mean_of({(distance_Bhw * valid_Bhw).sum(), valid_Bhw.sum()});

    // Every valid pixel counts, so all of the teacher's predictions are "accepted".
    const auto labels =
        make_pseudo_labels(target_BKhw.clamp_min(1e-12).log(), batch.unlabeled.valid_BHW, batch.unlabeled.truth_BHW);
    return step_output(supervised + unsupervised_weight(config_, progress) * unsupervised, supervised, unsupervised, labels,
                       labels.valid_BHW, num_classes_);
  }

  std::optional<AcceptedLabels> pseudo_labels(const UnlabeledBatch& images, const Progress&) override {
    const auto labels = make_pseudo_labels(predict_logits(teacher_.network(), images.weak_BCHW), images.valid_BHW, {});
    return AcceptedLabels{labels.class_BHW, labels.valid_BHW};
  }

  void after_update(const Progress& progress) override { teacher_.follow(*student_, progress.step); }

 private:
  SemiConfig config_;
  SupervisedLoss loss_;
  int64_t num_classes_;
  std::shared_ptr<Segmenter> student_;
  EmaTeacher teacher_;
};

const bool kRegistered = methods().add("mean_teacher", [](const SemiConfig& config, const MethodParts& parts) {
  return std::make_shared<MeanTeacher>(config, parts);
});

}  // namespace
}  // namespace semiseg
