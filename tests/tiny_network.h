// A network of a few thousand weights for tests of methods: features at strides 4, 8, 16, 32 with BatchNorm, each projected,
// enlarged to the finest and summed. tools/goldens/methods.py defines the same in Python.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "models/layers.h"
#include "semiseg/method.h"
#include "semiseg/model.h"

namespace semiseg {

class TinyBackbone : public Backbone {
 public:
  static constexpr int64_t kChannels = 8;

  TinyBackbone() {
    for (size_t i = 0; i < stages_.size(); ++i) {
      const auto convolution = i == 0
                                   ? std::make_shared<Conv2d>(3, kChannels, 5, ConvOptions{.stride = 4, .padding = 2})
                                   : std::make_shared<Conv2d>(kChannels, kChannels, 3, ConvOptions{.stride = 2, .padding = 1});
      stages_[i] = register_module("stage" + std::to_string(i),
                                   std::make_shared<Sequential>(std::vector<std::shared_ptr<Layer>>{
                                       convolution, std::make_shared<BatchNorm2d>(kChannels), std::make_shared<ReLU>()}));
    }
  }

  std::vector<Tensor> forward(Tensor image_BCHW) override {
    std::vector<Tensor> features;
    for (const auto& stage : stages_) features.push_back(stage->forward(features.empty() ? image_BCHW : features.back()));
    return features;
  }

  std::vector<int64_t> channels() const override { return std::vector<int64_t>(stages_.size(), kChannels); }

 private:
  std::array<std::shared_ptr<Sequential>, 4> stages_;
};

class TinyDecoder : public Decoder {
 public:
  explicit TinyDecoder(bool takes_images_apart = false) : apart_(takes_images_apart) {
    for (size_t i = 0; i < convolutions_.size(); ++i)
      convolutions_[i] =
          register_module("conv" + std::to_string(i),
                          std::make_shared<Conv2d>(TinyBackbone::kChannels, channels(), 1, ConvOptions{.bias = true}));
  }

  Tensor forward(const std::vector<Tensor>& features) override {
    auto sum_BChw = convolutions_[0]->forward(features[0]);
    for (size_t i = 1; i < features.size(); ++i)
      sum_BChw =
          sum_BChw + at::upsample_bilinear2d(convolutions_[i]->forward(features[i]), {sum_BChw.size(2), sum_BChw.size(3)},
                                             /*align_corners=*/true);
    return sum_BChw;
  }

  int64_t channels() const override { return 8; }
  bool takes_images_apart() const override { return apart_; }

 private:
  bool apart_;
  std::array<std::shared_ptr<Conv2d>, 4> convolutions_;
};

// Its weights are not set yet.
inline std::shared_ptr<Segmenter> make_tiny_network(int64_t num_classes, bool decodes_images_apart = false) {
  return std::make_shared<Segmenter>(std::make_shared<TinyBackbone>(), std::make_shared<TinyDecoder>(decodes_images_apart),
                                     num_classes);
}

// A method that only predicts.
class Predicting : public Method {
 public:
  explicit Predicting(std::shared_ptr<Segmenter> network) : network_(std::move(network)) {}
  BatchNeeds needs() const override { return {}; }
  StepOutput step(const TrainBatch&, const Progress&) override { throw std::logic_error("it does not learn"); }
  Segmenter& predictor() override { return *network_; }
  Segmenter& student() override { return *network_; }

 private:
  std::shared_ptr<Segmenter> network_;
};

}  // namespace semiseg
