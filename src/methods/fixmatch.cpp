#include <ATen/ATen.h>

#include "methods/taught_method.h"
#include "semiseg/pseudo_label.h"

namespace semiseg {
namespace {

// FixMatch (Sohn et al., NeurIPS 2020) on pixels with CutMix, and UniMatch (Yang et al., CVPR 2023), which adds a second strong
// view and a stream with dropped features; step for step as UniMatch's repository runs them (LiheYoung/UniMatch, fixmatch.py
// and unimatch.py): the weak view's prediction comes from the train-mode pass that also gives the labelled logits, the mixed-in
// images' from an eval-mode pass. The mix is a second, independent draw of unlabelled images; the repository's code asks for
// one, but gets the same images in other crops (its issue 51), and its author saw no difference to partners from the batch
// (issue 34).
//
//   L = (L_x + w L_u) / 2,   L_u = mean over views of L_s, or (that + L_fp) / 2 with feature dropout
//   L_s, L_fp = sum over accepted pixels of CE(strong view or dropped features, pseudo-label) / number of valid pixels
//
// With another teacher than the student both predictions come from it, in eval mode, and without feature dropout the labelled
// images go through the network with the strong views, as in LiheYoung/UniMatch-V2's fixmatch.py, whose partners are those of
// the batch. The published step decodes the labelled images' dropped features too and throws the result away, and takes the
// gradient, all zeros, of the weak views' logits; here only what is used is decoded and learned from where that is the same:
// in FPN, but not in DeepLabV3+, whose decoder normalises the batch.
class WeakToStrong : public TaughtMethod {
 public:
  WeakToStrong(const SemiConfig& config, const MethodParts& parts) : TaughtMethod(config, parts) {
    if (config.feature_dropout > 0)
      dropout_ = register_module("feature_dropout", std::make_shared<Dropout2d>(config.feature_dropout));
  }

  BatchNeeds needs() const override {
    return {.unlabeled = true,
            .strong_views = static_cast<int>(config_.views),
            .mix = config_.mix != "none",
            .random_strong_view = config_.strong_view == "random"};
  }

 protected:
  Losses learn(Branch& branch, const Taught& taught, const TrainBatch& batch, const Progress& progress) override {
    const auto& [student, teacher, labeler] = branch;
    const auto& [image_BCHW, label_BHW] = batch.labeled;
    const auto& unlabeled = batch.unlabeled;
    const int64_t B = unlabeled.weak_BCHW.size(0);

    // Labelled images, the weak views where the student predicts them, and their dropped features. Where there are none of
    // these, the labelled images go with the strong views below, at the price of one larger graph: BatchNorm is to see more
    // than two or three images.
    const bool teaches_itself = !taught.weak_BKhw.defined(), weak_pass = teaches_itself || dropout_;
    FirstPass pass;
    if (weak_pass) pass = first_pass(*student, image_BCHW, unlabeled.weak_BCHW, dropout_.get(), teaches_itself);
    const auto labels = labeler->observe(teaches_itself ? pass.weak_BKhw : taught.weak_BKhw, unlabeled);
    const auto loss_of = [&](const Tensor& student_BKhw, const PseudoLabels& of) {
      return unsupervised_loss_(student_BKhw, of, labeler->accept(of));
    };
    const double weight = unsupervised_weight(config_, progress);
    Tensor supervised, dropped, first_part;
    if (weak_pass) {
      supervised = loss_(pass.labeled_BKhw, label_BHW);
      first_part = supervised / 2;
      if (dropout_) {
        dropped = loss_of(pass.dropped_BKhw, labels);
        first_part = first_part + weight * dropped / 4;
      }
      first_part = learned(first_part);  // and its graph is gone before the strong views' begins
    }

    std::optional<PseudoLabels> mix;
    if (taught.mix_BKhw.defined()) mix = labeler->label(taught.mix_BKhw, batch.mix);

    // Strong views, mixed, in one pass.
    std::vector<Tensor> strong = unlabeled.strong_BCHW;
    std::vector<PseudoLabels> strong_labels(strong.size(), labels);
    for (size_t view = 0; mix && view < strong.size(); ++view) {
      const auto mask_BHW = mix_mask(config_.mix, *mix, unlabeled, view);
      const auto mixed = paste(mask_BHW, LabelledView{batch.mix.strong_BCHW[view], *mix}, {strong[view], labels});
      strong[view] = mixed.image_BCHW;
      strong_labels[view] = mixed.labels;
    }
    auto one_pass = strong;
    if (!weak_pass) one_pass.push_back(image_BCHW);
    const auto strong_BKhw = student->forward(at::cat(one_pass));
    if (!weak_pass) {
      supervised = loss_(strong_BKhw.narrow(0, static_cast<int64_t>(strong.size()) * B, image_BCHW.size(0)), label_BHW);
      first_part = supervised / 2;
    }

    Tensor unsupervised;
    for (size_t view = 0; view < strong.size(); ++view) {
      const auto loss = loss_of(strong_BKhw.narrow(0, static_cast<int64_t>(view) * B, B), strong_labels[view]);
      unsupervised = unsupervised.defined() ? unsupervised + loss : loss;
    }
    unsupervised = unsupervised / static_cast<double>(strong.size());
    const auto second_part = weight * unsupervised / (dropout_ ? 4 : 2);
    if (dropout_) unsupervised = (unsupervised + dropped) / 2;

    return {first_part + second_part, supervised, unsupervised, labels};
  }

 private:
  std::shared_ptr<Dropout2d> dropout_;
};

// They differ in the settings they begin with (method.cpp).
bool add(const std::string& name) {
  return methods().add(
      name, [](const SemiConfig& config, const MethodParts& parts) { return std::make_shared<WeakToStrong>(config, parts); });
}
const bool kRegistered = add("fixmatch") && add("unimatch");

}  // namespace
}  // namespace semiseg
