#include "batch_size.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "memory.h"
#include "semiseg/device.h"
#include "semiseg/log.h"
#include "semiseg/method.h"
#include "trial.h"

namespace semiseg {
namespace {

constexpr double kShareOfMemory = 0.8;  // the rest is for evaluation, reading ahead, and what a line does not foresee
constexpr int64_t kMostImages = 64;     // of a kind: larger batches need another learning rate, and gain little speed

// What the trial needs of the labels' statistics: memory does not depend on their values.
TrainState even_statistics(int64_t num_classes, const LossConfig& loss) {
  TrainState state;
  state.label_share.assign(num_classes, 1.0 / static_cast<double>(num_classes));
  if (loss.class_weights != "none") state.class_weights.assign(num_classes, 1.0);
  return state;
}

struct Stopped {};

// Updates of one batch size, on networks of their own.
class Probe {
 public:
  Probe(Config config, const Dataset& data, torch::Device device) : config_(std::move(config)), data_(data), device_(device) {
    config_.model.weights.clear();
    config_.sampler.rare_class_temperature = 0;
  }

  // Peak of an update, or nothing where it does not fit.
  std::optional<double> peak_mb(int64_t labeled, int64_t unlabeled) {
    if (stop_signal() != 0) throw Stopped();
    config_.optim.batch_labeled = labeled;
    config_.optim.batch_unlabeled = unlabeled;
    const PeakMemory peak(device_);
    std::string images = str(labeled, " labelled");
    try {
      Trial trial(config_, data_, even_statistics(data_.classes().size(), config_.loss), std::nullopt, device_);
      if (trial.reads_unlabeled()) images += str(" + ", unlabeled, " unlabelled");
      show_status("trying a batch of " + images + " images");
      trial.step(trial.load());
      const double seconds = trial.time_steps(1).step;
      log_info(str("  ", images, " images: peak ", size_text(peak.mb()),
                   format(", %.1f images/s", trial.images_per_step() / seconds)));
      return peak.mb();
    } catch (const std::exception& e) {
      if (!is_out_of_memory(e)) throw;
      log_info("  " + images + " images: out of memory");
      return std::nullopt;
    }
  }

 private:
  Config config_;
  const Dataset& data_;
  torch::Device device_;
};

}  // namespace

int64_t largest_that_fits(int64_t first, int64_t most, double limit_mb,
                          const std::function<std::optional<double>(int64_t)>& peak_mb) {
  constexpr int64_t kMostGrowth = 8;
  int64_t fits = 0, too_large = most + 1;
  std::optional<std::pair<int64_t, double>> before, newest;  // units and their peak
  for (int64_t units = std::clamp<int64_t>(first, 1, most); units > fits && units < too_large;) {
    const std::optional<double> peak = peak_mb(units);
    if (peak && *peak <= limit_mb)
      fits = units;
    else
      too_large = units;
    if (peak) before = std::exchange(newest, std::pair{units, *peak});

    int64_t next = fits == 0 ? units / 2 : 2 * fits;
    if (!peak && fits > 0) {
      next = (fits + too_large) / 2;
    } else if (before && newest && (newest->second - before->second) * static_cast<double>(newest->first - before->first) > 0) {
      const double slope = (newest->second - before->second) / static_cast<double>(newest->first - before->first);
      next = newest->first + static_cast<int64_t>(std::floor((limit_mb - newest->second) / slope));
      next = std::min(next, kMostGrowth * std::max<int64_t>(fits, 1));
    }
    next = std::min(next, too_large - 1);
    // A last tenth is not worth an update of that size.
    if (next - fits <= fits / 10) break;
    units = next;
  }
  return fits;
}

bool choose_batch(Config* config) {
  Config trial_config = *config;
  const torch::Device device = prepare_device(&trial_config);
  const auto data = open_dataset(trial_config);
  const bool has_unlabeled = reads_unlabeled(trial_config.semi.method);
  OptimConfig& optim = config->optim;
  const int64_t divisor = has_unlabeled ? std::gcd(optim.batch_labeled, optim.batch_unlabeled) : optim.batch_labeled;
  const int64_t labeled = optim.batch_labeled / divisor, unlabeled = has_unlabeled ? optim.batch_unlabeled / divisor : 0;

  // What bounds the batch, and the name of that bound.
  std::pair<int64_t, std::string> bound{kMostImages / std::max(labeled, unlabeled),
                                        str("the most that is tried, ", kMostImages)};
  const auto bound_by_list = [&](Split split, int64_t per_unit) {
    if (per_unit > 0 && data->size(split) / per_unit < bound.first)
      bound = {data->size(split) / per_unit, str("the ", data->size(split), " ", split_name(split), " images")};
  };
  bound_by_list(Split::kLabeled, labeled);
  bound_by_list(Split::kUnlabeled, unlabeled);
  const int64_t most = std::max<int64_t>(bound.first, 1);

  const double usable_mb = usable_memory_mb(device), limit_mb = kShareOfMemory * usable_mb;
  if (usable_mb <= 0)
    throw Error(ErrorKind::kConfig, "this system does not tell how much memory is free", "optim.batch: auto",
                "give optim.batch_labeled and optim.batch_unlabeled");
  log_info(str("optim.batch: auto, looking for the batch that fits into ", size_text(limit_mb), " (", 100 * kShareOfMemory,
               " % of ", size_text(usable_mb), ")"));
  Probe probe(trial_config, *data, device);
  // Batch normalisation over a single value per channel is an error, so not below two images where there is a choice.
  const int64_t first = labeled > 1 && unlabeled != 1 ? 1 : 2;
  try {
    const int64_t units =
        largest_that_fits(first, most, limit_mb, [&](int64_t n) { return probe.peak_mb(n * labeled, n * unlabeled); });
    if (units == 0)
      throw Error(ErrorKind::kMemory, "even the smallest batch does not fit into " + size_text(limit_mb), "optim.batch: auto",
                  "lower data.crop, or take a smaller model.backbone");
    const OptimConfig given = optim;
    optim.batch = "given";
    optim.batch_labeled = units * labeled;
    if (has_unlabeled) optim.batch_unlabeled = units * unlabeled;
    std::string text = str("chosen: optim.batch_labeled=", optim.batch_labeled);
    if (has_unlabeled) text += str(" optim.batch_unlabeled=", optim.batch_unlabeled);
    text += units == most ? " (bound by " + bound.second + ")" : " (bound by memory)";
    if (optim.batch_labeled != given.batch_labeled) {
      text += format("; optim.lr stays %g, it was set for batch_labeled=%lld", optim.lr,
                     static_cast<long long>(given.batch_labeled));
      if (optim.steps)
        text += format("; optim.steps stays %lld, which is %.1f times the images", static_cast<long long>(*optim.steps),
                       static_cast<double>(optim.batch_labeled) / static_cast<double>(given.batch_labeled));
    }
    log_info(text);
  } catch (const Stopped&) {
    return false;
  }
  PeakMemory{device};  // so that the peak of the run is not that of the trials
  return true;
}

}  // namespace semiseg
