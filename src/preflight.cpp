#include "preflight.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "memory.h"
#include "semiseg/device.h"
#include "semiseg/log.h"
#include "trial.h"
#include "utf8.h"

namespace semiseg {
namespace {

// "2.3 s", "4 min 10 s", "3 h 20 min", "2 days 3 h".
std::string time_text(double seconds) {
  if (seconds < 1) return format("%.0f ms", 1000 * seconds);
  if (seconds < 60) return format("%.1f s", seconds);
  const auto two = [](double count, int64_t per, const char* large, const char* small) {
    const auto all = static_cast<int64_t>(std::llround(count));
    return str(all / per, " ", large, all % per == 0 ? "" : str(" ", all % per, " ", small));
  };
  if (seconds < 3600) return two(seconds, 60, "min", "s");
  if (seconds < 86400) return two(seconds / 60, 60, "h", "min");
  return two(seconds / 3600, 24, "days", "h");
}

// The validation image with the most pixels, and how many times its pixels all of them have.
struct ValImages {
  int64_t largest = 0;
  double in_largest = 0;
};
ValImages measure_val(const ClassCounts& counts) {
  ValImages val;
  int64_t most = 0, sum = 0;
  for (size_t i = 0; i < counts.of_image.size(); ++i) {
    const int64_t pixels = std::accumulate(counts.of_image[i].begin(), counts.of_image[i].end(), int64_t{0});
    sum += pixels;
    if (pixels <= most) continue;
    most = pixels;
    val.largest = static_cast<int64_t>(i);
  }
  val.in_largest = static_cast<double>(sum) / static_cast<double>(most);
  return val;
}

// Enough updates for a steady mean where they are short.
Trial::Times time_steps(Trial& trial, bool on_gpu) {
  constexpr double kSeconds = 3;
  constexpr int64_t kMost = 20;
  trial.step(trial.load());
  const Trial::Times first = trial.time_steps(1);
  const auto more = std::min(kMost, static_cast<int64_t>(kSeconds / std::max(first.step, 1e-6)));
  if (more <= 1) return first;
  if (on_gpu) trial.step(trial.load());  // a graph is recorded in the third one
  return trial.time_steps(more);
}

}  // namespace

std::string forecast_text(const Forecast& forecast, const Config& config) {
  const auto line = [](const char* name, const std::string& text) { return format("\n  %-12s", name) + text; };
  const auto fits = [](double needed, double there) { return needed <= there ? "fits" : "DOES NOT FIT"; };
  const auto share = [&](double part) { return 100 * part / forecast.step_seconds; };
  std::string text = "dry run: nothing is written";
  text += line("update", time_text(forecast.step_seconds) +
                             format(" of %.0f images, %.1f images/s, data wait %.0f %%", forecast.images_per_step,
                                    forecast.images_per_step / forecast.step_seconds, share(forecast.data_wait_seconds)));
  text += line("epoch", counted(forecast.steps_per_epoch, "update") + ", " + time_text(forecast.epoch_seconds()));
  text += line("evaluation",
               counted(forecast.val_images, "image") + ", " + time_text(forecast.evaluation_seconds) + ", by the largest");
  text += line("run", counted(forecast.total_steps, "update") + ", " + counted(forecast.evaluations, "evaluation") + ": " +
                          time_text(forecast.total_seconds()));
  if (config.run.max_hours > 0 && forecast.total_seconds() > 3600 * config.run.max_hours)
    text += format("; run.max_hours=%g stops it after %.0f %%", config.run.max_hours,
                   100 * 3600 * config.run.max_hours / forecast.total_seconds());
  text += line("memory", "peak " + size_text(forecast.peak_mb));
  if (forecast.usable_mb > 0)
    text += " of " + size_text(forecast.usable_mb) + " that can be had: " + fits(forecast.peak_mb, forecast.usable_mb);
  text += line("disk", size_text(forecast.disk_mb) + " at most, a checkpoint is " + size_text(forecast.checkpoint_mb) + "; " +
                           size_text(forecast.free_disk_mb) + " free: " + fits(forecast.disk_mb, forecast.free_disk_mb));
  return text;
}

bool dry_run(Config config) {
  const torch::Device device = prepare_device(&config);
  const PeakMemory peak(device);
  const double usable_mb = usable_memory_mb(device);
  const auto data = open_dataset(config);
  TrainState state;
  ClassCounts val_counts;
  const ClassCounts counts = count_and_weigh(*data, config, &state, &val_counts);
  const ValImages val = measure_val(val_counts);
  Trial trial(config, *data, state, counts, device);
  if (stop_signal() != 0) return false;

  Forecast forecast;
  forecast.images_per_step = trial.images_per_step();
  forecast.steps_per_epoch = count_steps_per_epoch(config.optim, data->size(Split::kLabeled),
                                                   trial.reads_unlabeled() ? data->size(Split::kUnlabeled) : 0);
  forecast.total_steps = config.optim.steps ? *config.optim.steps : *config.optim.epochs * forecast.steps_per_epoch;
  const int64_t epochs = count_epochs(forecast.total_steps, forecast.steps_per_epoch);
  // The last epoch is evaluated, whatever its number.
  forecast.evaluations = (epochs + config.eval.every - 1) / config.eval.every + (config.eval.first ? 1 : 0);
  forecast.val_images = data->size(Split::kVal);

  const Trial::Times times = time_steps(trial, device.is_cuda());
  forecast.step_seconds = times.step;
  forecast.data_wait_seconds = times.data_wait;
  trial.stop_loading();
  if (stop_signal() != 0) return false;

  const OneImage largest(*data, val.largest);
  EvalOptions options = make_eval_options(config, device);
  options.workers = 0;
  const auto evaluate_largest = [&] {
    const Stopwatch watch;
    evaluate(trial.method().predictor(), largest, Split::kVal, options);
    return watch.seconds();
  };
  constexpr double kShort = 3;  // then once more, without what the first one sets up
  double seconds = evaluate_largest();
  if (seconds < kShort) seconds = evaluate_largest();
  forecast.evaluation_seconds = seconds * val.in_largest;

  forecast.peak_mb = peak.mb();
  forecast.usable_mb = usable_mb;
  forecast.checkpoint_mb = checkpoint_mb(trial.method(), trial.optimizer());
  forecast.disk_mb = checkpoints_mb(config, forecast.checkpoint_mb);
  forecast.free_disk_mb = free_disk_mb(config.run.dir.empty() ? "runs" : config.run.dir);
  log_info(forecast_text(forecast, config));
  return true;
}

double checkpoint_mb(Method& method, const Optimizer& optimizer) {
  size_t bytes = 0;
  for (const Tensor& parameter : method.parameters()) bytes += parameter.nbytes();
  for (const Tensor& buffer : method.buffers()) bytes += buffer.nbytes();
  for (const auto& [name, tensor] : optimizer.state()) bytes += tensor.nbytes();
  return static_cast<double>(bytes) / (1 << 20);
}

double checkpoints_mb(const Config& config, double one_mb) {
  const int64_t numbered = config.checkpoint.every_steps > 0 ? config.checkpoint.keep : 0;
  return static_cast<double>(2 + numbered + 1) * one_mb;
}

double further_checkpoints_mb(const std::string& run_dir, const Config& config, double one_mb) {
  double there_mb = 0;
  std::error_code error;  // a new run has no such folder
  for (const auto& entry : std::filesystem::directory_iterator(run_dir + "/checkpoints", error)) {
    if (entry.path().extension() != ".safetensors") continue;
    const auto bytes = entry.file_size(error);
    if (!error) there_mb += static_cast<double>(bytes) / (1 << 20);
  }
  // The one that is being written lies beside those that are there.
  return std::max(checkpoints_mb(config, one_mb) - there_mb, one_mb);
}

void warn_of_full_disk(const std::string& run_dir, const Config& config, Method& method, const Optimizer& optimizer) {
  const double needed_mb = further_checkpoints_mb(run_dir, config, checkpoint_mb(method, optimizer));
  const double free_mb = free_disk_mb(run_dir);
  if (needed_mb <= free_mb) return;
  log_warning("the checkpoints that this run will write take up to " + size_text(needed_mb) + ", and " + size_text(free_mb) +
              " are free at " + run_dir + ": free space there, or choose another run.dir");
}

void require_utf8(const Config& config) {
  for (const std::string& key : setting_keys())
    if (!is_utf8(value_text(config, key)))
      throw Error(ErrorKind::kConfig, "not UTF-8, so no checkpoint could hold it", key,
                  "rename what it names, or give a link to it whose path is UTF-8");
}

}  // namespace semiseg
