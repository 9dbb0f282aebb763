#include "observers.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <string_view>

#include "semiseg/device.h"
#include "train_parts.h"

namespace semiseg {
namespace {

// RecordFunction takes plain functions, without a place for a pointer to what they fill: so that stands here.
std::atomic<double> counted_flop;
struct {
  torch::Device device = torch::kCPU;
  std::map<std::string, double> seconds;
} scope_times;
struct {
  std::mutex mutex;
  std::map<std::string, OperatorTimer::Times> of_operator;
} operator_times;

// --- FlopCounter ---

// Inputs can be read at the start of a call alone, outputs at its end.
struct Convolution : at::ObserverContext {
  double flop_per_output = 0;
};

// 2 for each multiply-add that a weight [out, in / groups, kernel, kernel] takes for one output value.
double flop_per_output(const Tensor& weight) {
  return 2 * static_cast<double>(weight.numel()) / static_cast<double>(weight.size(0));
}

std::unique_ptr<at::ObserverContext> begin_count(const at::RecordFunction& call) {
  const std::string_view name = call.name();
  const auto inputs = call.inputs();
  const auto tensor = [&](size_t i) { return inputs.at(i).toTensor(); };
  const auto product = [&](size_t left) {
    counted_flop += 2 * static_cast<double>(tensor(left).numel() * tensor(left + 1).size(-1));
  };
  if (name == "aten::convolution") {
    auto convolution = std::make_unique<Convolution>();
    convolution->flop_per_output = flop_per_output(tensor(1));
    return convolution;
  }
  if (name == "aten::convolution_backward") {
    // grad_output, input, weight, ..., output_mask: which gradients are asked for, of the input, the weight and the bias.
    const auto wanted = inputs.back().toBoolList();
    const double once = static_cast<double>(tensor(0).numel()) * flop_per_output(tensor(2));
    counted_flop += (static_cast<int>(wanted.get(0)) + static_cast<int>(wanted.get(1))) * once;
  }
  if (name == "aten::mm" || name == "aten::bmm") product(0);
  if (name == "aten::addmm") product(1);
  return nullptr;
}

void end_count(const at::RecordFunction& call, at::ObserverContext* context) {
  if (const auto* convolution = static_cast<Convolution*>(context))
    counted_flop += convolution->flop_per_output * static_cast<double>(call.outputs().at(0).toTensor().numel());
}

// --- ScopeTimer ---

struct OpenScope : at::ObserverContext {
  Stopwatch watch;
};

std::unique_ptr<at::ObserverContext> begin_scope(const at::RecordFunction&) {
  wait_for(scope_times.device);
  return std::make_unique<OpenScope>();
}

void end_scope(const at::RecordFunction& scope, at::ObserverContext* context) {
  wait_for(scope_times.device);
  scope_times.seconds[scope.name()] += static_cast<OpenScope*>(context)->watch.seconds();
}

// --- OperatorTimer ---

struct OpenCall;
thread_local OpenCall* innermost = nullptr;

struct OpenCall : at::ObserverContext {
  Stopwatch watch;
  double of_callees = 0;
  OpenCall* caller = innermost;
};

std::unique_ptr<at::ObserverContext> begin_call(const at::RecordFunction&) {
  auto call = std::make_unique<OpenCall>();
  innermost = call.get();
  return call;
}

void end_call(const at::RecordFunction& function, at::ObserverContext* context) {
  const auto& call = *static_cast<OpenCall*>(context);
  innermost = call.caller;
  const double seconds = call.watch.seconds();
  if (call.caller != nullptr) call.caller->of_callees += seconds;
  const std::lock_guard lock(operator_times.mutex);
  auto& times = operator_times.of_operator[function.name()];
  times.seconds += seconds - call.of_callees;
  ++times.calls;
}

}  // namespace

FlopCounter::FlopCounter() {
  counted_flop = 0;
  handle_ = at::addGlobalCallback(at::RecordFunctionCallback(begin_count, end_count)
                                      .needsInputs(true)
                                      .needsOutputs(true)
                                      .scopes({at::RecordScope::FUNCTION}));
}
FlopCounter::~FlopCounter() { at::removeCallback(handle_); }
double FlopCounter::flop() const { return counted_flop; }

ScopeTimer::ScopeTimer(torch::Device device) {
  scope_times.device = device;
  scope_times.seconds.clear();
  handle_ =
      at::addThreadLocalCallback(at::RecordFunctionCallback(begin_scope, end_scope).scopes({at::RecordScope::USER_SCOPE}));
}
ScopeTimer::~ScopeTimer() { at::removeCallback(handle_); }
double ScopeTimer::seconds(const std::string& scope) const {
  const auto found = scope_times.seconds.find(scope);
  return found == scope_times.seconds.end() ? 0 : found->second;
}

OperatorTimer::OperatorTimer() {
  operator_times.of_operator.clear();
  handle_ = at::addGlobalCallback(
      at::RecordFunctionCallback(begin_call, end_call).scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
}
OperatorTimer::~OperatorTimer() { at::removeCallback(handle_); }
std::map<std::string, OperatorTimer::Times> OperatorTimer::times() const {
  const std::lock_guard lock(operator_times.mutex);
  return operator_times.of_operator;
}

std::vector<DeviceActivity> record_device(torch::Device device, const std::function<void()>& work) {
  namespace profiler = torch::autograd::profiler;
  const profiler::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
  const std::set activities{torch::profiler::impl::ActivityType::CUDA};
  wait_for(device);
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities);
  work();
  wait_for(device);
  const auto result = profiler::disableProfiler();
  std::vector<DeviceActivity> found;
  for (const auto& event : result->events()) {
    constexpr uint8_t kFirst = 3, kLast = 5;  // libkineto's ActivityType: GPU_MEMCPY, GPU_MEMSET, CONCURRENT_KERNEL
    if (event.deviceType() != at::kCUDA || event.activityType() < kFirst || event.activityType() > kLast) continue;
    found.push_back({event.name(), static_cast<int64_t>(event.startNs()), static_cast<int64_t>(event.endNs())});
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.begin_ns < b.begin_ns; });
  return found;
}

}  // namespace semiseg
