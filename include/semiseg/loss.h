// Supervised losses and class weights.
#pragma once

#include <string>
#include <vector>

#include "semiseg/config.h"
#include "semiseg/dataset.h"
#include "semiseg/types.h"

namespace semiseg {

// The weight of each class in the loss, from the labelled pixels n_c (p_c = n_c / sum n):
//   inverse    1 / p_c, normalised to mean 1 over the classes that have pixels          ("balanced" of scikit-learn)
//   median     median(f) / f_c with f_c = n_c / pixels of the images that contain c     (arXiv 1411.4734)
//   enet       1 / ln(1.02 + p_c)                                                       (arXiv 1606.02147)
//   effective  (1 - b) / (1 - b^n_c), b = .9999, normalised to sum K                    (arXiv 1901.05555)
// A class without a pixel gets weight 0. "none" gives ones. Throws Error(kConfig) for another name.
std::vector<double> class_weights(const std::string& kind, const ClassCounts& counts);

// What config.loss sets, against labels at full size. With CE = -ln p_y and w_y the weight of the pixel's class, means over the
// pixels that are not ignored, as PyTorch's weighted mean sum(w_y loss) / sum(w_y):
//
//   ce     the mean of CE.
//
//   ohem   the mean of CE over the hard pixels: those with p_y <= max(ohem_threshold, the m-th lowest p_y). m is
//          ohem_min_kept: up to 1 a share of all B * H * W pixels of the micro-batch, above 1 their number. Where fewer than m
//          pixels count, all are kept. (Shrivastava et al., arXiv 1604.03540; this form: LiheYoung/UniMatch, util/ohem.py)
//
//   focal  the mean of (1 - p_y)^gamma CE. (Lin et al., arXiv 1708.02002)
//
// label_smoothing e makes the target (1 - e) one-hot + e / K (Szegedy et al., arXiv 1512.00567), in ce and ohem; what OHEM
// keeps depends on p_y alone.
//
// logit_adjustment tau takes logits + tau ln p_c in the loss and nowhere else, p_c the class's share of the labelled pixels
// (Menon et al., arXiv 2007.07314): a rare class has to win against its rarity in training, so the plain logits, which predict,
// favour it. A share below 1e-6, as of a class without a pixel, counts as 1e-6.
//
// A loss without a counted pixel is 0, with gradient 0. The host never waits for the device.
class SupervisedLoss {
 public:
  // weights_K: one per class, or empty for none. label_share_K: of the labelled pixels, read by logit adjustment alone.
  // REQUIRES: with logit adjustment, one share per class.
  SupervisedLoss(const LossConfig& config, const std::vector<double>& weights_K, const std::vector<double>& label_share_K,
                 torch::Device device);

  // Logits at the network's stride, label int64 at full size -> a scalar.
  Tensor operator()(const Tensor& logits_BKhw, const Tensor& label_BHW) const;

  // The logits that the loss sees: with logit adjustment logits + tau ln p_c, else the logits themselves.
  Tensor adjust(const Tensor& logits_BKhw) const;

  // What the class weights w_c and the logit adjustment teach the network to add to the logarithm of a pixel's class
  // probabilities: the loss is least where softmax(logits + tau ln p) ~ w_c P(c | pixel), so ln w_c - tau ln p_c. float32 [K];
  // undefined where there is none. Exact for cross-entropy; what OHEM and focal loss shift besides is not in it.
  Tensor class_bias_K() const;

 private:
  LossConfig config_;
  Tensor weight_K_;        // undefined: none
  Tensor adjustment_K11_;  // tau ln p_c; undefined: none
};

}  // namespace semiseg
