// DeepLabV3+ decoder (Chen et al., "Encoder-decoder with atrous separable convolution for semantic image segmentation", ECCV
// 2018, arXiv 1802.02611) as segmentation_models_pytorch 0.6 defines it: 256 channels, separable atrous convolutions at
// model.atrous_rates (there 12, 24 and 36 whatever the output stride), 48 channels of the feature at stride 4.
// https://github.com/qubvel-org/segmentation_models.pytorch/blob/main/segmentation_models_pytorch/decoders/deeplabv3/decoder.py
//
// There, the coarse feature is enlarged by output stride / 4, so image sides must be multiples of the output stride. Here, it
// goes to the size of the feature at stride 4: the same at those multiples, and defined for every other side.
#include <ATen/ATen.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "models/layers.h"
#include "models/resampling.h"
#include "semiseg/error.h"
#include "semiseg/model.h"

namespace semiseg {
namespace {

constexpr int64_t kChannels = 256;
constexpr int64_t kSkipChannels = 48;
constexpr size_t kRates = 3;
constexpr size_t kBranches = kRates + 2;  // also a 1x1 convolution and the mean of the image
constexpr size_t kLevels = 4;

using Layers = std::vector<std::shared_ptr<Layer>>;

Layers conv_norm_relu(std::shared_ptr<Layer> convolution, int64_t out, const ModelConfig& config) {
  return {std::move(convolution), make_norm(config.norm, out), std::make_shared<ReLU>()};
}

Layers conv1x1_norm_relu(int64_t in, int64_t out, const ModelConfig& config) {
  return conv_norm_relu(std::make_shared<Conv2d>(in, out, 1), out, config);
}

// A 3x3 convolution of each channel, then a 1x1 convolution across them.
Layers separable_norm_relu(int64_t in, int64_t out, int64_t dilation, const ModelConfig& config) {
  const ConvOptions depthwise{.padding = dilation, .dilation = dilation, .groups = in};
  return conv_norm_relu(std::make_shared<Sequential>(
                            Layers{std::make_shared<Conv2d>(in, in, 3, depthwise), std::make_shared<Conv2d>(in, out, 1)}),
                        out, config);
}

class GlobalMean : public Layer {
 public:
  Tensor forward(const Tensor& x_BChw) override { return at::adaptive_avg_pool2d(x_BChw, {1, 1}); }
};

// The image's mean feature, convolved, at every pixel. Its normalisation sees one value per image.
class PoolingBranch : public Sequential {
 public:
  PoolingBranch(int64_t in, const ModelConfig& config) : Sequential(Layers{std::make_shared<GlobalMean>()}) {
    for (auto& layer : conv1x1_norm_relu(in, kChannels, config)) push_back(std::move(layer));
  }

  Tensor forward(const Tensor& x_BChw) override {
    return Sequential::forward(x_BChw)
        .expand({-1, -1, x_BChw.size(2), x_BChw.size(3)})
        .contiguous(x_BChw.suggest_memory_format());
  }
};

// Atrous spatial pyramid pooling: the same feature seen at several scales.
class Aspp : public Layer {
 public:
  Aspp(int64_t in, const ModelConfig& config) {
    const auto convs = register_module("convs", std::make_shared<torch::nn::Module>());
    branches_[0] = std::make_shared<Sequential>(conv1x1_norm_relu(in, kChannels, config));
    for (size_t i = 0; i < kRates; ++i)
      branches_[i + 1] = std::make_shared<Sequential>(separable_norm_relu(in, kChannels, config.atrous_rates.at(i), config));
    branches_.back() = std::make_shared<PoolingBranch>(in, config);
    for (size_t i = 0; i < kBranches; ++i) convs->register_module(std::to_string(i), branches_[i]);
    Layers project = conv1x1_norm_relu(static_cast<int64_t>(kBranches) * kChannels, kChannels, config);
    project.push_back(std::make_shared<Dropout>(config.dropout));
    project_ = register_module("project", std::make_shared<Sequential>(project));
  }

  Tensor forward(const Tensor& x_BChw) override {
    std::array<Tensor, kBranches> seen;
    for (size_t i = 0; i < kBranches; ++i) seen[i] = branches_[i]->forward(x_BChw);
    return project_->forward(at::cat(at::TensorList(seen), /*dim=*/1));
  }

 private:
  std::array<std::shared_ptr<Sequential>, kBranches> branches_;
  std::shared_ptr<Sequential> project_;
};

class DeepLabV3Plus : public Decoder {
 public:
  DeepLabV3Plus(const ModelConfig& config, const std::vector<int64_t>& channels) {
    if (config.output_stride != 16 && config.output_stride != 8)
      throw Error(ErrorKind::kConfig, str("decoder \"deeplabv3plus\" does not work at output stride ", config.output_stride),
                  "model.output_stride", "set it to 16 or 8");
    if (channels.size() != kLevels)
      throw Error(ErrorKind::kConfig, "decoder \"deeplabv3plus\" takes features at four levels", "model.backbone");
    Layers aspp{std::make_shared<Aspp>(channels[3], config)};
    for (auto& layer : separable_norm_relu(kChannels, kChannels, /*dilation=*/1, config)) aspp.push_back(std::move(layer));
    aspp_ = register_module("aspp", std::make_shared<Sequential>(aspp));
    block1_ = register_module("block1", std::make_shared<Sequential>(conv1x1_norm_relu(channels[0], kSkipChannels, config)));
    block2_ = register_module("block2", std::make_shared<Sequential>(
                                            separable_norm_relu(kSkipChannels + kChannels, kChannels, /*dilation=*/1, config)));
  }

  Tensor forward(const std::vector<Tensor>& features) override {
    const Tensor skip = block1_->forward(features[0]);  // [B, 48, h, w] at stride 4
    const Tensor coarse = enlarge_bilinear(aspp_->forward(features[3]), skip.size(2), skip.size(3));
    return block2_->forward(at::cat({coarse, skip}, /*dim=*/1));
  }

  int64_t channels() const override { return kChannels; }

 private:
  std::shared_ptr<Sequential> aspp_;
  std::shared_ptr<Sequential> block1_;  // on the feature at stride 4
  std::shared_ptr<Sequential> block2_;  // on both together
};

const bool kRegistered = decoders().add("deeplabv3plus", [](const ModelConfig& config, const std::vector<int64_t>& channels) {
  return std::make_shared<DeepLabV3Plus>(config, channels);
});

}  // namespace
}  // namespace semiseg
