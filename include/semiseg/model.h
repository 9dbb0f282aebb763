// Networks: a backbone (encoder), a decoder and a head. Parameter names are those of segmentation_models_pytorch:
// encoder.layer1.0.conv1.weight, decoder.p5.weight, segmentation_head.0.weight.
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <vector>

#include "semiseg/config.h"
#include "semiseg/registry.h"
#include "semiseg/types.h"

namespace semiseg {

class Backbone : public torch::nn::Module {
 public:
  // image_BCHW -> features at strides 4, 8, 16, 32, finest first; with model.output_stride 16 or 8 no stride is above that. A
  // side of n pixels gives ceil(n / stride).
  virtual std::vector<Tensor> forward(Tensor image_BCHW) = 0;
  virtual std::vector<int64_t> channels() const = 0;  // of those features
};

class Decoder : public torch::nn::Module {
 public:
  // features of Backbone::forward -> [B, channels(), h, w] at stride 4.
  virtual Tensor forward(const std::vector<Tensor>& features) = 0;
  virtual int64_t channels() const = 0;
  // Whether an image's output does not depend on the others of its batch, in training too: there is no batch normalisation.
  virtual bool takes_images_apart() const { return false; }
};

Registry<std::shared_ptr<Backbone>(const ModelConfig&)>& backbones();
Registry<std::shared_ptr<Decoder>(const ModelConfig&, const std::vector<int64_t>& channels)>& decoders();

// A module of a run and the name that checkpoints know it by.
struct NamedModule {
  std::string name;
  torch::nn::Module* module;
};

class Segmenter : public torch::nn::Module {
 public:
  Segmenter(std::shared_ptr<Backbone> encoder, std::shared_ptr<Decoder> decoder, int64_t num_classes);

  std::vector<Tensor> encode(const Tensor& image_BCHW);
  // logits_BKhw at stride 4. Upsampling to the image is the loss's or the metric's business (ops.h).
  Tensor decode(const std::vector<Tensor>& features) { return classify(decode_features(features)); }
  // The two halves of decode: the decoder's output [B, decoder_channels(), h, w], and the head's 1x1 convolution on it.
  Tensor decode_features(const std::vector<Tensor>& features);
  Tensor classify(const Tensor& x_BChw);
  int64_t decoder_channels() const { return decoder_->channels(); }
  // Whether images may be decoded in one pass or in several, to the same end.
  bool decodes_images_apart() const { return decoder_->takes_images_apart(); }
  Tensor forward(const Tensor& image_BCHW) { return decode(encode(image_BCHW)); }

  int64_t num_classes() const { return num_classes_; }

  // From here on gives its logits minus bias_K: by the head's bias, so bilinear upsampling makes no difference.
  void take_from_logits(const Tensor& bias_K);

 private:
  std::shared_ptr<Backbone> encoder_;
  std::shared_ptr<Decoder> decoder_;
  std::shared_ptr<torch::nn::Module> head_;
  int64_t num_classes_;
};

// A new network with the seed's initial weights: ResNet as torchvision initialises it (Kaiming normal, fan out), FPN and head
// as segmentation_models_pytorch does (Kaiming uniform, Xavier uniform). `purpose` sets the networks of one method apart.
std::shared_ptr<Segmenter> make_segmenter(const ModelConfig& config, int64_t num_classes, uint64_t seed, uint32_t purpose = 0);

// The initial values of a module's parameters, which make_segmenter gives to networks: each from a stream of its own, keyed by
// `prefix` + its name. A name under encoder. is ResNet's, one under segmentation_head. the head's, any other one the decoder's.
void initialize_parameters(torch::nn::Module& module, const std::string& prefix, uint64_t seed, uint32_t purpose = 0);

// Gives every dropout layer below `root` its draws for one micro-step: masks are a pure function of (seed, step, layer, call),
// and of the process where several train together.
void reseed_dropout(torch::nn::Module& root, uint64_t seed, int64_t step);

// Copies parameters and buffers, which must have equal names and shapes.
void copy_module(const torch::nn::Module& from, torch::nn::Module& to);

// A side rounded up to what the network wants (32), so that a whole image is scored without resampling: evaluation pads with
// the mean colour at the right and the bottom, and cuts the logits back.
int64_t padded_side(int64_t side);
// The last two dimensions made that long, with `fill` at the right and the bottom.
Tensor pad_sides(const Tensor& x_HW, const at::Scalar& fill = 0);

// A network in evaluation mode for as long as this lives; then it is in the mode it was in.
class EvaluationMode {
 public:
  explicit EvaluationMode(Segmenter& network) : network_(network), training_(network.is_training()) { network.eval(); }
  ~EvaluationMode() { network_.train(training_); }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  Segmenter& network_;
  bool training_;
};

}  // namespace semiseg
