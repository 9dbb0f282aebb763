// Supervised losses and class weights.
#pragma once

#include <string>
#include <vector>

#include "semiseg/config.h"
#include "semiseg/dataset.h"
#include "semiseg/types.h"

namespace semiseg {

// The weight of each class in the loss, from the labelled pixels n_c (p_c = n_c / sum n):
//   inverse    1 / p_c, normalised to mean 1 over the classes that have pixels
//   median     median(f) / f_c with f_c = n_c / pixels of the images that contain c   (arXiv 1411.4734)
//   enet       1 / ln(1.02 + p_c)                                                      (arXiv 1606.02147)
//   effective  (1 - b) / (1 - b^n_c), b = .9999, normalised to sum K                   (arXiv 1901.05555)
// A class without a pixel gets weight 0. "none" gives ones. Throws Error(kConfig) for another name.
std::vector<double> class_weights(const std::string& kind, const ClassCounts& counts);

// Cross-entropy as config.loss sets it, against labels at full size.
class SupervisedLoss {
 public:
  // weights_K: one per class, or empty for none.
  SupervisedLoss(const LossConfig& config, const std::vector<double>& weights_K, torch::Device device);

  // sum(w_y CE) / sum(w_y) over the pixels that are not ignored (PyTorch's weighted mean); 0 where there is none.
  Tensor operator()(const Tensor& logits_BKhw, const Tensor& label_BHW) const;

 private:
  Tensor weight_K_;  // undefined: none
  double label_smoothing_;
};

}  // namespace semiseg
