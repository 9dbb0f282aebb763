#include "step_graph.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "semiseg/device.h"
#include "semiseg/distributed.h"
#include "semiseg/log.h"
#ifdef SEMISEG_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#endif

namespace semiseg {
#ifdef SEMISEG_CUDA
namespace {

// Every tensor of a batch, in a fixed order; undefined ones too.
template <class Batch>
auto tensors_of(Batch& batch) {
  std::vector<decltype(&batch.labeled.image_BCHW)> all{&batch.labeled.image_BCHW, &batch.labeled.label_BHW};
  for (auto* part : {&batch.unlabeled, &batch.mix}) {
    for (auto* tensor : {&part->weak_BCHW, &part->valid_BHW, &part->truth_BHW}) all.push_back(tensor);
    for (auto* list : {&part->strong_BCHW, &part->cutmix_box_B4, &part->draw_BD})
      for (auto& tensor : *list) all.push_back(&tensor);
  }
  return all;
}

// A recording that has failed must be ended before anything else can run.
void try_to_end(at::cuda::CUDAGraph& graph) {
  try {
    graph.capture_end();
  } catch (const std::exception&) {
  }
  cudaGetLastError();
}

}  // namespace

struct StepGraph::Recorded {
  at::cuda::CUDAGraph graph;
  TrainBatch batch;  // where the graph reads its data
  StepOutput out;    // where it leaves its results
};

void StepGraph::record(const TrainBatch& batch, const std::function<StepOutput(const TrainBatch&)>& work) {
  auto recorded = std::make_unique<Recorded>();
  recorded->batch = batch;
  for (Tensor* tensor : tensors_of(recorded->batch))
    if (tensor->defined()) *tensor = tensor->clone();
  wait_for(batch.labeled.image_BCHW.device());
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
  try {
    c10::cuda::CUDACachingAllocator::emptyCache();  // the graph has memory of its own
    // Of this thread alone: the loader's go on taking memory.
    recorded->graph.capture_begin(/*pool=*/{0, 0}, cudaStreamCaptureModeThreadLocal);
    recorded->out = work(recorded->batch);
    recorded->graph.capture_end();
  } catch (const std::exception& e) {
    const std::string what = e.what();
    try_to_end(recorded->graph);
    recorded.reset();
    for (Dropout* dropout : dropouts_) dropout->keep_masks(false);
    able_ = prepared_ = false;
    log_warning(
        "this step cannot be recorded as a CUDA graph and runs one operation at a time (should memory run short, which a "
        "failed recording may keep, start with run.cuda_graph=off): " +
        what.substr(0, what.find('\n')));
    return;
  }
  log_info("the step is recorded as a CUDA graph");
  recorded->out.loss = recorded->out.loss.detach();
  recorded_ = std::move(recorded);
}

StepOutput StepGraph::run(const TrainBatch& batch, const Progress& progress,
                          const std::function<StepOutput(const TrainBatch&)>& work) {
  constexpr int64_t kStepsBefore = 1;
  if (prepared_)
    for (Dropout* dropout : dropouts_) dropout->redraw();
  if (!recorded_ && able_ && wanted_ && ++steps_ > kStepsBefore && method_.repeats(progress)) {
    if (prepared_) {
      record(batch, work);
    } else {
      // One more step: what the graph reads must lie where it will stay before anything is recorded.
      for (Dropout* dropout : dropouts_) dropout->keep_masks(true);
      prepared_ = true;
    }
  }
  if (!recorded_ || !wanted_) return work(batch);

  const auto to = tensors_of(recorded_->batch);
  const auto from = tensors_of(batch);
  for (size_t i = 0; i < to.size(); ++i)
    if (to[i]->defined()) to[i]->copy_(*from[i]);
  recorded_->graph.replay();
  return recorded_->out;
}

#else

struct StepGraph::Recorded {};

StepOutput StepGraph::run(const TrainBatch& batch, const Progress&, const std::function<StepOutput(const TrainBatch&)>& work) {
  return work(batch);
}

#endif

StepGraph::StepGraph(const Config& config, torch::Device device, Method& method)
    : method_(method),
      dropouts_(dropouts_of(method)),
      able_(config.run.cuda_graph != "off" && device.is_cuda() && config.optim.accumulate == 1 && process_count() == 1) {}

StepGraph::~StepGraph() = default;

}  // namespace semiseg
