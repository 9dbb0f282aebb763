// Scoring a network on images at their labels' own size.
#pragma once

#include <functional>

#include "semiseg/config.h"
#include "semiseg/dataset.h"
#include "semiseg/device.h"
#include "semiseg/metrics.h"
#include "semiseg/model.h"
#include "semiseg/ops.h"

namespace semiseg {

// Settings of one evaluation, resolved from config.eval, config.data and the device.
struct EvalOptions {
  EvalConfig eval;
  std::vector<double> mean, std;
  Precision precision = Precision::kFp32;
  int64_t workers = 2;
  torch::Device device = torch::kCPU;
};

// The class of each pixel, int64 [H, W] on the device, of one uint8 image [H, W, 3].
//   whole    the image padded at the right and the bottom to a multiple of 32 with the mean colour, the logits upsampled
//            (aligned corners) and cut back: no pixel is resampled
//   sliding  windows at a stride, as they are; softmax probabilities are added up where they overlap
// With flip or several scales, softmax probabilities are added up over all of them, resized to the image.
Tensor predict_image(Segmenter& model, const Tensor& image_HWC, const EvalOptions& options);

// The same with the probability of that class (a mean where views are added up), as a batch of one: [1, H, W].
Prediction predict_with_confidence(Segmenter& model, const Tensor& image_HWC, const EvalOptions& options);

// Scores over a split. `stop` is asked between images; when it says true, returns nothing.
// `seen` (may be empty) gets every prediction: index, int64 [H, W].
// Processes that train together each take a part of the images and have the scores of all: `stop` must say the same in each,
// `seen` gets those of its own part.
std::optional<Scores> evaluate(Segmenter& model, const Dataset& data, Split split, const EvalOptions& options,
                               const std::function<bool()>& stop = {},
                               const std::function<void(int64_t, const Tensor&)>& seen = {});

}  // namespace semiseg
