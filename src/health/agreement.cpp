#include <ATen/ATen.h>

#include <algorithm>

#include "samples.h"
#include "semiseg/device.h"
#include "semiseg/health.h"
#include "semiseg/method.h"
#include "semiseg/pseudo_label.h"

namespace semiseg {

namespace {

// Every fourth pixel of the labels that the method would give the image now, or of its predictions where it makes none: uint8
// on the host. Labels from files, which stay as they are, are left out.
Tensor labels_now(Method& method, const Progress& progress, Sample sample, const EvalOptions& options) {
  constexpr int64_t kMostSide = 2048;  // of what the network takes at once: a large tile may not fit into memory
  constexpr int64_t kEvery = 4;
  sample = {middle_of(sample.image_HWC, kMostSide, kMostSide), {}, sample.id};
  const UnlabeledBatch view = evaluated_view(&sample, options);
  Tensor class_BHW;
  {
    const Autocast autocast(options.device, options.precision);
    const auto labels = method.pseudo_labels(view, progress);
    class_BHW = labels ? labels->class_BHW
                       : make_pseudo_labels(method.predictor().forward(view.weak_BCHW), view.valid_BHW, {}).class_BHW;
  }
  const int64_t H = sample.image_HWC.size(0), W = sample.image_HWC.size(1);
  return class_BHW[0].slice(0, 0, H, kEvery).slice(1, 0, W, kEvery).to(at::kCPU, at::kByte).contiguous();
}

}  // namespace

void measure_agreement(Method& method, const Progress& progress, const Dataset& data, const EvalOptions& options,
                       std::map<std::string, Tensor>* previous, PseudoScores* pseudo) {
  constexpr int64_t kMostImages = 16;
  const at::NoGradGuard no_grad;
  const EvaluationMode evaluating(method.predictor());
  const int64_t K = method.predictor().num_classes(), images = data.size(Split::kUnlabeled),
                count = std::min(images, kMostImages);
  auto equal_K = at::zeros({K}, at::kLong), before_K = at::zeros({K}, at::kLong);
  std::map<std::string, Tensor> newest;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = i * images / count;
    const auto class_hw = labels_now(method, progress, data.get(Split::kUnlabeled, index), options);
    const std::string name = std::to_string(index);
    if (const auto old = previous->find(name); old != previous->end() && old->second.sizes() == class_hw.sizes()) {
      const auto was = old->second.flatten().to(at::kLong);
      before_K += at::bincount(was, {}, K);
      equal_K += at::bincount(was, class_hw.eq(old->second).flatten().to(at::kDouble), K).to(at::kLong);
    }
    newest[name] = class_hw;
  }
  *previous = std::move(newest);

  pseudo->agreement.reset();
  pseudo->agreement_by_class.clear();
  const int64_t pixels = before_K.sum().item<int64_t>();
  if (pixels == 0) return;
  const auto share = [](int64_t part, int64_t whole) { return static_cast<double>(part) / static_cast<double>(whole); };
  pseudo->agreement = share(equal_K.sum().item<int64_t>(), pixels);
  for (int64_t c = 0; c < K; ++c) {
    const int64_t before = before_K[c].item<int64_t>();
    pseudo->agreement_by_class.push_back(before > 0 ? MaybeFraction(share(equal_K[c].item<int64_t>(), before)) : std::nullopt);
  }
}

}  // namespace semiseg
