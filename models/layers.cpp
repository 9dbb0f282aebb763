#include "models/layers.h"

#include <ATen/ATen.h>

#include "semiseg/error.h"
#include "semiseg/random.h"

namespace semiseg {

Conv2d::Conv2d(int64_t in, int64_t out, int64_t kernel, const ConvOptions& options)
    : options_(options), weight_(register_parameter("weight", at::empty({out, in, kernel, kernel}))) {
  if (options.bias) bias_ = register_parameter("bias", at::empty({out}));
}

Tensor Conv2d::forward(const Tensor& x_BCHW) {
  return at::conv2d(x_BCHW, weight_, bias_, options_.stride, options_.padding, options_.dilation);
}

BatchNorm2d::BatchNorm2d(int64_t channels)
    : weight_(register_parameter("weight", at::empty({channels}))),
      bias_(register_parameter("bias", at::empty({channels}))),
      running_mean_(register_buffer("running_mean", at::zeros({channels}))),
      running_var_(register_buffer("running_var", at::ones({channels}))),
      num_batches_tracked_(register_buffer("num_batches_tracked", at::zeros({}, at::kLong))) {}

Tensor BatchNorm2d::forward(const Tensor& x_BCHW) {
  if (is_training()) {
    if (x_BCHW.size(0) * x_BCHW.size(2) * x_BCHW.size(3) < 2)
      throw Error(ErrorKind::kConfig, "batch normalisation sees one value per channel, which has no variance", "data.crop",
                  "use a larger crop or at least two images per micro-batch");
    num_batches_tracked_.add_(1);
  }
  return at::batch_norm(x_BCHW, weight_, bias_, running_mean_, running_var_, is_training(), /*momentum=*/0.1, /*eps=*/1e-5,
                        /*cudnn_enabled=*/true);
}

GroupNorm::GroupNorm(int64_t groups, int64_t channels)
    : groups_(groups),
      weight_(register_parameter("weight", at::empty({channels}))),
      bias_(register_parameter("bias", at::empty({channels}))) {}

Tensor GroupNorm::forward(const Tensor& x_BCHW) {
  return at::group_norm(x_BCHW, groups_, weight_, bias_, /*eps=*/1e-5, /*cudnn_enabled=*/true);
}

Tensor ReLU::forward(const Tensor& x_BCHW) {
  Tensor x = x_BCHW;
  return at::relu_(x);
}

Dropout2d::Dropout2d(double p) : p_(p) {}

void Dropout2d::reseed(uint64_t seed, int64_t step, uint32_t layer) {
  seed_ = seed;
  address_ = (static_cast<uint64_t>(step) << 16) | layer;
  calls_ = 0;
}

Tensor Dropout2d::forward(const Tensor& x_BCHW) {
  if (!is_training() || p_ == 0) return x_BCHW;
  const int64_t B = x_BCHW.size(0), C = x_BCHW.size(1);
  Random random(seed_, Purpose::kDropout, address_, calls_++);
  Tensor mask = at::empty({B, C, 1, 1}, at::TensorOptions(at::kFloat).pinned_memory(x_BCHW.is_cuda()));
  const auto kept = static_cast<float>(1 / (1 - p_));
  float* at_mask = mask.data_ptr<float>();
  for (int64_t i = 0; i < B * C; ++i) at_mask[i] = random.chance(p_) ? 0.0f : kept;
  return x_BCHW * mask.to(x_BCHW.device(), x_BCHW.scalar_type(), /*non_blocking=*/true);
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
