// One training run.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "semiseg/checkpoint.h"
#include "semiseg/config.h"
#include "semiseg/files.h"
#include "semiseg/report.h"

namespace semiseg {

// How a run ended.
struct TrainResult {
  TrainState state;
  int signal = 0;      // what stop_signal() was when it stopped the run; a checkpoint was written
  bool early = false;  // eval.patience ended it before the last step
};

// A run's folder. Made only when all that can be checked beforehand has been: bad input leaves nothing behind. Of processes
// that train together the writer alone (distributed.h) makes, locks and writes it.
class RunFolder {
 public:
  // For a new run: config.run.dir, or runs/NAME, NAME-2, NAME-3, ... Throws Error(kConfig) for a run.dir that holds anything
  // but what a run left that ended before its first checkpoint; that is locked at once, and replaced by open().
  static RunFolder fresh(const Config& config);
  // An existing one; locks it at once.
  static RunFolder existing(const std::string& dir);
  // The folder `name` within `run`, for a run that consists of several (self-training). Opening it opens `run` first, with
  // `run_config`, where that is not open yet; both log to run's train.log. It may hold what a killed process left; `resumed`
  // when that includes a checkpoint to go on from. REQUIRES: `run` outlives it.
  static RunFolder stage(RunFolder& run, const Config& run_config, const std::string& name, bool resumed);

  // Makes and locks the folder, starts train.log, writes config.yaml and environment.json.
  void open(const Config& config, const ClassSet& classes, const TrainState& state, torch::Device device);
  // Removes the folder of a new run that failed before it had a checkpoint: bad input leaves nothing behind.
  void discard_if_empty();
  const std::string& dir() const { return dir_; }
  bool opened() const { return opened_; }

 private:
  std::string free_name() const;

  std::string dir_, name_;  // name_: runs/NAME is wanted, or NAME-2, ...; empty when the folder is given
  bool resumed_ = false, opened_ = false;
  std::shared_ptr<FolderLock> lock_;
  RunFolder* run_ = nullptr;  // of a stage: the run it belongs to
  std::string stage_;
  Config run_config_;
};

// Settings that a resumed run may change: they do not change what it computes.
bool may_change_on_resume(const std::string& key);
// newest_checkpoint() of the folder; the log says which it is, and which damaged ones are passed over.
Checkpoint checkpoint_to_go_on_from(const std::string& run_dir);

// Trains in `folder`. With `from`, goes on where that checkpoint stopped. `extend` adds epochs to the config's total.
TrainResult train(Config config, int64_t extend, const std::optional<Checkpoint>& from, RunFolder& folder, Reporter& report);

// Hands over the signals that ask a run to stop: SIGINT, SIGTERM, SIGUSR1 (batch systems send it ahead of their time limit) and
// SIGHUP (the terminal is closed), this one unless it is ignored, as nohup wants it. Writing to a pipe that nobody reads is
// from then on an error, and no longer a signal that ends the process.
void on_stop_signals(void (*handler)(int));
// They ask the run to stop after the step in hand; a second SIGINT ends the process at once with 130.
void install_signal_handlers();
// Asks the same, as SIGALRM, once the process has so many hours behind it from now on; 0: never.
void limit_time(double hours);
int stop_signal();                         // 0 while none came
int exit_code_of(int stop_signal);         // 130, 143, or 0 for the time limit
std::string why_stopped(int stop_signal);  // "stopped by SIGINT"

// The command line as typed, for environment.json.
void remember_command_line(int argc, char** argv);

}  // namespace semiseg
