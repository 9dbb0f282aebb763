// Parts that methods are made of.
#pragma once

#include <cmath>
#include <memory>

#include "semiseg/method.h"
#include "semiseg/ops.h"

namespace semiseg {

// A copy of the student that follows it as an exponential moving average, parameters and buffers (Mean Teacher, Tarvainen and
// Valpola 2017; buffers as UniMatch-V2 and AugSeg). It predicts in eval mode and is never trained.
class EmaTeacher {
 public:
  // `network` starts with the student's weights.
  EmaTeacher(std::shared_ptr<Segmenter> network, double decay) : network_(std::move(network)), decay_(decay) {
    for (auto& parameter : network_->parameters()) parameter.set_requires_grad(false);
    network_->eval();
  }

  Segmenter& network() { return *network_; }

  // teacher <- a teacher + (1 - a) student with a = min(1 - 1 / (step + 1), decay): a plain copy after the first update.
  void follow(const Segmenter& student, int64_t step);

 private:
  std::shared_ptr<Segmenter> network_;
  double decay_;
};

// Logits of `image_BCHW` in eval mode and without gradient; the network is left in the mode it was in.
Tensor predict_logits(Segmenter& network, const Tensor& image_BCHW);

// The unsupervised weight's factor: exp(-5 (1 - t)^2) with t from 0 to 1 over the ramp-up epochs (Laine and Aila 2017), then 1.
double ramp_up(const SemiConfig& config, const Progress& progress);

// Pixels per pseudo-label class, int64 [2, K]: predicted on valid pixels, and of these accepted.
Tensor pseudo_counts(const Tensor& class_BHW, const Tensor& valid_BHW, const Tensor& accepted_BHW, int64_t num_classes);

// Cross-entropy with pseudo-labels, summed over accepted pixels and divided by all valid ones (UniMatch's normalisation): the
// fewer are accepted, the less the loss weighs. 0 where no pixel is valid.
Tensor pseudo_label_loss(const Tensor& logits_BKhw, const Tensor& class_BHW, const Tensor& accepted_BHW,
                         const Tensor& valid_BHW);

}  // namespace semiseg
