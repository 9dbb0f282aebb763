// Semi-supervised methods. One method is one file in src/methods and reads like its paper.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "semiseg/config.h"
#include "semiseg/loader.h"
#include "semiseg/loss.h"
#include "semiseg/model.h"
#include "semiseg/registry.h"
#include "semiseg/types.h"

namespace semiseg {

// Labels of unlabelled images, and where they are learned from.
struct AcceptedLabels {
  Tensor class_BHW;     // int64
  Tensor accepted_BHW;  // bool
};

// Owns every network it trains or averages; saved, moved and seeded as one module. Networks are registered under "student",
// "teacher", "twin".
class Method : public torch::nn::Module {
 public:
  virtual BatchNeeds needs() const = 0;
  // Loss of one micro-batch. Never reads a value back from the device. Its graph is that of the whole loss, or of what
  // learn_early has left of it.
  virtual StepOutput step(const TrainBatch& batch, const Progress& progress) = 0;
  // Whether this and all later steps do the same work on other data: nothing but tensors and dropout differ between them, so
  // that step() can be recorded (src/step_graph.h).
  virtual bool repeats(const Progress&) const { return false; }
  // Whether several processes can train it together (distributed.h): not with a state that differs between them.
  virtual bool trains_together() const { return true; }
  // After the optimizer's update, without gradient: EMA.
  virtual void after_update(const Progress&) {}
  // The network that is evaluated, saved as the checkpoint's weights and used to predict.
  virtual Segmenter& predictor() = 0;
  // The network that learns and that the others follow.
  virtual Segmenter& student() = 0;
  // Every module whose parameters are optimized, by the name it is registered under; the student first.
  virtual std::vector<NamedModule> trained() { return {{"student", &student()}}; }
  // What step() would learn of these weak views now, for a report: by networks in eval mode and statistics as they are, neither
  // of which it changes, and without a draw. Nothing where the method gives no labels.
  virtual std::optional<AcceptedLabels> pseudo_labels(const UnlabeledBatch&, const Progress&) { return std::nullopt; }
  // At the end of each epoch, after its evaluation: `miou` is nothing where there was none. Methods that keep past models.
  virtual void end_epoch(const Progress&, std::optional<double> /*miou*/) {}

  // From here on step() hands parts of the loss to `learn`, which takes their gradients, as soon as nothing else is to be
  // computed from their graph: what it holds, most of the memory that training takes, is then free for the rest of the step. A
  // null function ends this.
  void learn_early(std::function<void(const Tensor& part)> learn) { learn_ = std::move(learn); }

 protected:
  // For step(): a part of the loss whose graph nothing else needs; its value alone where it has been learned from.
  Tensor learned(const Tensor& part) {
    if (!learn_) return part;
    learn_(part);
    return part.detach();
  }

 private:
  std::function<void(const Tensor&)> learn_;
};

struct MethodParts {
  // Networks with the initial weights of `purpose`; equal ones for equal purposes. Weights from a file are in all of them, but
  // for purposes other than 0 those of the backbone alone: networks that learn from each other have to differ.
  std::function<std::shared_ptr<Segmenter>(uint32_t purpose)> make_network;
  SupervisedLoss supervised_loss;
  int64_t num_classes;
  std::vector<double> class_weights;  // [K] of the supervised loss, for methods that weigh pseudo-labels alike
  std::vector<double> label_share;    // [K] of the labelled pixels: the target of distribution alignment
  torch::Device device = torch::kCPU;
  uint64_t seed = 0;
};

Registry<std::shared_ptr<Method>(const SemiConfig&, const MethodParts&)>& methods();

// What a method does with the settings under `semi.`: those it reads, and where its own default differs from SemiConfig's
// (as YAML, so that the config can read and show it).
struct MethodSettings {
  std::vector<std::string> reads;
  std::map<std::string, std::string> defaults;
};
const MethodSettings& settings_of_method(const std::string& method);
// Whether a method reads the setting, such as "semi.threshold".
bool method_reads(const std::string& method, const std::string& key);
// Whether it learns from unlabelled images, so that their loss has a weight.
inline bool reads_unlabeled(const std::string& method) { return method_reads(method, "semi.weight"); }

}  // namespace semiseg
