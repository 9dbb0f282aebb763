// Self-training (ST++, Yang et al., CVPR 2022): a chain of runs that learn from the labels that the run before wrote.
#pragma once

#include <string>

#include "semiseg/train.h"

namespace semiseg {

inline constexpr const char* kSelfTraining = "self_training";  // its name as semi.method

// True for the folder of a run of semi.method: self_training.
bool is_self_training(const std::string& run_dir);

// semi.method: self_training. Three runs, each of the config's length and from the same initial weights, in folders of their
// own under the run's:
//   stage1            supervised; checkpoints at 1/3, 2/3 and the end are kept
//   pseudo_labels_1   of all unlabelled images, by stage 1's best network; reliability by its three checkpoints
//   stage2            semi.method: retrain, with the more reliable half
//   pseudo_labels_2   of the other half, by stage 2's best network
//   stage3            semi.method: retrain, with all
// Goes on where an earlier process stopped, within a stage or between two. The run's metrics are the stages' one after the
// other, with epochs and steps counted through; its checkpoints are the newest and the best of all stages.
TrainResult self_train(Config config, RunFolder& run, Reporter& report);

}  // namespace semiseg
