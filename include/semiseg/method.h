// Semi-supervised methods. One method is one file in src/methods and reads like its paper.
#pragma once

#include <functional>
#include <memory>

#include "semiseg/config.h"
#include "semiseg/loader.h"
#include "semiseg/loss.h"
#include "semiseg/model.h"
#include "semiseg/registry.h"
#include "semiseg/types.h"

namespace semiseg {

// Owns every network it trains or averages; saved, moved and seeded as one module. Networks are registered under "student",
// "teacher", "twin".
class Method : public torch::nn::Module {
 public:
  virtual BatchNeeds needs() const = 0;
  // Loss of one micro-batch. Never reads a value back from the device.
  virtual StepOutput step(const TrainBatch& batch, const Progress& progress) = 0;
  // After the optimizer's update, without gradient: EMA.
  virtual void after_update(const Progress&) {}
  // The network that is evaluated, saved as the checkpoint's weights and used to predict.
  virtual Segmenter& predictor() = 0;
  // The network whose parameters are optimized.
  virtual Segmenter& student() = 0;
};

struct MethodParts {
  std::function<std::shared_ptr<Segmenter>()> make_network;  // the same initial weights at each call
  SupervisedLoss supervised_loss;
  int64_t num_classes;
};

Registry<std::shared_ptr<Method>(const SemiConfig&, const MethodParts&)>& methods();

// The settings under `semi.` that a method reads besides `semi.method`.
const std::vector<std::string>& settings_of_method(const std::string& method);

}  // namespace semiseg
