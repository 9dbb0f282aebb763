#include "semiseg/evaluate.h"

#include <ATen/ATen.h>

#include <cmath>

#include "semiseg/device.h"
#include "semiseg/distributed.h"
#include "semiseg/loader.h"
#include "upload.h"

namespace semiseg {
namespace {

// Logits at the network's stride, and how they cover the image.
struct CoveringLogits {
  Tensor logits_BKhw;
  Upsampling to;
};

// Of an image padded with the mean colour (0 after normalisation) to what the network wants.
CoveringLogits whole_logits(Segmenter& model, const Tensor& image_BCHW) {
  const int64_t H = image_BCHW.size(2), W = image_BCHW.size(3);
  const int64_t padded_H = padded_side(H), padded_W = padded_side(W);
  const auto padded =
      padded_H == H && padded_W == W ? image_BCHW : pad_sides(image_BCHW).contiguous(at::MemoryFormat::ChannelsLast);
  return {model.forward(padded), {.H = H, .W = W, .grid_H = padded_H, .grid_W = padded_W}};
}

// Starts of windows that cover 0..side-1; the last one is moved back to end at the edge.
std::vector<int64_t> window_starts(int64_t side, int64_t window, int64_t stride) {
  std::vector<int64_t> starts{0};
  while (starts.back() + window < side) starts.push_back(std::min(starts.back() + stride, side - window));
  return starts;
}

// Mean over the windows that cover a pixel of their softmax probabilities: [B, K, H, W]. Windows are not padded: the network
// learned from crops of that very size, whose logits lie elsewhere over the pixels than those of a padded one.
Tensor sliding_probabilities(Segmenter& model, const Tensor& image_BCHW, const EvalConfig& eval) {
  const int64_t H = image_BCHW.size(2), W = image_BCHW.size(3);
  const int64_t window_H = std::min(eval.window.at(0), H), window_W = std::min(eval.window.at(1), W);
  auto sum = at::zeros({image_BCHW.size(0), model.num_classes(), H, W}, image_BCHW.options());
  auto windows = at::zeros({1, 1, H, W}, image_BCHW.options());
  for (const int64_t top : window_starts(H, window_H, eval.stride.at(0)))
    for (const int64_t left : window_starts(W, window_W, eval.stride.at(1))) {
      const auto window = image_BCHW.narrow(2, top, window_H).narrow(3, left, window_W);
      const auto logits_BKhw = model.forward(window.contiguous(at::MemoryFormat::ChannelsLast));
      upsample_add_softmax(logits_BKhw, {.H = window_H, .W = window_W}, sum.narrow(2, top, window_H).narrow(3, left, window_W));
      windows.narrow(2, top, window_H).narrow(3, left, window_W) += 1;
    }
  return sum / windows;
}

// Mean over the windows that cover a pixel, or of the one that covers all.
Tensor probabilities(Segmenter& model, const Tensor& image_BCHW, const EvalConfig& eval) {
  if (eval.mode == "sliding") return sliding_probabilities(model, image_BCHW, eval);
  const auto [logits_BKhw, to] = whole_logits(model, image_BCHW);
  auto probability_BKHW = at::zeros({image_BCHW.size(0), model.num_classes(), to.H, to.W}, image_BCHW.options());
  upsample_add_softmax(logits_BKhw, to, probability_BKHW);
  return probability_BKHW;
}

// Mean probabilities over all scales and flips of one image, float32 [1, K, H, W].
Tensor mean_probabilities(Segmenter& model, const Tensor& image_BCHW, const EvalConfig& eval) {
  const int64_t H = image_BCHW.size(2), W = image_BCHW.size(3);
  Tensor sum_BKHW;
  for (const double scale : eval.scales) {
    const int64_t h = std::max<int64_t>(1, std::llround(static_cast<double>(H) * scale));
    const int64_t w = std::max<int64_t>(1, std::llround(static_cast<double>(W) * scale));
    const auto scaled = h == H && w == W ? image_BCHW : at::upsample_bilinear2d(image_BCHW, {h, w}, /*align_corners=*/false);
    for (const bool flip : {false, true}) {
      if (flip && !eval.flip) continue;
      const auto view = (flip ? scaled.flip({3}) : scaled).contiguous(at::MemoryFormat::ChannelsLast);
      auto probability = probabilities(model, view, eval);
      if (flip) probability = probability.flip({3});
      if (h != H || w != W) probability = at::upsample_bilinear2d(probability, {H, W}, /*align_corners=*/false);
      sum_BKHW = sum_BKHW.defined() ? sum_BKHW.add_(probability) : probability.contiguous();
    }
  }
  return sum_BKHW.div_(static_cast<double>(eval.scales.size()) * (eval.flip ? 2 : 1));
}

// Whether the classes follow from the logits of the whole image alone: then probabilities need not exist.
bool one_view(const EvalConfig& eval) {
  return eval.mode != "sliding" && !eval.flip && eval.scales == std::vector<double>{1.0};
}

Tensor on_device(const Tensor& image_HWC, const EvalOptions& options) {
  return normalize(image_HWC.unsqueeze(0).to(options.device), options.mean, options.std);  // [1, 3, H, W]
}

}  // namespace

Tensor predict_image(Segmenter& model, const Tensor& image_HWC, const EvalOptions& options) {
  at::NoGradGuard no_grad;
  const Autocast autocast(options.device, options.precision);
  const auto image_BCHW = on_device(image_HWC, options);
  if (!one_view(options.eval)) return mean_probabilities(model, image_BCHW, options.eval).argmax(1).squeeze(0);
  const auto [logits_BKhw, to] = whole_logits(model, image_BCHW);
  return upsample_argmax(logits_BKhw, to).squeeze(0);
}

Prediction predict_with_confidence(Segmenter& model, const Tensor& image_HWC, const EvalOptions& options) {
  at::NoGradGuard no_grad;
  const Autocast autocast(options.device, options.precision);
  const auto image_BCHW = on_device(image_HWC, options);
  if (one_view(options.eval)) {
    const auto [logits_BKhw, to] = whole_logits(model, image_BCHW);
    return upsample_predict(logits_BKhw, to);
  }
  const auto [confidence_BHW, class_BHW] = mean_probabilities(model, image_BCHW, options.eval).max(1);
  return {class_BHW, confidence_BHW};
}

std::optional<Scores> evaluate(Segmenter& model, const Dataset& data, Split split, const EvalOptions& options,
                               const std::function<bool()>& stop, const std::function<void(int64_t, const Tensor&)>& seen) {
  const EvaluationMode evaluating(model);
  OrderedReader reader(data, split, options.workers, /*first=*/process_rank(), /*stride=*/process_count(), options.device);
  Upload upload(options.device);
  ConfusionMatrix matrix(model.num_classes(), options.device);
  const int64_t count = data.size(split);
  if (count == 0)
    throw Error(ErrorKind::kData, "there is no image to evaluate", "data.val", "name a list of images and labels");
  for (int64_t round = 0; round < count; round += process_count()) {
    if (stop && stop()) return std::nullopt;  // asked by all processes together
    const int64_t index = round + process_rank();
    if (index >= count) break;
    const Sample sample = reader.next();
    upload.begin();
    const Tensor image_HWC = upload.send(sample.image_HWC), label_HW = upload.send(sample.label_HW);
    upload.finish();
    Tensor prediction_HW;
    if (one_view(options.eval)) {
      at::NoGradGuard no_grad;
      const Autocast autocast(options.device, options.precision);
      const auto [logits_BKhw, to] = whole_logits(model, on_device(image_HWC, options));
      const auto prediction_BHW = matrix.add_logits(logits_BKhw, label_HW.unsqueeze(0), to, /*want_prediction=*/!!seen);
      if (seen) prediction_HW = prediction_BHW.squeeze(0);
    } else {
      prediction_HW = predict_image(model, image_HWC, options);
      matrix.add(prediction_HW, label_HW);
    }
    if (seen) seen(index, prediction_HW);
  }
  matrix.add_over_processes();
  const Scores scores = matrix.scores();
  if (scores.pixel_accuracy == 0 && matrix.counts().sum().item<int64_t>() == 0)
    throw Error(ErrorKind::kData, "the labels hold no pixel of any class, so there is nothing to score", "data.val",
                "see `semiseg check`");
  return scores;
}

}  // namespace semiseg
