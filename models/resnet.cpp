// ResNet (He et al., "Deep residual learning for image recognition", CVPR 2016) with torchvision's names and layout, without
// the classifier. https://github.com/pytorch/vision/blob/main/torchvision/models/resnet.py
//
// Below stride 32, as segmentation_models_pytorch does it: a layer that would pass the output stride keeps its input's, and
// each of its 3x3 convolutions, the first block's too, is dilated by the factor left out. (torchvision's
// replace_stride_with_dilation gives the first block the dilation of the layer before.)
// https://github.com/qubvel-org/segmentation_models.pytorch/blob/main/segmentation_models_pytorch/encoders/_base.py
#include <ATen/ATen.h>

#include <array>
#include <string>

#include "models/layers.h"
#include "models/resampling.h"
#include "semiseg/model.h"

namespace semiseg {
namespace {

struct BlockShape {
  int64_t in;      // channels that come in
  int64_t width;   // channels of the inner convolutions
  int64_t stride;  // 2 in the first block of layers 2, 3 and 4; 1 in a dilated layer
  int64_t dilation;
};

// Keeps the size at stride 1.
ConvOptions conv3x3(int64_t stride, int64_t dilation) { return {.stride = stride, .padding = dilation, .dilation = dilation}; }

// Convolutions of a block without bias, each followed by its normalisation; and the shortcut.
class Block : public Layer {
 protected:
  Block(const BlockShape& shape, int64_t out, const ModelConfig& config) {
    if (shape.stride == 1 && shape.in == out) return;
    downsample_ = std::make_shared<Sequential>(std::vector<std::shared_ptr<Layer>>{
        std::make_shared<Conv2d>(shape.in, out, 1, ConvOptions{.stride = shape.stride}), make_norm(config.norm, out)});
  }
  // Last, because modules are listed in the order of registration and torchvision's downsample comes last.
  void register_downsample() {
    if (downsample_) register_module("downsample", downsample_);
  }
  Tensor shortcut(const Tensor& x) { return downsample_ ? downsample_->forward(x) : x; }

 private:
  std::shared_ptr<Sequential> downsample_;
};

class BasicBlock : public Block {
 public:
  static constexpr int64_t kExpansion = 1;

  BasicBlock(const BlockShape& shape, const ModelConfig& config)
      : Block(shape, shape.width, config),
        conv1_(register_module("conv1",
                               std::make_shared<Conv2d>(shape.in, shape.width, 3, conv3x3(shape.stride, shape.dilation)))),
        bn1_(register_module("bn1", make_norm(config.norm, shape.width))),
        conv2_(register_module("conv2", std::make_shared<Conv2d>(shape.width, shape.width, 3, conv3x3(1, shape.dilation)))),
        bn2_(register_module("bn2", make_norm(config.norm, shape.width))) {
    register_downsample();
  }

  Tensor forward(const Tensor& x) override {
    Tensor out = bn1_->forward_relu(conv1_->forward(x));
    out = conv2_->forward(out);
    return bn2_->forward_relu(out, shortcut(x));
  }

 private:
  std::shared_ptr<Conv2d> conv1_;
  std::shared_ptr<Norm2d> bn1_;
  std::shared_ptr<Conv2d> conv2_;
  std::shared_ptr<Norm2d> bn2_;
};

class Bottleneck : public Block {
 public:
  static constexpr int64_t kExpansion = 4;

  Bottleneck(const BlockShape& shape, const ModelConfig& config)
      : Block(shape, shape.width * kExpansion, config),
        conv1_(
            register_module("conv1", std::make_shared<Conv2d>(shape.in, shape.width, 1,
                                                              ConvOptions{.stride = config.stride_in_1x1 ? shape.stride : 1}))),
        bn1_(register_module("bn1", make_norm(config.norm, shape.width))),
        conv2_(register_module("conv2",
                               std::make_shared<Conv2d>(shape.width, shape.width, 3,
                                                        conv3x3(config.stride_in_1x1 ? 1 : shape.stride, shape.dilation)))),
        bn2_(register_module("bn2", make_norm(config.norm, shape.width))),
        conv3_(register_module("conv3", std::make_shared<Conv2d>(shape.width, shape.width * kExpansion, 1))),
        bn3_(register_module("bn3", make_norm(config.norm, shape.width * kExpansion))) {
    register_downsample();
  }

  Tensor forward(const Tensor& x) override {
    Tensor out = bn1_->forward_relu(conv1_->forward(x));
    out = bn2_->forward_relu(conv2_->forward(out));
    out = conv3_->forward(out);
    return bn3_->forward_relu(out, shortcut(x));
  }

 private:
  std::shared_ptr<Conv2d> conv1_;
  std::shared_ptr<Norm2d> bn1_;
  std::shared_ptr<Conv2d> conv2_;
  std::shared_ptr<Norm2d> bn2_;
  std::shared_ptr<Conv2d> conv3_;
  std::shared_ptr<Norm2d> bn3_;
};

template <class BlockType>
class ResNet : public Backbone {
 public:
  ResNet(const std::array<int64_t, 4>& depths, const ModelConfig& config)
      : conv1_(register_module("conv1", std::make_shared<Conv2d>(3, 64, 7, ConvOptions{.stride = 2, .padding = 3}))),
        bn1_(register_module("bn1", make_norm(config.norm, 64))) {
    int64_t in = 64, reached_stride = 4, dilation = 1;
    for (size_t i = 0; i < depths.size(); ++i) {
      const int64_t width = int64_t{64} << i;
      const bool strides = i > 0 && reached_stride < config.output_stride;
      if (strides) reached_stride *= 2;
      if (i > 0 && !strides) dilation *= 2;
      layers_[i] = register_module("layer" + std::to_string(i + 1), std::make_shared<Sequential>());
      for (int64_t block = 0; block < depths[i]; ++block) {
        const int64_t stride = strides && block == 0 ? 2 : 1;
        layers_[i]->push_back(std::make_shared<BlockType>(BlockShape{in, width, stride, dilation}, config));
        in = width * BlockType::kExpansion;
      }
      channels_.push_back(in);
    }
  }

  std::vector<Tensor> forward(Tensor image_BCHW) override {
    Tensor x = max_pool_3x3(bn1_->forward_relu(conv1_->forward(image_BCHW)));
    std::vector<Tensor> features;
    for (const auto& layer : layers_) {
      x = layer->forward(x);
      features.push_back(x);
    }
    return features;
  }

  std::vector<int64_t> channels() const override { return channels_; }

 private:
  std::shared_ptr<Conv2d> conv1_;
  std::shared_ptr<Norm2d> bn1_;
  std::array<std::shared_ptr<Sequential>, 4> layers_;
  std::vector<int64_t> channels_;
};

template <class BlockType>
bool add(const std::string& name, const std::array<int64_t, 4>& depths) {
  return backbones().add(name,
                         [depths](const ModelConfig& config) { return std::make_shared<ResNet<BlockType>>(depths, config); });
}

const bool kRegistered = add<BasicBlock>("resnet18", {2, 2, 2, 2}) && add<BasicBlock>("resnet34", {3, 4, 6, 3}) &&
                         add<Bottleneck>("resnet50", {3, 4, 6, 3}) && add<Bottleneck>("resnet101", {3, 4, 23, 3}) &&
                         add<Bottleneck>("resnet152", {3, 8, 36, 3});

}  // namespace
}  // namespace semiseg
