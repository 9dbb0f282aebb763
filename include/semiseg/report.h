// What a run tells the outside while it goes. One sink is one file in src/reports.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "semiseg/config.h"
#include "semiseg/metrics.h"
#include "semiseg/types.h"

namespace semiseg {

struct ClassSet;
struct ClassCounts;

struct RunInfo {
  std::string dir;
  const Config* config = nullptr;
  const ClassSet* classes = nullptr;  // lives as long as training goes on
  int64_t total_steps = 0, total_epochs = 0, steps_per_epoch = 0;
  int64_t first_step = 0, first_epoch = 1;      // updates done before, and the epoch that is gone on with
  const ClassCounts* labeled_counts = nullptr;  // of the labelled list, for begin() alone; nothing on resume
};

// Values read from the device every report.every_steps updates.
struct StepReport {
  int64_t epoch = 0, step = 0;
  double loss = 0, loss_supervised = 0;
  std::optional<double> loss_unsupervised;
  double lr = 0, images_per_s = 0, data_wait = 0, seconds_left = 0;
};

enum class Phase { kTraining, kEvaluating, kPseudoLabeling };

// What the run does at this moment; nothing is read from the device to tell it.
struct Activity {
  Phase phase = Phase::kTraining;
  int64_t epoch = 0, step = 0;
  int64_t images = 0, of = 0;  // evaluated or labelled so far, and in all
};

// The first micro-batch of a run, and its strong views as mixed (samples.h: mixed_views); empty where nothing is mixed.
struct FirstBatch {
  const TrainBatch* batch = nullptr;
  std::vector<Tensor> mixed_BCHW;
};

// Images that are the same in each evaluated epoch, on the host.
struct ScoredSample {
  std::string id;
  Tensor image_HWC, label_HW, prediction_HW;  // uint8
};
struct PseudoLabeledSample {
  std::string id;
  Tensor image_HWC, pseudo_HW;  // uint8
  Tensor accepted_HW;           // bool: where the pseudo-label is learned from
  Tensor prediction_HW;         // uint8
};
struct EpochSamples {
  int64_t epoch = 0;
  std::vector<ScoredSample> scored;            // of the validation list
  std::vector<PseudoLabeledSample> unlabeled;  // empty where the method gives no pseudo-labels
};

enum class RunState { kRunning, kDone, kStopped, kFailed };

class Reporter {
 public:
  virtual ~Reporter() = default;
  virtual void begin(const RunInfo&) {}
  // After every step and before every image of an evaluation or of a pseudo-labelling.
  virtual void activity(const Activity&) {}
  // Before the first update of a new run.
  virtual void first_batch(const FirstBatch&) {}
  virtual void step(const StepReport&) {}
  // After an evaluation, before epochs() tells its scores.
  virtual void samples(const EpochSamples&) {}
  // After each epoch, and once on resume with the history of the checkpoint.
  virtual void epochs(const std::vector<EpochRecord>&, bool /*resumed*/) {}
  virtual void end(RunState, int /*exit_code*/, const std::string& /*message*/) {}
};

// Reporters in a row.
class Reporters : public Reporter {
 public:
  void add(std::unique_ptr<Reporter> reporter) { all_.push_back(std::move(reporter)); }
  void begin(const RunInfo& info) override {
    for (auto& r : all_) r->begin(info);
  }
  void activity(const Activity& now) override {
    for (auto& r : all_) r->activity(now);
  }
  void first_batch(const FirstBatch& batch) override {
    for (auto& r : all_) r->first_batch(batch);
  }
  void samples(const EpochSamples& samples) override {
    for (auto& r : all_) r->samples(samples);
  }
  void step(const StepReport& report) override {
    for (auto& r : all_) r->step(report);
  }
  void epochs(const std::vector<EpochRecord>& history, bool resumed) override {
    for (auto& r : all_) r->epochs(history, resumed);
  }
  void end(RunState state, int code, const std::string& message) override {
    for (auto& r : all_) r->end(state, code, message);
  }

 private:
  std::vector<std::unique_ptr<Reporter>> all_;
};

std::unique_ptr<Reporter> make_metrics_file();  // metrics.jsonl, metrics.csv
std::unique_ptr<Reporter> make_status_file();   // status.json
std::unique_ptr<Reporter> make_pictures();      // confusion_matrix.png, results.png, samples/ and the like
// events.out.tfevents.*, with the pictures that are there already; none where a run `was_done` and has nothing to add.
std::unique_ptr<Reporter> make_tensorboard(bool was_done = false);
std::unique_ptr<Reporter> make_terminal();  // progress line and per-class table
// report.html. REQUIRES: comes after the files that it is made of, which it reads from the run folder.
std::unique_ptr<Reporter> make_html_report();

// The per-class table of a set of scores, as the terminal shows it.
std::string score_table(const Scores& scores, const std::vector<std::string>& class_names);

}  // namespace semiseg
