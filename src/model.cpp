#include "semiseg/model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/record_function.h>

#include <cmath>
#include <numbers>

#include "models/layers.h"
#include "observers.h"
#include "semiseg/distributed.h"
#include "semiseg/random.h"

namespace semiseg {
namespace {

constexpr int64_t kCoarsestStride = 32;

// Box-Muller on 32-bit draws, keeping both of its values: several times faster than Random::normal(), and a large network has
// 60 million weights.
void fill_normal(float* values, int64_t count, double deviation, Random& random) {
  for (int64_t i = 0; i < count; i += 2) {
    const double radius = deviation * std::sqrt(-2 * std::log((random.next() + 1.0) * 0x1p-32));
    const double angle = 2 * std::numbers::pi * 0x1p-32 * random.next();
    values[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < count) values[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
}

// One parameter's initial values, from a stream of its own: neither the order of parameters nor that of threads matters.
// Biases are 0, scales of normalisations 1; convolutions as https://pytorch.org/docs/stable/nn.init.html defines the names:
// backbones as torchvision's, decoders and head as initialize_decoder and initialize_head of segmentation_models_pytorch. (That
// library's DeepLabV3Plus alone never calls them and keeps PyTorch's defaults; here, every decoder is initialised alike.)
void initialize(const std::string& name, const Tensor& parameter, uint64_t seed, uint32_t purpose) {
  if (parameter.dim() != 4) {
    parameter.fill_(name.ends_with(".bias") ? 0 : 1);
    return;
  }
  const double area = static_cast<double>(parameter.size(2) * parameter.size(3));
  const double fan_in = static_cast<double>(parameter.size(1)) * area, fan_out = static_cast<double>(parameter.size(0)) * area;
  Random random(seed, Purpose::kInit, hash_name(name), purpose);
  float* values = parameter.data_ptr<float>();
  if (name.starts_with("encoder.")) {  // Kaiming normal, fan out, relu
    fill_normal(values, parameter.numel(), std::sqrt(2 / fan_out), random);
    return;
  }
  const double bound = name.starts_with("segmentation_head.") ? std::sqrt(6 / (fan_in + fan_out))  // Xavier uniform
                                                              : std::sqrt(6 / fan_in);  // Kaiming uniform, fan in, relu
  for (int64_t i = 0; i < parameter.numel(); ++i) values[i] = static_cast<float>(random.uniform(-bound, bound));
}

using Named = torch::OrderedDict<std::string, Tensor>;

void copy_named(const Named& from, const Named& to) {
  if (from.size() != to.size()) throw std::logic_error("copy_module: the modules are not alike");
  for (const auto& item : to) {
    const Tensor* source = from.find(item.key());
    if (source == nullptr || source->sizes() != item.value().sizes())
      throw std::logic_error("copy_module: " + item.key() + " is missing or has another shape");
    Tensor(item.value()).copy_(*source);
  }
}

}  // namespace

Registry<std::shared_ptr<Backbone>(const ModelConfig&)>& backbones() {
  static Registry<std::shared_ptr<Backbone>(const ModelConfig&)> registry("backbone");
  return registry;
}

Registry<std::shared_ptr<Decoder>(const ModelConfig&, const std::vector<int64_t>&)>& decoders() {
  static Registry<std::shared_ptr<Decoder>(const ModelConfig&, const std::vector<int64_t>&)> registry("decoder");
  return registry;
}

Segmenter::Segmenter(std::shared_ptr<Backbone> encoder, std::shared_ptr<Decoder> decoder, int64_t num_classes)
    : encoder_(register_module("encoder", std::move(encoder))),
      decoder_(register_module("decoder", std::move(decoder))),
      num_classes_(num_classes) {
  const auto convolution = std::make_shared<Conv2d>(decoder_->channels(), num_classes, 1, ConvOptions{.bias = true});
  head_ = register_module("segmentation_head", std::make_shared<Sequential>(std::vector<std::shared_ptr<Layer>>{convolution}));
}

std::vector<Tensor> Segmenter::encode(const Tensor& image_BCHW) {
  RECORD_USER_SCOPE(kNetworkScope);
  return encoder_->forward(image_BCHW);
}

Tensor Segmenter::decode_features(const std::vector<Tensor>& features) {
  RECORD_USER_SCOPE(kNetworkScope);
  return decoder_->forward(features);
}

Tensor Segmenter::classify(const Tensor& x_BChw) {
  RECORD_USER_SCOPE(kNetworkScope);
  return static_cast<Layer&>(*head_).forward(x_BChw);
}

void Segmenter::take_from_logits(const Tensor& bias_K) {
  at::NoGradGuard no_grad;
  head_->named_parameters()["0.bias"].sub_(bias_K);
}

std::shared_ptr<Segmenter> make_segmenter(const ModelConfig& config, int64_t num_classes, uint64_t seed, uint32_t purpose) {
  auto encoder = backbones().at(config.backbone)(config);
  auto decoder = decoders().at(config.decoder)(config, encoder->channels());
  auto network = std::make_shared<Segmenter>(std::move(encoder), std::move(decoder), num_classes);
  initialize_parameters(*network, "", seed, purpose);
  return network;
}

void initialize_parameters(torch::nn::Module& module, const std::string& prefix, uint64_t seed, uint32_t purpose) {
  const auto parameters = module.named_parameters().items();
  at::parallel_for(0, static_cast<int64_t>(parameters.size()), /*grain_size=*/1, [&](int64_t begin, int64_t end) {
    at::NoGradGuard no_grad;
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
      initialize(prefix + parameters[i].key(), parameters[i].value(), seed, purpose);
  });
}

void reseed_dropout(torch::nn::Module& root, uint64_t seed, int64_t step) {
  constexpr int kProcessBits = 32;  // over those that seeds usually have
  seed ^= static_cast<uint64_t>(process_rank()) << kProcessBits;
  uint32_t layer = 0;
  for (Dropout* dropout : dropouts_of(root)) dropout->reseed(seed, step, layer++);
}

void copy_module(const torch::nn::Module& from, torch::nn::Module& to) {
  at::NoGradGuard no_grad;
  copy_named(from.named_parameters(), to.named_parameters());
  copy_named(from.named_buffers(), to.named_buffers());
}

int64_t padded_side(int64_t side) { return (side + kCoarsestStride - 1) / kCoarsestStride * kCoarsestStride; }

Tensor pad_sides(const Tensor& x_HW, const at::Scalar& fill) {
  const int64_t H = x_HW.size(-2), W = x_HW.size(-1);
  return at::constant_pad_nd(x_HW, {0, padded_side(W) - W, 0, padded_side(H) - H}, fill);
}

}  // namespace semiseg
