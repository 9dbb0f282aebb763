#include "models/resampling.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/gathering.h"
#include "semiseg/error.h"
#include "unit/ops_cases.h"

namespace semiseg {
namespace {

const std::pair<int64_t, int64_t> kSizes[] = {{1, 1}, {2, 3}, {5, 4}, {8, 8}, {13, 7}};

// Values and gradients of `ours` are those of `atens`, in both memory formats and in bfloat16.
template <class Ours, class Atens>
void expect_same(const Tensor& x_BCHW, const Ours& ours, const Atens& atens, const std::string& what) {
  for (const bool channels_last : {false, true})
    for (const auto& [type, tolerance] : {std::pair(at::kFloat, 1e-6), std::pair(at::kBFloat16, 1e-2)}) {
      const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
      const auto a = x_BCHW.to(type).contiguous(format).clone().requires_grad_(), b = a.detach().clone().requires_grad_();
      const auto got = ours(a), wanted = atens(b);
      EXPECT_TRUE(got.equal(wanted)) << what;
      const auto gradient = waves(wanted.sizes()).to(type);
      got.backward(gradient);
      wanted.backward(gradient);
      EXPECT_EQ(a.grad().scalar_type(), type);
      expect_close(a.grad(), b.grad(), tolerance, what);
    }
}

TEST(Resampling, GatheringMaxPoolHasAtensGradient) {
  for (const auto& [H, W] : kSizes) {
    const auto aten = [](const Tensor& x) { return at::max_pool2d(x, 3, 2, 1); };
    expect_same(waves({2, 3, H, W}), max_pool_3x3_gathering, aten, str(H, " x ", W));
    expect_same(at::zeros({2, 3, H, W}), max_pool_3x3_gathering, aten, str(H, " x ", W, ", all the same"));
  }
}

TEST(Resampling, GatheringEnlargementHasAtensGradient) {
  for (const auto& [h, w] : kSizes)
    for (const auto& [H, W] : kSizes)
      for (const bool align_corners : {true, false})
        expect_same(
            waves({2, 3, h, w}), [&](const Tensor& x) { return ops::enlarge_gathering(x, H, W, align_corners); },
            [&](const Tensor& x) {
              return at::upsample_bilinear2d(x, {H, W}, align_corners);
            },
            str(h, " x ", w, " to ", H, " x ", W, align_corners ? ", aligned" : ""));
}

}  // namespace
}  // namespace semiseg
