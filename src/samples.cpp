#include "samples.h"

#include <ATen/ATen.h>

#include <cmath>
#include <set>

#include "semiseg/device.h"
#include "semiseg/loader.h"
#include "semiseg/model.h"
#include "semiseg/pseudo_label.h"

namespace semiseg {
namespace {

constexpr int64_t kMostCandidates = 64;  // whose labels are read
constexpr int64_t kFewestPixels = 50;    // of a class, so that one can see it

// Classes that can be seen in a label.
std::set<int64_t> classes_in(const Tensor& label_HW, int64_t num_classes) {
  std::vector<int64_t> pixels(256, 0);
  const Tensor packed = label_HW.contiguous();
  const auto* label = packed.const_data_ptr<uint8_t>();
  for (int64_t i = 0; i < packed.numel(); ++i) ++pixels[label[i]];
  std::set<int64_t> classes;
  for (int64_t c = 0; c < num_classes; ++c)
    if (pixels[static_cast<size_t>(c)] >= kFewestPixels) classes.insert(c);
  return classes;
}

}  // namespace

std::vector<int64_t> choose_samples(const Dataset& data, Split split, int64_t count, const std::vector<double>& label_share_K) {
  const int64_t images = data.size(split), parts = std::min(count, images);
  std::vector<int64_t> chosen;
  std::set<int64_t> shown;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t begin = part * images / parts, end = (part + 1) * images / parts;
    const int64_t candidates = std::min(end - begin, std::max<int64_t>(1, kMostCandidates / parts));
    int64_t best = begin;
    double most = -1;
    std::set<int64_t> of_best;
    for (int64_t i = 0; i < candidates; ++i) {
      const int64_t index = begin + i * (end - begin) / candidates;
      const auto classes = classes_in(data.label(split, index), static_cast<int64_t>(label_share_K.size()));
      double rarity = 0;
      for (const int64_t c : classes)
        if (shown.count(c) == 0) rarity -= std::log(std::max(label_share_K[static_cast<size_t>(c)], 1e-6));
      if (rarity > most) most = rarity, best = index, of_best = classes;
    }
    chosen.push_back(best);
    shown.merge(of_best);
  }
  return chosen;
}

Tensor middle_of(const Tensor& image, int64_t most_H, int64_t most_W) {
  const int64_t H = std::min(image.size(0), most_H), W = std::min(image.size(1), most_W);
  return image.narrow(0, (image.size(0) - H) / 2, H).narrow(1, (image.size(1) - W) / 2, W).contiguous();
}

UnlabeledBatch evaluated_view(Sample* sample, const EvalOptions& options) {
  const bool windows = options.eval.mode == "sliding";
  if (windows)
    for (Tensor* x : {&sample->image_HWC, &sample->label_HW})
      if (x->defined()) *x = middle_of(*x, options.eval.window.at(0), options.eval.window.at(1));
  const auto padded = [&](const Tensor& x_HW, const at::Scalar& fill = 0) { return windows ? x_HW : pad_sides(x_HW, fill); };
  const int64_t H = sample->image_HWC.size(0), W = sample->image_HWC.size(1);
  UnlabeledBatch batch;
  batch.weak_BCHW = padded(normalize(sample->image_HWC.unsqueeze(0).to(options.device), options.mean, options.std))
                        .contiguous(at::MemoryFormat::ChannelsLast);
  batch.valid_BHW = padded(at::ones({1, H, W}, at::kBool)).to(options.device);
  if (sample->label_HW.defined())
    batch.truth_BHW = padded(sample->label_HW.unsqueeze(0).to(at::kLong), kIgnore).to(options.device);
  return batch;
}

SampleImages::SampleImages(const Dataset& data, int64_t count, bool unlabeled, const std::vector<double>& label_share_K)
    : data_(data), scored_(choose_samples(data, Split::kVal, count, label_share_K)) {
  const int64_t images = unlabeled ? data.size(Split::kUnlabeled) : 0, few = std::min((count + 1) / 2, images);
  for (int64_t i = 0; i < few; ++i) unlabeled_.push_back(i * images / few);
}

std::function<void(int64_t, const Tensor&)> SampleImages::watch() {
  if (empty()) return {};
  return [this](int64_t index, const Tensor& prediction_HW) {
    if (std::find(scored_.begin(), scored_.end(), index) != scored_.end())
      prediction_HW_[index] = prediction_HW.to(at::kCPU, at::kByte);
  };
}

EpochSamples SampleImages::collect(int64_t epoch, Method& method, const Progress& progress, const EvalOptions& options) const {
  EpochSamples samples{epoch, {}, {}};
  for (const int64_t index : scored_) {
    const Sample sample = data_.get(Split::kVal, index);
    const auto found = prediction_HW_.find(index);  // else another process has predicted it
    const EvaluationMode evaluating(method.predictor());
    const auto prediction_HW = found != prediction_HW_.end()
                                   ? found->second
                                   : predict_image(method.predictor(), sample.image_HWC, options).to(at::kCPU, at::kByte);
    samples.scored.push_back({sample.id, sample.image_HWC, sample.label_HW, prediction_HW});
  }
  const at::NoGradGuard no_grad;
  for (const int64_t index : unlabeled_) {
    Sample sample = data_.get(Split::kUnlabeled, index);
    const UnlabeledBatch view = evaluated_view(&sample, options);
    const int64_t H = sample.image_HWC.size(0), W = sample.image_HWC.size(1);
    std::optional<AcceptedLabels> labels;
    {
      const Autocast autocast(options.device, options.precision);
      labels = method.pseudo_labels(view, progress);
    }
    if (!labels) break;  // a method without any
    const auto cut = [&](const Tensor& x_BHW) { return x_BHW[0].narrow(0, 0, H).narrow(1, 0, W).to(at::kCPU); };
    const EvaluationMode evaluating(method.predictor());
    samples.unlabeled.push_back({sample.id, sample.image_HWC, cut(labels->class_BHW).to(at::kByte),
                                 cut(labels->accepted_BHW).contiguous(),
                                 predict_image(method.predictor(), sample.image_HWC, options).to(at::kCPU, at::kByte)});
  }
  return samples;
}

std::vector<Tensor> mixed_views(const SemiConfig& config, Method& method, const TrainBatch& batch, const Progress& progress) {
  const BatchNeeds needs = method.needs();
  if (!needs.mix && !needs.mix_within) return {};
  const at::NoGradGuard no_grad;
  const UnlabeledBatch &images = batch.unlabeled, &others = needs.mix ? batch.mix : images;
  const auto labels = method.pseudo_labels(others, progress);
  if (!labels) return {};
  const PseudoLabels of_others{labels->class_BHW, {}, others.valid_BHW, {}};
  const auto source = needs.mix_within ? in_reverse(of_others) : of_others;
  std::vector<Tensor> mixed;
  for (size_t view = 0; view < images.cutmix_box_B4.size(); ++view) {
    const auto view_of = [view](const UnlabeledBatch& of) {
      return of.strong_BCHW.empty() ? of.weak_BCHW : of.strong_BCHW.at(view);
    };
    const auto image_BCHW = needs.mix_within ? in_reverse(view_of(others)) : view_of(others);
    mixed.push_back(paste(mix_mask(config.mix, source, images, view), image_BCHW, view_of(images)));
  }
  return mixed;
}

}  // namespace semiseg
