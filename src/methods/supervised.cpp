#include "semiseg/method.h"

namespace semiseg {
namespace {

// Labelled images alone: what every other method is measured against.
class Supervised : public Method {
 public:
  explicit Supervised(const MethodParts& parts) : loss_(parts.supervised_loss) {
    student_ = register_module("student", parts.make_network(0));
  }

  BatchNeeds needs() const override { return {}; }
  Segmenter& predictor() override { return *student_; }
  Segmenter& student() override { return *student_; }

  bool repeats(const Progress&) const override { return true; }

  StepOutput step(const TrainBatch& batch, const Progress&) override {
    const auto loss = loss_(student_->forward(batch.labeled.image_BCHW), batch.labeled.label_BHW);
    return {loss, {{"loss_supervised", loss.detach()}}, {}, {}};
  }

 private:
  SupervisedLoss loss_;
  std::shared_ptr<Segmenter> student_;
};

const bool kRegistered = methods().add(
    "supervised", [](const SemiConfig&, const MethodParts& parts) { return std::make_shared<Supervised>(parts); });

}  // namespace
}  // namespace semiseg
