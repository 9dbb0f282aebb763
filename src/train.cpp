#include "semiseg/train.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include "observers.h"
#include "preflight.h"
#include "samples.h"
#include "semiseg/device.h"
#include "semiseg/distributed.h"
#include "semiseg/evaluate.h"
#include "semiseg/files.h"
#include "semiseg/health.h"
#include "semiseg/loader.h"
#include "semiseg/log.h"
#include "train_parts.h"

// One training run, top to bottom: data, networks, optimizer, resume, loop.

namespace semiseg {

void update(const Config& config, torch::Device device, const Progress& progress, const std::vector<TrainBatch>& batches,
            Method& method, Optimizer& optimizer, StepGraph& graph, std::map<std::string, Tensor>* sums) {
  const int64_t accumulate = config.optim.accumulate;
  for (const NamedModule& trained : method.trained()) trained.module->train();
  optimizer.set_rate(schedule_factor(config.optim, progress.step, progress.total_steps));
  for (int64_t micro = 0; micro < accumulate; ++micro) {
    reseed_dropout(method, config.seed, progress.step * accumulate + micro);
    add_to_sums(sums, graph.run(batches[micro], progress, [&](const TrainBatch& batch) {
      if (micro == 0) optimizer.zero_grad();
      StepOutput out;
      {
        RECORD_USER_SCOPE(kForwardAndLossScope);
        const Autocast autocast(device, resolve_precision(config.run.precision, device));
        out = method.step(batch, progress);
      }
      if (out.loss.requires_grad()) {  // else all of it was learned from within the step
        RECORD_USER_SCOPE(kBackwardScope);
        optimizer.backward(out.loss / accumulate);
      }
      RECORD_USER_SCOPE(kOptimizerScope);
      if (micro + 1 == accumulate) optimizer.step();
      return out;
    }));
  }
  RECORD_USER_SCOPE(kOptimizerScope);
  at::NoGradGuard no_grad;
  average_statistics(method);
  method.after_update(progress);  // whatever follows the student: the EMA teacher
}

TrainResult train(Config config, int64_t extend, const std::optional<Checkpoint>& from, RunFolder& folder, Reporter& report) {
  const torch::Device device = prepare_device(&config);  // a resumed run must not choose its precision again
  log_info(str("computing on ", describe_device(device), " in ", config.run.precision));

  // Data. All labels but those of the unlabelled list are read now, so that a broken one is found.
  const auto data = open_dataset(config);
  TrainState state = from ? from->state : TrainState{};
  std::optional<ClassCounts> counts;
  if (from)
    require_same_data(*from, *data);
  else
    counts = count_and_weigh(*data, config, &state);

  // The method owns every network it trains or averages. All start with the same weights.
  const auto method = make_method(config, state, data->classes().size(), from.has_value(), device);
  Optimizer optimizer(method->trained(), config.optim, /*scales_loss=*/config.run.precision == "fp16");
  learn_early_by(optimizer, config, device, *method);
  StepGraph graph(config, device, *method);

  const BatchNeeds needs = method->needs();
  const int64_t accumulate = config.optim.accumulate;
  const int64_t steps_per_epoch =
      count_steps_per_epoch(config.optim, data->size(Split::kLabeled), needs.unlabeled ? data->size(Split::kUnlabeled) : 0);
  extend_config(&config, extend, steps_per_epoch);
  const int64_t total_steps = config.optim.steps ? *config.optim.steps : *config.optim.epochs * steps_per_epoch;
  const auto end_of_epoch = [&](int64_t epoch) { return std::min(epoch * steps_per_epoch, total_steps); };
  const auto progress = [&] { return Progress{state.step, total_steps, steps_per_epoch}; };
  const double images_per_step =
      static_cast<double>(accumulate * (config.optim.batch_labeled + (needs.unlabeled ? config.optim.batch_unlabeled : 0)));

  if (from) restore(*from, *method, optimizer), warn_of_other_hardware(*from, device);
  for (auto& [name, sum] : state.epoch_sums) sum = sum.to(device);
  warn_of_full_disk(folder.dir(), config, *method, optimizer);

  folder.open(config, data->classes(), state, device);
  report.begin({folder.dir(), &config, &data->classes(), total_steps, count_epochs(total_steps, steps_per_epoch),
                steps_per_epoch, state.step, static_cast<int64_t>(state.history.size()) + 1, counts ? &*counts : nullptr});
  if (from) report.epochs(state.history, /*resumed=*/true);
  Loader loader(*data, loader_options(config, needs, device, std::move(counts)));
  SampleImages samples(*data, config.report.samples, needs.unlabeled, state.label_share);
  const EvalOptions eval_options = make_eval_options(config, device);
  const auto save = [&](const std::string& name) {
    save_checkpoint(folder.dir() + "/checkpoints/" + name + ".safetensors", config, data->classes(), state, *method, optimizer);
  };
  // The total that --extend raised, and a `last` that was damaged, must be on disk before anything else can happen.
  if (from && (extend > 0 || from->path.find("/last.safetensors") == std::string::npos)) save("last");
  const int64_t first_step = state.step;
  int signal = 0;  // a time limit leaves room for one step, so that a chain of short jobs gets ahead
  const auto stopping = [&] { return (signal = heard_signal(/*time_limit=*/state.step > first_step)) != 0; };
  const auto score = [&](int64_t epoch) {
    return validate(method->predictor(), *data, eval_options, {Phase::kEvaluating, epoch, state.step}, stopping,
                    samples.watch(), report);
  };

  if (config.eval.first && state.step == 0 && !state.before_training)
    if (const auto scores = score(0)) {
      state.before_training.emplace().val = *scores;
      log_info("before training:\n" + score_table(*scores, data->classes().names));
    }
  if (state.before_training && is_writer())
    write_file(folder.dir() + "/before_training.json", to_json(*state.before_training) + "\n");

  Stopwatch watch;        // of the epoch, running on from where a resumed run stopped
  Stopwatch since_start;  // for the time left
  double epoch_base_seconds = state.epoch_seconds;
  // What comes before a checkpoint or a report: the time of the epoch, and no loss that is NaN.
  const auto settle = [&] {
    state.epoch_seconds = epoch_base_seconds + watch.seconds();
    state.epoch_wait += loader.take_wait_seconds();
    require_finite(state, optimizer);
  };

  // True while the weights are those of an update, not of half of one; then an error loses nothing.
  bool between_steps = true;
  try {
    for (;;) {
      // A finished epoch that is not in the history yet: so, too, does a resumed run repeat an evaluation that was interrupted.
      const int64_t epoch = static_cast<int64_t>(state.history.size()) + 1;
      if (state.step > recorded_step(state) && state.step == end_of_epoch(epoch)) {
        settle();
        const bool evaluate_now = epoch % config.eval.every == 0 || state.step == total_steps;
        Stopwatch evaluation;
        const auto scores = evaluate_now ? score(epoch) : std::nullopt;
        if (evaluate_now && !scores) {
          save("last");
          return {state, signal};
        }
        EpochRecord record = epoch_record(state, epoch, images_per_step, scores);
        if (scores && record.pseudo) measure_agreement(*method, progress(), *data, eval_options, &state.probe, &*record.pseudo);
        record.seconds += evaluation.seconds();
        record.lr = config.optim.lr * schedule_factor(config.optim, state.step - 1, total_steps);
        record.peak_memory_mb = peak_memory_mb(device);
        const bool best = scores && scores->miou > state.best_miou;
        if (best) state.best_miou = scores->miou, state.best_epoch = epoch;
        add_epoch(&state, record);
        state.history.back().alarms =
            find_alarms(with_scores_before(state), {data->classes().names, state.label_share, &config});
        state.epoch_sums.clear();
        state.epoch_seconds = state.epoch_wait = epoch_base_seconds = 0;
        watch.restart(), loader.take_wait_seconds();  // and again after the reports
        method->end_epoch(progress(), scores ? std::optional(scores->miou) : std::nullopt);
        if (best) save("best");  // a file of its own: damage to one leaves the other
        save("last");
        if (scores && !samples.empty()) report.samples(samples.collect(epoch, *method, progress(), eval_options));
        report.epochs(state.history, /*resumed=*/false);
        loader.take_wait_seconds();
        watch.restart();
      }
      if (state.step == total_steps || out_of_patience(config.eval, state)) break;
      // All data of the update first: what cannot be read is found before the network is touched, by other processes too.
      std::vector<TrainBatch> batches;
      for (int64_t micro = 0; micro < accumulate; ++micro) batches.push_back(loader.batch(state.step * accumulate + micro));
      if (stopping()) {
        settle(), save("last");
        return {state, signal};
      }
      if (state.step == 0) report.first_batch({&batches[0], mixed_views(config.semi, *method, batches[0], progress())});

      between_steps = false;
      update(config, device, progress(), batches, *method, optimizer, graph, &state.epoch_sums);
      ++state.step;
      between_steps = true;
      report.activity({Phase::kTraining, epoch, state.step});

      if (state.step % config.report.every_steps == 0 || state.step == end_of_epoch(epoch)) {
        settle();
        report.step(step_report(state, epoch, images_per_step,
                                config.optim.lr * schedule_factor(config.optim, state.step - 1, total_steps),
                                since_start.seconds() / static_cast<double>(state.step - first_step) *
                                    static_cast<double>(total_steps - state.step)));
      }
      if (config.checkpoint.every_steps > 0 && state.step % config.checkpoint.every_steps == 0) {
        settle(), save(numbered_name(state.step));
        remove_old_checkpoints(folder.dir(), config.checkpoint.keep);
      }
    }
  } catch (const std::exception& e) {
    constexpr double kPatience = 10;  // seconds for what is queued, which may wait for a lost peer for ever
    if (spares_weights(e) && between_steps && state.step > first_step)
      try_to([&] {
        if (finishes_within(kPatience, device)) settle(), save("last");
      });
    throw;
  }
  return {state, 0, state.step < total_steps};
}

}  // namespace semiseg
