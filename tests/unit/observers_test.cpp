#include "observers.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include "semiseg/device.h"

namespace semiseg {
namespace {

TEST(FlopCounter, CountsConvolutionsAndTheirGradients) {
  const auto x = at::ones({2, 4, 8, 8}), weight = at::ones({6, 2, 3, 3}).requires_grad_();
  const auto convolve = [&](const Tensor& input) {
    return at::conv2d(input, weight, {}, /*stride=*/2, /*padding=*/1, /*dilation=*/1, /*groups=*/2);
  };
  // Output 2 x 6 x 4 x 4, and 2 x 3 x 3 multiply-adds for each of its values.
  const double once = 2.0 * (2 * 6 * 4 * 4) * (2 * 3 * 3);

  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    const FlopCounter counter;
    Tensor y;
    {
      const Autocast autocast(torch::kCPU, precision);
      y = convolve(x);
    }
    EXPECT_EQ(counter.flop(), once) << precision_name(precision);
    y.sum().backward();
    EXPECT_EQ(counter.flop(), 2 * once) << precision_name(precision);  // the input asks for no gradient
  }
  const FlopCounter counter;
  convolve(x.clone().requires_grad_()).sum().backward();
  EXPECT_EQ(counter.flop(), 3 * once);
}

TEST(FlopCounter, CountsMatrixProducts) {
  const FlopCounter counter;
  at::mm(at::ones({2, 3}), at::ones({3, 5}));
  EXPECT_EQ(counter.flop(), 2 * 2 * 3 * 5);
  at::addmm(at::ones({5}), at::ones({2, 3}), at::ones({3, 5}));
  EXPECT_EQ(counter.flop(), 4 * 2 * 3 * 5);
  at::bmm(at::ones({7, 2, 3}), at::ones({7, 3, 5}));
  EXPECT_EQ(counter.flop(), (4 + 2 * 7) * 2 * 3 * 5);
}

TEST(ScopeTimer, AddsUpTheTimesOfAScope) {
  const auto enter = [](const char* scope) {
    RECORD_USER_SCOPE(scope);
    at::ones({1000}).sum();
  };
  const ScopeTimer timer(torch::kCPU);
  EXPECT_EQ(timer.seconds("one"), 0);
  enter("one");
  const double once = timer.seconds("one");
  EXPECT_GT(once, 0);
  enter("one");
  EXPECT_GT(timer.seconds("one"), once);
  EXPECT_EQ(timer.seconds("other"), 0);
}

TEST(OperatorTimer, SeesOperatorsAndGradients) {
  const OperatorTimer timer;
  at::mm(at::ones({2, 3}).requires_grad_(), at::ones({3, 5})).sum().backward();
  const auto times = timer.times();
  EXPECT_GE(times.at("aten::sum").calls, 1);
  EXPECT_EQ(times.at("aten::mm").calls, 2);
  EXPECT_EQ(times.at("MmBackward0").calls, 1);
  for (const auto& [name, time] : times) EXPECT_GE(time.seconds, 0) << name;
}

}  // namespace
}  // namespace semiseg
