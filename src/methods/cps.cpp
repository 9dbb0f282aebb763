#include <ATen/ATen.h>

#include "methods/parts.h"
#include "semiseg/pseudo_label.h"

namespace semiseg {
namespace {

// Cross Pseudo Supervision (Chen et al., CVPR 2021) with CutMix, as the authors run it (charlesCXK/TorchSemiSeg, CPS + CutMix):
// two networks of different initial weights, both in training mode; each learns the other's hard labels of a mixed image.
//
//   L = L_x(1) + L_x(2) + w (L_u(1) + L_u(2))
//   L_u(i) = CE(network i on the mixed image, labels of network j on the two images, mixed alike)
//
// Labels and mixed images are of the weak view; no strong colours are used. The first network is evaluated. Boxes are
// UniMatch's; with semi.mix: none the labels are of the very image that is learned from.
class CrossPseudoSupervision : public Method {
 public:
  CrossPseudoSupervision(const SemiConfig& config, const MethodParts& parts)
      : config_(config),
        loss_(parts.supervised_loss),
        num_classes_(parts.num_classes),
        weight_K_(unsupervised_class_weights(config, parts)),
        mix_(config.mix != "none"),
        branches_{make_branch("student", 0, parts), make_branch("twin", 1, parts)} {}

  BatchNeeds needs() const override { return {.unlabeled = true, .mix = mix_}; }
  Segmenter& predictor() override { return *branches_[0].network; }
  Segmenter& student() override { return *branches_[0].network; }
  std::vector<NamedModule> trained() override {
    return {{"student", branches_[0].network.get()}, {"twin", branches_[1].network.get()}};
  }

  StepOutput step(const TrainBatch& batch, const Progress& progress) override {
    const auto& unlabeled = batch.unlabeled;
    const int64_t H = unlabeled.weak_BCHW.size(2), W = unlabeled.weak_BCHW.size(3);

    // Labels of both networks, each mixed by the same masks.
    std::array<PseudoLabels, 2> unmixed, labels;
    for (size_t i = 0; i < 2; ++i) labels[i] = unmixed[i] = label(branches_[i], unlabeled, /*observe=*/true);
    auto image_BCHW = unlabeled.weak_BCHW;
    if (mix_) {
      const std::array<PseudoLabels, 2> others{label(branches_[0], batch.mix, false), label(branches_[1], batch.mix, false)};
      const auto mask_BHW = config_.mix == "classmix"
                                ? class_mask(others[0].class_BHW, others[0].valid_BHW, unlabeled.draw_BD.at(0), num_classes_)
                                : box_mask(unlabeled.cutmix_box_B4.at(0), H, W);
      image_BCHW = paste(mask_BHW, batch.mix.weak_BCHW, image_BCHW);
      for (size_t i = 0; i < 2; ++i) labels[i] = paste(mask_BHW, others[i], labels[i]);
    }

    Tensor supervised, unsupervised;
    for (size_t i = 0; i < 2; ++i) {
      const Branch &self = branches_[i], &other = branches_[1 - i];
      const auto& of_other = labels[1 - i];
      const auto mixed_BKhw = self.network->forward(image_BCHW);
      const auto labeled_BKhw = self.network->forward(batch.labeled.image_BCHW);
      const auto l_x = loss_(labeled_BKhw, batch.labeled.label_BHW);
      const auto l_u = pseudo_label_loss(mixed_BKhw, of_other, other.threshold->accept(of_other), weight_K_,
                                         config_.normalize == "accepted");
      supervised = i == 0 ? l_x : supervised + l_x;
      unsupervised = i == 0 ? l_u : unsupervised + l_u;
    }

    StepOutput out{supervised + unsupervised_weight(config_, progress) * unsupervised,
                   {{"loss_supervised", supervised.detach()}, {"loss_unsupervised", unsupervised.detach()}},
                   {},
                   {}};
    count_pseudo_labels(unmixed[0], branches_[0].threshold->accept(unmixed[0]), num_classes_, &out);
    return out;
  }

 private:
  struct Branch {
    std::shared_ptr<Segmenter> network;
    std::shared_ptr<Threshold> threshold;
    std::shared_ptr<DistributionAlignment> alignment;  // may be empty
  };

  Branch make_branch(const std::string& name, uint32_t purpose, const MethodParts& parts) {
    Branch branch{register_module(name, parts.make_network(purpose)),
                  register_module(name + "_threshold", std::make_shared<Threshold>(config_.threshold, num_classes_)), nullptr};
    if (config_.align_distribution)
      branch.alignment = register_module(name + "_alignment", std::make_shared<DistributionAlignment>(parts.label_share));
    return branch;
  }

  // In the mode the network is in (training), without gradient.
  static PseudoLabels label(const Branch& branch, const UnlabeledBatch& images, bool observe) {
    at::NoGradGuard no_grad;
    auto logits_BKhw = branch.network->forward(images.weak_BCHW);
    if (branch.alignment && observe) branch.alignment->observe(logits_BKhw, images.valid_BHW);
    if (branch.alignment) logits_BKhw = branch.alignment->align(logits_BKhw);
    const auto labels = make_pseudo_labels(logits_BKhw, images.valid_BHW, images.truth_BHW);
    if (observe) branch.threshold->observe(logits_BKhw, labels);
    return labels;
  }

  SemiConfig config_;
  SupervisedLoss loss_;
  int64_t num_classes_;
  Tensor weight_K_;
  bool mix_;
  std::array<Branch, 2> branches_;
};

const bool kRegistered = methods().add("cps", [](const SemiConfig& config, const MethodParts& parts) {
  return std::make_shared<CrossPseudoSupervision>(config, parts);
});

}  // namespace
}  // namespace semiseg
