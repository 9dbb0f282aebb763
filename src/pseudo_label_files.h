// Labels for unlabelled images from a trained network, as files and lists that training reads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "semiseg/config.h"
#include "semiseg/dataset.h"

namespace semiseg {

struct PseudoLabelJob {
  std::string checkpoint;                                    // its predictions become the labels
  std::vector<std::string> earlier;                          // checkpoints of the training that led to `newest`
  std::string newest;                                        // empty: `checkpoint`
  double threshold = 0;                                      // least confidence of a pixel that gets a label
  bool undo_class_bias = false;                              // see semi.undo_class_bias; all are checkpoints of semiseg then
  bool may_hold_others = false;                              // the folder is one that a user chose
  std::function<void(int64_t images, int64_t of)> progress;  // called before each image; may be empty
};

// Predicts every image of config's unlabelled list, whole and with the options of config.eval, and writes into `folder`
//   labels/NAME.png    values as the data set's label files have them, data.ignore_index where confidence < threshold
//   images/NAME.png    the image itself, for data that is drawn and not read (synthetic)
//   reliability.csv    of each image, best first
//   reliable.txt       lists of images and labels, absolute paths, that data.labeled and data.unlabeled take: the more
//   rest.txt           reliable half, the other one (not for a single image), and
//   list.txt           all in the order of the unlabelled list, written last: where it is, the folder is complete
// Reliability is ST++'s: the mean of mIoU(earlier_j, newest) of the image's predictions; without earlier checkpoints, the mean
// confidence. Returns false when a signal stopped it; the same job in the same folder then goes on where it was stopped or
// killed. Throws Error(kConfig) where the folder may_hold_others, and holds labels or lists that no earlier call has written.
bool write_pseudo_labels(const PseudoLabelJob& job, const Config& config, const std::string& folder);

// The numbered checkpoints beside `checkpoint` that hold fewer steps than it, the oldest first.
std::vector<std::string> earlier_checkpoints(const std::string& checkpoint);

// Whether the images are drawn and have no files until they are written.
bool is_drawn(const Config& config);

// Writes a labelled split as images, labels and `folder`.txt, the list of them. False when a signal stopped it.
bool write_split(const Dataset& data, Split split, const Config& config, const std::string& folder);

}  // namespace semiseg
