// What `semiseg diagnose` judges: the scores of a run, of semiseg or of another program.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "semiseg/config.h"
#include "semiseg/health.h"

namespace semiseg {

// All that is known of a run.
struct Evidence {
  std::vector<EpochRecord> history;
  std::vector<std::string> class_names;
  std::vector<double> label_share;  // [K] of the labelled training pixels; empty where it is not known
  std::optional<Config> config;
  bool alarms_are_recorded = false, counts_from_zero = false;  // as in HealthContext
  std::vector<std::string> notes;                              // what the reader should know about the input
};

// A CSV file of scores or of confusion matrices, in one of the forms that `semiseg diagnose --help` shows. `class_names` may be
// empty: the file's own are taken; where both have names, classes are found by them. Throws Error(kData) with the line.
Evidence read_csv(const std::string& path, const std::vector<std::string>& class_names);

// Folders of label and prediction files of the same images: one confusion matrix, as epoch 1. `classes_name` is a preset or a
// file as in data.classes; empty: every value is a class. `predicts_label_ids`: predictions hold Cityscapes' label ids,
// whatever their files are called. Throws Error where files do not pair up or cannot be compared.
Evidence read_folders(const std::string& label_dir, const std::string& prediction_dir, const std::string& classes_name,
                      bool predicts_label_ids);

}  // namespace semiseg
