// Checkpoints: one .safetensors file that continues a run exactly, and that Python opens as weights.
//
// Tensors: the predictor's under segmentation_models_pytorch's names; a method's other modules under student. / teacher. /
// twin.; optimizer state under optimizer.; sums of an unfinished epoch under progress.; the newest labels of the probe images
// under probe. Metadata: config, counters, history, checksum.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "semiseg/config.h"
#include "semiseg/dataset.h"
#include "semiseg/method.h"
#include "semiseg/metrics.h"
#include "semiseg/optim.h"

namespace semiseg {

// What a run has reached; all that the training loop carries from step to step besides the method and the optimizer.
struct TrainState {
  int64_t step = 0;                            // optimizer updates done
  std::vector<EpochRecord> history;            // of finished epochs
  std::optional<EpochRecord> before_training;  // epoch 0, with nothing but scores: eval.first
  double best_miou = -1;
  int64_t best_epoch = 0;
  double epoch_seconds = 0, epoch_wait = 0;  // so far in this epoch, over all processes that worked on it
  std::map<std::string, Tensor> epoch_sums;  // on the device: sums of scalars and pseudo-label counts in this epoch
  std::string data_fingerprint;              // of the lists, so that a resumed run is not fed other images
  std::vector<double> class_weights;         // of the loss, so that a resumed run need not count again
  std::vector<double> label_share;           // [K] of the labelled pixels
  std::map<std::string, Tensor> probe;       // of health.h: uint8 [h, w] labels of the newest epoch, on the host
};

// Of processes that train together the writer alone saves. Throws Error(kDisk), and Error(kNonFinite) when a weight is NaN or
// infinite: no checkpoint ever holds one.
void save_checkpoint(const std::string& path, const Config& config, const ClassSet& classes, const TrainState& state,
                     Method& method, const Optimizer& optimizer);

// What a checkpoint file holds, before it is put into a method.
struct Checkpoint {
  std::string path;
  Config config;
  ClassSet classes;  // names, colours and label ids
  TrainState state;
  int64_t threads = 0;    // compute threads, which bit-equality depends on
  int64_t processes = 1;  // that trained together, on which it depends too
  std::string device;
  std::map<std::string, Tensor> tensors;
};

// Throws Error(kCheckpoint): not a checkpoint, torn, checksum wrong.
Checkpoint read_checkpoint(const std::string& path);
// True for a file that says it is a checkpoint of semiseg; other weights files are not.
bool is_checkpoint(const std::string& path);
// Puts tensors back where save_checkpoint took them from.
void restore(const Checkpoint& checkpoint, Method& method, Optimizer& optimizer);

// Whether a run folder has a checkpoint, whole or not.
bool has_checkpoint(const std::string& run_dir);
// The newest checkpoint of a run folder that is whole. Damaged ones are named in `damaged`. Throws Error(kCheckpoint) where
// none is.
Checkpoint newest_checkpoint(const std::string& run_dir, std::vector<std::string>* damaged);

// The checkpoint's config with `overrides` ("key=value"). Throws Error(kConfig) where they are not valid, or ask for another
// network than the one that is in the checkpoint.
Config config_of(const Checkpoint& checkpoint, const std::vector<std::string>& overrides);

// The network of a checkpoint (or, with `config`, of any weights file), in eval mode on the device.
struct LoadedModel {
  Config config;
  ClassSet classes;
  std::shared_ptr<Segmenter> network;
};
LoadedModel load_model(const std::string& path, const Config* config, torch::Device device);
// The same of a checkpoint that is read already.
LoadedModel load_model(const Checkpoint& checkpoint, const Config* config, torch::Device device);

}  // namespace semiseg
