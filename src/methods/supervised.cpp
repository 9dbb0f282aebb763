#include "methods/parts.h"

namespace semiseg {
namespace {

// Labelled images alone: what every other method is measured against. With semi.ema_decay an average of past students is
// evaluated and saved, as it is by methods with such a teacher: part of what these gain may come of the average alone.
class Supervised : public Method {
 public:
  Supervised(const SemiConfig& config, const MethodParts& parts)
      : loss_(parts.supervised_loss), student_(register_module("student", parts.make_network(0))) {
    if (config.ema_decay > 0) average_.emplace(register_module("teacher", parts.make_network(0)), config.ema_decay);
  }

  BatchNeeds needs() const override { return {}; }
  Segmenter& predictor() override { return average_ ? average_->network() : *student_; }
  Segmenter& student() override { return *student_; }

  bool repeats(const Progress&) const override { return true; }

  StepOutput step(const TrainBatch& batch, const Progress&) override {
    const auto loss = loss_(student_->forward(batch.labeled.image_BCHW), batch.labeled.label_BHW);
    return {loss, {{"loss_supervised", loss.detach()}}, {}, {}};
  }

  void after_update(const Progress& progress) override {
    if (average_) average_->follow(*student_, progress.step);
  }

 private:
  SupervisedLoss loss_;
  std::shared_ptr<Segmenter> student_;
  std::optional<EmaTeacher> average_;
};

const bool kRegistered = methods().add("supervised", [](const SemiConfig& config, const MethodParts& parts) {
  return std::make_shared<Supervised>(config, parts);
});

}  // namespace
}  // namespace semiseg
