#include "ops/gathering.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace semiseg::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// How much sample i of `to` takes of sample j of `from`: [to, from].
Tensor shares(int64_t from, int64_t to, bool align_corners, const at::TensorOptions& options) {
  const auto n = static_cast<double>(from), m = static_cast<double>(to);
  auto at_to = at::arange(to, options);
  if (align_corners)
    at_to = at_to * (to > 1 ? (n - 1) / (m - 1) : 0);
  else
    at_to = ((at_to + 0.5) * (n / m) - 0.5).clamp(0, n - 1);
  return (1 - (at_to.unsqueeze(1) - at::arange(from, options)).abs()).clamp_min(0);
}

class Enlargement : public Function<Enlargement> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& x_BChw, int64_t H, int64_t W, bool align_corners) {
    context->saved_data["h"] = x_BChw.size(2);
    context->saved_data["w"] = x_BChw.size(3);
    context->saved_data["type"] = static_cast<int64_t>(x_BChw.scalar_type());
    context->saved_data["align_corners"] = align_corners;
    return at::upsample_bilinear2d(x_BChw, {H, W}, align_corners);
  }

  // Enlarging is linear along each side, and so is its gradient: two products of matrices.
  static variable_list backward(AutogradContext* context, const variable_list& above) {
    const auto gradient_BCHW = above[0].to(at::kFloat);
    const bool align_corners = context->saved_data["align_corners"].toBool();
    const auto along = [&](const char* side, int64_t to) {
      return shares(context->saved_data[side].toInt(), to, align_corners, gradient_BCHW.options());
    };
    const auto along_w = at::matmul(gradient_BCHW, along("w", gradient_BCHW.size(3)));
    const auto along_both = at::matmul(along("h", gradient_BCHW.size(2)).t(), along_w);
    return {along_both.to(static_cast<at::ScalarType>(context->saved_data["type"].toInt())), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

bool must_gather(const Tensor& x) { return x.is_cuda() && at::globalContext().deterministicAlgorithms(); }

Tensor enlarge_gathering(const Tensor& x_BChw, int64_t H, int64_t W, bool align_corners) {
  return Enlargement::apply(x_BChw, H, W, align_corners);
}

}  // namespace semiseg::ops
