#include "semiseg/ops.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <atomic>

#include "ops/fused_cpu.h"
#ifdef SEMISEG_CUDA
#include "ops/fused_cuda.h"
#include "ops/pixels_cuda.h"
#endif
#include "ops/plain.h"
#include "semiseg/distributed.h"

namespace semiseg {
namespace {

std::atomic<bool> fused_wanted = true;

// The fused forms that serve these logits; null where none does, or none is wanted.
const ops::FusedOps* fused_for(const Tensor& logits_BKhw) {
  if (!fused_wanted) return nullptr;
  if (ops::fused_cpu::serves(logits_BKhw)) return &ops::fused_cpu::ops();
#ifdef SEMISEG_CUDA
  if (ops::fused_cuda::serves(logits_BKhw)) return &ops::fused_cuda::ops();
#endif
  return nullptr;
}

// The loss with the gradient that the forward pass has made already.
class MadeGradient : public torch::autograd::Function<MadeGradient> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& logits_BKhw, const Tensor& loss,
                        const Tensor& gradient_BKhw) {
    context->save_for_backward({gradient_BKhw});
    context->saved_data["type"] = static_cast<int64_t>(logits_BKhw.scalar_type());
    return loss.clone();
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& above) {
    const auto type = static_cast<at::ScalarType>(context->saved_data["type"].toInt());
    return {(context->get_saved_variables()[0] * above[0]).to(type), Tensor(), Tensor()};
  }
};

}  // namespace

void use_fused_ops(bool fused) { fused_wanted = fused; }
bool uses_fused_ops() { return fused_wanted; }

Tensor upsample_logits(const Tensor& logits_BKhw, int64_t H, int64_t W) {
  return ops::plain::upsample(logits_BKhw, {.H = H, .W = W});
}

CrossEntropy upsample_cross_entropy(const Tensor& logits_BKhw, const Tensor& label_BHW, const CrossEntropyOptions& options) {
  TORCH_CHECK(options.focal_gamma == 0 || options.label_smoothing == 0, "a focal loss has no label smoothing");
  const ops::FusedOps* fused = fused_for(logits_BKhw);
  if (!fused) return ops::plain::cross_entropy(logits_BKhw, label_BHW, options);
  const bool want_gradient = at::GradMode::is_enabled() && logits_BKhw.requires_grad();
  auto [loss, weight, gradient_BKhw] = fused->cross_entropy(logits_BKhw.detach(), label_BHW, options, want_gradient);
  if (want_gradient) loss = MadeGradient::apply(logits_BKhw, loss, gradient_BKhw);
  return {loss, weight};
}

Tensor mean_of(const CrossEntropy& sums) {
  const auto weight = mean_over_processes(sums.weight);
  return sums.loss / at::where(weight > 0, weight, at::ones_like(weight));
}

Tensor upsample_label_probability(const Tensor& logits_BKhw, const Tensor& label_BHW, bool align_corners) {
  at::NoGradGuard no_grad;
  const ops::FusedOps* fused = fused_for(logits_BKhw);
  return fused ? fused->label_probability(logits_BKhw, label_BHW, align_corners)
               : ops::plain::label_probability(logits_BKhw, label_BHW, align_corners);
}

Prediction upsample_predict(const Tensor& logits_BKhw, const Upsampling& to) {
  at::NoGradGuard no_grad;
  const ops::FusedOps* fused = fused_for(logits_BKhw);
  return fused ? fused->predict(logits_BKhw, to, /*want_confidence=*/true) : ops::plain::predict(logits_BKhw, to);
}

Tensor upsample_argmax(const Tensor& logits_BKhw, const Upsampling& to) {
  at::NoGradGuard no_grad;
  const ops::FusedOps* fused = fused_for(logits_BKhw);
  return fused ? fused->predict(logits_BKhw, to, /*want_confidence=*/false).class_BHW : ops::plain::argmax(logits_BKhw, to);
}

Tensor upsample_confusion(const Tensor& logits_BKhw, const Tensor& label_BHW, const Upsampling& to, Tensor& counts_KK,
                          bool want_prediction) {
  at::NoGradGuard no_grad;
  const ops::FusedOps* fused = fused_for(logits_BKhw);
  return fused ? fused->confusion(logits_BKhw, label_BHW, to, counts_KK, want_prediction)
               : ops::plain::confusion(logits_BKhw, label_BHW, to, counts_KK);
}

void upsample_add_softmax(const Tensor& logits_BKhw, const Upsampling& to, const Tensor& sum_BKHW) {
  at::NoGradGuard no_grad;
  if (const ops::FusedOps* fused = fused_for(logits_BKhw))
    fused->add_softmax(logits_BKhw, to, sum_BKHW);
  else
    ops::plain::add_softmax(logits_BKhw, to, sum_BKHW);
}

std::vector<Tensor> paste_where(const Tensor& mask_BHW, const std::vector<Tensor>& sources,
                                const std::vector<Tensor>& targets) {
  at::NoGradGuard no_grad;
#ifdef SEMISEG_CUDA
  if (fused_wanted && mask_BHW.is_cuda()) return ops::pixels_cuda::paste_where(mask_BHW, sources, targets);
#endif
  return fused_wanted && mask_BHW.is_cpu() ? ops::fused_cpu::paste_where(mask_BHW, sources, targets)
                                           : ops::plain::paste_where(mask_BHW, sources, targets);
}

Tensor kth_smallest(const Tensor& values, int64_t k) {
  at::NoGradGuard no_grad;
  if (fused_wanted && values.is_cpu()) return ops::fused_cpu::kth_smallest(values, k);
#ifdef SEMISEG_CUDA
  if (fused_wanted && values.is_cuda()) return ops::pixels_cuda::kth_smallest(values, k);
#endif
  // at::kthvalue would do, but has no deterministic CUDA kernel.
  return std::get<0>(values.flatten().topk(k, /*dim=*/0, /*largest=*/false, /*sorted=*/false)).max();
}

Tensor count_classes(const Tensor& class_BHW, const Tensor& mask_BHW, int64_t num_classes) {
#ifdef SEMISEG_CUDA
  if (fused_wanted && class_BHW.is_cuda()) return ops::fused_cuda::count_classes(class_BHW, mask_BHW, num_classes);
#endif
  // Pixels outside the mask are counted in one more bin, which is cut off: no boolean indexing, so the host never waits.
  const auto bin = at::where(mask_BHW, class_BHW, at::scalar_tensor(num_classes, class_BHW.options())).flatten();
  return at::zeros({num_classes + 1}, class_BHW.options()).scatter_add_(0, bin, at::ones_like(bin)).narrow(0, 0, num_classes);
}

}  // namespace semiseg
