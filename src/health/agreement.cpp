#include <ATen/ATen.h>

#include <algorithm>

#include "samples.h"
#include "semiseg/device.h"
#include "semiseg/health.h"
#include "semiseg/loader.h"

namespace semiseg {

void measure_agreement(Segmenter& network, const Dataset& data, const EvalOptions& options,
                       std::map<std::string, Tensor>* previous, PseudoScores* pseudo) {
  constexpr int64_t kMostImages = 16;
  constexpr int64_t kMostSide = 2048;  // of what the network takes at once: a large tile may not fit into memory
  const at::NoGradGuard no_grad;
  const EvaluationMode evaluating(network);
  const int64_t K = network.num_classes(), images = data.size(Split::kUnlabeled), count = std::min(images, kMostImages);
  auto equal_K = at::zeros({K}, at::kLong), before_K = at::zeros({K}, at::kLong);
  std::map<std::string, Tensor> newest;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = i * images / count;
    const auto image_HWC = middle_of(data.get(Split::kUnlabeled, index).image_HWC, kMostSide, kMostSide);
    const int64_t H = image_HWC.size(0), W = image_HWC.size(1);
    Tensor logits_BKhw;
    {
      const Autocast autocast(options.device, options.precision);
      const auto image_BCHW = normalize(image_HWC.unsqueeze(0).to(options.device), options.mean, options.std);
      logits_BKhw = network.forward(pad_sides(image_BCHW).contiguous(at::MemoryFormat::ChannelsLast));
    }
    const int64_t stride = padded_side(H) / logits_BKhw.size(2);
    const auto class_hw = logits_BKhw.narrow(2, 0, (H + stride - 1) / stride)
                              .narrow(3, 0, (W + stride - 1) / stride)
                              .argmax(1)
                              .squeeze(0)
                              .to(at::kCPU, at::kByte)
                              .contiguous();
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
