#include "train_parts.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/record_function.h>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <numeric>

#include "datasets/parallel.h"
#include "memory.h"
#include "observers.h"
#include "reports/text.h"
#include "semiseg/device.h"
#include "semiseg/distributed.h"
#include "semiseg/log.h"
#include "semiseg/weights.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

// Names and sizes of all lists: what a resumed run must find again, and every process of a training.
std::string fingerprint(const Dataset& data) {
  std::string names;
  for (const Split split : {Split::kLabeled, Split::kUnlabeled, Split::kVal})
    for (int64_t i = 0; i < data.size(split); ++i) names += data.id(split, i) + "\n";
  char text[64];
  std::snprintf(text, sizeof(text), "%lld+%lld+%lld-%016llx", static_cast<long long>(data.size(Split::kLabeled)),
                static_cast<long long>(data.size(Split::kUnlabeled)), static_cast<long long>(data.size(Split::kVal)),
                static_cast<unsigned long long>(hash_name(names)));
  if (!differing_over_processes({text}).empty())
    throw Error(ErrorKind::kData, str("the lists are not the same in all processes (here ", text, ")"), "data",
                "give every machine the same lists");
  return text;
}

double value_of(const TrainState& state, const std::string& name) {
  return state.epoch_sums.at(name).item<double>() / state.epoch_sums.at("count").item<double>();
}

std::string join(const std::vector<std::string>& words, size_t most) {
  std::string text;
  for (size_t i = 0; i < std::min(words.size(), most); ++i) text += (i ? ", " : "") + words[i];
  return text + (words.size() > most ? str(", ... (", words.size(), " in all)") : "");
}

// Whether the weights of the classes that have any differ by less than a hundredth.
bool are_nearly_equal(const std::vector<double>& weights) {
  double least = std::numeric_limits<double>::infinity(), most = 0;
  for (const double weight : weights)
    if (weight > 0) least = std::min(least, weight), most = std::max(most, weight);
  return most < 1.01 * least;
}

}  // namespace

torch::Device prepare_device(Config* config) {
  const torch::Device device = resolve_device(config->run.device);
  config->run.precision = precision_name(resolve_precision(config->run.precision, device));
  prefer_deterministic_kernels(config->run.deterministic, device);
  use_fused_ops(config->ops.fused);
  return device;
}

ClassCounts count_and_weigh(const Dataset& data, const Config& config, TrainState* state, ClassCounts* val) {
  state->data_fingerprint = fingerprint(data);
  const Stopwatch watch;
  ClassCounts counts, val_counts;
  const int64_t unlabeled = reads_unlabeled(config.semi.method) ? data.size(Split::kUnlabeled) : 0;
  first_then_others([&] {
    counts = count_classes(data, Split::kLabeled, config.data.workers);
    val_counts = count_classes(data, Split::kVal, config.data.workers);
    if (std::accumulate(val_counts.pixels.begin(), val_counts.pixels.end(), int64_t{0}) == 0)
      throw Error(ErrorKind::kData, "there is no labelled validation pixel, so no score can be given", "data.val",
                  "name a list of images and labels");
    for_each_index(unlabeled, config.data.workers,
                   [&](int64_t index, int64_t) { data.require_image(Split::kUnlabeled, index, {}); });
  });
  log_info(str("data: ", data.size(Split::kLabeled), " labelled, ", unlabeled > 0 ? str(unlabeled, " unlabelled, ") : "",
               data.size(Split::kVal), " validation images; labels read in ", format("%.1f s", watch.seconds())));

  const bool given = config.loss.class_weights == "given";
  const int64_t K = data.classes().size();
  if (given && static_cast<int64_t>(config.loss.given_weights.size()) != K)
    throw Error(ErrorKind::kConfig, str("has ", config.loss.given_weights.size(), " numbers for ", K, " classes"),
                "loss.class_weights");
  const auto weights = given ? config.loss.given_weights : class_weights(config.loss.class_weights, counts);
  if (config.loss.class_weights != "none") state->class_weights = weights;

  int64_t total = 0;
  for (const int64_t pixels : counts.pixels) total += pixels;
  if (total == 0)
    throw Error(ErrorKind::kData, "the labelled images hold no labelled pixel", "data.labeled",
                "`semiseg check CONFIG` shows which values its label files hold");
  for (const int64_t pixels : counts.pixels)
    state->label_share.push_back(static_cast<double>(pixels) / static_cast<double>(total));
  const double temperature = config.sampler.rare_class_temperature;
  const auto sampled = temperature > 0 ? rare_class_probabilities(counts.pixels, temperature) : std::vector<double>{};
  std::string table = format("%-16s %10s %8s %8s", "class", "pixels", "images", "weight");
  if (!sampled.empty()) table += format(" %9s", "sampled");
  for (int64_t c = 0; c < K; ++c) {
    table += format("\n%s %9.3f%% %8lld %8.3f", padded(data.classes().names[c], 16).c_str(), 100 * state->label_share[c],
                    static_cast<long long>(counts.images[c]), weights[c]);
    if (!sampled.empty()) table += format(" %8.2f%%", 100 * sampled[c]);
  }
  log_info("labelled pixels (weights: " + config.loss.class_weights + ")\n" + table);
  if (config.loss.class_weights == "effective" && are_nearly_equal(weights))
    log_warning(
        "loss.class_weights=effective weighs these classes alike: (1 - b) / (1 - b^n) with b = .9999 does not change "
        "beyond some ten thousand pixels; enet is a mild choice, median and inverse are strong ones");
  for (int64_t c = 0; c < K; ++c)
    if (counts.pixels[c] == 0)
      log_warning("class \"" + data.classes().names[c] + "\" has no labelled pixel; the network cannot learn it");
  if (val != nullptr) *val = std::move(val_counts);
  return counts;
}

void require_same_classes(const ClassSet& trained, const ClassSet& now, const std::string& path) {
  for (int64_t c = 0; c < std::max(trained.size(), now.size()); ++c) {
    const auto name = [c](const ClassSet& set) { return c < set.size() ? "\"" + set.names[c] + "\"" : "none"; };
    if (name(trained) != name(now))
      throw Error(ErrorKind::kConfig,
                  str("class ", c, " is ", name(now), ", in the checkpoint it is ", name(trained), " (", path, ")"),
                  "data.classes", "restore the classes it was trained with, in their order");
  }
}

void require_fitting_classes(const LoadedModel& trained, const ClassSet& now, const std::string& path) {
  if (now.size() != trained.network->num_classes())
    throw Error(ErrorKind::kConfig,
                str("the checkpoint has ", trained.network->num_classes(), " classes, the data set ", now.size()), path,
                "give the config it was trained with, or set data.classes");
  for (int64_t c = 0; c < trained.classes.size(); ++c)
    for (int64_t other = 0; other < now.size(); ++other)
      if (c != other && trained.classes.names[c] == now.names[other])
        throw Error(ErrorKind::kConfig,
                    str("\"", now.names[other], "\" is class ", other, ", in the checkpoint it is class ", c, " (", path, ")"),
                    "data.classes", "give the classes in the order of those it was trained with");
}

void require_same_data(const Checkpoint& checkpoint, const Dataset& data) {
  require_same_classes(checkpoint.classes, data.classes(), checkpoint.path);
  const std::string now = fingerprint(data);
  if (now != checkpoint.state.data_fingerprint)
    throw Error(ErrorKind::kData,
                "the lists are not those this run began with (" + checkpoint.state.data_fingerprint + ", now " + now + ")",
                checkpoint.path, "restore the lists, or start a new run with model.weights set to this checkpoint");
}

void warn_of_other_hardware(const Checkpoint& checkpoint, torch::Device device) {
  if (device.str() != checkpoint.device)
    log_warning("this run computed on " + checkpoint.device + ", now on " + device.str() + ": results are no longer bit-equal");
  if (at::get_num_threads() != checkpoint.threads)
    log_warning(str("this run computed with ", checkpoint.threads, " threads, now with ", at::get_num_threads(),
                    ": results are no longer bit-equal"));
  if (process_count() != checkpoint.processes)
    log_warning(str("this run computed in ", checkpoint.processes, " processes, now in ", process_count(),
                    ": results are no longer bit-equal"));
}

std::function<std::shared_ptr<Segmenter>(uint32_t)> network_factory(const Config& config, int64_t num_classes, bool resumed) {
  std::shared_ptr<StateDict> weights;
  if (!config.model.weights.empty() && !resumed) {
    weights = std::make_shared<StateDict>(read_weights(config.model.weights));
    const auto network = make_segmenter(config.model, num_classes, config.seed);
    const LoadSummary summary = load_weights(*network, *weights, config.model.weights);
    log_info(str("weights: ", summary.loaded, " tensors from ", config.model.weights,
                 summary.stripped_prefix.empty() ? "" : " (prefix \"" + summary.stripped_prefix + "\" taken off)"));
    const bool whole_backbone = std::none_of(summary.missing.begin(), summary.missing.end(),
                                             [](const std::string& name) { return name.starts_with("encoder."); });
    if (!summary.missing.empty() && whole_backbone)
      log_info(str("  ", summary.missing.size(), " tensors of decoder and head are not in the file and start at random"));
    else if (!summary.missing.empty())
      log_info("  not in the file, keep their initial values: " + join(summary.missing, 6));
    if (!summary.unexpected.empty()) log_info("  in the file, not in the network: " + join(summary.unexpected, 6));
    if (!summary.reinitialized.empty())
      log_info("  another number of classes, keep their initial values: " + join(summary.reinitialized, 6));
  }
  return [config, num_classes, weights](uint32_t purpose) {
    const auto network = make_segmenter(config.model, num_classes, config.seed, purpose);
    if (!weights) return network;
    load_weights(*network, *weights, config.model.weights);
    if (purpose != 0) {  // the decoder and the head stay as they were drawn
      const auto drawn = make_segmenter(config.model, num_classes, config.seed, purpose);
      for (const auto& part : drawn->named_children())
        if (part.key() != "encoder") copy_module(*part.value(), *network->named_children()[part.key()]);
    }
    return network;
  };
}

std::shared_ptr<Method> make_method(const Config& config, const TrainState& state, int64_t num_classes, bool resumed,
                                    torch::Device device) {
  const MethodParts parts{network_factory(config, num_classes, resumed),
                          SupervisedLoss(config.loss, state.class_weights, state.label_share, device),
                          num_classes,
                          state.class_weights,
                          state.label_share,
                          device,
                          config.seed};
  const auto method = methods().at(config.semi.method)(config.semi, parts);
  if (process_count() > 1 && !method->trains_together())
    throw Error(ErrorKind::kConfig, "trains in one process alone", "semi.method: " + config.semi.method,
                "start it without other processes, or choose another method");
  if (method->needs().mix_within && config.optim.batch_unlabeled < 2 * process_count())
    throw Error(ErrorKind::kConfig,
                str("mixes unlabelled images of a batch with each other, and ", process_count() > 1 ? "each process" : "it",
                    " has one"),
                "semi.method: " + config.semi.method,
                str("set optim.batch_unlabeled to ", 2 * process_count(), " or more, or semi.mix to none"));
  move_module(*method, device);
  return method;
}

void learn_early_by(Optimizer& optimizer, const Config& config, torch::Device device, Method& method) {
  method.learn_early([&optimizer, device, accumulate = config.optim.accumulate](const Tensor& part_of_loss) {
    RECORD_USER_SCOPE(kEarlyBackwardScope);
    const Autocast none(device, Precision::kFp32);
    optimizer.backward(part_of_loss / accumulate);
  });
}

int64_t count_steps_per_epoch(const OptimConfig& optim, int64_t labeled, int64_t unlabeled) {
  const auto updates = [&](int64_t images, int64_t batch) {
    const int64_t of_update = batch * optim.accumulate;
    return (images + of_update - 1) / of_update;
  };
  return std::max(updates(labeled, optim.batch_labeled), updates(unlabeled, optim.batch_unlabeled));
}

void extend_config(Config* config, int64_t epochs, int64_t steps_per_epoch) {
  if (config->optim.epochs) config->optim.epochs = *config->optim.epochs + epochs;
  if (config->optim.steps) config->optim.steps = *config->optim.steps + epochs * steps_per_epoch;
}

void require_equal_shares(const Config& config) {
  const auto require_share = [](int64_t images, const char* key) {
    if (images % process_count() != 0)
      throw Error(ErrorKind::kConfig, str(images, " images cannot be shared equally by ", process_count(), " processes"), key,
                  str("batch sizes are those of all processes together: set a multiple of ", process_count()));
  };
  require_share(config.optim.batch_labeled, "optim.batch_labeled");
  if (reads_unlabeled(config.semi.method)) require_share(config.optim.batch_unlabeled, "optim.batch_unlabeled");
}

LoaderOptions loader_options(const Config& config, const BatchNeeds& needs, torch::Device device,
                             std::optional<ClassCounts> counts) {
  require_equal_shares(config);
  LoaderOptions options;
  options.part = process_rank();
  options.parts = process_count();
  options.seed = config.seed;
  options.batch_labeled = config.optim.batch_labeled;
  options.batch_unlabeled = config.optim.batch_unlabeled;
  options.accumulate = config.optim.accumulate;
  options.view = {config.data.crop.at(0), config.data.crop.at(1), config.data.scale.at(0), config.data.scale.at(1),
                  config.data.flip};
  options.needs = needs;
  options.needs.truth = needs.unlabeled && reads_unlabeled_labels(config);
  options.workers = config.data.workers;
  options.mean = config.data.mean;
  options.std = config.data.std;
  options.device = device;
  options.rare_class_temperature = config.sampler.rare_class_temperature;
  options.labeled_counts = std::move(counts);
  return options;
}

EvalOptions make_eval_options(const Config& config, torch::Device device) {
  EvalOptions options{config.eval,         config.data.mean,
                      config.data.std,     resolve_precision(config.run.precision, device),
                      config.data.workers, device};
  if (options.eval.window.empty()) options.eval.window = config.data.crop;
  if (options.eval.stride.empty())
    options.eval.stride = {std::max<int64_t>(1, options.eval.window[0] * 2 / 3),
                           std::max<int64_t>(1, options.eval.window[1] * 2 / 3)};
  return options;
}

std::optional<Scores> validate(Segmenter& network, const Dataset& data, const EvalOptions& options, Activity now,
                               const std::function<bool()>& stop, const std::function<void(int64_t, const Tensor&)>& seen,
                               Reporter& report) {
  now.of = data.size(Split::kVal);
  const auto stop_before_next = [&] {
    report.activity(now);
    now.images += process_count();
    return stop();
  };
  return evaluate(network, data, Split::kVal, options, stop_before_next, seen);
}

int heard_signal(bool time_limit) {
  // Of several processes' signals the end of the time counts least: it must not hide what asks for an end at once.
  const int own = stop_signal();
  const auto rank = largest_over_processes(own == SIGALRM ? 1 : own == 0 ? 0 : own + 1);
  const int heard = rank == 1 ? SIGALRM : rank == 0 ? 0 : static_cast<int>(rank) - 1;
  return heard == SIGALRM && !time_limit ? 0 : heard;
}

void average_statistics(Method& method) {
  std::vector<Tensor> statistics;
  for (const NamedModule& trained : method.trained())
    for (const Tensor& buffer : trained.module->buffers())
      if (buffer.is_floating_point()) statistics.push_back(buffer);
  average_over_processes(statistics);
}

void try_to(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception&) {
  }
}

void add_epoch(TrainState* state, EpochRecord record) {
  constexpr size_t kMostNumbers = 4'000'000;
  auto& history = state->history;
  history.push_back(std::move(record));
  size_t numbers = 0;
  for (const EpochRecord& epoch : history)
    if (epoch.val) numbers += epoch.val->confusion.size() * epoch.val->confusion.size();
  bool is_first = true;
  for (EpochRecord& epoch : history) {
    if (numbers <= kMostNumbers) return;
    if (!epoch.val || epoch.val->confusion.empty()) continue;
    const bool stays = std::exchange(is_first, false) || epoch.epoch == state->best_epoch || &epoch == &history.back();
    if (stays) continue;
    numbers -= epoch.val->confusion.size() * epoch.val->confusion.size();
    epoch.val->confusion.clear();
  }
}

void add_to_sums(std::map<std::string, Tensor>* sums, const StepOutput& out) {
  at::NoGradGuard no_grad;
  const auto add = [&](const std::string& name, const Tensor& value) {
    const auto found = sums->find(name);
    if (found == sums->end())
      sums->emplace(name, value.clone());
    else
      found->second += value;
  };
  std::vector<std::string> names{"loss"};
  std::vector<Tensor> values{out.loss.to(at::kDouble)};
  for (const auto& [name, value] : out.scalars) names.push_back(name), values.push_back(value.to(at::kDouble));
  if (process_count() > 1) values = mean_over_processes(at::stack(values)).unbind();
  for (size_t i = 0; i < names.size(); ++i) add(names[i], values[i]);
  if (out.pseudo_2K.defined()) add("pseudo", sum_over_processes(out.pseudo_2K));
  if (out.truth_3K.defined()) add("truth", sum_over_processes(out.truth_3K));
  add("count", at::ones({}, out.loss.options().dtype(at::kDouble)));
}

void require_finite(const TrainState& state, const Optimizer& optimizer) {
  if (!is_writer()) return;
  const char* hint =
      "start a new run with a lower optim.lr or with optim.clip_grad_norm, from model.weights set to the last checkpoint or "
      "anew";
  const auto loss = state.epoch_sums.find("loss");
  if (loss != state.epoch_sums.end() && !std::isfinite(loss->second.item<double>()))
    throw Error(ErrorKind::kNonFinite, str("the loss became NaN or infinite by step ", state.step), "", hint);
  // Halved by every update whose gradients are not: none was for dozens of them.
  constexpr double kLeastScale = 0x1p-14;
  if (optimizer.loss_scale() < kLeastScale)
    throw Error(ErrorKind::kNonFinite, str("the gradients are NaN or infinite at every scale by step ", state.step),
                "run.precision: fp16", str("take bf16 or fp32, or ", hint));
}

bool spares_weights(const std::exception& error) {
  const auto* known = dynamic_cast<const Error*>(&error);
  if (known == nullptr) return is_out_of_memory(error);
  return known->kind() == ErrorKind::kData || known->kind() == ErrorKind::kDisk || known->kind() == ErrorKind::kPeer;
}

std::vector<EpochRecord> with_scores_before(const TrainState& state) {
  std::vector<EpochRecord> records;
  if (state.before_training) records.push_back(*state.before_training);
  records.insert(records.end(), state.history.begin(), state.history.end());
  return records;
}

bool out_of_patience(const EvalConfig& eval, const TrainState& state) {
  if (eval.patience == 0 || state.step != recorded_step(state)) return false;
  const auto worse = std::count_if(state.history.begin(), state.history.end(),
                                   [&](const EpochRecord& record) { return record.val && record.epoch > state.best_epoch; });
  return worse >= eval.patience;
}

std::string why_ended_early(const EvalConfig& eval) {
  return str("ended early: no better mIoU in the last ", eval.patience, " evaluated epochs (eval.patience)");
}

EpochRecord epoch_record(const TrainState& state, int64_t epoch, double images_per_step, const std::optional<Scores>& scores) {
  EpochRecord record;
  record.epoch = epoch;
  record.step = state.step;
  record.seconds = state.epoch_seconds;
  const int64_t steps = state.step - recorded_step(state);
  record.images_per_s = static_cast<double>(steps) * images_per_step / std::max(state.epoch_seconds, 1e-9);
  record.data_wait = std::min(1.0, state.epoch_wait / std::max(state.epoch_seconds, 1e-9));
  record.loss = value_of(state, "loss");
  record.loss_supervised = value_of(state, "loss_supervised");
  if (state.epoch_sums.count("loss_unsupervised")) record.loss_unsupervised = value_of(state, "loss_unsupervised");
  record.val = scores;
  if (const auto found = state.epoch_sums.find("pseudo"); found != state.epoch_sums.end()) {
    const auto counts_2K = found->second.to(at::kCPU, at::kDouble).contiguous();
    const double* predicted = counts_2K.data_ptr<double>();
    const double* accepted = predicted + counts_2K.size(1);
    const double valid = counts_2K[0].sum().item<double>(), used = counts_2K[1].sum().item<double>();
    PseudoScores pseudo;
    pseudo.accepted = valid > 0 ? used / valid : 0;
    for (int64_t c = 0; c < counts_2K.size(1); ++c) {
      pseudo.share.push_back(used > 0 ? accepted[c] / used : 0);
      pseudo.accepted_by_class.push_back(predicted[c] > 0 ? MaybeFraction(accepted[c] / predicted[c]) : std::nullopt);
    }
    if (const auto truth = state.epoch_sums.find("truth"); truth != state.epoch_sums.end()) {
      const auto truth_3K = truth->second.to(at::kCPU, at::kDouble).contiguous();
      const double *right = truth_3K.data_ptr<double>(), *used_as = right + truth_3K.size(1),
                   *real = used_as + truth_3K.size(1);
      for (int64_t c = 0; c < truth_3K.size(1); ++c) {
        pseudo.precision.push_back(used_as[c] > 0 ? MaybeFraction(right[c] / used_as[c]) : std::nullopt);
        pseudo.recall.push_back(real[c] > 0 ? MaybeFraction(right[c] / real[c]) : std::nullopt);
      }
    }
    record.pseudo = pseudo;
  }
  return record;
}

StepReport step_report(const TrainState& state, int64_t epoch, double images_per_step, double lr, double seconds_left) {
  StepReport report;
  report.epoch = epoch;
  report.step = state.step;
  report.loss = value_of(state, "loss");
  report.loss_supervised = value_of(state, "loss_supervised");
  if (state.epoch_sums.count("loss_unsupervised")) report.loss_unsupervised = value_of(state, "loss_unsupervised");
  report.lr = lr;
  const int64_t steps = state.step - recorded_step(state);
  report.images_per_s = static_cast<double>(steps) * images_per_step / std::max(state.epoch_seconds, 1e-9);
  report.data_wait = std::min(1.0, state.epoch_wait / std::max(state.epoch_seconds, 1e-9));
  report.seconds_left = seconds_left;
  return report;
}

std::string numbered_name(int64_t step) { return format("step_%08lld", static_cast<long long>(step)); }

void remove_old_checkpoints(const std::string& run_dir, int64_t keep) {
  if (!is_writer()) return;
  std::vector<std::string> numbered;
  for (const auto& entry : fs::directory_iterator(run_dir + "/checkpoints"))
    if (entry.path().filename().string().rfind("step_", 0) == 0) numbered.push_back(entry.path().string());
  std::sort(numbered.begin(), numbered.end());
  while (static_cast<int64_t>(numbered.size()) > keep) {
    remove_file(numbered.front());
    numbered.erase(numbered.begin());
  }
}

}  // namespace semiseg
