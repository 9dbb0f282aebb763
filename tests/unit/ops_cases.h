// What the tests of the fused operations are made of, on the CPU and of the GPU's kernels.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "semiseg/types.h"

namespace semiseg {

// Waves of different length in every class and place: no two logits of a pixel are near each other for long.
inline Tensor waves(at::IntArrayRef sizes, double scale = 3) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  return (at::sin(at::arange(count, at::kDouble).square() * 0.37) * scale).to(at::kFloat).view(sizes);
}

// Every class and, where K + 1 goes by, kIgnore.
inline Tensor labels_of(int64_t B, int64_t H, int64_t W, int64_t K) {
  const auto label = (at::arange(B * H * W, at::kLong) * 7).remainder(K + 1).view({B, H, W});
  return at::where(label == K, kIgnore, label);
}

struct UpsamplingCase {
  const char* what;
  int64_t h, w, H, W;
};

inline void expect_close(const Tensor& got, const Tensor& wanted, double tolerance, const std::string& what) {
  ASSERT_EQ(got.sizes(), wanted.sizes()) << what;
  const double scale = std::max(1.0, wanted.abs().max().item<double>());
  EXPECT_LE((got.to(at::kDouble) - wanted.to(at::kDouble)).abs().max().item<double>(), tolerance * scale) << what;
}

}  // namespace semiseg
