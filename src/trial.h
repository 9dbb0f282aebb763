// A training that leaves nothing behind: real data, networks and updates, to be timed and measured.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "train_parts.h"

namespace semiseg {

class Trial {
 public:
  // `state`: weights of the loss and label shares, as count_and_weigh leaves them. Updates are those after burn-in and ramp-up,
  // which cost the most. REQUIRES: config.run.precision is not "auto"; `data` outlives the trial.
  Trial(Config config, const Dataset& data, TrainState state, std::optional<ClassCounts> counts, torch::Device device);

  std::vector<TrainBatch> load();                  // the data of the next update, read ahead
  void step(const std::vector<TrainBatch>& data);  // an update
  // Seconds of an update with its data: the mean over `steps` of them.
  struct Times {
    double step = 0, data_wait = 0;
  };
  Times time_steps(int64_t steps);

  // Whether a step that was recorded is started as a whole (step_graph.h).
  void use_graph(bool use) { graph_.use(use); }

  // Reading ahead stops, or begins anew with the next load().
  void stop_loading() { loader_.reset(); }

  Method& method() { return *method_; }
  const Optimizer& optimizer() const { return optimizer_; }
  bool reads_unlabeled() const { return needs_.unlabeled; }
  double images_per_step() const;
  void require_finite() const { semiseg::require_finite(state_, optimizer_); }

 private:
  Config config_;
  const Dataset& data_;
  TrainState state_;
  torch::Device device_;
  std::shared_ptr<Method> method_;
  Optimizer optimizer_;
  StepGraph graph_;
  BatchNeeds needs_;
  LoaderOptions loader_options_;
  std::unique_ptr<Loader> loader_;
  int64_t loaded_ = 0;  // micro-batches
  Progress progress_;
};

// One validation image as a data set, held in memory: evaluating it is not reading it.
class OneImage : public Dataset {
 public:
  OneImage(const Dataset& data, int64_t index) : data_(data), sample_(data.get(Split::kVal, index)) {}
  int64_t size(Split) const override { return 1; }
  Sample get(Split, int64_t) const override { return sample_; }
  Tensor label(Split, int64_t) const override { return sample_.label_HW; }
  std::string id(Split, int64_t) const override { return sample_.id; }
  const ClassSet& classes() const override { return data_.classes(); }

 private:
  const Dataset& data_;
  Sample sample_;
};

}  // namespace semiseg
