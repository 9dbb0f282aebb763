// The values that flow through a run, and the legend of shapes.
//
//   B batch   C channels   K classes   H W height and width of an image   h w of a feature map or of low-resolution logits
//
// A suffix names a tensor's axes in memory order of the view: image_BCHW, label_BHW, logits_BKhw.
// Images on the host are uint8 RGB, interleaved [H, W, 3]; on the device float32, normalised, [B, 3, H, W] in channels-last.
// Labels are uint8 (host) or int64 (device) class indices in [0, K); kIgnore marks pixels that no loss and no metric counts,
// whatever value the files use for it (data.ignore_index).
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace semiseg {

using torch::Tensor;

inline constexpr int64_t kIgnore = 255;

// One image as read from disk. `label_HW` is undefined where no label was asked for.
struct Sample {
  Tensor image_HWC;  // uint8 RGB
  Tensor label_HW;   // uint8, class index or kIgnore
  std::string id;    // what messages and written files call it: the image's path as listed
};

struct LabeledBatch {
  Tensor image_BCHW;
  Tensor label_BHW;  // int64
};

struct UnlabeledBatch {
  Tensor weak_BCHW;                 // resized, cropped, flipped
  std::vector<Tensor> strong_BCHW;  // each strong view: the same crop, colours changed
  Tensor valid_BHW;                 // bool, false on padding
  Tensor truth_BHW;                 // int64 labels that nothing learns from (data.unlabeled_truth); else undefined
  // Per strong view, or once where weak views are mixed; AugSeg's two boxes are of labelled and of unlabelled content.
  std::vector<Tensor> cutmix_box_B4;  // int64 top, left, bottom, right; all 0 where no CutMix is drawn
  std::vector<Tensor> draw_BD;        // likewise: float32 uniform in [0, 1), D = K + 1: one per class, then a coin
};

// What one micro-batch holds. Parts that a method does not ask for are undefined.
struct TrainBatch {
  LabeledBatch labeled;
  UnlabeledBatch unlabeled;
  UnlabeledBatch mix;  // an independent draw of unlabelled images, the source of CutMix's patches; has no boxes
};

// Where in the run a step stands.
struct Progress {
  int64_t step = 0;  // optimizer updates done before this one
  int64_t total_steps = 1;
  int64_t steps_per_epoch = 1;
};

// What a method hands back for one micro-batch. Everything stays on the device until a report reads it.
struct StepOutput {
  Tensor loss;                            // scalar, with graph
  std::map<std::string, Tensor> scalars;  // detached, zero-dimensional: "loss_supervised", "loss_unsupervised", ...
  Tensor pseudo_2K;                       // int64 pixels per pseudo-label class: row 0 predicted, row 1 accepted; or undefined
  Tensor truth_3K;  // int64 pixels with a known true class: accepted and right, accepted, true class; or undefined
};

}  // namespace semiseg
