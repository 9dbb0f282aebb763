// The few fixed images whose predictions a run shows after each evaluation, and the views of its first batch.
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "semiseg/evaluate.h"
#include "semiseg/method.h"
#include "semiseg/report.h"

namespace semiseg {

// Up to `count` indices of a split with labels, ascending: one of each of so many equal parts of the list, of the images of
// that part (of up to 64 / count of them) the one with the rarest classes that the ones before do not show. A pure function of
// its arguments, so that a resumed run shows the same.
std::vector<int64_t> choose_samples(const Dataset& data, Split split, int64_t count, const std::vector<double>& label_share_K);

// The middle of an image or label, [H, W, ...]: up to so many rows and columns.
Tensor middle_of(const Tensor& image, int64_t most_H, int64_t most_W);

// An image of any size as a batch of one, as evaluation shows it to the network: a whole one padded with the mean colour, which
// is not valid, on its right and below; where windows are scored, the middle of it alone, unpadded, as the whole may not fit
// into memory. `sample` is cut likewise.
UnlabeledBatch evaluated_view(Sample* sample, const EvalOptions& options);

class SampleImages {
 public:
  // `count` validation images, and half as many (rounded up) unlabelled ones where `unlabeled` asks for them. REQUIRES: `data`
  // outlives it.
  SampleImages(const Dataset& data, int64_t count, bool unlabeled, const std::vector<double>& label_share_K);

  bool empty() const { return scored_.empty(); }
  // What evaluate() is to call with each prediction: keeps those of the validation images. Empty where there is none to keep.
  std::function<void(int64_t, const Tensor&)> watch();
  // What the newest evaluation said, and the unlabelled images as the method would label and predict them now. Leaves no trace
  // in the method. REQUIRES: an evaluation with watch() came to its end.
  EpochSamples collect(int64_t epoch, Method& method, const Progress& progress, const EvalOptions& options) const;

 private:
  const Dataset& data_;
  std::vector<int64_t> scored_, unlabeled_;
  std::map<int64_t, Tensor> prediction_HW_;  // uint8, by index
};

// The strong views of a batch (weak ones where the method has no strong ones) with what is mixed into them: [B, 3, H, W] a
// view. Empty where nothing is mixed, or not by semi.mix.
std::vector<Tensor> mixed_views(const SemiConfig& config, Method& method, const TrainBatch& batch, const Progress& progress);

}  // namespace semiseg
