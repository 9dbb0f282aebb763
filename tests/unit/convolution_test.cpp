#include "models/convolution.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace semiseg {
namespace {

struct Case {
  const char* name;
  int64_t B, C, O, H, W, side;
  ConvOptions options;
};

const std::vector<Case> kCases{
    {"3x3", 2, 32, 8, 7, 9, 3, {.padding = 1}},
    {"no padding", 1, 33, 5, 6, 5, 3, {}},
    {"stride 2", 2, 32, 8, 9, 8, 3, {.stride = 2, .padding = 1}},
    {"dilated", 2, 32, 4, 9, 11, 3, {.padding = 4, .dilation = 4}},
    {"5x5", 1, 40, 3, 8, 8, 5, {.padding = 2}},
    {"one pixel", 3, 32, 8, 1, 1, 3, {.padding = 1}},
    {"several blocks", 2, 256, 16, 24, 24, 3, {.padding = 1}},
};

// What ATen's own convolution gives, in float64.
TEST(Convolution, HasTheGradientsOfThePlainForm) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    const auto x = at::randn({c.B, c.C, c.H, c.W}).contiguous(at::MemoryFormat::ChannelsLast).requires_grad_();
    const auto weight = at::randn({c.O, c.C, c.side, c.side}).contiguous(at::MemoryFormat::ChannelsLast).requires_grad_();
    const auto double_x = x.detach().to(at::kDouble).requires_grad_();
    const auto double_weight = weight.detach().to(at::kDouble).requires_grad_();
    const auto y = convolve(x, weight, {}, c.options);
    const auto expected =
        at::conv2d(double_x, double_weight, {}, c.options.stride, c.options.padding, c.options.dilation, c.options.groups);
    const auto close = [](const Tensor& a, const Tensor& b) {
      return a.sizes() == b.sizes() &&
             (a.to(at::kDouble) - b).abs().max().item<double>() < 1e-5 * std::max(1.0, b.abs().max().item<double>());
    };
    EXPECT_TRUE(close(y, expected));
    const auto gradient = at::randn_like(y);
    y.backward(gradient);
    expected.backward(gradient.to(at::kDouble));
    EXPECT_TRUE(close(x.grad(), double_x.grad()));
    EXPECT_TRUE(close(weight.grad(), double_weight.grad()));
    EXPECT_TRUE(close(weight_gradient(gradient, x.detach(), weight.sizes(), c.options), double_weight.grad()));
    EXPECT_TRUE(weight_gradient(gradient, x.detach(), weight.sizes(), c.options)
                    .equal(weight_gradient(gradient, x.detach(), weight.sizes(), c.options)));
  }
}

TEST(Convolution, TakesNoGradientThatNobodyAsksFor) {
  const auto x = at::randn({1, 32, 4, 4}), weight = at::randn({2, 32, 3, 3}).requires_grad_();
  convolve(x, weight, {}, {.padding = 1}).sum().backward();
  EXPECT_FALSE(x.grad().defined());
  EXPECT_TRUE(weight.grad().defined());
  const auto frozen = weight.detach();
  const auto input = at::randn({1, 32, 4, 4}).requires_grad_();
  convolve(input, frozen, {}, {.padding = 1}).sum().backward();
  EXPECT_TRUE(input.grad().defined());
}

}  // namespace
}  // namespace semiseg
