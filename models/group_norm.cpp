#include "models/group_norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "vectorized.h"

namespace semiseg {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Work is cut into so many pixels of one image. Sums are float32 within a block and float64 over the blocks, in their order.
constexpr int64_t kBlock = 64;

// Pixel by pixel on [pixels, C]. No two pointers lead to the same memory.

SEMISEG_VECTORIZED
void add_moments(const float* __restrict x, int64_t pixels, int64_t C, float* __restrict sum_C, float* __restrict square_C) {
  for (int64_t i = 0; i < pixels; ++i, x += C)
    for (int64_t c = 0; c < C; ++c) {
      sum_C[c] += x[c];
      square_C[c] += x[c] * x[c];
    }
}

SEMISEG_VECTORIZED
void scale_shift_relu(const float* __restrict x, int64_t pixels, int64_t C, const float* __restrict scale_C,
                      const float* __restrict shift_C, float* __restrict y) {
  for (int64_t i = 0; i < pixels; ++i, x += C, y += C)
    for (int64_t c = 0; c < C; ++c) {
      const float value = x[c] * scale_C[c] + shift_C[c];
      y[c] = value < 0 ? 0.0f : value;  // not a number stays so
    }
}

// The gradient behind the ReLU, g, is `above` where the ReLU's input was positive.
SEMISEG_VECTORIZED
void add_gradient_sums(const float* __restrict x, const float* __restrict above, int64_t pixels, int64_t C,
                       const float* __restrict scale_C, const float* __restrict shift_C, float* __restrict sum_C,
                       float* __restrict product_C) {
  for (int64_t i = 0; i < pixels; ++i, x += C, above += C)
    for (int64_t c = 0; c < C; ++c) {
      const float g = x[c] * scale_C[c] + shift_C[c] > 0 ? above[c] : 0.0f;
      sum_C[c] += g;
      product_C[c] += g * x[c];
    }
}

SEMISEG_VECTORIZED
void make_gradient(const float* __restrict x, const float* __restrict above, int64_t pixels, int64_t C,
                   const float* __restrict scale_C, const float* __restrict shift_C, const float* __restrict of_x_C,
                   const float* __restrict constant_C, float* __restrict to) {
  for (int64_t i = 0; i < pixels; ++i, x += C, above += C, to += C)
    for (int64_t c = 0; c < C; ++c) {
      const float g = x[c] * scale_C[c] + shift_C[c] > 0 ? above[c] : 0.0f;
      to[c] = g * scale_C[c] + (x[c] * of_x_C[c] + constant_C[c]);
    }
}

SEMISEG_VECTORIZED
void widen(const uint16_t* __restrict from, int64_t count, float* __restrict to) {
  for (int64_t i = 0; i < count; ++i) to[i] = std::bit_cast<float>(static_cast<uint32_t>(from[i]) << 16);
}

// To the nearest bfloat16, of two equally near ones to the even one, as ATen rounds.
SEMISEG_VECTORIZED
void narrow(const float* __restrict from, int64_t count, uint16_t* __restrict to) {
  for (int64_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<uint32_t>(from[i]);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    to[i] = static_cast<uint16_t>(from[i] != from[i] ? 0x7fc0 : rounded);
  }
}

// A channels-last tensor as float32, some pixels at a time.
class Pixels {
 public:
  explicit Pixels(const Tensor& x_BCHW)
      : data_(x_BCHW.data_ptr()), C_(x_BCHW.size(1)), narrow_(x_BCHW.scalar_type() == at::kBFloat16) {}

  // What reading or writing `count` pixels needs for a buffer: nothing where they are float32 already.
  std::vector<float> buffer(int64_t count) const { return std::vector<float>(narrow_ ? static_cast<size_t>(count * C_) : 0); }
  // `count` pixels from `begin` on.
  const float* read(int64_t begin, int64_t count, float* buffer) const {
    if (!narrow_) return static_cast<const float*>(data_) + begin * C_;
    widen(static_cast<const uint16_t*>(data_) + begin * C_, count * C_, buffer);
    return buffer;
  }
  // Where they are to be written; done() brings them home.
  float* write(int64_t begin, float* buffer) const { return narrow_ ? buffer : static_cast<float*>(data_) + begin * C_; }
  void done(int64_t begin, int64_t count, const float* buffer) const {
    if (narrow_) narrow(buffer, count * C_, static_cast<uint16_t*>(data_) + begin * C_);
  }

 private:
  void* data_;
  int64_t C_;
  bool narrow_;
};

struct Shape {
  explicit Shape(const Tensor& x_BCHW, int64_t groups)
      : B(x_BCHW.size(0)),
        C(x_BCHW.size(1)),
        P(x_BCHW.size(2) * x_BCHW.size(3)),
        G(groups),
        blocks((P + kBlock - 1) / kBlock) {}

  int64_t channels_of_group() const { return C / G; }
  int64_t values_of_group() const { return C / G * P; }

  // f(image, block, first pixel of all images, pixels) in parallel.
  template <class F>
  void for_blocks(const F& f) const {
    at::parallel_for(0, B * blocks, /*grain_size=*/1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / blocks, block = i % blocks;
        f(b, block, b * P + block * kBlock, std::min(kBlock, P - block * kBlock));
      }
    });
  }

  int64_t B, C, P, G, blocks;  // P: pixels of an image
};

// Two sums for each image and channel, [B, C] each, from those of the blocks.
struct Sums {
  std::vector<double> first_BC, second_BC;
};

// f(first pixel, pixels, first sums [C], second sums [C]) adds to them.
template <class F>
Sums sum_blocks(const Shape& shape, const F& f) {
  const auto [B, C, blocks] = std::tuple(shape.B, shape.C, shape.blocks);
  std::vector<float> of_blocks(static_cast<size_t>(B * blocks * 2 * C));  // [B, blocks, 2, C]
  shape.for_blocks([&](int64_t b, int64_t block, int64_t begin, int64_t pixels) {
    float* sums = of_blocks.data() + (b * shape.blocks + block) * 2 * shape.C;
    f(begin, pixels, sums, sums + shape.C);
  });
  Sums sums{std::vector<double>(static_cast<size_t>(B * C)), std::vector<double>(static_cast<size_t>(B * C))};
  for (int64_t b = 0; b < B; ++b)
    for (int64_t block = 0; block < blocks; ++block) {
      const float* from = of_blocks.data() + (b * blocks + block) * 2 * C;
      for (int64_t c = 0; c < C; ++c) {
        sums.first_BC[static_cast<size_t>(b * C + c)] += from[c];
        sums.second_BC[static_cast<size_t>(b * C + c)] += from[C + c];
      }
    }
  return sums;
}

// relu(x scale + shift), float32 [B, C] each.
struct Affine {
  Affine(const Shape& shape, const Tensor& mean_BG, const Tensor& rstd_BG, const Tensor& weight_C, const Tensor& bias_C)
      : scale_BC(static_cast<size_t>(shape.B * shape.C)), shift_BC(scale_BC.size()) {
    const auto *mean = mean_BG.const_data_ptr<float>(), *rstd = rstd_BG.const_data_ptr<float>(),
               *weight = weight_C.const_data_ptr<float>(), *bias = bias_C.const_data_ptr<float>();
    for (int64_t i = 0; i < shape.B * shape.C; ++i) {
      const int64_t c = i % shape.C, group = i / shape.channels_of_group();  // of all images
      scale_BC[static_cast<size_t>(i)] = weight[c] * rstd[group];
      shift_BC[static_cast<size_t>(i)] = bias[c] - mean[group] * scale_BC[static_cast<size_t>(i)];
    }
  }

  std::vector<float> scale_BC, shift_BC;
};

class GroupNormReLU : public torch::autograd::Function<GroupNormReLU> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& x_BCHW, int64_t groups, const Tensor& weight_C,
                        const Tensor& bias_C, double epsilon) {
    const Shape shape(x_BCHW, groups);
    const int64_t C = shape.C;
    const Pixels x(x_BCHW);
    const auto sums = sum_blocks(shape, [&](int64_t begin, int64_t pixels, float* sum_C, float* square_C) {
      auto buffer = x.buffer(pixels);
      add_moments(x.read(begin, pixels, buffer.data()), pixels, C, sum_C, square_C);
    });
    const auto mean_BG = at::empty({shape.B, groups}, at::kFloat), rstd_BG = at::empty({shape.B, groups}, at::kFloat);
    auto *mean = mean_BG.data_ptr<float>(), *rstd = rstd_BG.data_ptr<float>();
    for (int64_t group = 0; group < shape.B * groups; ++group) {
      double sum = 0, square = 0;
      for (int64_t i = group * shape.channels_of_group(); i < (group + 1) * shape.channels_of_group(); ++i) {
        sum += sums.first_BC[static_cast<size_t>(i)];
        square += sums.second_BC[static_cast<size_t>(i)];
      }
      const auto N = static_cast<double>(shape.values_of_group());
      const double variance = square / N - sum / N * (sum / N);
      mean[group] = static_cast<float>(sum / N);
      rstd[group] = static_cast<float>(1 / std::sqrt((variance < 0 ? 0 : variance) + epsilon));
    }

    const Affine affine(shape, mean_BG, rstd_BG, weight_C, bias_C);
    const auto y_BCHW = at::empty_like(x_BCHW);
    const Pixels y(y_BCHW);
    shape.for_blocks([&](int64_t b, int64_t, int64_t begin, int64_t pixels) {
      auto x_buffer = x.buffer(pixels), y_buffer = y.buffer(pixels);
      scale_shift_relu(x.read(begin, pixels, x_buffer.data()), pixels, C, affine.scale_BC.data() + b * C,
                       affine.shift_BC.data() + b * C, y.write(begin, y_buffer.data()));
      y.done(begin, pixels, y_buffer.data());
    });
    context->save_for_backward({x_BCHW, weight_C, bias_C, mean_BG, rstd_BG});
    return y_BCHW;
  }

  // With g the gradient behind the ReLU, and S_g, S_gx the sums over a group of weight_c g and weight_c g x, N its values:
  //   dx = rstd weight_c g + q x + r,   q = rstd^3 (S_g mean - S_gx) / N,   r = -q mean - rstd S_g / N
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto &x_BCHW = saved[0], &weight_C = saved[1], &mean_BG = saved[3], &rstd_BG = saved[4];
    const Shape shape(x_BCHW, mean_BG.size(1));
    const int64_t C = shape.C;
    const auto above_BCHW = gradients[0].to(x_BCHW.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
    const Pixels x(x_BCHW), above(above_BCHW);
    const Affine affine(shape, mean_BG, rstd_BG, weight_C, saved[2]);
    const auto sums = sum_blocks(shape, [&](int64_t begin, int64_t pixels, float* sum_C, float* product_C) {
      auto x_buffer = x.buffer(pixels), above_buffer = above.buffer(pixels);
      const int64_t first = begin / shape.P * C;
      add_gradient_sums(x.read(begin, pixels, x_buffer.data()), above.read(begin, pixels, above_buffer.data()), pixels, C,
                        affine.scale_BC.data() + first, affine.shift_BC.data() + first, sum_C, product_C);
    });

    const auto *mean = mean_BG.const_data_ptr<float>(), *rstd = rstd_BG.const_data_ptr<float>(),
               *weight = weight_C.const_data_ptr<float>();
    std::vector<float> of_x_BC(affine.scale_BC.size()), constant_BC(affine.scale_BC.size());
    std::vector<double> of_weight(static_cast<size_t>(C)), of_bias(static_cast<size_t>(C));
    for (int64_t group = 0; group < shape.B * shape.G; ++group) {
      double sum = 0, product = 0;
      const int64_t first = group * shape.channels_of_group(), last = first + shape.channels_of_group();
      for (int64_t i = first; i < last; ++i) {
        const double g = sums.first_BC[static_cast<size_t>(i)], gx = sums.second_BC[static_cast<size_t>(i)];
        sum += weight[i % C] * g;
        product += weight[i % C] * gx;
        of_weight[static_cast<size_t>(i % C)] += (gx - mean[group] * g) * rstd[group];
        of_bias[static_cast<size_t>(i % C)] += g;
      }
      const auto N = static_cast<double>(shape.values_of_group());
      const double r = rstd[group], q = r * r * r * (sum * mean[group] - product) / N;
      std::fill(of_x_BC.begin() + first, of_x_BC.begin() + last, static_cast<float>(q));
      std::fill(constant_BC.begin() + first, constant_BC.begin() + last, static_cast<float>(-q * mean[group] - r * sum / N));
    }

    const auto of_x_BCHW = at::empty_like(x_BCHW);
    const Pixels to(of_x_BCHW);
    shape.for_blocks([&](int64_t b, int64_t, int64_t begin, int64_t pixels) {
      auto x_buffer = x.buffer(pixels), above_buffer = above.buffer(pixels), to_buffer = to.buffer(pixels);
      make_gradient(x.read(begin, pixels, x_buffer.data()), above.read(begin, pixels, above_buffer.data()), pixels, C,
                    affine.scale_BC.data() + b * C, affine.shift_BC.data() + b * C, of_x_BC.data() + b * C,
                    constant_BC.data() + b * C, to.write(begin, to_buffer.data()));
      to.done(begin, pixels, to_buffer.data());
    });
    return {of_x_BCHW, Tensor(), at::tensor(of_weight).to(at::kFloat), at::tensor(of_bias).to(at::kFloat), Tensor()};
  }
};

}  // namespace

Tensor group_norm_relu(const Tensor& x_BCHW, int64_t groups, const Tensor& weight_C, const Tensor& bias_C, double epsilon) {
  const bool learns = at::GradMode::is_enabled() && (x_BCHW.requires_grad() || weight_C.requires_grad());
  const auto type = x_BCHW.scalar_type();
  if (learns && x_BCHW.is_cpu() && (type == at::kFloat || type == at::kBFloat16) && weight_C.scalar_type() == at::kFloat &&
      x_BCHW.numel() > 0 && x_BCHW.is_contiguous(at::MemoryFormat::ChannelsLast))
    return GroupNormReLU::apply(x_BCHW, groups, weight_C, bias_C, epsilon);
  return at::group_norm(x_BCHW, groups, weight_C, bias_C, epsilon, /*cudnn_enabled=*/true).relu_();
}

}  // namespace semiseg
