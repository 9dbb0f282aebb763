#include "models/resampling.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/gathering.h"

#ifdef SEMISEG_CUDA
#include "ops/enlarge_cuda.h"
#include "ops/pool_cuda.h"
#include "semiseg/ops.h"
#endif

namespace semiseg {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr int64_t kSide = 3, kStride = 2, kPadding = 1;

class MaxPool : public Function<MaxPool> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& x_BCHW) {
    const auto [largest_BChw, place_BChw] = at::max_pool2d_with_indices(x_BCHW, kSide, kStride, kPadding);
    context->save_for_backward({place_BChw});
    context->saved_data["H"] = x_BCHW.size(2);
    context->saved_data["W"] = x_BCHW.size(3);
    context->mark_non_differentiable({place_BChw});
    return largest_BChw;
  }

  // Windows that take the same one of their nine places never meet, so nine additions of strided slices make the sum.
  static variable_list backward(AutogradContext* context, const variable_list& above) {
    const auto place_BChw = context->get_saved_variables()[0];
    const auto& gradient_BChw = above[0];
    const int64_t H = context->saved_data["H"].toInt(), W = context->saved_data["W"].toInt();
    const int64_t h = gradient_BChw.size(2), w = gradient_BChw.size(3);
    const auto zero = at::zeros({}, gradient_BChw.options().dtype(at::kFloat));
    const auto index = place_BChw.options();
    const auto top_h1 = at::arange(h, index).mul(kStride).sub(kPadding).unsqueeze(1),
               left_w = at::arange(w, index).mul(kStride).sub(kPadding);
    const auto padded =
        at::empty({gradient_BChw.size(0), gradient_BChw.size(1), kStride * h + kPadding, kStride * w + kPadding},
                  zero.options(), gradient_BChw.suggest_memory_format())
            .zero_();
    for (int64_t row = 0; row < kSide; ++row)
      for (int64_t column = 0; column < kSide; ++column) {
        const auto from_here = place_BChw == (top_h1 + row) * W + (left_w + column);
        padded.slice(2, row, row + kStride * h, kStride)
            .slice(3, column, column + kStride * w, kStride)
            .add_(at::where(from_here, gradient_BChw, zero));
      }
    return {padded.narrow(2, kPadding, H).narrow(3, kPadding, W).to(gradient_BChw.scalar_type())};
  }
};

#ifdef SEMISEG_CUDA
class FusedMaxPool : public Function<FusedMaxPool> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& x_BCHW) {
    const auto [largest_BChw, place_BChw] = ops::pool_cuda::max_pool(x_BCHW, /*want_place=*/x_BCHW.requires_grad());
    context->save_for_backward({place_BChw});
    context->saved_data["H"] = x_BCHW.size(2);
    context->saved_data["W"] = x_BCHW.size(3);
    return largest_BChw;
  }

  static variable_list backward(AutogradContext* context, const variable_list& above) {
    return {ops::pool_cuda::gradient(above[0], context->get_saved_variables()[0], context->saved_data["H"].toInt(),
                                     context->saved_data["W"].toInt())};
  }
};

using ops::enlarge_cuda::Kind;

class FusedEnlargement : public Function<FusedEnlargement> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& x_BChw, const std::optional<Tensor>& sum_BCHW, int64_t H,
                        int64_t W, Kind kind) {
    context->saved_data["h"] = x_BChw.size(2);
    context->saved_data["w"] = x_BChw.size(3);
    context->saved_data["kind"] = static_cast<int64_t>(kind);
    context->saved_data["adds"] = sum_BCHW.has_value();
    return ops::enlarge_cuda::enlarge(x_BChw, sum_BCHW ? sum_BCHW->to(x_BChw.scalar_type()) : Tensor(), H, W, kind);
  }

  static variable_list backward(AutogradContext* context, const variable_list& above) {
    const auto of_x = ops::enlarge_cuda::gradient(above[0], context->saved_data["h"].toInt(), context->saved_data["w"].toInt(),
                                                  static_cast<Kind>(context->saved_data["kind"].toInt()));
    return {of_x, context->saved_data["adds"].toBool() ? above[0] : Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

bool is_fused(const Tensor& x_BChw, int64_t H) { return uses_fused_ops() && ops::enlarge_cuda::serves(x_BChw, H); }

Tensor enlarge_fused(const Tensor& x_BChw, const Tensor& sum_BCHW, int64_t H, int64_t W, Kind kind) {
  return FusedEnlargement::apply(x_BChw, sum_BCHW.defined() ? std::optional(sum_BCHW) : std::nullopt, H, W, kind);
}
#endif

Tensor plus(const Tensor& sum, const Tensor& x) { return sum.defined() ? sum + x : x; }

}  // namespace

Tensor max_pool_3x3_gathering(const Tensor& x_BCHW) { return MaxPool::apply(x_BCHW); }

Tensor max_pool_3x3(const Tensor& x_BCHW) {
#ifdef SEMISEG_CUDA
  if (uses_fused_ops() && ops::pool_cuda::serves(x_BCHW)) return FusedMaxPool::apply(x_BCHW);
#endif
  return ops::must_gather(x_BCHW) ? max_pool_3x3_gathering(x_BCHW) : at::max_pool2d(x_BCHW, kSide, kStride, kPadding);
}

Tensor enlarge_bilinear(const Tensor& x_BChw, int64_t H, int64_t W, const Tensor& sum_BCHW) {
#ifdef SEMISEG_CUDA
  if (is_fused(x_BChw, H)) return enlarge_fused(x_BChw, sum_BCHW, H, W, Kind::kBilinear);
#endif
  return plus(sum_BCHW, ops::must_gather(x_BChw) ? ops::enlarge_gathering(x_BChw, H, W, /*align_corners=*/true)
                                                 : at::upsample_bilinear2d(x_BChw, {H, W}, /*align_corners=*/true));
}

Tensor enlarge_nearest(const Tensor& x_BChw, int64_t H, int64_t W, const Tensor& sum_BCHW) {
#ifdef SEMISEG_CUDA
  if (is_fused(x_BChw, H)) return enlarge_fused(x_BChw, sum_BCHW, H, W, Kind::kNearest);
#endif
  return plus(sum_BCHW, at::upsample_nearest2d(x_BChw, {H, W}));
}

}  // namespace semiseg
