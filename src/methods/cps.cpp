#include <ATen/ATen.h>

#include "methods/parts.h"
#include "semiseg/pseudo_label.h"

namespace semiseg {
namespace {

// Cross Pseudo Supervision (Chen et al., CVPR 2021) with CutMix, as the authors run it (charlesCXK/TorchSemiSeg, CPS + CutMix):
// two networks of different initial weights, both in training mode; each learns the other's hard labels of a mixed image. Of
// weights from a file the second takes the backbone's alone: equal networks would have nothing to teach each other.
//
//   L = L_x(1) + L_x(2) + w (L_u(1) + L_u(2))
//   L_u(i) = CE(network i on the mixed image, labels of network j on the two images, mixed alike)
//
// Labels and mixed images are of the weak view; no strong colours are used. The first network is evaluated. Boxes are
// UniMatch's; with semi.mix: none the labels are of the very image that is learned from (the authors' CPS without CutMix has
// the networks learn each other's labels of the labelled images, too).
class CrossPseudoSupervision : public Method {
 public:
  CrossPseudoSupervision(const SemiConfig& config, const MethodParts& parts)
      : config_(config),
        loss_(parts.supervised_loss),
        num_classes_(parts.num_classes),
        unsupervised_loss_(config, parts),
        mix_(config.mix != "none"),
        branches_{make_branch("student", 0, parts), make_branch("twin", 1, parts)} {}

  BatchNeeds needs() const override { return {.unlabeled = true, .mix = mix_}; }
  Segmenter& predictor() override { return *branches_[0].network; }
  Segmenter& student() override { return *branches_[0].network; }
  std::vector<NamedModule> trained() override {
    return {{"student", branches_[0].network.get()}, {"twin", branches_[1].network.get()}};
  }

  bool repeats(const Progress& progress) const override { return weight_is_final(config_, progress); }

  StepOutput step(const TrainBatch& batch, const Progress& progress) override {
    const auto& unlabeled = batch.unlabeled;

    // Labels of both networks, each mixed by the same masks.
    std::array<PseudoLabels, 2> unmixed, labels;
    for (size_t i = 0; i < 2; ++i)
      labels[i] = unmixed[i] = branches_[i].labeler->observe(predict(branches_[i], unlabeled), unlabeled);
    auto image_BCHW = unlabeled.weak_BCHW;
    if (mix_) {
      std::array<PseudoLabels, 2> others;
      for (size_t i = 0; i < 2; ++i) others[i] = branches_[i].labeler->label(predict(branches_[i], batch.mix), batch.mix);
      const auto mask_BHW = mix_mask(config_.mix, others[0], unlabeled, 0);
      image_BCHW = paste(mask_BHW, batch.mix.weak_BCHW, image_BCHW);
      for (size_t i = 0; i < 2; ++i) labels[i] = paste(mask_BHW, others[i], labels[i]);
    }

    const double weight = unsupervised_weight(config_, progress);
    Tensor supervised, unsupervised, loss;
    for (size_t i = 0; i < 2; ++i) {
      const Branch &self = branches_[i], &other = branches_[1 - i];
      const auto& of_other = labels[1 - i];
      const auto mixed_BKhw = self.network->forward(image_BCHW);
      const auto labeled_BKhw = self.network->forward(batch.labeled.image_BCHW);
      const auto l_x = loss_(labeled_BKhw, batch.labeled.label_BHW);
      const auto l_u = unsupervised_loss_(mixed_BKhw, of_other, other.labeler->accept(of_other));
      const auto of_network = learned(l_x + weight * l_u);
      loss = i == 0 ? of_network : loss + of_network;
      supervised = i == 0 ? l_x.detach() : supervised + l_x.detach();
      unsupervised = i == 0 ? l_u.detach() : unsupervised + l_u.detach();
    }

    return step_output(loss, supervised, unsupervised, unmixed[0], branches_[0].labeler->accept(unmixed[0]), num_classes_);
  }

  // Those of the first network, which step() counts.
  std::optional<AcceptedLabels> pseudo_labels(const UnlabeledBatch& images, const Progress&) override {
    const auto& [network, labeler] = branches_[0];
    return accepted_labels(*labeler, predict_logits(*network, images.weak_BCHW), images);
  }

 private:
  struct Branch {
    std::shared_ptr<Segmenter> network;
    std::shared_ptr<Labeler> labeler;
  };

  Branch make_branch(const std::string& name, uint32_t purpose, const MethodParts& parts) {
    return {register_module(name, parts.make_network(purpose)),
            register_module(name + "_labeler", make_labeler(config_, parts))};
  }

  // Logits in the mode that the network is in (training), without gradient.
  static Tensor predict(const Branch& branch, const UnlabeledBatch& images) {
    at::NoGradGuard no_grad;
    return branch.network->forward(images.weak_BCHW);
  }

  SemiConfig config_;
  SupervisedLoss loss_;
  int64_t num_classes_;
  UnsupervisedLoss unsupervised_loss_;
  bool mix_;
  std::array<Branch, 2> branches_;
};

const bool kRegistered = methods().add("cps", [](const SemiConfig& config, const MethodParts& parts) {
  return std::make_shared<CrossPseudoSupervision>(config, parts);
});

}  // namespace
}  // namespace semiseg
