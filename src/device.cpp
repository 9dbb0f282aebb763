#include "semiseg/device.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <sys/resource.h>
#ifdef SEMISEG_CUDA
#include <ATen/cuda/CUDAContext.h>
#endif

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "semiseg/distributed.h"
#include "semiseg/error.h"

namespace semiseg {
namespace {

bool gpu_has_bf16([[maybe_unused]] torch::Device device) {
#ifdef SEMISEG_CUDA
  return at::cuda::getDeviceProperties(device.has_index() ? device.index() : 0)->major >= 8;
#else
  return true;
#endif
}

}  // namespace

int64_t count_gpus() { return at::hasCUDA() ? at::globalContext().getAcceleratorHooksInterface().deviceCount() : 0; }

namespace {

torch::Device device_called(const std::string& name) {
  const int64_t count = count_gpus();
  const bool has_cuda = count > 0;
  if (name == "cpu" || (name == "auto" && !has_cuda)) return torch::kCPU;
  if (!has_cuda)
    throw Error(ErrorKind::kConfig, "there is no CUDA device here", "run.device: " + name, "set run.device=cpu or auto");
  const torch::Device device(name == "auto" ? "cuda" : name);
  if (process_count() > 1) {
    if (device.has_index())
      throw Error(ErrorKind::kConfig, "processes that train together have a GPU each", "run.device: " + name,
                  "set run.device=cuda");
    if (local_rank() >= count)
      throw Error(ErrorKind::kConfig,
                  str("there are ", count, " GPUs here, and process ", local_rank(), " (from 0) needs its own"),
                  "run.device: " + name,
                  "start as many processes as there are GPUs; where each sees its own alone, start it with LOCAL_RANK=0");
    return {torch::kCUDA, static_cast<c10::DeviceIndex>(local_rank())};
  }
  if (device.has_index() && device.index() >= count)
    throw Error(ErrorKind::kConfig, str("there are ", count, " CUDA devices here"), "run.device: " + name);
  return device.has_index() ? device : torch::Device(torch::kCUDA, 0);
}

}  // namespace

torch::Device resolve_device(const std::string& name) {
  const torch::Device device = device_called(name);
  if (device.is_cuda()) at::accelerator::setDeviceIndex(device.index());  // no process leaves memory on another one's GPU
  return device;
}

Precision resolve_precision(const std::string& name, torch::Device device) {
  if (name == "fp32") return Precision::kFp32;
  if (name == "bf16") return Precision::kBf16;
  if (name == "fp16") return Precision::kFp16;
  if (device.is_cuda()) return gpu_has_bf16(device) ? Precision::kBf16 : Precision::kFp16;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16")) return Precision::kBf16;
#endif
  return Precision::kFp32;
}

std::string precision_name(Precision precision) {
  if (precision == Precision::kBf16) return "bf16";
  return precision == Precision::kFp16 ? "fp16" : "fp32";
}

at::ScalarType scalar_type(Precision precision) {
  if (precision == Precision::kBf16) return at::kBFloat16;
  return precision == Precision::kFp16 ? at::kHalf : at::kFloat;
}

void prefer_deterministic_kernels(bool on, torch::Device device) {
  if (!device.is_cuda()) return;
  auto& context = at::globalContext();
  context.setBenchmarkCuDNN(!on);
  context.setDeterministicCuDNN(on);
  context.setDeterministicFillUninitializedMemory(false);
  context.setDeterministicAlgorithms(on, /*warn_only=*/true);                   // models/resampling.h heeds it
  if (on) ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/false);  // what cuBLAS needs for it
}

Autocast::Autocast(torch::Device device, Precision precision)
    : device_(device), on_(precision != Precision::kFp32), was_on_(at::autocast::is_autocast_enabled(device.type())) {
  if (on_ == was_on_) return;
  if (on_) at::autocast::set_autocast_dtype(device_.type(), scalar_type(precision));
  at::autocast::set_autocast_enabled(device_.type(), on_);
}

Autocast::~Autocast() {
  if (on_ == was_on_) return;
  at::autocast::set_autocast_enabled(device_.type(), was_on_);
  if (!was_on_) at::autocast::clear_cache();
}

void move_module(torch::nn::Module& module, torch::Device device) {
  at::NoGradGuard no_grad;
  const auto move = [&](Tensor tensor) {
    const auto format = tensor.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    tensor.set_data(tensor.to(device).contiguous(format));
  };
  for (const auto& parameter : module.parameters()) move(parameter);
  for (const auto& buffer : module.buffers()) move(buffer);
}

bool finishes_within(double seconds, torch::Device device) {
  if (!device.is_cuda()) return true;
  const auto stream = at::accelerator::getCurrentStream(device.index());
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!stream.query()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

void wait_for(torch::Device device) {
  if (device.is_cuda()) at::accelerator::synchronizeDevice(device.index());
}

double peak_memory_mb(torch::Device device) {
  if (device.is_cuda()) {
    const auto stats = at::accelerator::getDeviceStats(device.index());
    return static_cast<double>(stats.allocated_bytes[0].peak) / (1 << 20);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

std::string describe_device(torch::Device device) {
  if (device.is_cuda()) return device.str();
  std::string model = "unknown processor", line;
  for (std::ifstream info("/proc/cpuinfo"); std::getline(info, line);)
    if (line.rfind("model name", 0) == 0) {
      model = line.substr(line.find(':') + 2);
      break;
    }
  return str("cpu (", model, ", ", at::get_num_threads(), " compute threads)");
}

}  // namespace semiseg
