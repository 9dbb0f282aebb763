// Times one fused operation of semiseg/ops.h, for tools/bench/ops.sh and tools/gpu/run.sh: prints a JSON object with the median
// milliseconds and the memory that the operation took at its peak beyond its inputs; on a GPU also how long the GPU was busy
// with one.
//
//   bench_ops (loss|predict|confusion|mix) BATCH CLASSES h w H W REPEATS [channels_last] [cuda] [bf16] [plain]
//
// plain: the forms of plain ATen in its place, which are what torch.nn.functional computes with.
#include "semiseg/ops.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "observers.h"
#include "semiseg/device.h"
#include "semiseg/pseudo_label.h"

namespace {

using semiseg::Tensor;

std::function<void()> operation(const std::string& name, const Tensor& logits_BKhw, const Tensor& label_BHW) {
  const int64_t H = label_BHW.size(1), W = label_BHW.size(2), K = logits_BKhw.size(1);
  if (name == "loss")
    return [=] {
      const auto logits = logits_BKhw.detach().requires_grad_();
      semiseg::mean_of(semiseg::upsample_cross_entropy(logits, label_BHW)).backward();
    };
  if (name == "predict") return [=] { semiseg::upsample_predict(logits_BKhw, {.H = H, .W = W}); };
  if (name == "confusion")
    return [=] {
      auto counts = at::zeros({K, K}, label_BHW.options());
      semiseg::upsample_confusion(logits_BKhw, label_BHW, {.H = H, .W = W}, counts, /*want_prediction=*/false);
    };
  if (name == "mix") {
    // Two strong views and their pseudo-labels, of which boxes come from another draw (UniMatch).
    const int64_t B = label_BHW.size(0);
    const auto box_BHW = at::zeros({B, H, W}, label_BHW.options().dtype(at::kBool));
    const auto float32 = logits_BKhw.options().dtype(at::kFloat);
    box_BHW.narrow(1, H / 4, H / 2).narrow(2, W / 4, W / 2).fill_(true);
    const auto view = [=](int64_t value) {
      return semiseg::LabelledView{at::full({B, 3, H, W}, value, float32).contiguous(logits_BKhw.suggest_memory_format()),
                                   {label_BHW, at::rand({B, H, W}, float32), label_BHW != semiseg::kIgnore, {}}};
    };
    const auto source = view(1), target = view(0);
    return [=] {
      for (int strong = 0; strong < 2; ++strong) semiseg::paste(box_BHW, source, target);
    };
  }
  std::fprintf(stderr, "no operation \"%s\"\n", name.c_str());
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 9) {
    std::fprintf(stderr,
                 "usage: %s (loss|predict|confusion|mix) BATCH CLASSES h w H W REPEATS [channels_last] [cuda] [bf16] [plain]\n",
                 argv[0]);
    return 2;
  }
  const auto number = [&](int i) { return std::atoll(argv[i]); };
  const int64_t B = number(2), K = number(3), repeats = number(8);
  const auto flag = [&](const std::string& name) { return std::find(argv + 9, argv + argc, name) != argv + argc; };
  const torch::Device device = flag("cuda") ? torch::Device(at::kCUDA, 0) : torch::Device(at::kCPU);
  semiseg::use_fused_ops(!flag("plain"));
  at::manual_seed(0);
  const auto logits_of = at::TensorOptions(device).dtype(flag("bf16") ? at::kBFloat16 : at::kFloat);
  const auto labels_of = at::TensorOptions(device).dtype(at::kLong);
  operation(argv[1], at::randn({1, K, 2, 2}, logits_of),
            at::zeros({1, 8, 8}, labels_of))();  // what is made once is not counted
  auto logits_BKhw = at::randn({B, K, number(4), number(5)}, logits_of);
  if (flag("channels_last")) logits_BKhw = logits_BKhw.contiguous(at::MemoryFormat::ChannelsLast);
  const auto label_BHW = at::randint(K, {B, number(6), number(7)}, labels_of);
  label_BHW.narrow(1, 0, 8).fill_(semiseg::kIgnore);
  const auto run = operation(argv[1], logits_BKhw, label_BHW);
  const double before = semiseg::peak_memory_mb(device);
  run();
  semiseg::wait_for(device);
  const double extra = semiseg::peak_memory_mb(device) - before;
  std::vector<double> ms;
  for (int64_t i = 0; i < repeats; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    run();
    semiseg::wait_for(device);
    ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(ms.begin(), ms.end());
  std::printf("{\"ms\": %.3f, \"extra_mib\": %.1f", ms[ms.size() / 2], extra);
  if (device.is_cuda()) {
    int64_t ns = 0;
    for (const auto& activity : semiseg::record_device(device, [&] {
           for (int64_t i = 0; i < repeats; ++i) run();
         }))
      ns += activity.end_ns - activity.begin_ns;
    std::printf(", \"device_ms\": %.4f", static_cast<double>(ns) / 1e6 / static_cast<double>(repeats));
  }
  std::printf("}\n");
}
