#include "models/layers.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <numeric>

#ifdef SEMISEG_CUDA
#include "models/fused_norm.h"
#endif
#include "models/group_norm.h"
#include "models/sync_norm.h"
#include "semiseg/distributed.h"
#include "semiseg/error.h"
#include "semiseg/random.h"

namespace semiseg {
namespace {

constexpr double kNormEpsilon = 1e-5, kMomentum = 0.1;  // PyTorch's

}  // namespace

Conv2d::Conv2d(int64_t in, int64_t out, int64_t kernel, const ConvOptions& options)
    : options_(options), weight_(register_parameter("weight", at::empty({out, in / options.groups, kernel, kernel}))) {
  if (options.bias) bias_ = register_parameter("bias", at::empty({out}));
}

Tensor Conv2d::forward(const Tensor& x_BCHW) { return convolve(x_BCHW, weight_, bias_, options_); }

void Conv2d::absorb(const ChannelAffine& after) {
  at::NoGradGuard no_grad;
  if (!bias_.defined()) bias_ = register_parameter("bias", at::zeros({weight_.size(0)}, weight_.options()));
  weight_.copy_(weight_.to(at::kDouble) * after.scale_C.view({-1, 1, 1, 1}));
  bias_.copy_(bias_.to(at::kDouble) * after.scale_C + after.shift_C);
}

namespace {

// In place: no normalisation needs its output for its gradient.
Tensor add_and_rectify(Tensor y, const Tensor& residual_BCHW, bool relu) {
  if (residual_BCHW.defined()) y.add_(residual_BCHW);
  return relu ? at::relu_(y) : y;
}

}  // namespace

BatchNorm2d::BatchNorm2d(int64_t channels, bool sync)
    : weight_(register_parameter("weight", at::empty({channels}))),
      bias_(register_parameter("bias", at::empty({channels}))),
      running_mean_(register_buffer("running_mean", at::zeros({channels}))),
      running_var_(register_buffer("running_var", at::ones({channels}))),
      num_batches_tracked_(register_buffer("num_batches_tracked", at::zeros({}, at::kLong))),
      sync_(sync) {}

Tensor BatchNorm2d::normalize(const Tensor& x_BCHW, bool relu, const Tensor& residual_BCHW) {
  Tensor y = x_BCHW;
  if (!dissolved_) {
    const bool shared = sync_ && is_training() && process_count() > 1;
    if (is_training()) {
      if (!shared && x_BCHW.size(0) * x_BCHW.size(2) * x_BCHW.size(3) < 2)
        throw Error(ErrorKind::kConfig, "batch normalisation sees one value per channel, which has no variance",
                    "optim.batch_labeled",
                    "set it and optim.batch_unlabeled to 2 or more, or model.norm=group (with model.decoder: fpn, a larger "
                    "data.crop helps too)");
      num_batches_tracked_.add_(1);
    }
#ifdef SEMISEG_CUDA
    if (!shared && fused_norm::serves_batch_norm(x_BCHW, is_training()))
      return fused_norm::batch_norm(
          x_BCHW, {weight_, bias_, running_mean_, running_var_, is_training(), kMomentum, kNormEpsilon}, relu, residual_BCHW);
#endif
    y = shared ? sync_batch_norm(x_BCHW, weight_, bias_, running_mean_, running_var_, kMomentum, kNormEpsilon)
               : at::batch_norm(x_BCHW, weight_, bias_, running_mean_, running_var_, is_training(), kMomentum, kNormEpsilon,
                                /*cudnn_enabled=*/true);
  }
  return add_and_rectify(y, residual_BCHW, relu);  // a dissolved one hands on what is another layer's, without a gradient
}

ChannelAffine BatchNorm2d::dissolve() {
  at::NoGradGuard no_grad;
  dissolved_ = true;
  const auto scale_C = weight_.to(at::kDouble) / at::sqrt(running_var_.to(at::kDouble) + kNormEpsilon);
  return {scale_C, bias_.to(at::kDouble) - running_mean_.to(at::kDouble) * scale_C};
}

GroupNorm2d::GroupNorm2d(int64_t channels)
    : groups_(std::gcd(channels, int64_t{32})),
      weight_(register_parameter("weight", at::empty({channels}))),
      bias_(register_parameter("bias", at::empty({channels}))) {}

Tensor GroupNorm2d::normalize(const Tensor& x_BCHW, bool relu, const Tensor& residual_BCHW) {
#ifdef SEMISEG_CUDA
  if (fused_norm::serves_group_norm(x_BCHW, groups_))
    return fused_norm::group_norm(x_BCHW, groups_, weight_, bias_, kNormEpsilon, relu, residual_BCHW);
#endif
  if (relu && !residual_BCHW.defined()) return group_norm_relu(x_BCHW, groups_, weight_, bias_, kNormEpsilon);
  return add_and_rectify(at::group_norm(x_BCHW, groups_, weight_, bias_, kNormEpsilon), residual_BCHW, relu);
}

std::shared_ptr<Norm2d> make_norm(const std::string& kind, int64_t channels) {
  if (kind == "group") return std::make_shared<GroupNorm2d>(channels);
  return std::make_shared<BatchNorm2d>(channels, /*sync=*/kind == "sync");
}

Tensor ReLU::forward(const Tensor& x_BCHW) {
  Tensor x = x_BCHW;
  return at::relu_(x);
}

Dropout::Dropout(double p) : p_(p) {}

void Dropout::reseed(uint64_t seed, int64_t step, uint32_t layer) {
  seed_ = seed;
  address_ = (static_cast<uint64_t>(step) << 16) | layer;
  calls_ = 0;
}

Tensor Dropout::forward(const Tensor& x_BCHW) {
  if (!drops()) return x_BCHW;
  return apply(x_BCHW, next_mask(x_BCHW.sizes(), x_BCHW.device()), p_);
}

Tensor Dropout::next_mask(at::IntArrayRef sizes, torch::Device device) {
  const uint32_t call = calls_++;
  if (!keeps_) return draw_call(call, sizes, device.is_cuda()).to(device, /*non_blocking=*/true);
  if (kept_.size() <= call) kept_.push_back({sizes.vec(), draw_call(call, sizes, /*pinned=*/false).to(device)});
  return kept_[call].mask;
}

void Dropout::keep_masks(bool keep) {
  keeps_ = keep;
  kept_.clear();
  calls_ = 0;  // of a recording that failed
}

void Dropout::redraw() {
  for (uint32_t call = 0; call < kept_.size(); ++call)
    kept_[call].mask.copy_(draw_call(call, kept_[call].sizes, kept_[call].mask.is_cuda()), /*non_blocking=*/true);
}

Tensor Dropout::draw_call(uint32_t call, at::IntArrayRef sizes, bool pinned) const {
  Random random(seed_, Purpose::kDropout, address_, call);
  return draw(sizes, p_, pinned, random);
}

// The call's stream gives a key, and under it every plane of H * W values has a stream of its own: planes are drawn in
// parallel, and the mask depends on neither threads nor memory format.
Tensor Dropout::draw(at::IntArrayRef sizes, double p, bool pinned, Random& random) const {
  const uint64_t low = random.next(), high = random.next();
  const uint64_t key = high << 32 | low;
  const auto dropped_below = static_cast<uint64_t>(p * 0x1p32);  // of a draw's 2^32 values
  const int64_t planes = sizes[0] * sizes[1], area = sizes[2] * sizes[3];
  constexpr int64_t kValuesPerTask = 1 << 15;
  Tensor kept_BCHW = at::empty(sizes, at::TensorOptions(at::kBool).pinned_memory(pinned));
  bool* kept = kept_BCHW.data_ptr<bool>();
  at::parallel_for(0, planes, /*grain_size=*/std::max<int64_t>(1, kValuesPerTask / area), [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      Random draws(key, Purpose::kDropout, static_cast<uint64_t>(plane));
      for (int64_t i = plane * area; i < (plane + 1) * area; ++i) kept[i] = draws.next() >= dropped_below;
    }
  });
  return kept_BCHW;
}

Tensor Dropout::apply(const Tensor& x_BCHW, const Tensor& mask, double p) const { return (x_BCHW * mask).mul_(1 / (1 - p)); }

// float32 [B, C, 1, 1].
Tensor Dropout2d::draw(at::IntArrayRef sizes, double p, bool pinned, Random& random) const {
  Tensor mask = at::empty({sizes[0], sizes[1], 1, 1}, at::TensorOptions(at::kFloat).pinned_memory(pinned));
  const auto kept = static_cast<float>(1 / (1 - p));
  float* at_mask = mask.data_ptr<float>();
  for (int64_t i = 0; i < mask.numel(); ++i) at_mask[i] = random.chance(p) ? 0.0f : kept;
  return mask;
}

Tensor Dropout2d::apply(const Tensor& x_BCHW, const Tensor& mask, double) const {
  return x_BCHW * mask.to(x_BCHW.scalar_type());
}

std::vector<Tensor> ComplementaryDropout::drop(const std::vector<Tensor>& features, int64_t views) {
  if (!drops()) return features;
  int64_t channels = 0;
  for (const Tensor& feature : features) channels += feature.size(1);
  const Tensor of_views = next_mask({views, channels, 1, 1}, features.front().device());
  const int64_t others = features.front().size(0) - views;
  const Tensor mask = at::cat({of_views, at::ones({others, channels, 1, 1}, of_views.options())});
  std::vector<Tensor> dropped;
  int64_t first = 0;
  for (const Tensor& feature : features) {
    dropped.push_back(feature * mask.narrow(1, first, feature.size(1)).to(feature.scalar_type()));
    first += feature.size(1);
  }
  return dropped;
}

// float32 [2 B, C, 1, 1] of 0, 1, 2.
Tensor ComplementaryDropout::draw(at::IntArrayRef sizes, double p, bool pinned, Random& random) const {
  const int64_t images = sizes[0] / 2, channels = sizes[1];
  const auto keep = static_cast<int64_t>(static_cast<double>(images) * (1 - p));
  const std::vector<int64_t> order = random.permutation(images);
  Tensor mask = at::ones({sizes[0], channels, 1, 1}, at::TensorOptions(at::kFloat).pinned_memory(pinned));
  float* at_mask = mask.data_ptr<float>();
  for (int64_t i = keep; i < images; ++i) {
    float *first = at_mask + order[i] * channels, *second = first + images * channels;
    for (int64_t c = 0; c < channels; ++c) {
      first[c] = random.chance(0.5) ? 2.0f : 0.0f;
      second[c] = 2.0f - first[c];
    }
  }
  return mask;
}

std::vector<Dropout*> dropouts_of(const torch::nn::Module& root) {
  std::vector<Dropout*> found;
  for (const auto& module : root.modules(/*include_self=*/false))
    if (auto* dropout = dynamic_cast<Dropout*>(module.get())) found.push_back(dropout);
  return found;
}

Sequential::Sequential(const std::vector<std::shared_ptr<Layer>>& layers) {
  for (const auto& layer : layers) push_back(layer);
}

void Sequential::push_back(std::shared_ptr<Layer> layer) {
  layers_.push_back(register_module(std::to_string(layers_.size()), std::move(layer)));
}

Tensor Sequential::forward(const Tensor& x_BCHW) {
  Tensor x = x_BCHW;
  for (const auto& layer : layers_) x = layer->forward(x);
  return x;
}

}  // namespace semiseg
