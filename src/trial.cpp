#include "trial.h"

#include "semiseg/device.h"

namespace semiseg {

Trial::Trial(Config config, const Dataset& data, TrainState state, std::optional<ClassCounts> counts, torch::Device device)
    : config_(std::move(config)),
      data_(data),
      state_(std::move(state)),
      device_(device),
      method_(make_method(config_, state_, data.classes().size(), /*resumed=*/false, device)),
      optimizer_(method_->trained(), config_.optim,
                 /*scales_loss=*/config_.run.precision == "fp16"),
      graph_(config_, device, *method_),
      needs_(method_->needs()),
      loader_options_(loader_options(config_, needs_, device, std::move(counts))) {
  learn_early_by(optimizer_, config_, device, *method_);
  constexpr int64_t kLater = 1'000'000;  // no trial lasts that long
  progress_.step = config_.semi.burn_in_epochs + config_.semi.ramp_up_epochs;
  progress_.steps_per_epoch = 1;
  progress_.total_steps = progress_.step + kLater;
}

std::vector<TrainBatch> Trial::load() {
  if (!loader_) loader_ = std::make_unique<Loader>(data_, loader_options_);
  std::vector<TrainBatch> batches;
  for (int64_t micro = 0; micro < config_.optim.accumulate; ++micro) batches.push_back(loader_->batch(loaded_++));
  return batches;
}

void Trial::step(const std::vector<TrainBatch>& data) {
  update(config_, device_, progress_, data, *method_, optimizer_, graph_, &state_.epoch_sums);
  ++progress_.step;
}

Trial::Times Trial::time_steps(int64_t steps) {
  if (loader_) loader_->take_wait_seconds();
  wait_for(device_);
  const Stopwatch watch;
  for (int64_t i = 0; i < steps; ++i) step(load());
  wait_for(device_);
  const auto count = static_cast<double>(steps);
  return {watch.seconds() / count, loader_->take_wait_seconds() / count};
}

double Trial::images_per_step() const {
  const OptimConfig& optim = config_.optim;
  return static_cast<double>(optim.accumulate * (optim.batch_labeled + (needs_.unlabeled ? optim.batch_unlabeled : 0)));
}

}  // namespace semiseg
