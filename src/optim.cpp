#include "semiseg/optim.h"

#include <ATen/ATen.h>

#include <cmath>
#include <optional>

#include "semiseg/distributed.h"
#include "semiseg/error.h"

namespace semiseg {

double schedule_factor(const OptimConfig& config, int64_t step, int64_t total_steps) {
  const double t = static_cast<double>(step) / static_cast<double>(total_steps);
  double factor = 1;
  if (config.schedule == "poly") factor = std::pow(1 - t, 0.9);
  if (config.schedule == "cosine") factor = (1 + std::cos(M_PI * t)) / 2;
  if (config.schedule == "onecycle") {
    constexpr double kRise = 0.3, kFirst = 1.0 / 25, kLast = 1.0 / 25e4;
    const auto between = [](double from, double to, double part) { return to + (from - to) * (1 + std::cos(M_PI * part)) / 2; };
    factor = t < kRise ? between(kFirst, 1, t / kRise) : between(1, kLast, (t - kRise) / (1 - kRise));
  }
  if (step < config.warmup_steps) factor *= static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps);
  return factor;
}

Optimizer::Optimizer(const std::vector<NamedModule>& modules, const OptimConfig& config, bool scales_loss) : config_(config) {
  groups_.resize(2);
  groups_[0].lr = config.lr;
  groups_[1].lr = config.lr * config.decoder_lr_multiplier;
  at::NoGradGuard no_grad;
  for (size_t m = 0; m < modules.size(); ++m) {
    const std::string prefix = m == 0 ? "" : modules[m].name + ".";
    for (const auto& item : modules[m].module->named_parameters()) {
      const Tensor& parameter = item.value();
      Group& group = groups_[item.key().rfind("encoder.", 0) == 0 ? 0 : 1];
      group.names.push_back(prefix + item.key());
      group.parameters.push_back(parameter);
      // Zeros: the first update of SGD then leaves buffer = gradient, as PyTorch's does.
      if (config.kind == "adamw" || config.momentum > 0) group.first.push_back(at::zeros_like(parameter));
      if (config.kind == "adamw") {
        group.second.push_back(at::zeros_like(parameter));
        group.steps.push_back(at::zeros({}, parameter.options().dtype(at::kFloat)));
      }
    }
  }
  const auto options = at::TensorOptions(at::kFloat).device(groups_[0].parameters.at(0).device());
  for (Group& group : groups_) group.lr_now = at::zeros({}, options);
  if (scales_loss) {
    constexpr double kFirstScale = 65536;
    scale_ = {at::full({}, kFirstScale, options), at::zeros({}, options.dtype(at::kInt)), at::zeros({1}, options)};
  }
}

void Optimizer::backward(const Tensor& loss) { (scale_.value.defined() ? loss * scale_.value : loss).backward(); }

double Optimizer::loss_scale() const { return scale_.value.defined() ? scale_.value.item<double>() : 1; }

void Optimizer::zero_grad() {
  for (Group& group : groups_)
    for (Tensor& parameter : group.parameters) parameter.mutable_grad().reset();
}

void Optimizer::set_rate(double factor) {
  for (Group& group : groups_) group.lr_now.fill_(group.lr * factor);
}

void Optimizer::step() {
  at::NoGradGuard no_grad;
  std::vector<std::vector<Tensor>> gradients(groups_.size());
  std::vector<Tensor> all;
  for (size_t g = 0; g < groups_.size(); ++g)
    for (const Tensor& parameter : groups_[g].parameters) {
      // A part of a method that this step's loss did not reach (a projection head during burn-in) has none: it stays.
      if (!parameter.grad().defined()) parameter.mutable_grad() = at::zeros_like(parameter);
      gradients[g].push_back(parameter.grad());
      all.push_back(gradients[g].back());
    }
  average_over_processes(all);
  std::optional<Tensor> left_out;  // the update, where it is 1
  if (scale_.value.defined()) {
    scale_.not_finite.zero_();
    at::_amp_foreach_non_finite_check_and_unscale_(all, scale_.not_finite, scale_.value.reciprocal());
    left_out = scale_.not_finite;
  }
  if (config_.clip_grad_norm > 0) {
    const auto norm = at::stack(at::_foreach_norm(all)).norm();
    at::_foreach_mul_(all, (config_.clip_grad_norm / (norm + 1e-6)).clamp_max(1));
  }
  for (size_t g = 0; g < groups_.size(); ++g) {
    Group& group = groups_[g];
    if (config_.kind == "adamw") {
      at::_foreach_add_(group.steps, 1);
      if (left_out) at::_foreach_sub_(group.steps, std::vector<Tensor>(group.steps.size(), left_out->squeeze(0)));
      at::_fused_adamw_(group.parameters, gradients[g], group.first, group.second, /*max_exp_avg_sqs=*/{}, group.steps,
                        group.lr_now, /*beta1=*/0.9, /*beta2=*/0.999, config_.weight_decay, /*eps=*/1e-8, /*amsgrad=*/false,
                        /*maximize=*/false, /*grad_scale=*/{}, left_out);
    } else {
      at::_fused_sgd_(group.parameters, gradients[g], group.first, config_.weight_decay, config_.momentum, group.lr_now,
                      /*dampening=*/0, /*nesterov=*/false, /*maximize=*/false, /*is_first_step=*/false, /*grad_scale=*/{},
                      left_out);
    }
  }
  if (left_out)
    at::_amp_update_scale_(scale_.value, scale_.growth, scale_.not_finite, /*scale_growth_factor=*/2,
                           /*scale_backoff_factor=*/0.5,
                           /*growth_interval=*/2000);
}

std::map<std::string, Tensor> Optimizer::state() const {
  std::map<std::string, Tensor> state;
  if (scale_.value.defined()) state = {{"loss_scale", scale_.value}, {"loss_scale_growth", scale_.growth}};
  for (const Group& group : groups_)
    for (size_t i = 0; i < group.names.size(); ++i) {
      if (config_.kind == "adamw") {
        state[group.names[i] + ".exp_avg"] = group.first[i];
        state[group.names[i] + ".exp_avg_sq"] = group.second[i];
        state[group.names[i] + ".step"] = group.steps[i];
      } else if (config_.momentum > 0) {
        state[group.names[i] + ".momentum"] = group.first[i];
      }
    }
  return state;
}

void Optimizer::load_state(const std::map<std::string, Tensor>& saved) {
  at::NoGradGuard no_grad;
  for (auto& [name, tensor] : state()) {
    const auto found = saved.find(name);
    if (found == saved.end() || found->second.sizes() != tensor.sizes())
      throw Error(ErrorKind::kCheckpoint, "the optimizer's state \"" + name + "\" is missing or has another shape");
    Tensor(tensor).copy_(found->second);
  }
}

}  // namespace semiseg
