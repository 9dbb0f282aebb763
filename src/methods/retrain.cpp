#include <ATen/ATen.h>

#include "methods/parts.h"
#include "semiseg/distributed.h"
#include "semiseg/pseudo_label.h"

namespace semiseg {
namespace {

// Learns from labelled images and from unlabelled ones whose labels were predicted beforehand and lie in files: a stage of
// self-training (ST++, Yang et al., CVPR 2022, LiheYoung/ST-PlusPlus). The student sees a strong view of them.
//
//   L = L_x + w L_u,   L_u = mean of CE(strong view, label file) over the pixels that have a label
//
// semi.undo_class_bias says that the files were made with it. With semi.normalize: valid the sum is divided by all pixels but
// padding instead. The repository takes one mean over labelled images, repeated, and the others, half as much as this sum, and
// its strong view has Cutout on top of colours, which is left out here.
class Retrain : public Method {
 public:
  Retrain(const SemiConfig& config, const MethodParts& parts)
      : config_(config),
        loss_(parts.supervised_loss),
        num_classes_(parts.num_classes),
        unsupervised_loss_(config, parts),
        student_(register_module("student", parts.make_network(0))) {}

  BatchNeeds needs() const override {
    return {.unlabeled = true, .strong_views = 1, .random_strong_view = config_.strong_view == "random", .truth = true};
  }
  Segmenter& predictor() override { return *student_; }
  Segmenter& student() override { return *student_; }

  bool repeats(const Progress& progress) const override { return weight_is_final(config_, progress); }

  // REQUIRES: unlabeled.truth_BHW holds the labels from the files.
  StepOutput step(const TrainBatch& batch, const Progress& progress) override {
    const auto& [image_BCHW, label_BHW] = batch.labeled;
    const auto& unlabeled = batch.unlabeled;
    TORCH_CHECK(unlabeled.truth_BHW.defined(), "retrain needs the labels of the unlabelled list");

    // One pass over both lists, so that BatchNorm sees them together.
    const auto& strong_BCHW = unlabeled.strong_BCHW.front();
    const auto logits_BKhw = student_->forward(at::cat({image_BCHW, strong_BCHW}));
    const auto supervised = loss_(logits_BKhw.narrow(0, 0, image_BCHW.size(0)), label_BHW);

    const auto [file_BHW, labeled_BHW] = *pseudo_labels(unlabeled, progress);
    const PseudoLabels labels{file_BHW, at::ones_like(file_BHW, at::kFloat), labeled_BHW, {}};
    auto unsupervised = unsupervised_loss_(logits_BKhw.narrow(0, image_BCHW.size(0), strong_BCHW.size(0)), labels, labeled_BHW);
    if (config_.normalize == "valid")
      unsupervised =
          unsupervised * (sum_over_processes(labeled_BHW.sum()) / sum_over_processes(unlabeled.valid_BHW.sum()).clamp_min(1));

    // What was rejected when the files were written has no class to be counted under.
    return step_output(supervised + unsupervised_weight(config_, progress) * unsupervised, supervised, unsupervised, labels,
                       labeled_BHW, num_classes_);
  }

  // From the files; 0 where they have none.
  std::optional<AcceptedLabels> pseudo_labels(const UnlabeledBatch& images, const Progress&) override {
    if (!images.truth_BHW.defined()) return std::nullopt;
    const auto labeled_BHW = images.valid_BHW.logical_and(images.truth_BHW != kIgnore);
    return AcceptedLabels{at::where(labeled_BHW, images.truth_BHW, 0), labeled_BHW};
  }

 private:
  SemiConfig config_;
  SupervisedLoss loss_;
  int64_t num_classes_;
  UnsupervisedLoss unsupervised_loss_;
  std::shared_ptr<Segmenter> student_;
};

const bool kRegistered = methods().add(
    "retrain", [](const SemiConfig& config, const MethodParts& parts) { return std::make_shared<Retrain>(config, parts); });

}  // namespace
}  // namespace semiseg
