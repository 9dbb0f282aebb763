#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "batch_size.h"
#include "commands/command.h"
#include "commands/config_file.h"
#include "observers.h"
#include "output_files.h"
#include "parse_number.h"
#include "semiseg/device.h"
#include "semiseg/files.h"
#include "semiseg/log.h"
#include "trial.h"

// Times a training step in two ways: as training runs it, data included, with one look at the clock before the first and after
// the last step; and by its parts, on a batch that lies ready, where each part waits for the device. Both run train.cpp's
// update().

namespace semiseg {
namespace {

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// Milliseconds of `work`, which ends when the device is done with it: the median of `times` runs, after one more.
template <class Work>
double median_ms(torch::Device device, int64_t times, const Work& work) {
  std::vector<double> ms;
  for (int64_t i = 0; i <= times; ++i) {
    wait_for(device);
    const Stopwatch watch;
    work();
    wait_for(device);
    if (i > 0) ms.push_back(1000 * watch.seconds());
  }
  return median(ms);
}

// What this machine reaches where nothing stands in the way.
struct Peak {
  int64_t side;  // of the matrices
  double gemm_gflops;
  double copy_gb_s;  // bytes read and written
};

Peak measure_peak(torch::Device device, Precision precision) {
  constexpr int64_t kLargestSide = 8192, kTimes = 5;
  constexpr double kLongEnoughMs = 50;
  // Convolutions may take TF32 where products by default do not: a peak below what the step may use would be no peak.
  if (device.is_cuda()) at::globalContext().setAllowTF32CuBLAS(at::globalContext().allowTF32CuDNN());
  const auto options = at::TensorOptions(scalar_type(precision)).device(device);
  Peak peak{256, 0, 0};
  for (double ms = 0; ms < kLongEnoughMs && peak.side < kLargestSide;) {
    peak.side *= 2;
    // Of values that differ, as a step's do: a GPU is faster on matrices that are the same everywhere.
    const auto left =
                   at::arange(peak.side * peak.side, options.dtype(at::kFloat)).sin().view({peak.side, -1}).to(options.dtype()),
               right = left.flip(0);
    auto product = at::empty_like(left);
    ms = median_ms(device, kTimes, [&] { at::mm_out(product, left, right); });
    const double flop = 2 * static_cast<double>(peak.side) * static_cast<double>(peak.side) * static_cast<double>(peak.side);
    peak.gemm_gflops = std::max(peak.gemm_gflops, flop / ms / 1e6);
  }
  const auto from = at::ones({int64_t{64} << 20}, at::TensorOptions(at::kFloat).device(device));
  auto to = at::empty_like(from);
  peak.copy_gb_s = 2 * static_cast<double>(from.nbytes()) / median_ms(device, kTimes, [&] { to.copy_(from); }) / 1e6;
  return peak;
}

std::string table_line(const std::string& name, const OperatorTimer::Times& times, double total) {
  return format("\n  %9.2f ms %5.1f %% %6lld  %s", 1000 * times.seconds, 100 * times.seconds / total,
                static_cast<long long>(times.calls), name.c_str());
}

using NamedTimes = std::map<std::string, OperatorTimer::Times>;

// Those that take the most time, one a line.
std::string table_of(const NamedTimes& times, double total) {
  constexpr size_t kShown = 25, kNameLength = 100;
  std::vector<std::pair<std::string, OperatorTimer::Times>> sorted(times.begin(), times.end());
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  std::string table;
  for (size_t i = 0; i < std::min(kShown, sorted.size()); ++i)
    table += table_line(sorted[i].first.substr(0, kNameLength), sorted[i].second, total);
  return table;
}

// What the GPU does in a step, and how long it has nothing to do, where steps follow each other as in training: the first one's
// way to the GPU is no part of the others.
struct DeviceTimes {
  double span_ms, idle_share;
  std::string table;
};
template <class Step>
DeviceTimes measure_device(torch::Device device, const Step& step) {
  constexpr int64_t kSteps = 4;
  NamedTimes times;
  int64_t busy_ns = 0, begin_ns = 0, end_ns = 0;
  for (const DeviceActivity& activity : record_device(device, [&] {
         for (int64_t i = 0; i < kSteps; ++i) step();
       })) {
    if (end_ns == 0) begin_ns = end_ns = activity.begin_ns;
    busy_ns += std::max<int64_t>(activity.end_ns - std::max(activity.begin_ns, end_ns), 0);  // side streams overlap
    end_ns = std::max(end_ns, activity.end_ns);
    auto& of_name = times[activity.name];
    of_name.seconds += static_cast<double>(activity.end_ns - activity.begin_ns) / 1e9 / kSteps;
    ++of_name.calls;
  }
  for (auto& [name, of_name] : times) of_name.calls = (of_name.calls + kSteps - 1) / kSteps;
  const auto span_ns = static_cast<double>(std::max<int64_t>(end_ns - begin_ns, 1)) / kSteps;
  const double idle = 1 - static_cast<double>(busy_ns) / kSteps / span_ns;
  return {span_ns / 1e6, idle,
          "what the GPU does in one step, and how often" + table_of(times, span_ns / 1e9) +
              table_line("nothing", {idle * span_ns / 1e9, 0}, span_ns / 1e9)};
}

// The operators that take the most time in `step`, one a line.
template <class Step>
std::string operator_table(const Step& step) {
  const Stopwatch watch;
  const auto times = [&] {
    const OperatorTimer timer;
    step();
    return timer.times();
  }();
  const double total = watch.seconds();
  double seen = 0;
  for (const auto& item : times) seen += item.second.seconds;
  return "operators of one step, without those they call, and their calls" + table_of(times, total) +
         table_line("in no operator", {total - seen, 0}, total);
}

int64_t steps_of(const Arguments& arguments) {
  if (!arguments.has("steps")) return 10;
  const auto steps = parse_number<int64_t>(arguments.get("steps"));
  if (!steps || *steps < 1)
    throw Error(ErrorKind::kConfig, "\"" + arguments.get("steps") + "\" is no number of steps", "--steps");
  return *steps;
}

int run(const Arguments& arguments) {
  constexpr int64_t kWarmUp = 2, kEvaluations = 5;
  const int64_t steps = steps_of(arguments);
  if (arguments.has("json")) require_report(arguments.get("json"), ReportKind::kJson);
  Config config = load_config(config_file(arguments.positional[0]), arguments.overrides);
  if (config.optim.batch == "auto") choose_batch(&config);
  const torch::Device device = prepare_device(&config);
  const Precision precision = resolve_precision(config.run.precision, device);
  const auto data = open_dataset(config);
  TrainState state;
  const ClassCounts counts = count_and_weigh(*data, config, &state);
  Trial trial(config, *data, state, counts, device);
  const double images = trial.images_per_step();
  log_info(str(config.model.backbone, " ", config.model.decoder, ", ", config.semi.method, ", crop ", config.data.crop[0], "x",
               config.data.crop[1], ", ", images, " images a step, ", describe_device(device), ", ", config.run.precision));

  // As training runs it.
  double flop = 0;
  {
    const FlopCounter counter;
    trial.step(trial.load());
    wait_for(device);
    flop = counter.flop();
  }
  trial.time_steps(kWarmUp);
  const Trial::Times times = trial.time_steps(steps);
  const double step_ms = 1000 * times.step, data_wait_ms = 1000 * times.data_wait;
  const double memory_mb = peak_memory_mb(device);
  trial.require_finite();

  // Its parts. What is left of the networks' passes in a method's step is labelling, mixing and losses.
  const auto batches = trial.load();
  trial.stop_loading();
  std::optional<DeviceTimes> of_device;
  if (device.is_cuda()) of_device = measure_device(device, [&] { trial.step(batches); });
  trial.use_graph(false);
  std::map<std::string, std::vector<double>> part_ms;
  const double without_data_ms = median_ms(device, steps, [&] {
    const ScopeTimer timer(device);
    trial.step(batches);
    const double network = timer.seconds(kNetworkScope), early = timer.seconds(kEarlyBackwardScope);
    part_ms["forward"].push_back(1000 * network);
    part_ms["loss"].push_back(1000 * (timer.seconds(kForwardAndLossScope) - network - early));
    part_ms["backward"].push_back(1000 * (timer.seconds(kBackwardScope) + early));
    part_ms["optimizer"].push_back(1000 * timer.seconds(kOptimizerScope));
  });
  if (arguments.has("operators")) log_info(of_device ? of_device->table : operator_table([&] { trial.step(batches); }));

  const double load_ms = median_ms(device, steps, [&] { trial.load(); });
  trial.stop_loading();

  const OneImage image(*data, 0);
  EvalOptions eval_options = make_eval_options(config, device);
  eval_options.workers = 0;
  const double evaluation_ms = median_ms(device, std::min(steps, kEvaluations),
                                         [&] { evaluate(trial.method().predictor(), image, Split::kVal, eval_options); });
  const Peak peak = measure_peak(device, precision);

  nlohmann::ordered_json json;
  json["images_per_s"] = 1000 * images / step_ms;
  json["step_ms"] = step_ms;
  std::string table =
      str("mean of ", steps,
          " steps with data:", format(" %.1f ms, %.2f images/s\nparts of a step, median:", step_ms, 1000 * images / step_ms));
  const auto add_part = [&](const std::string& name, double ms, const std::string& remark = "") {
    json["parts"][name] = ms;
    table += format("\n  %-12s %9.1f ms", name.c_str(), ms) + remark;
  };
  add_part("data wait", data_wait_ms, format("  (to load it alone: %.1f ms)", load_ms));
  for (const char* part : {"forward", "loss", "backward", "optimizer"}) add_part(part, median(part_ms[part]));
  const auto label_HW = image.label(Split::kVal, 0);
  add_part("evaluation", evaluation_ms, str("  (an image of ", label_HW.size(0), "x", label_HW.size(1), ")"));
  json["step_without_data_ms"] = without_data_ms;
  json["loading_ms"] = load_ms;
  json["peak_memory_mb"] = memory_mb;
  if (of_device) {
    json["device_idle_share"] = of_device->idle_share;
    table +=
        format("\nthe GPU waits for the host %.1f %% of a step of %.1f ms", 100 * of_device->idle_share, of_device->span_ms);
  }
  const double gflops = flop / step_ms / 1e6;
  json["flop_per_step"] = flop;
  json["gflops"] = gflops;
  json["gemm_gflops"] = peak.gemm_gflops;
  json["copy_gb_s"] = peak.copy_gb_s;
  json["peak_share"] = gflops / peak.gemm_gflops;
  table += format("\n%.2f GFLOP a step, %.1f GFLOP/s: %.1f %% of the %.1f GFLOP/s of a product of %s matrices of %lldx%lld",
                  flop / 1e9, gflops, 100 * gflops / peak.gemm_gflops, peak.gemm_gflops, config.run.precision.c_str(),
                  static_cast<long long>(peak.side), static_cast<long long>(peak.side));
  table += format("\nmemory: copies %.1f GB/s (read and written), peak %.0f MiB", peak.copy_gb_s, memory_mb);
  log_info(table);
  if (arguments.has("json")) write_file(arguments.get("json"), json.dump(2) + "\n");
  return 0;
}

const bool kRegistered = add_command({
    .name = "bench",
    .synopsis = "CONFIG.yaml [key=value ...]",
    .summary = "times a training step and its parts beside what this machine can reach",
    .details =
        R"(The step is timed as training runs it, reading ahead included. Its FLOP are those of convolutions and matrix products,
2 for a multiply-add; their peak is that of a large matrix product in the run's precision, measured in the same run.
On a GPU the parts are those of a step that is queued operation by operation, also where training starts it as a whole (run.cuda_graph).

examples:
  semiseg bench configs/synthetic/demo.yaml
  semiseg bench configs/camvid/fixmatch.yaml data.root=/data/camvid run.precision=bf16 --steps 20 --json bench.json)",
    .flags = {{"steps", "N", "timed steps of each kind (10)"},
              {"json", "FILE", "write the numbers as JSON"},
              {"operators", "", "also list the operators, on a GPU the kernels, that take the most time of one step"}},
    .min_positional = 1,
    .max_positional = 1,
    .run = run,
});

}  // namespace
}  // namespace semiseg
