#include <ATen/ATen.h>

#include <cmath>

#include "methods/parts.h"
#include "semiseg/ops.h"
#include "semiseg/pseudo_label.h"

namespace semiseg {
namespace {

// AugSeg (Zhao et al., CVPR 2023; ZhenZHAO/AugSeg, train_semi.py and augs_ALIA.py): an EMA teacher labels the weak view; the
// strong view's colours are changed at random (semi.strong_view: random), and CutMix brings labelled content into images that
// the teacher is unsure of.
//
//   L = L_x + w L_u
//   L_u  mean over valid pixels of CE(student on the mixed strong view, its label) where the confidence reaches the threshold
//   c_i  mean over image i of (1 - H(p) / ln K) max p, H(p) = -sum p ln(p + 1e-10)
//
//   A  with probability 1 - c_i a box of image i is taken from labelled image perm[i]: label as annotated, confidence 1
//   B  another box of the image as it was before A is taken from what A made of image perm[i]
//
// perm is one permutation of the batch for both; a batch of one image receives in B what A brought into itself. The student
// sees labelled and mixed images in one pass. The teacher is a plain copy of the student during the first epoch.
//
// Unlike the published code, boxes come from a lambda drawn for each image, not one for the batch; padding and pixels that
// labelled images ignore count neither in c_i nor in the mean; and the labelled batch may have another size.
class AugSeg : public Method {
 public:
  AugSeg(const SemiConfig& config, const MethodParts& parts)
      : config_(config),
        loss_(parts.supervised_loss),
        num_classes_(parts.num_classes),
        unsupervised_loss_(config, parts),
        student_(register_module("student", parts.make_network(0))),
        teacher_(register_module("teacher", parts.make_network(0)), config.ema_decay),
        labeler_(register_module("labeler", make_labeler(config, parts))) {}

  BatchNeeds needs() const override {
    return {.unlabeled = true, .strong_views = 1, .random_strong_view = config_.strong_view == "random", .augseg_boxes = true};
  }
  Segmenter& predictor() override { return teacher_.network(); }
  Segmenter& student() override { return *student_; }

  bool repeats(const Progress& progress) const override { return weight_is_final(config_, progress); }

  StepOutput step(const TrainBatch& batch, const Progress& progress) override {
    const auto& [image_BCHW, label_BHW] = batch.labeled;
    const auto& unlabeled = batch.unlabeled;
    const int64_t labeled = image_BCHW.size(0), B = unlabeled.weak_BCHW.size(0);
    const int64_t H = unlabeled.weak_BCHW.size(2), W = unlabeled.weak_BCHW.size(3);

    // Pseudo-labels, and how sure the teacher is of each image.
    const auto weak_BKhw = predict_logits(teacher_.network(), unlabeled.weak_BCHW);
    const auto labels = labeler_->observe(weak_BKhw, unlabeled);
    const auto probability_BKHW = upsample_logits(labeler_->correct(weak_BKhw), H, W).softmax(1);

    // Mixed strong view, and the student on it.
    const auto [mixed_BCHW, mixed] = mix(batch, labels, image_confidence(probability_BKHW, labels));
    const auto logits_BKhw = student_->forward(at::cat({image_BCHW, mixed_BCHW}));
    const auto supervised = loss_(logits_BKhw.narrow(0, 0, labeled), label_BHW);
    const auto unsupervised = unsupervised_loss_(logits_BKhw.narrow(0, labeled, B), mixed, labeler_->accept(mixed));

    return step_output(supervised + unsupervised_weight(config_, progress) * unsupervised, supervised, unsupervised, labels,
                       labeler_->accept(labels), num_classes_);
  }

  std::optional<AcceptedLabels> pseudo_labels(const UnlabeledBatch& images, const Progress&) override {
    return accepted_labels(*labeler_, predict_logits(teacher_.network(), images.weak_BCHW), images);
  }

  void after_update(const Progress& progress) override {
    teacher_.follow(*student_, progress.step < progress.steps_per_epoch ? 0 : progress.step);
  }

 private:
  // c_i, float32 [B].
  Tensor image_confidence(const Tensor& probability_BKHW, const PseudoLabels& labels) const {
    const auto entropy_BHW = (probability_BKHW + 1e-10).log_().mul_(probability_BKHW).sum(1).neg_();
    const auto sure_BHW = (1 - entropy_BHW / std::log(static_cast<double>(num_classes_))) * labels.confidence_BHW;
    return (sure_BHW * labels.valid_BHW).sum({1, 2}) / labels.valid_BHW.sum({1, 2}).clamp_min(1);
  }

  // The strong view with labelled and unlabelled boxes, and its labels. Their truth stays undefined: what labelled images bring
  // is no pseudo-label, so mixed labels are never counted.
  LabelledView mix(const TrainBatch& batch, const PseudoLabels& labels, const Tensor& confidence_B) const {
    const auto& [image_BCHW, label_BHW] = batch.labeled;
    const auto& unlabeled = batch.unlabeled;
    const auto &strong_BCHW = unlabeled.strong_BCHW.at(0), &draw_BD = unlabeled.draw_BD.at(0);
    const int64_t H = strong_BCHW.size(2), W = strong_BCHW.size(3);
    const auto perm_B = draw_BD.select(1, 0).argsort(/*stable=*/true, 0, /*descending=*/false), coin_B = draw_BD.select(1, -1);
    const auto pick = [](const Tensor& x, const Tensor& index_B) { return x.index_select(0, index_B); };

    const auto labeled_B = perm_B.remainder(image_BCHW.size(0));
    const auto annotated_BHW = pick(label_BHW, labeled_B);
    const auto known_BHW = annotated_BHW != kIgnore;
    const PseudoLabels annotated{at::where(known_BHW, annotated_BHW, 0), at::ones_like(labels.confidence_BHW), known_BHW, {}};
    const auto unsure_B = coin_B > confidence_B;
    const auto a_BHW = box_mask(unlabeled.cutmix_box_B4.at(0), H, W).logical_and(unsure_B.view({-1, 1, 1}));
    const LabelledView strong{strong_BCHW, labels};
    const auto [a_BCHW, a] = paste(a_BHW, {pick(image_BCHW, labeled_B), annotated}, strong);

    const auto b_BHW = box_mask(unlabeled.cutmix_box_B4.at(1), H, W);
    const PseudoLabels source{pick(a.class_BHW, perm_B), pick(a.confidence_BHW, perm_B), pick(a.valid_BHW, perm_B), {}};
    return paste(b_BHW, {pick(a_BCHW, perm_B), source}, strong);
  }

  SemiConfig config_;
  SupervisedLoss loss_;
  int64_t num_classes_;
  UnsupervisedLoss unsupervised_loss_;
  std::shared_ptr<Segmenter> student_;
  EmaTeacher teacher_;
  std::shared_ptr<Labeler> labeler_;
};

const bool kRegistered = methods().add(
    "augseg", [](const SemiConfig& config, const MethodParts& parts) { return std::make_shared<AugSeg>(config, parts); });

}  // namespace
}  // namespace semiseg
