#include "models/sync_norm.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "semiseg/error.h"
#include "unit/ops_cases.h"

namespace semiseg {
namespace {

constexpr double kMomentum = 0.1, kEpsilon = 1e-5;

struct Result {
  Tensor y, of_x, of_weight, of_bias, mean, var;
};

template <class Norm>
Result run(const Norm& norm, const Tensor& x_BCHW, const Tensor& above_BCHW, at::ScalarType type) {
  const int64_t C = x_BCHW.size(1);
  const auto parameters = type == at::kDouble ? at::kDouble : at::kFloat;
  const auto x = x_BCHW.detach().to(type, false, true).requires_grad_();
  const auto weight = (waves({C}) + 1.5).to(parameters).detach().requires_grad_();
  const auto bias = waves({C}, 1).flip(0).to(parameters).detach().requires_grad_();
  const auto mean = at::full({C}, 0.25, parameters), var = at::full({C}, 2.0, parameters);
  const auto y = norm(x, weight, bias, mean, var);
  y.backward(above_BCHW.to(type));
  return {y.detach(), x.grad(), weight.grad(), bias.grad(), mean, var};
}

// Of a process that is alone: sums over the processes are its own.
TEST(SyncBatchNorm, HasTheValuesGradientsAndStatisticsOfPlainBatchNormalisation) {
  const auto sync = [](auto... args) { return sync_batch_norm(args..., kMomentum, kEpsilon); };
  const auto plain = [](const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& var) {
    return at::batch_norm(x, weight, bias, mean, var, /*training=*/true, kMomentum, kEpsilon, /*cudnn_enabled=*/false);
  };
  for (const auto& shape : {std::vector<int64_t>{2, 3, 1, 1}, {3, 5, 7, 6}, {2, 16, 4, 9}})
    for (const bool channels_last : {false, true})
      for (const auto& [type, tolerance] : {std::pair(at::kFloat, 2e-5), std::pair(at::kBFloat16, 3e-2)}) {
        const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
        // As they are in that type: both then begin with the same numbers.
        const auto x = (waves(shape) * 3 + 5).to(type).contiguous(format), above = waves(shape, 1).flip(1).to(type);
        const auto got = run(sync, x, above, type), wanted = run(plain, x, above, at::kDouble);
        const auto what = str("[", shape[0], ", ", shape[1], ", ", shape[2], "]", channels_last ? " channels-last " : " ",
                              at::toString(type));
        EXPECT_EQ(got.y.scalar_type(), type);
        EXPECT_EQ(got.of_x.scalar_type(), type);
        expect_close(got.y, wanted.y, tolerance, what);
        expect_close(got.of_x, wanted.of_x, tolerance, what);
        expect_close(got.of_weight, wanted.of_weight, tolerance, what);
        expect_close(got.of_bias, wanted.of_bias, tolerance, what);
        expect_close(got.mean, wanted.mean, 1e-5, what);
        expect_close(got.var, wanted.var, 1e-5, what);
      }
}

}  // namespace
}  // namespace semiseg
