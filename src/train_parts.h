// What the training loop calls; kept out of train.cpp so that the loop can be read in one go.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "semiseg/evaluate.h"
#include "semiseg/train.h"
#include "step_graph.h"

namespace semiseg {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  void restart() { start_ = std::chrono::steady_clock::now(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// The device that config.run names, with the kernels the config asks for; config.run.precision becomes the name of the
// one that "auto" stands for.
torch::Device prepare_device(Config* config);

// Reads the labels of the labelled and the validation list, prints the share of each class with its weight in the loss, and
// stores weights and the data's fingerprint in the state. Returns the counts of the labelled list; those of the other go to
// `val` where it is given. Throws Error(kData) for a label that cannot be used.
ClassCounts count_and_weigh(const Dataset& data, const Config& config, TrainState* state, ClassCounts* val = nullptr);

// Throws Error(kData) when the lists are not those that the checkpoint was trained on.
void require_same_data(const Checkpoint& checkpoint, const Dataset& data);
// Throws Error(kConfig) where the classes' names or their order are not those a network was trained with; `path`: its file.
void require_same_classes(const ClassSet& trained, const ClassSet& now, const std::string& path);
// The same for another config's classes, which may be called otherwise: as many, and no name stands for another class.
void require_fitting_classes(const LoadedModel& trained, const ClassSet& now, const std::string& path);

// Says in the log when the device or the number of threads or processes is another one: results are then no longer bit-equal.
void warn_of_other_hardware(const Checkpoint& checkpoint, torch::Device device);

// Makes networks with the seed's initial weights or those of model.weights, which are read once and reported. `resumed` leaves
// that file alone, since the checkpoint holds all weights.
std::function<std::shared_ptr<Segmenter>(uint32_t purpose)> network_factory(const Config& config, int64_t num_classes,
                                                                            bool resumed);

// The method that config.semi names, on the device, with loss and label statistics as `state` holds them. What it learns early
// goes through no optimizer yet: learn_early_by sees to that.
std::shared_ptr<Method> make_method(const Config& config, const TrainState& state, int64_t num_classes, bool resumed,
                                    torch::Device device);

// Parts of the loss that the method hands over within a step are learned from at once. `optimizer` outlives the method's steps.
void learn_early_by(Optimizer& optimizer, const Config& config, torch::Device device, Method& method);

// The larger over both lists of ceil(N / (batch * accumulate)); `unlabeled` is 0 where that list is not read.
int64_t count_steps_per_epoch(const OptimConfig& optim, int64_t labeled, int64_t unlabeled);
// The last of them may be a short one.
inline int64_t count_epochs(int64_t total_steps, int64_t steps_per_epoch) {
  return (total_steps + steps_per_epoch - 1) / steps_per_epoch;
}

// Adds epochs to optim.epochs, or their steps to optim.steps.
void extend_config(Config* config, int64_t epochs, int64_t steps_per_epoch);

// Throws Error(kConfig) for a batch that the processes cannot share equally.
void require_equal_shares(const Config& config);

// This process' part of each batch. `counts`: the labelled pixels where they are counted already. Throws Error(kConfig) for a
// batch that the processes cannot share equally.
LoaderOptions loader_options(const Config& config, const BatchNeeds& needs, torch::Device device,
                             std::optional<ClassCounts> counts);

// config.eval with the window and stride it implies.
EvalOptions make_eval_options(const Config& config, torch::Device device);

// One update (train.cpp): forward and backward over the `optim.accumulate` micro-batches, the optimizer, then what follows the
// student. Adds what the steps hand back to `sums`. `graph` is that of all updates of a run. REQUIRES: config.run.precision is
// not "auto".
void update(const Config& config, torch::Device device, const Progress& progress, const std::vector<TrainBatch>& batches,
            Method& method, Optimizer& optimizer, StepGraph& graph, std::map<std::string, Tensor>* sums);

// Scores on the validation images; `report` hears of each image as `now`, counted on; `seen` as in evaluate(). Nothing when
// `stop` says so.
std::optional<Scores> validate(Segmenter& network, const Dataset& data, const EvalOptions& options, Activity now,
                               const std::function<bool()>& stop, const std::function<void(int64_t, const Tensor&)>& seen,
                               Reporter& report);

// What asked a process of this training to stop, 0 where nothing did. A time limit counts only where it is to.
int heard_signal(bool time_limit);

// Running statistics of batch normalisation, which each process has followed on its own images, become their mean: all
// processes go on alike.
void average_statistics(Method& method);

// Runs `work`; what it throws is passed over, where another exception is on its way that is to be shown.
void try_to(const std::function<void()>& work);

// Adds a finished epoch to the history. Confusion matrices of many classes and epochs would outgrow a checkpoint's header:
// beyond some 4 million numbers those of the oldest epochs are let go, but not of the first and of the best.
void add_epoch(TrainState* state, EpochRecord record);

// Sums of an epoch stay on the device: scalars under their names, "loss", "pseudo", and the number of micro-batches "count".
// They are those of all processes: means of scalars, sums of counts.
void add_to_sums(std::map<std::string, Tensor>* sums, const StepOutput& out);

// Throws Error(kNonFinite) when any loss of this epoch was NaN or infinite, or when no gradient has been finite for long. Reads
// a value or two from the device. Does nothing but in the writer, which speaks for all.
void require_finite(const TrainState& state, const Optimizer& optimizer);
// Unreadable data, a full disk, a lost peer, too little memory for an evaluation: after hours of training what was reached is
// to be kept, where that is still possible.
bool spares_weights(const std::exception& error);

// The history, with the scores before training as its epoch 0 where they were measured.
std::vector<EpochRecord> with_scores_before(const TrainState& state);

// The step at which the newest epoch in the history ended; 0 before the first.
inline int64_t recorded_step(const TrainState& state) { return state.history.empty() ? 0 : state.history.back().step; }

// Whether the epoch that has just ended is the eval.patience-th evaluated one in a row without a better mIoU.
bool out_of_patience(const EvalConfig& eval, const TrainState& state);
std::string why_ended_early(const EvalConfig& eval);

// A finished epoch, from its sums; `seconds` holds training alone.
EpochRecord epoch_record(const TrainState& state, int64_t epoch, double images_per_step, const std::optional<Scores>& scores);
StepReport step_report(const TrainState& state, int64_t epoch, double images_per_step, double lr, double seconds_left);

std::string numbered_name(int64_t step);  // step_00000042
void remove_old_checkpoints(const std::string& run_dir, int64_t keep);

}  // namespace semiseg
