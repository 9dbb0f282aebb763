// Before a training: how long it will take, whether it fits into memory and onto the disk, and which batch does.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "semiseg/config.h"
#include "semiseg/method.h"
#include "semiseg/optim.h"

namespace semiseg {

// What a run takes, from a few of its updates and the evaluation of its largest image. Sizes in MiB, times in seconds.
struct Forecast {
  int64_t total_steps = 0, steps_per_epoch = 0;
  int64_t evaluations = 0, val_images = 0;
  double images_per_step = 0;
  double step_seconds = 0, data_wait_seconds = 0;  // of an update, the second in the first
  double evaluation_seconds = 0;                   // of all validation images
  double peak_mb = 0, usable_mb = 0;               // of memory; usable 0: not known
  double checkpoint_mb = 0, disk_mb = 0, free_disk_mb = 0;

  double epoch_seconds() const { return step_seconds * static_cast<double>(steps_per_epoch); }
  double total_seconds() const {
    return step_seconds * static_cast<double>(total_steps) + evaluation_seconds * static_cast<double>(evaluations);
  }
};

// The forecast in words, a line for each of its sides.
std::string forecast_text(const Forecast& forecast, const Config& config);

// Prepares a training as `train` does, makes a few updates and evaluates the largest validation image, and logs the forecast.
// Writes nothing. Returns false when a signal stopped it. Throws what training would throw.
bool dry_run(Config config);

// Size of one checkpoint, and the most that a run's checkpoints take together: last, best, the numbered ones, and one that is
// being written before an old one goes.
double checkpoint_mb(Method& method, const Optimizer& optimizer);
double checkpoints_mb(const Config& config, double one_mb);
// What of that is still to be written: of a resumed run, most is on the disk already.
double further_checkpoints_mb(const std::string& run_dir, const Config& config, double one_mb);
// Says in the log where the disk of the run folder has no room for the checkpoints.
void warn_of_full_disk(const std::string& run_dir, const Config& config, Method& method, const Optimizer& optimizer);

// Throws Error(kConfig) naming a setting whose value is not UTF-8: a checkpoint could not hold it, so the run could not be
// resumed.
void require_utf8(const Config& config);

}  // namespace semiseg
