#include "models/group_norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "semiseg/error.h"
#include "unit/ops_cases.h"

namespace semiseg {
namespace {

constexpr double kEpsilon = 1e-5;

struct Result {
  Tensor y, of_x, of_weight, of_bias;
};

template <class F>
Result run(const F& f, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& above) {
  const auto a = x.detach().clone().requires_grad_(), b = weight.detach().clone().requires_grad_(),
             c = bias.detach().clone().requires_grad_();
  const auto y = f(a, b, c);
  y.backward(above.to(y.scalar_type()));
  return {y.detach(), a.grad(), b.grad(), c.grad()};
}

struct Case {
  int64_t B, C, H, W, groups;
};
// One pixel, a row, several blocks of pixels with a rest, channels that fill no vector.
const std::vector<Case> kCases{{2, 8, 1, 1, 2}, {1, 6, 1, 5, 3}, {3, 128, 19, 13, 32}, {2, 20, 16, 16, 1}, {1, 7, 9, 8, 7}};

// What ATen's two operations give in float64.
TEST(GroupNormReLU, HasTheValuesAndGradientsOfThePlainForm) {
  for (const auto& [B, C, H, W, groups] : kCases) {
    const auto x = (waves({B, C, H, W}) + 5).contiguous(at::MemoryFormat::ChannelsLast);
    const auto weight = waves({C}) + 0.5, bias = waves({C}, 1).flip(0), above = waves({B, C, H, W}, 1).flip(2);
    for (const auto& [type, tolerance] : {std::pair(at::kFloat, 3e-5), std::pair(at::kBFloat16, 3e-2)}) {
      const auto typed = x.to(type);
      const auto of = [groups = groups](const Tensor& a, const Tensor& b, const Tensor& c) {
        return group_norm_relu(a, groups, b, c, kEpsilon);
      };
      const auto plain = [groups = groups](const Tensor& a, const Tensor& b, const Tensor& c) {
        return at::group_norm(a, groups, b, c, kEpsilon).relu();
      };
      const auto got = run(of, typed, weight, bias, above);
      // The ReLU's gradient jumps at 0: a value within rounding of it would make both right.
      const auto wanted = run(plain, typed.to(at::kDouble), weight.to(at::kDouble), bias.to(at::kDouble), above.to(type));
      const auto what = str(B, " x ", C, " x ", H, " x ", W, " in ", groups, " groups, ", at::toString(type));
      EXPECT_EQ(got.y.scalar_type(), type);
      EXPECT_EQ(got.of_x.scalar_type(), type);
      EXPECT_TRUE(got.y.is_contiguous(at::MemoryFormat::ChannelsLast));
      expect_close(got.y, wanted.y, tolerance, what);
      expect_close(got.of_x, wanted.of_x, tolerance, what);
      expect_close(got.of_weight, wanted.of_weight, tolerance, what);
      expect_close(got.of_bias, wanted.of_bias, tolerance, what);
    }
  }
}

TEST(GroupNormReLU, IsAtensWhereNothingLearnsAndInOtherFormats) {
  const auto x = waves({2, 8, 5, 6}), weight = waves({8}), bias = waves({8}, 1);
  const auto wanted = at::group_norm(x, 2, weight, bias, kEpsilon).relu();
  EXPECT_TRUE(group_norm_relu(x, 2, weight, bias, kEpsilon).equal(wanted));
  const auto last = x.contiguous(at::MemoryFormat::ChannelsLast);
  const auto learned = group_norm_relu(last.detach().requires_grad_(), 2, weight, bias, kEpsilon);
  EXPECT_TRUE(learned.requires_grad());
  expect_close(learned.detach(), wanted, 1e-5, "channels-last");
  EXPECT_TRUE(group_norm_relu(x.to(at::kDouble), 2, weight.to(at::kDouble), bias.to(at::kDouble), kEpsilon)
                  .allclose(wanted.to(at::kDouble), 1e-5, 1e-5));
}

TEST(GroupNormReLU, GivesTheSameOnAnyNumberOfThreads) {
  const auto x = waves({2, 64, 33, 21}).contiguous(at::MemoryFormat::ChannelsLast), weight = waves({64}), bias = waves({64}, 1);
  const auto of = [](const Tensor& a, const Tensor& b, const Tensor& c) { return group_norm_relu(a, 16, b, c, kEpsilon); };
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = run(of, x, weight, bias, x);
  at::set_num_threads(3);
  const auto three = run(of, x, weight, bias, x);
  at::set_num_threads(threads);
  EXPECT_TRUE(one.y.equal(three.y));
  EXPECT_TRUE(one.of_x.equal(three.of_x));
  EXPECT_TRUE(one.of_weight.equal(three.of_weight));
  EXPECT_TRUE(one.of_bias.equal(three.of_bias));
}

TEST(GroupNormReLU, PassesNotANumberOn) {
  auto x = waves({1, 4, 3, 3}).contiguous(at::MemoryFormat::ChannelsLast);
  x[0][0][1][1] = std::numeric_limits<float>::quiet_NaN();
  const auto y = group_norm_relu(x.requires_grad_(), 2, at::ones({4}), at::zeros({4}), kEpsilon).detach();
  EXPECT_TRUE(y.narrow(1, 0, 2).isnan().all().item<bool>());
  EXPECT_FALSE(y.narrow(1, 2, 2).isnan().any().item<bool>());
}

}  // namespace
}  // namespace semiseg
