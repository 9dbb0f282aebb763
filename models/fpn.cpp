// Feature pyramid decoder (Kirillov et al., "Panoptic feature pyramid networks", CVPR 2019) as segmentation_models_pytorch 0.6
// defines it: 256 pyramid channels, 128 segmentation channels, levels merged by addition.
// https://github.com/qubvel-org/segmentation_models.pytorch/blob/main/segmentation_models_pytorch/decoders/fpn/decoder.py
//
// There, each upsampling doubles, so image sides must be multiples of 32. Here, it goes to the size of the next finer level:
// the same at multiples of 32, and defined for every other side.
#include <ATen/ATen.h>

#include <array>
#include <string>

#include "models/layers.h"
#include "models/resampling.h"
#include "semiseg/error.h"
#include "semiseg/model.h"

namespace semiseg {
namespace {

constexpr int64_t kPyramidChannels = 256;
constexpr int64_t kSegmentationChannels = 128;
constexpr size_t kLevels = 4;

// A level of the pyramid: the coarser level enlarged, plus the encoder's feature.
class TopDown : public torch::nn::Module {
 public:
  explicit TopDown(int64_t skip_channels)
      : skip_conv_(register_module("skip_conv",
                                   std::make_shared<Conv2d>(skip_channels, kPyramidChannels, 1, ConvOptions{.bias = true}))) {}

  Tensor forward(const Tensor& coarser, const Tensor& skip) {
    return enlarge_nearest(coarser, skip.size(2), skip.size(3), skip_conv_->forward(skip));
  }

 private:
  std::shared_ptr<Conv2d> skip_conv_;
};

class ConvNormReLU : public torch::nn::Module {
 public:
  explicit ConvNormReLU(int64_t in) {
    const auto block = register_module("block", std::make_shared<torch::nn::Module>());
    convolution_ =
        block->register_module("0", std::make_shared<Conv2d>(in, kSegmentationChannels, 3, ConvOptions{.padding = 1}));
    norm_ = block->register_module("1", std::make_shared<GroupNorm2d>(kSegmentationChannels));
  }

  Tensor forward(const Tensor& x) { return norm_->forward_relu(convolution_->forward(x)); }

 private:
  std::shared_ptr<Conv2d> convolution_;
  std::shared_ptr<GroupNorm2d> norm_;
};

// Brings one level to the finest one's size, a convolution before each enlargement. The finest level has one convolution.
class SegmentationBlock : public torch::nn::Module {
 public:
  explicit SegmentationBlock(size_t enlargements) {
    const auto block = register_module("block", std::make_shared<torch::nn::Module>());
    for (size_t i = 0; i < std::max<size_t>(enlargements, 1); ++i)
      convolutions_.push_back(block->register_module(
          std::to_string(i), std::make_shared<ConvNormReLU>(i == 0 ? kPyramidChannels : kSegmentationChannels)));
  }

  // The level at the finest one's size + sum, which may be undefined. finer: the levels to pass through, the next one first; as
  // many as enlargements.
  Tensor forward(Tensor x, at::TensorList finer, const Tensor& sum) {
    for (size_t i = 0; i < convolutions_.size(); ++i) {
      x = convolutions_[i]->forward(x);
      if (i < finer.size()) x = enlarge_bilinear(x, finer[i].size(2), finer[i].size(3), i + 1 == finer.size() ? sum : Tensor());
    }
    return finer.empty() && sum.defined() ? sum + x : x;
  }

 private:
  std::vector<std::shared_ptr<ConvNormReLU>> convolutions_;
};

class Fpn : public Decoder {
 public:
  Fpn(const ModelConfig& config, const std::vector<int64_t>& channels) {
    if (channels.size() != kLevels)
      throw Error(ErrorKind::kConfig, "decoder \"fpn\" takes features at four strides", "model.backbone");
    p5_ = register_module("p5", std::make_shared<Conv2d>(channels[3], kPyramidChannels, 1, ConvOptions{.bias = true}));
    for (size_t i = 0; i < top_down_.size(); ++i)
      top_down_[i] = register_module("p" + std::to_string(4 - i), std::make_shared<TopDown>(channels[2 - i]));
    const auto blocks = register_module("seg_blocks", std::make_shared<torch::nn::Module>());
    for (size_t i = 0; i < kLevels; ++i)
      blocks_[i] = blocks->register_module(std::to_string(i), std::make_shared<SegmentationBlock>(kLevels - 1 - i));
    dropout_ = register_module("dropout", std::make_shared<Dropout2d>(config.dropout));
  }

  Tensor forward(const std::vector<Tensor>& features) override {
    std::array<Tensor, kLevels> pyramid{p5_->forward(features[3])};  // coarsest first: p5, p4, p3, p2
    for (size_t i = 0; i < top_down_.size(); ++i) pyramid[i + 1] = top_down_[i]->forward(pyramid[i], features[2 - i]);
    Tensor sum;  // [B, 128, h, w] at stride 4
    for (size_t i = 0; i < kLevels; ++i) sum = blocks_[i]->forward(pyramid[i], at::TensorList(pyramid).slice(i + 1), sum);
    return dropout_->forward(sum);
  }

  int64_t channels() const override { return kSegmentationChannels; }
  bool takes_images_apart() const override { return true; }

 private:
  std::shared_ptr<Conv2d> p5_;
  std::array<std::shared_ptr<TopDown>, kLevels - 1> top_down_;
  std::array<std::shared_ptr<SegmentationBlock>, kLevels> blocks_;
  std::shared_ptr<Dropout2d> dropout_;
};

const bool kRegistered = decoders().add("fpn", [](const ModelConfig& config, const std::vector<int64_t>& channels) {
  return std::make_shared<Fpn>(config, channels);
});

}  // namespace
}  // namespace semiseg
