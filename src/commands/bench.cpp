#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "commands/command.h"
#include "semiseg/device.h"
#include "semiseg/files.h"
#include "semiseg/log.h"
#include "train_parts.h"

namespace semiseg {
namespace {

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// Waits for the device: reading one value back ends only after all that was queued before it.
void wait_for(torch::Device device) {
  if (device.is_cuda()) at::zeros({}, at::TensorOptions(device)).item<float>();
}

int64_t steps_of(const Arguments& arguments) {
  if (!arguments.has("steps")) return 10;
  const int64_t steps = std::atoll(arguments.get("steps").c_str());
  if (steps < 1) throw Error(ErrorKind::kConfig, "\"" + arguments.get("steps") + "\" is no number of steps", "--steps");
  return steps;
}

int run(const Arguments& arguments) {
  const int64_t steps = steps_of(arguments), warm_up = 2;
  const Config config = load_config(arguments.positional[0], arguments.overrides);
  use_fused_ops(config.ops.fused);
  const torch::Device device = resolve_device(config.run.device);
  const bool bf16 = resolve_bf16(config.run.precision, device);
  const auto data = open_dataset(config);
  TrainState state;
  const ClassCounts counts = count_and_weigh(*data, config, &state);
  const auto method = make_method(config, state, data->classes().size(), /*resumed=*/false, device);
  Optimizer optimizer(method->trained(), config.optim);
  const BatchNeeds needs = method->needs();
  const LoaderOptions options = loader_options(config, needs, device, counts);
  const double images = static_cast<double>(options.batch_labeled + (needs.unlabeled ? options.batch_unlabeled : 0));
  log_info(str(config.model.backbone, " ", config.model.decoder, ", ", config.semi.method, ", crop ", options.view.crop_H, "x",
               options.view.crop_W, ", ", images, " images, ", describe_device(device), ", ", bf16 ? "bf16" : "fp32"));

  std::map<std::string, std::vector<double>> ms;
  const auto timed = [&](const std::string& part, const std::function<void()>& work) {
    wait_for(device);
    const Stopwatch watch;
    work();
    wait_for(device);
    ms[part].push_back(1000 * watch.seconds());
  };
  const Progress progress{0, 1000, 100};
  const auto step = [&](int64_t index, const TrainBatch& batch) {
    for (const NamedModule& trained : method->trained()) trained.module->train();
    optimizer.zero_grad();
    reseed_dropout(*method, config.seed, index);
    StepOutput out;
    timed("forward and loss", [&] {
      const Autocast autocast(device, bf16);
      out = method->step(batch, progress);
    });
    timed("backward", [&] { out.loss.backward(); });
    timed("optimizer", [&] {
      optimizer.step(1);
      at::NoGradGuard no_grad;
      method->after_update(progress);
    });
  };

  // The step on one batch that lies on the device.
  TrainBatch batch;
  {
    Loader loader(*data, options);
    batch = loader.batch(0);
  }
  for (int64_t i = 0; i < warm_up; ++i) step(i, batch);
  ms.clear();
  for (int64_t i = 0; i < steps; ++i) timed("step without data", [&] { step(i, batch); });

  // The loader alone, then both together as training runs them.
  {
    Loader loader(*data, options);
    for (int64_t i = 0; i < warm_up; ++i) loader.batch(i);
    for (int64_t i = 0; i < steps; ++i) timed("loader alone", [&] { loader.batch(warm_up + i); });
  }
  auto parts_ms = ms;
  {
    Loader loader(*data, options);
    for (int64_t i = 0; i < warm_up; ++i) step(i, loader.batch(i));
    for (int64_t i = 0; i < steps; ++i) timed("step with data", [&] { step(i, loader.batch(warm_up + i)); });
  }
  parts_ms["step with data"] = ms["step with data"];

  nlohmann::ordered_json json;
  const double step_ms = median(parts_ms["step with data"]);
  json["images_per_s"] = 1000 * images / step_ms;
  json["step_ms"] = step_ms;
  std::string table = "median of " + std::to_string(steps) + " steps";
  for (const auto& [part, values] : parts_ms) {
    char line[80];
    std::snprintf(line, sizeof(line), "\n  %-18s %9.1f ms", part.c_str(), median(values));
    table += line;
    json["parts"][part] = median(values);
  }
  json["peak_memory_mb"] = peak_memory_mb(device);
  log_info(table + str("\n", json["images_per_s"].get<double>(), " images/s, peak memory ", peak_memory_mb(device), " MiB"));
  if (arguments.has("json")) write_file(arguments.get("json"), json.dump(2) + "\n");
  return 0;
}

const bool kRegistered = add_command({
    .name = "bench",
    .synopsis = "CONFIG.yaml [key=value ...]",
    .summary = "times the parts of a training step and the loader",
    .details = R"(examples:
  semiseg bench configs/synthetic/demo.yaml
  semiseg bench configs/camvid/fixmatch.yaml data.root=/data/camvid run.precision=bf16 --steps 20 --json bench.json)",
    .flags = {{"steps", "N", "timed steps of each kind (10)"}, {"json", "FILE", "write the numbers as JSON"}},
    .min_positional = 1,
    .max_positional = 1,
    .run = run,
});

}  // namespace
}  // namespace semiseg
