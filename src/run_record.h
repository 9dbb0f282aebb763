// What a run folder holds, for those who look at runs: diagnose, report, compare, watch.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "run_status.h"
#include "semiseg/config.h"
#include "semiseg/dataset.h"
#include "semiseg/metrics.h"

namespace semiseg {

struct RunRecord {
  std::string dir;
  // Finished epochs in order; in front of them, as epoch 0, the scores before training where they were measured.
  std::vector<EpochRecord> history;
  ClassSet classes;                 // names and colours alone; empty where the folder does not tell
  std::vector<double> label_share;  // [K] of the labelled training pixels; empty where the folder does not tell
  std::optional<Config> config;     // nothing where config.yaml is missing or was written by another version
  std::string environment;          // environment.json as it is; "" where it is missing
  std::optional<RunStatus> status;
  std::vector<std::string> notes;  // what the reader should know, such as why there is no config
};

// Throws Error(kData): no epoch is finished yet (unless the run `may_be_young`), or a file is damaged.
RunRecord read_run(const std::string& dir, bool may_be_young = false);

}  // namespace semiseg
