// Optimizers and learning-rate schedules. State is kept by parameter name, so that a checkpoint can hold it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "semiseg/config.h"
#include "semiseg/model.h"
#include "semiseg/types.h"

namespace semiseg {

// The factor on the base learning rate before update `step` of `total_steps`:
//   poly (1 - t/T)^.9   cosine (1 + cos(pi t/T)) / 2   constant 1
//   onecycle from 1/25 up to 1 over the first 30 %, down to 1/250000, both as half a cosine (PyTorch's OneCycleLR, but for
//   its last step, which ends the fall there, and for its momentum, which moves too)
// during warm-up times (t + 1) / warmup_steps
double schedule_factor(const OptimConfig& config, int64_t step, int64_t total_steps);

// SGD with momentum (PyTorch's) or AdamW over the modules that a method trains; encoders have config.lr, all else that times
// decoder_lr_multiplier. Biases and normalisation are decayed like all else, as in the field's recipes.
//
// scales_loss, for fp16: gradients are those of the loss times a scale, which an update takes back. One whose gradients are not
// finite is left out and halves the scale; 2000 others in a row double it (PyTorch's GradScaler; Micikevicius et al., arXiv
// 1710.03740).
class Optimizer {
 public:
  Optimizer(const std::vector<NamedModule>& modules, const OptimConfig& config, bool scales_loss = false);

  void zero_grad();
  // Adds the loss's gradients to those of the parameters.
  void backward(const Tensor& loss);
  // 1 where it does not scale; reads a value from the device where it does.
  double loss_scale() const;
  // The factor of the base rates for the updates from here on.
  void set_rate(double factor);
  // One update, by the mean of the gradients of all processes that train together. Clips by global norm when the config says
  // so. Does not wait for the device.
  void step();

  // Momentum and moments by parameter name, such as "encoder.conv1.weight.momentum"; shares memory with the optimizer. The
  // first module's names are bare, the others' stand behind their own, such as "twin.encoder.conv1.weight.momentum". Of a
  // scaled loss also "loss_scale" and "loss_scale_growth".
  std::map<std::string, Tensor> state() const;
  void load_state(const std::map<std::string, Tensor>& state);  // throws Error(kCheckpoint)

 private:
  struct Group {
    double lr;
    Tensor lr_now;  // on the device: a captured graph must not freeze it
    std::vector<std::string> names;
    std::vector<Tensor> parameters, first, second, steps;
  };
  // Of a scaled loss, on the device, so that nothing waits for it; else undefined.
  struct LossScale {
    Tensor value, growth;  // finite updates in a row
    Tensor not_finite;     // 1 where a gradient of this update is not
  };
  OptimConfig config_;
  std::vector<Group> groups_;
  LossScale scale_;
};

}  // namespace semiseg
