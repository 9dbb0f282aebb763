// The layers that networks are built from, over ATen's functions. LibTorch's own modules are not used: they draw their initial
// weights and dropout masks from the global generator. Parameters start uninitialised; make_segmenter fills them.
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/convolution.h"
#include "semiseg/types.h"

namespace semiseg {

class Random;

// A module of one tensor in and one out, so that layers can stand in a Sequential.
class Layer : public torch::nn::Module {
 public:
  virtual Tensor forward(const Tensor& x_BCHW) = 0;
};

// scale_C x + shift_C, float64 [C].
struct ChannelAffine {
  Tensor scale_C, shift_C;
};

class Conv2d : public Layer {
 public:
  Conv2d(int64_t in, int64_t out, int64_t kernel, const ConvOptions& options = {});
  Tensor forward(const Tensor& x_BCHW) override;

  // From here on gives what `after` makes of its output.
  void absorb(const ChannelAffine& after);

 private:
  ConvOptions options_;
  Tensor weight_;  // [out, in / groups, kernel, kernel]
  Tensor bias_;    // [out], or undefined
};

// A normalisation, with the sum and the ReLU that may follow it.
class Norm2d : public Layer {
 public:
  Tensor forward(const Tensor& x_BCHW) final { return normalize(x_BCHW, /*relu=*/false, {}); }
  // relu(forward(x) + residual); residual may be undefined.
  Tensor forward_relu(const Tensor& x_BCHW, const Tensor& residual_BCHW = {}) {
    return normalize(x_BCHW, /*relu=*/true, residual_BCHW);
  }

 private:
  virtual Tensor normalize(const Tensor& x_BCHW, bool relu, const Tensor& residual_BCHW) = 0;
};

// model.norm: "group", or batch normalisation: "batch" of a process' own images, "sync" of those of all that train together.
std::shared_ptr<Norm2d> make_norm(const std::string& kind, int64_t channels);

// PyTorch's BatchNorm2d: momentum .1, eps 1e-5, running statistics and their counter as buffers. Throws Error(kConfig) in
// training mode for one value per channel, which has no variance.
class BatchNorm2d : public Norm2d {
 public:
  explicit BatchNorm2d(int64_t channels, bool sync = false);

  // What it computes in evaluation mode; from here on it hands back its input.
  ChannelAffine dissolve();

 private:
  Tensor normalize(const Tensor& x_BCHW, bool relu, const Tensor& residual_BCHW) override;

  Tensor weight_, bias_, running_mean_, running_var_;  // [C]
  Tensor num_batches_tracked_;                         // int64, zero-dimensional
  bool sync_;                                          // in training, over all processes
  bool dissolved_ = false;
};

// Group normalisation (Wu and He, ECCV 2018): of 32 groups, or of as many as divide both 32 and the channels. eps 1e-5.
class GroupNorm2d : public Norm2d {
 public:
  explicit GroupNorm2d(int64_t channels);

 private:
  Tensor normalize(const Tensor& x_BCHW, bool relu, const Tensor& residual_BCHW) override;

  int64_t groups_;
  Tensor weight_, bias_;  // [C]
};

class ReLU : public Layer {
 public:
  // In place: the layer before must not need its own output for its gradient, as neither convolution nor normalisation does.
  Tensor forward(const Tensor& x_BCHW) override;
};

// Drops values in training mode; what stays is scaled by 1 / (1 - p).
class Dropout : public Layer {
 public:
  explicit Dropout(double p);
  // Call n from here on draws from Random(seed, kDropout, (step, layer), n).
  void reseed(uint64_t seed, int64_t step, uint32_t layer);
  Tensor forward(const Tensor& x_BCHW) final;

  // From here on each call's mask stays where it is on the device, for a step to be recorded (src/step_graph.h): the first step
  // makes them, redraw() puts there what reseed() asks for before each other. False ends this.
  void keep_masks(bool keep);
  void redraw();

 protected:
  bool drops() const { return is_training() && p_ != 0; }
  // The mask of the next call for a tensor of these sizes, on the device.
  Tensor next_mask(at::IntArrayRef sizes, torch::Device device);

 private:
  // What `random` keeps of a tensor of these sizes at rate p, on the host.
  virtual Tensor draw(at::IntArrayRef sizes, double p, bool pinned, Random& random) const;
  // x with what the mask, on x's device, does not keep set to 0, and the rest scaled.
  virtual Tensor apply(const Tensor& x_BCHW, const Tensor& mask, double p) const;
  Tensor draw_call(uint32_t call, at::IntArrayRef sizes, bool pinned) const;

  struct Kept {
    std::vector<int64_t> sizes;
    Tensor mask;
  };
  double p_;
  uint64_t seed_ = 0;
  uint64_t address_ = 0;  // step and layer
  uint32_t calls_ = 0;
  bool keeps_ = false;
  std::vector<Kept> kept_;  // by call
};

// Drops whole channels of an image.
class Dropout2d : public Dropout {
 public:
  using Dropout::Dropout;

 private:
  Tensor draw(at::IntArrayRef sizes, double p, bool pinned, Random& random) const override;
  Tensor apply(const Tensor& x_BCHW, const Tensor& mask, double p) const final;
};

// UniMatch V2's complementary dropout (LiheYoung/UniMatch-V2, model/semseg/dpt.py) of two views of each image, [2 B, C, H, W],
// the first views before the second ones: every channel is doubled in one view of an image and dropped in the other, a coin
// says which. The share 1 - p of the images (rounded down) keeps all of them in both views; which ones is drawn anew each time.
class ComplementaryDropout : public Dropout2d {
 public:
  using Dropout2d::Dropout2d;
  // Features at several strides, whose channels have coins of their own (they differ in number; the published network's do not,
  // and share them); the images that keep all are the same at each. The first `views` (2 B) of the batch are such views, what
  // follows them stays as it is.
  std::vector<Tensor> drop(const std::vector<Tensor>& features, int64_t views);

 private:
  Tensor draw(at::IntArrayRef sizes, double p, bool pinned, Random& random) const override;
};

// All within a module, in the order of its children.
std::vector<Dropout*> dropouts_of(const torch::nn::Module& root);

// Layers in order, named "0", "1", ...
class Sequential : public Layer {
 public:
  Sequential() = default;
  explicit Sequential(const std::vector<std::shared_ptr<Layer>>& layers);
  void push_back(std::shared_ptr<Layer> layer);
  Tensor forward(const Tensor& x_BCHW) override;

 private:
  std::vector<std::shared_ptr<Layer>> layers_;
};

}  // namespace semiseg
