// The GPU's work of a step as one CUDA graph: recorded once, then started as a whole. Queued operation by operation, a step of
// small batches takes the host longer than the GPU.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "models/layers.h"
#include "semiseg/config.h"
#include "semiseg/loader.h"
#include "semiseg/method.h"

namespace semiseg {

class StepGraph {
 public:
  // `method` outlives the graph. Nothing is recorded with run.cuda_graph=off, on a CPU, with optim.accumulate above 1, or of
  // several processes.
  StepGraph(const Config& config, torch::Device device, Method& method);
  ~StepGraph();

  // What `work` gives for the batch: by running it, or what was recorded of it, which is the same to the bit. `work` must take
  // all that changes from step to step from the batch, from dropout layers and from tensors that stay where they are.
  StepOutput run(const TrainBatch& batch, const Progress& progress, const std::function<StepOutput(const TrainBatch&)>& work);

  // Steps run one operation at a time while this is false, to look at their parts.
  void use(bool wanted) { wanted_ = wanted; }

 private:
  struct Recorded;
  // Nothing where it cannot be recorded, which the log says.
  void record(const TrainBatch& batch, const std::function<StepOutput(const TrainBatch&)>& work);

  Method& method_;
  std::vector<Dropout*> dropouts_;  // of its networks
  bool able_;                       // false for good after a recording has failed
  bool wanted_ = true;              // use()
  int64_t steps_ = 0;               // until it is recorded; libraries choose their kernels in the first
  bool prepared_ = false;
  std::unique_ptr<Recorded> recorded_;
};

}  // namespace semiseg
