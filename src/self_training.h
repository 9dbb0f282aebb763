// Self-training: labels for unlabelled images from a trained network, written to files, and the chain of runs that learns from
// them (ST++, Yang et al., CVPR 2022).
#pragma once

#include <string>
#include <vector>

#include "semiseg/train.h"

namespace semiseg {

inline constexpr const char* kSelfTraining = "self_training";  // its name as semi.method

struct PseudoLabelJob {
  std::string checkpoint;            // its predictions become the labels
  std::vector<std::string> earlier;  // checkpoints of the training that led to `newest`
  std::string newest;                // empty: `checkpoint`
  double threshold = 0;              // least confidence of a pixel that gets a label
};

// Predicts every image of config's unlabelled list, whole and with the options of config.eval, and writes into `folder`
//   labels/NAME.png    values as the data set's label files have them, data.ignore_index where confidence < threshold
//   images/NAME.png    the image itself, for data that is drawn and not read (synthetic)
//   reliability.csv    of each image, best first
//   reliable.txt       lists of images and labels, absolute paths, that data.labeled and data.unlabeled take: the more
//   rest.txt           reliable half, the other one (not for a single image), and
//   list.txt           all in the order of the unlabelled list, written last: where it is, the folder is complete
// Reliability is ST++'s: the mean of mIoU(earlier_j, newest) of the image's predictions; without earlier checkpoints, the mean
// confidence. Returns false when a signal stopped it.
bool write_pseudo_labels(const PseudoLabelJob& job, const Config& config, const std::string& folder);

// The numbered checkpoints beside `checkpoint` that hold fewer steps than it, the oldest first.
std::vector<std::string> earlier_checkpoints(const std::string& checkpoint);

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
