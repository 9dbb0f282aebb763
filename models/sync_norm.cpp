#include "models/sync_norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "semiseg/distributed.h"

namespace semiseg {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class SyncBatchNorm : public torch::autograd::Function<SyncBatchNorm> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& x_BCHW, const Tensor& weight_C, const Tensor& bias_C,
                        const Tensor& running_mean_C, const Tensor& running_var_C, double momentum, double epsilon) {
    // All processes have parts of one size.
    const double values = static_cast<double>(x_BCHW.numel() / x_BCHW.size(1) * process_count());
    const double processes = static_cast<double>(process_count());
    // The mean first: sums of squares about zero would cancel.
    const auto [own_var_C, own_mean_C] = at::var_mean(x_BCHW.to(at::kFloat), at::IntArrayRef{0, 2, 3}, /*correction=*/0);
    const auto mean_C = sum_over_processes(own_mean_C) / processes;
    const auto var_C = sum_over_processes(own_var_C + (own_mean_C - mean_C).square()) / processes;
    Tensor(running_mean_C).lerp_(mean_C, momentum);
    Tensor(running_var_C).lerp_(var_C * (values / (values - 1)), momentum);  // unbiased, as PyTorch's

    const auto y_BCHW = std::get<0>(
        at::native_batch_norm(x_BCHW, weight_C, bias_C, mean_C, var_C, /*training=*/false, /*momentum=*/0, epsilon));
    context->save_for_backward({x_BCHW, weight_C, mean_C, var_C});
    context->saved_data["epsilon"] = epsilon;
    context->saved_data["values"] = values;
    return y_BCHW;
  }

  // With x^ = (x - mean) / s, s = sqrt(var + epsilon), and means over all values of a channel:
  //   of x: w / s (dy - mean(dy) - x^ mean(dy x^)),   of w: sum dy x^,   of b: sum dy
  static variable_list backward(AutogradContext* context, const variable_list& above) {
    const auto saved = context->get_saved_variables();
    const auto &x_BCHW = saved[0], &weight_C = saved[1], &mean_C = saved[2], &var_C = saved[3];
    const double epsilon = context->saved_data["epsilon"].toDouble(), values = context->saved_data["values"].toDouble();
    // By mean and variance as constants; what hangs on them is taken off.
    auto [of_x_BCHW, of_weight_C, of_bias_C] = at::native_batch_norm_backward(
        above[0], x_BCHW, weight_C, mean_C, var_C, {}, {}, /*train=*/false, epsilon, std::array<bool, 3>{true, true, true});
    const auto rstd_C = (var_C + epsilon).rsqrt();
    const auto sums_2C = sum_over_processes(at::stack({of_weight_C, of_bias_C})) / values;
    const auto slope_C = weight_C * rstd_C.square() * sums_2C[0];
    const auto shift_C = weight_C * rstd_C * sums_2C[1] - slope_C * mean_C;
    const auto as_channels = [](const Tensor& x_C) { return x_C.view({1, -1, 1, 1}); };
    of_x_BCHW.sub_(at::addcmul(as_channels(shift_C), x_BCHW.to(at::kFloat), as_channels(slope_C)));
    return {of_x_BCHW, of_weight_C, of_bias_C, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor sync_batch_norm(const Tensor& x_BCHW, const Tensor& weight_C, const Tensor& bias_C, const Tensor& running_mean_C,
                       const Tensor& running_var_C, double momentum, double epsilon) {
  return SyncBatchNorm::apply(x_BCHW, weight_C, bias_C, running_mean_C, running_var_C, momentum, epsilon);
}

}  // namespace semiseg
