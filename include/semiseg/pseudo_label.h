// From a teacher's logits to what a student learns on unlabelled images, in parts that a config combines freely. Statistics
// that run along are buffers of modules: saved, resumed and moved with the method, and the same in all processes that train
// together (distributed.h). Nothing here reads a value back from the device.
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <vector>

#include "semiseg/config.h"
#include "semiseg/types.h"

namespace semiseg {

// The labels that a teacher gives to unlabelled images, before any is rejected.
struct PseudoLabels {
  Tensor class_BHW;       // int64
  Tensor confidence_BHW;  // float32, softmax probability of that class
  Tensor valid_BHW;       // bool, false on padding
  Tensor truth_BHW;       // int64 true label, only to be counted; undefined where there is none
};

// Labels at the images' size [H, W] from logits at the network's stride. `truth_BHW` may be undefined.
PseudoLabels make_pseudo_labels(const Tensor& logits_BKhw, const Tensor& valid_BHW, const Tensor& truth_BHW);

// Mean softmax probability of each class over the valid pixels of all processes, float32 [K], taken at the logits' own stride.
Tensor mean_probability(const Tensor& logits_BKhw, const Tensor& valid_BHW);

// Which pseudo-labels count (semi.threshold):
//   fixed           confidence >= value
//   class_adaptive  confidence >= min(value, t q_c / max q), FreeMatch's self-adaptive thresholds (Wang et al., ICLR 2023):
//                   t <- m t + (1 - m) mean(max p), q <- m q + (1 - m) mean(p), both begin at 1 / K
//   quantile        the surest `share` of the pixels of each class, by a running histogram of confidences (CBST, Zou et al.,
//                   ECCV 2018, without its sort): threshold_c is the lower edge of the bin in which that share is reached; bins
//                   are 3.4 % of 1 - confidence wide
class Threshold : public torch::nn::Module {
 public:
  Threshold(const ThresholdConfig& config, int64_t num_classes);

  // Takes a batch of predictions of whole unlabelled views into the statistics. Call it once a step, before accept().
  void observe(const Tensor& logits_BKhw, const PseudoLabels& labels);
  // The confidence that each class must reach, float32 [K].
  Tensor of_class() const;
  // bool [B, H, W]: valid, and sure enough.
  Tensor accept(const PseudoLabels& labels) const;

 private:
  ThresholdConfig config_;
  int64_t num_classes_;
  Tensor confidence_;     // class_adaptive: t, zero-dimensional
  Tensor probability_K_;  // class_adaptive: q
  Tensor histogram_KN_;   // quantile: pixels by class and confidence bin
};

// Distribution alignment (ReMixMatch, Berthelot et al., ICLR 2020; as in USB): p' ~ p * target / model, where `model` is the
// running mean of the teacher's probabilities on unlabelled images and `target` the labelled pixels' share. In logits that is
// an addition of ln(target / model), so it is done at low resolution. The mean keeps min(1 - 1/(n + 1), .999) of itself at step
// n: unlike USB's it does not begin at 1 / K, which a short run never leaves.
class DistributionAlignment : public torch::nn::Module {
 public:
  explicit DistributionAlignment(const std::vector<double>& target_K);
  void observe(const Tensor& logits_BKhw, const Tensor& valid_BHW);
  Tensor align(const Tensor& logits_BKhw) const;

 private:
  Tensor target_K_, model_K_, seen_;
};

// Logits of the pixels' own class probabilities, from those of a network that learned with class weights or logit adjustment
// (SupervisedLoss::class_bias_K(); undefined: the logits themselves). Weights on labels make a network call rare classes where
// they are not; labels of its making that are weighted again raise them once more, until one of them takes over. Without the
// bias the labels are the likeliest classes, and weights on them do to unlabelled images what they do to labelled ones. Prior
// correction as in Saerens, Latinne and Decaestecker, Neural Computation 14 (2002), and Menon et al., arXiv 2007.07314.
Tensor without_class_bias(const Tensor& logits_BKhw, const Tensor& class_bias_K);

// Labels from a teacher's logits as semi.undo_class_bias, semi.align_distribution and semi.threshold ask for them; both parts'
// statistics are its own.
class Labeler : public torch::nn::Module {
 public:
  // class_bias_K: SupervisedLoss::class_bias_K(), read where semi.undo_class_bias is set.
  Labeler(const SemiConfig& config, const std::vector<double>& label_share_K, int64_t num_classes, const Tensor& class_bias_K);

  // Labels of whole unlabelled views, which are taken into the statistics. Once a step, before the others.
  PseudoLabels observe(const Tensor& logits_BKhw, const UnlabeledBatch& images);
  // Labels by the statistics as they are.
  PseudoLabels label(const Tensor& logits_BKhw, const UnlabeledBatch& images) const;
  // The logits that these labels are made of: without bias, aligned.
  Tensor correct(const Tensor& logits_BKhw) const;
  // bool [B, H, W]: those that count.
  Tensor accept(const PseudoLabels& labels) const { return threshold_->accept(labels); }

 private:
  Tensor class_bias_K_;  // undefined: none is undone
  std::shared_ptr<Threshold> threshold_;
  std::shared_ptr<DistributionAlignment> alignment_;  // empty where labels are not aligned
};

// --- mixing: what is pasted over an image, as bool [B, H, W] ---

// CutMix (Yun et al., ICCV 2019): the inside of each image's box, int64 [B, 4] (top, left, bottom, right).
Tensor box_mask(const Tensor& box_B4, int64_t H, int64_t W);
// ClassMix (Olsson et al., WACV 2021): the pixels of half of the classes (rounded up, as DACS does; its authors round
// down) that the source's prediction holds on valid pixels. draw_BD gives each class a random key (types.h); the classes with
// the smallest keys are taken.
Tensor class_mask(const Tensor& source_class_BHW, const Tensor& source_valid_BHW, const Tensor& draw_BD, int64_t num_classes);
// The mask that semi.mix names, cutmix or classmix, for strong view `view` of `unlabeled`; `source`: the labels to mix in.
Tensor mix_mask(const std::string& mix, const PseudoLabels& source, const UnlabeledBatch& unlabeled, size_t view);
// Pseudo-labels with those of `source` where the mask holds.
PseudoLabels paste(const Tensor& mask_BHW, const PseudoLabels& source, const PseudoLabels& target);
// Images likewise: [B, 3, H, W].
Tensor paste(const Tensor& mask_BHW, const Tensor& source_BCHW, const Tensor& target_BCHW);
// Both in one pass.
struct LabelledView {
  Tensor image_BCHW;
  PseudoLabels labels;
};
LabelledView paste(const Tensor& mask_BHW, const LabelledView& source, const LabelledView& target);
// A batch in reverse order, for each image to be mixed with another one of it (the middle one of an odd number with itself).
// Tensors may be undefined.
Tensor in_reverse(const Tensor& x);
PseudoLabels in_reverse(const PseudoLabels& labels);

// --- the loss on them ---

// Cross-entropy with accepted pseudo-labels, summed and divided by the weight of all valid pixels (UniMatch: the fewer are
// accepted, the less the loss weighs) or of the accepted ones. `weight_K` may be undefined: every pixel weighs 1. 0 where there
// is no pixel to divide by.
Tensor pseudo_label_loss(const Tensor& logits_BKhw, const PseudoLabels& labels, const Tensor& accepted_BHW,
                         const Tensor& weight_K, bool divide_by_accepted);

// Counts for StepOutput::pseudo_2K and, where the truth is known, truth_3K.
void count_pseudo_labels(const PseudoLabels& labels, const Tensor& accepted_BHW, int64_t num_classes, StepOutput* out);

// The weight of the unsupervised loss: 0 during burn-in, then semi.weight exp(-5 (1 - t)^2) with t from 0 to 1 over the ramp-up
// (Laine and Aila, ICLR 2017), then semi.weight.
double unsupervised_weight(const SemiConfig& config, const Progress& progress);
// Whether it stays as it is from this step on.
bool weight_is_final(const SemiConfig& config, const Progress& progress);

}  // namespace semiseg
