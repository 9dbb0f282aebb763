#include "models/convolution.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>

namespace semiseg {
namespace {

constexpr int64_t kFewestChannels = 32;             // with fewer, patches are copied in pieces too small
constexpr int64_t kBlockValues = int64_t{1} << 18;  // of patches at a time: 1 MiB

bool onednn_is_slow() {
#if defined(__x86_64__)
  return !__builtin_cpu_supports("avx512f");
#else
  return false;
#endif
}

class Convolution : public torch::autograd::Function<Convolution> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_BCHW, const Tensor& weight_OCkk,
                        int64_t stride, int64_t padding, int64_t dilation) {
    context->save_for_backward({x_BCHW, weight_OCkk});
    context->saved_data["stride"] = stride;
    context->saved_data["padding"] = padding;
    context->saved_data["dilation"] = dilation;
    return at::conv2d(x_BCHW, weight_OCkk, /*bias=*/{}, stride, padding, dilation);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto &x_BCHW = saved[0], &weight_OCkk = saved[1];
    const ConvOptions options{.stride = context->saved_data["stride"].toInt(),
                              .padding = context->saved_data["padding"].toInt(),
                              .dilation = context->saved_data["dilation"].toInt()};
    Tensor of_x_BCHW, of_weight_OCkk;
    if (context->needs_input_grad(0)) {
      const auto both = [](int64_t value) { return std::array{value, value}; };
      const auto stride = both(options.stride), padding = both(options.padding), dilation = both(options.dilation),
                 none = both(0);
      of_x_BCHW = std::get<0>(at::convolution_backward(gradients[0], x_BCHW, weight_OCkk, /*bias_sizes=*/std::nullopt, stride,
                                                       padding, dilation, /*transposed=*/false, /*output_padding=*/none,
                                                       /*groups=*/1, /*output_mask=*/{true, false, false}));
    }
    if (context->needs_input_grad(1)) of_weight_OCkk = weight_gradient(gradients[0], x_BCHW, weight_OCkk.sizes(), options);
    return {of_x_BCHW, of_weight_OCkk, {}, {}, {}};
  }
};

}  // namespace

Tensor weight_gradient(const Tensor& gradient_BOhw, const Tensor& x_BCHW, at::IntArrayRef weight_sizes,
                       const ConvOptions& options) {
  const auto x_BHWC = x_BCHW.contiguous(at::MemoryFormat::ChannelsLast);
  const auto gradient_BhwO = gradient_BOhw.contiguous(at::MemoryFormat::ChannelsLast).permute({0, 2, 3, 1});
  const int64_t H = x_BCHW.size(2), W = x_BCHW.size(3), C = x_BCHW.size(1);
  const int64_t h = gradient_BOhw.size(2), w = gradient_BOhw.size(3), O = weight_sizes[0], side = weight_sizes[2];
  const int64_t pixels = gradient_BOhw.size(0) * h * w;  // of the output: P
  const int64_t patch = side * side * C;                 // values of the input that one of them sees
  const int64_t block = std::min(pixels, std::max<int64_t>(1, kBlockValues / patch));

  auto result_OCkk = at::empty(weight_sizes, x_BCHW.options(), at::MemoryFormat::ChannelsLast);
  auto result_Op = result_OCkk.permute({0, 2, 3, 1}).view({O, patch});
  const auto gradient_PO = gradient_BhwO.reshape({pixels, O});
  const auto patches_Pp = at::empty({block, patch}, x_BCHW.options());
  const float* x = x_BHWC.data_ptr<float>();
  float* patches = patches_Pp.data_ptr<float>();

  const auto copy_patch = [&](int64_t pixel, float* to) {
    const int64_t image = pixel / (h * w), top = pixel / w % h * options.stride - options.padding,
                  left = pixel % w * options.stride - options.padding;
    for (int64_t row = 0; row < side; ++row)
      for (int64_t column = 0; column < side; ++column, to += C) {
        const int64_t y = top + row * options.dilation, z = left + column * options.dilation;
        if (y < 0 || y >= H || z < 0 || z >= W)
          std::fill_n(to, C, 0.0f);
        else
          std::copy_n(x + ((image * H + y) * W + z) * C, C, to);
      }
  };
  for (int64_t begin = 0; begin < pixels; begin += block) {
    const int64_t count = std::min(block, pixels - begin);
    at::parallel_for(0, count, /*grain_size=*/16, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) copy_patch(begin + i, patches + i * patch);
    });
    at::addmm_out(result_Op, result_Op, gradient_PO.narrow(0, begin, count).t(), patches_Pp.narrow(0, 0, count),
                  /*beta=*/begin > 0 ? 1 : 0);
  }
  return result_OCkk;
}

Tensor convolve(const Tensor& x_BCHW, const Tensor& weight_OCkk, const Tensor& bias_O, const ConvOptions& options) {
  static const bool slow = onednn_is_slow();
  const bool learns = at::GradMode::is_enabled() && weight_OCkk.requires_grad();
  const bool float32 = x_BCHW.scalar_type() == at::kFloat && !at::autocast::is_autocast_enabled(at::kCPU);
  if (slow && learns && float32 && x_BCHW.is_cpu() && !bias_O.defined() && options.groups == 1 && weight_OCkk.size(2) > 1 &&
      x_BCHW.size(1) >= kFewestChannels)
    return Convolution::apply(x_BCHW, weight_OCkk, options.stride, options.padding, options.dilation);
  return at::conv2d(x_BCHW, weight_OCkk, bias_O, options.stride, options.padding, options.dilation, options.groups);
}

}  // namespace semiseg
