#include "models/fused_norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/norm_cuda.h"
#include "semiseg/ops.h"

namespace semiseg::fused_norm {
namespace {

using ops::norm_cuda::Norm;
using ops::norm_cuda::Running;
using ops::norm_cuda::Statistics;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor as(const Tensor& tensor_BCHW, const Tensor& like_BCHW) {
  return tensor_BCHW.defined() ? tensor_BCHW.to(like_BCHW.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast)
                               : tensor_BCHW;
}

std::optional<Tensor> given(const Tensor& tensor) { return tensor.defined() ? std::optional(tensor) : std::nullopt; }

class FusedNorm : public torch::autograd::Function<FusedNorm> {
 public:
  // weight and bias are arguments of their own because autograd looks for what it differentiates among the arguments.
  static Tensor forward(AutogradContext* context, const Tensor& x_BCHW, const std::optional<Tensor>& residual_BCHW,
                        const Tensor& weight_C, const Tensor& bias_C, const Norm& norm, const Running* running) {
    const Statistics statistics = ops::norm_cuda::measure(x_BCHW, norm, running);
    const auto residual = as(residual_BCHW.value_or(Tensor()), x_BCHW);
    const auto y_BCHW = ops::norm_cuda::apply(x_BCHW, residual, norm, statistics);
    // Where a residual was added, only the output tells where the ReLU has let through.
    context->save_for_backward({x_BCHW, norm.relu && residual.defined() ? y_BCHW : Tensor(), weight_C, bias_C,
                                statistics.scale_BC, statistics.shift_BC, statistics.mean_BC, statistics.rstd_BC});
    context->saved_data["groups"] = norm.groups;
    context->saved_data["epsilon"] = norm.epsilon;
    context->saved_data["relu"] = norm.relu;
    context->saved_data["adds"] = residual.defined();
    return y_BCHW;
  }

  static variable_list backward(AutogradContext* context, const variable_list& above) {
    const auto saved = context->get_saved_variables();
    const auto &x_BCHW = saved[0], &y_BCHW = saved[1];
    const Norm norm{saved[2], saved[3], context->saved_data["groups"].toInt(), context->saved_data["epsilon"].toDouble(),
                    context->saved_data["relu"].toBool()};
    const auto above_BCHW = as(above[0], x_BCHW);
    const auto of = ops::norm_cuda::gradients(above_BCHW, x_BCHW, y_BCHW, norm, {saved[4], saved[5], saved[6], saved[7]});
    Tensor of_residual_BCHW;
    if (context->saved_data["adds"].toBool()) of_residual_BCHW = of.residual_BCHW.defined() ? of.residual_BCHW : above_BCHW;
    return {of.x_BCHW, of_residual_BCHW, of.weight_C, of.bias_C, Tensor(), Tensor()};
  }
};

}  // namespace

bool serves_batch_norm(const Tensor& x_BCHW, bool training) {
  return uses_fused_ops() && (training || !at::GradMode::is_enabled()) && ops::norm_cuda::serves(x_BCHW, /*groups=*/0);
}

bool serves_group_norm(const Tensor& x_BCHW, int64_t groups) {
  return uses_fused_ops() && ops::norm_cuda::serves(x_BCHW, groups);
}

Tensor batch_norm(const Tensor& x_BCHW, const BatchNorm& batch, bool relu, const Tensor& residual_BCHW) {
  const Norm norm{batch.weight_C, batch.bias_C, /*groups=*/0, batch.epsilon, relu};
  const Running running{batch.running_mean_C, batch.running_var_C, batch.momentum};
  if (!batch.training)
    return ops::norm_cuda::apply(x_BCHW, as(residual_BCHW, x_BCHW), norm, ops::norm_cuda::of_running(running, norm));
  return FusedNorm::apply(x_BCHW, given(residual_BCHW), batch.weight_C, batch.bias_C, norm, &running);
}

Tensor group_norm(const Tensor& x_BCHW, int64_t groups, const Tensor& weight_C, const Tensor& bias_C, double epsilon, bool relu,
                  const Tensor& residual_BCHW) {
  return FusedNorm::apply(x_BCHW, given(residual_BCHW), weight_C, bias_C, Norm{weight_C, bias_C, groups, epsilon, relu},
                          nullptr);
}

}  // namespace semiseg::fused_norm
