// Confusion matrix, the scores made from it, and the record of an epoch.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "semiseg/ops.h"
#include "semiseg/types.h"

namespace semiseg {

// A fraction in 0..1, or nothing for a class without pixels: it is null in files and in no mean.
using MaybeFraction = std::optional<double>;

struct Scores {
  double miou = 0, mean_class_accuracy = 0, pixel_accuracy = 0;
  std::vector<MaybeFraction> iou, class_accuracy;     // [K]
  std::vector<double> label_share, prediction_share;  // [K] of the counted pixels
  std::vector<std::vector<int64_t>> confusion;        // [K][K] pixels by label, then prediction; empty where it is not known
};

// Counts[label][prediction], int64, on the device of the predictions.
//   IoU = tp / (tp + fp + fn), its mean over classes that have tp + fp + fn > 0
//   class accuracy = tp / (tp + fn), its mean over classes that have labelled pixels;  pixel accuracy = trace / sum
class ConfusionMatrix {
 public:
  ConfusionMatrix(int64_t num_classes, torch::Device device);
  // Both integer tensors of one shape. Labels outside [0, K) are not counted. REQUIRES: predictions in [0, K).
  void add(const Tensor& prediction, const Tensor& label);
  // The classes of the highest logits at the label's size, [B, H, W]; returned where they are wanted, else undefined.
  Tensor add_logits(const Tensor& logits_BKhw, const Tensor& label_BHW, const Upsampling& to, bool want_prediction);
  // Counts of all processes that train together become the same: their sum.
  void add_over_processes();
  void reset();
  Tensor counts() const { return counts_KK_; }
  Scores scores() const;  // reads from the device

 private:
  int64_t num_classes_;
  Tensor counts_KK_;
};

Scores scores_of(const Tensor& counts_KK);

// What the pseudo-labels of an epoch were.
struct PseudoScores {
  double accepted = 0;                           // share of valid pixels whose pseudo-label is used
  std::vector<double> share;                     // [K] of the accepted pixels
  std::vector<MaybeFraction> accepted_by_class;  // [K] accepted / predicted as this class
  // With the same network's predictions at the evaluated epoch before, on a few fixed unlabelled images: share of equal pixels;
  // and [K] of the pixels that were this class then, the share that still is. Nothing in an epoch that was not evaluated, nor
  // in the first one that was.
  MaybeFraction agreement;
  std::vector<MaybeFraction> agreement_by_class;
  // Where the truth is known (data.unlabeled_truth), [K]: right / accepted as this class; right / truly of this class. Else
  // empty.
  std::vector<MaybeFraction> precision, recall;
};

// Something in a run that needs the user's attention (health.h).
struct Alarm {
  std::string kind;                    // such as "miou_falls"
  std::string message;                 // classes, numbers and the setting to change
  std::vector<std::string> classes{};  // those it is about
};

// One line of metrics.jsonl (INTERFACE: metrics.jsonl).
struct EpochRecord {
  int64_t epoch = 0, step = 0;
  double seconds = 0, lr = 0, images_per_s = 0, data_wait = 0, peak_memory_mb = 0;
  double loss = 0, loss_supervised = 0;
  std::optional<double> loss_unsupervised;
  std::optional<Scores> val;  // absent in an epoch that was not evaluated
  std::optional<PseudoScores> pseudo;
  std::vector<Alarm> alarms;
};

// The first epoch with the highest mIoU, or null where none was evaluated.
const EpochRecord* best_of(const std::vector<EpochRecord>& history);

// Classes with labelled pixels, those of the smallest share first.
std::vector<size_t> classes_by_rarity(const Scores& scores);

std::string to_json(const Scores& scores);
std::string to_json(const EpochRecord& record);        // one line
EpochRecord epoch_from_json(const std::string& line);  // throws Error(kCheckpoint)

}  // namespace semiseg
