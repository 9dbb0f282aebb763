#include "semiseg/evaluate.h"

#include <ATen/ATen.h>

#include <cmath>

#include "semiseg/device.h"
#include "semiseg/loader.h"

namespace semiseg {
namespace {

// Logits at stride 4 of an image padded with the mean colour (0 after normalisation) to what the network wants, upsampled and
// cut back to the image: [B, K, H, W].
Tensor whole_logits(Segmenter& model, const Tensor& image_BCHW) {
  const int64_t H = image_BCHW.size(2), W = image_BCHW.size(3);
  const int64_t padded_H = padded_side(H), padded_W = padded_side(W);
  const auto padded =
      padded_H == H && padded_W == W
          ? image_BCHW
          : at::constant_pad_nd(image_BCHW, {0, padded_W - W, 0, padded_H - H}, 0).contiguous(at::MemoryFormat::ChannelsLast);
  return upsample_logits(model.forward(padded), padded_H, padded_W).narrow(2, 0, H).narrow(3, 0, W);
}

// Starts of windows that cover 0..side-1; the last one is moved back to end at the edge.
std::vector<int64_t> window_starts(int64_t side, int64_t window, int64_t stride) {
  std::vector<int64_t> starts{0};
  while (starts.back() + window < side) starts.push_back(std::min(starts.back() + stride, side - window));
  return starts;
}

// Mean over the windows that cover a pixel of their softmax probabilities: [B, K, H, W].
Tensor sliding_probabilities(Segmenter& model, const Tensor& image_BCHW, const EvalConfig& eval) {
  const int64_t H = image_BCHW.size(2), W = image_BCHW.size(3);
  const int64_t window_H = std::min(eval.window.at(0), H), window_W = std::min(eval.window.at(1), W);
  auto sum = at::zeros({image_BCHW.size(0), model.num_classes(), H, W}, image_BCHW.options());
  auto windows = at::zeros({1, 1, H, W}, image_BCHW.options());
  for (const int64_t top : window_starts(H, window_H, eval.stride.at(0)))
    for (const int64_t left : window_starts(W, window_W, eval.stride.at(1))) {
      const auto window = image_BCHW.narrow(2, top, window_H).narrow(3, left, window_W);
      sum.narrow(2, top, window_H).narrow(3, left, window_W) +=
          whole_logits(model, window.contiguous(at::MemoryFormat::ChannelsLast)).softmax(1);
      windows.narrow(2, top, window_H).narrow(3, left, window_W) += 1;
    }
  return sum / windows;
}

// Scores of each class at each pixel of one image, with probabilities summed over `views` of it, or logits where `views` is 0.
struct ClassScores {
  Tensor score_1KHW;
  int64_t views = 0;
};

ClassScores class_scores(Segmenter& model, const Tensor& image_HWC, const EvalOptions& options) {
  const EvalConfig& eval = options.eval;
  const int64_t H = image_HWC.size(0), W = image_HWC.size(1);
  const auto image_BCHW = normalize(image_HWC.unsqueeze(0).to(options.device), options.mean, options.std);
  const bool sliding = eval.mode == "sliding";

  if (!sliding && !eval.flip && eval.scales == std::vector<double>{1.0}) return {whole_logits(model, image_BCHW), 0};

  ClassScores sum;
  for (const double scale : eval.scales) {
    const int64_t h = std::max<int64_t>(1, std::llround(static_cast<double>(H) * scale));
    const int64_t w = std::max<int64_t>(1, std::llround(static_cast<double>(W) * scale));
    const auto scaled = h == H && w == W ? image_BCHW : at::upsample_bilinear2d(image_BCHW, {h, w}, /*align_corners=*/false);
    for (const bool flip : {false, true}) {
      if (flip && !eval.flip) continue;
      const auto view = (flip ? scaled.flip({3}) : scaled).contiguous(at::MemoryFormat::ChannelsLast);
      auto probability = sliding ? sliding_probabilities(model, view, eval) : whole_logits(model, view).softmax(1);
      if (flip) probability = probability.flip({3});
      if (h != H || w != W) probability = at::upsample_bilinear2d(probability, {H, W}, /*align_corners=*/false);
      sum.score_1KHW = sum.score_1KHW.defined() ? sum.score_1KHW.add_(probability) : probability.contiguous();
      ++sum.views;
    }
  }
  return sum;
}

}  // namespace

Tensor predict_image(Segmenter& model, const Tensor& image_HWC, const EvalOptions& options) {
  at::NoGradGuard no_grad;
  const Autocast autocast(options.device, options.bf16);
  return class_scores(model, image_HWC, options).score_1KHW.argmax(1).squeeze(0);  // softmax would not change the order
}

Prediction predict_with_confidence(Segmenter& model, const Tensor& image_HWC, const EvalOptions& options) {
  at::NoGradGuard no_grad;
  const Autocast autocast(options.device, options.bf16);
  const auto [score_1KHW, views] = class_scores(model, image_HWC, options);
  const auto probability_1KHW = views == 0 ? score_1KHW.to(at::kFloat).softmax(1) : score_1KHW.to(at::kFloat) / views;
  const auto [confidence_BHW, class_BHW] = probability_1KHW.max(1);
  return {class_BHW, confidence_BHW};
}

std::optional<Scores> evaluate(Segmenter& model, const Dataset& data, Split split, const EvalOptions& options,
                               const std::function<bool()>& stop, const std::function<void(int64_t, const Tensor&)>& seen) {
  const bool training = model.is_training();
  model.eval();
  OrderedReader reader(data, split, options.workers);
  ConfusionMatrix matrix(model.num_classes(), options.device);
  const int64_t count = data.size(split);
  if (count == 0)
    throw Error(ErrorKind::kData, "there is no image to evaluate", "data.val", "name a list of images and labels");
  for (int64_t index = 0; index < count; ++index) {
    if (stop && stop()) {
      model.train(training);
      return std::nullopt;
    }
    const Sample sample = reader.next();
    const auto prediction_HW = predict_image(model, sample.image_HWC, options);
    matrix.add(prediction_HW, sample.label_HW);
    if (seen) seen(index, prediction_HW);
  }
  model.train(training);
  const Scores scores = matrix.scores();
  if (scores.pixel_accuracy == 0 && matrix.counts().sum().item<int64_t>() == 0)
    throw Error(ErrorKind::kData, "the labels hold no pixel of any class, so there is nothing to score", "data.val",
                "see `semiseg check`");
  return scores;
}

}  // namespace semiseg
