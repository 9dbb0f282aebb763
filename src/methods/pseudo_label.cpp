#include "semiseg/pseudo_label.h"

#include <ATen/ATen.h>

#include "methods/taught_method.h"

namespace semiseg {
namespace {

// Pseudo-Label (Lee, ICML 2013 workshop) on pixels: the class the teacher holds most likely, where its probability reaches the
// threshold, is the target for the same view. The teacher is the model itself unless semi.teacher says otherwise.
//
//   L = L_x + w L_u,   L_u = sum over accepted pixels of CE / number of valid pixels
class PseudoLabel : public TaughtMethod {
 public:
  using TaughtMethod::TaughtMethod;

  BatchNeeds needs() const override { return {.unlabeled = true}; }

 protected:
  Losses learn(Branch& branch, const Taught& taught, const TrainBatch& batch, const Progress& progress) override {
    const auto& [image_BCHW, label_BHW] = batch.labeled;
    const auto& unlabeled = batch.unlabeled;

    // One pass over both lists, so that BatchNorm sees them together.
    const auto logits_BKhw = branch.student->forward(at::cat({image_BCHW, unlabeled.weak_BCHW}));
    const auto labeled_BKhw = logits_BKhw.narrow(0, 0, image_BCHW.size(0));
    const auto weak_BKhw = logits_BKhw.narrow(0, image_BCHW.size(0), unlabeled.weak_BCHW.size(0));
    const auto supervised = loss_(labeled_BKhw, label_BHW);

    const auto labels = branch.labeler->observe(taught.weak_BKhw.defined() ? taught.weak_BKhw : weak_BKhw.detach(), unlabeled);
    const auto unsupervised = unsupervised_loss_(weak_BKhw, labels, branch.labeler->accept(labels));
    return {supervised + unsupervised_weight(config_, progress) * unsupervised, supervised, unsupervised, labels};
  }
};

const bool kRegistered = methods().add("pseudo_label", [](const SemiConfig& config, const MethodParts& parts) {
  return std::make_shared<PseudoLabel>(config, parts);
});

}  // namespace
}  // namespace semiseg
