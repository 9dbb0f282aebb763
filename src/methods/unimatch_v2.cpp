#include <ATen/ATen.h>

#include "methods/parts.h"
#include "semiseg/pseudo_label.h"

namespace semiseg {
namespace {

// UniMatch V2 (Yang, Zhao and Zhao, TPAMI 2025; LiheYoung/UniMatch-V2, unimatch_v2.py): an EMA teacher labels the weak view for
// two strong views, whose features are dropped too, by complementary channels: no stream of its own for them, as UniMatch has.
//
//   L = (L_x + w L_u) / 2,   L_u = mean over both views of L_s
//   L_s = sum over accepted pixels of CE(strong view with dropped channels, pseudo-label) / number of valid pixels
//
// What is mixed into a view is the same batch in reverse order, so there is no second draw of unlabelled images.
// semi.feature_dropout is the share of images whose channels are dropped. The published network is a DINOv2: it has no batch
// normalisation, and labelled images pass alone; a ResNet's sees them together with the strong views, as in fixmatch. Its
// features are all of one width, and have their dropped channels in common; here each stride has its own.
class UniMatchV2 : public Method {
 public:
  UniMatchV2(const SemiConfig& config, const MethodParts& parts)
      : config_(config),
        loss_(parts.supervised_loss),
        num_classes_(parts.num_classes),
        unsupervised_loss_(config, parts),
        student_(register_module("student", parts.make_network(0))),
        teacher_(register_module("teacher", parts.make_network(0)), config.ema_decay),
        labeler_(register_module("labeler", make_labeler(config, parts))),
        dropout_(register_module("feature_dropout", std::make_shared<ComplementaryDropout>(config.feature_dropout))) {}

  BatchNeeds needs() const override {
    return {.unlabeled = true,
            .strong_views = 2,
            .mix_within = config_.mix != "none",
            .random_strong_view = config_.strong_view == "random"};
  }
  Segmenter& predictor() override { return teacher_.network(); }
  Segmenter& student() override { return *student_; }

  bool repeats(const Progress& progress) const override { return weight_is_final(config_, progress); }

  StepOutput step(const TrainBatch& batch, const Progress& progress) override {
    const auto& [image_BCHW, label_BHW] = batch.labeled;
    const auto& unlabeled = batch.unlabeled;
    const int64_t labeled = image_BCHW.size(0), B = unlabeled.weak_BCHW.size(0);

    const auto labels = labeler_->observe(predict_logits(teacher_.network(), unlabeled.weak_BCHW), unlabeled);

    // Both strong views, mixed.
    const bool mixes = config_.mix != "none";
    const auto other_labels = mixes ? in_reverse(labels) : labels;
    std::vector<LabelledView> strong;
    for (size_t view = 0; view < 2; ++view) {
      strong.push_back({unlabeled.strong_BCHW.at(view), labels});
      if (!mixes) continue;
      const LabelledView other{in_reverse(strong[view].image_BCHW), other_labels};
      strong[view] = paste(mix_mask(config_.mix, other_labels, unlabeled, view), other, strong[view]);
    }

    // One pass, in which the strong views' features are dropped between encoder and decoder.
    const auto features = student_->encode(at::cat({strong[0].image_BCHW, strong[1].image_BCHW, image_BCHW}));
    const auto logits_BKhw = student_->decode(dropout_->drop(features, /*views=*/2 * B));

    const auto supervised = loss_(logits_BKhw.narrow(0, 2 * B, labeled), label_BHW);
    const auto loss_of = [&](size_t view) {
      const auto& of = strong[view].labels;
      return unsupervised_loss_(logits_BKhw.narrow(0, static_cast<int64_t>(view) * B, B), of, labeler_->accept(of));
    };
    const auto unsupervised = (loss_of(0) + loss_of(1)) / 2;

    return step_output((supervised + unsupervised_weight(config_, progress) * unsupervised) / 2, supervised, unsupervised,
                       labels, labeler_->accept(labels), num_classes_);
  }

  std::optional<AcceptedLabels> pseudo_labels(const UnlabeledBatch& images, const Progress&) override {
    return accepted_labels(*labeler_, predict_logits(teacher_.network(), images.weak_BCHW), images);
  }

  void after_update(const Progress& progress) override { teacher_.follow(*student_, progress.step); }

 private:
  SemiConfig config_;
  SupervisedLoss loss_;
  int64_t num_classes_;
  UnsupervisedLoss unsupervised_loss_;
  std::shared_ptr<Segmenter> student_;
  EmaTeacher teacher_;
  std::shared_ptr<Labeler> labeler_;
  std::shared_ptr<ComplementaryDropout> dropout_;
};

const bool kRegistered = methods().add("unimatch_v2", [](const SemiConfig& config, const MethodParts& parts) {
  return std::make_shared<UniMatchV2>(config, parts);
});

}  // namespace
}  // namespace semiseg
