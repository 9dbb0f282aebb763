#include "self_training.h"

#include <ATen/ATen.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <span>

#include "commands/failure.h"
#include "pseudo_label_files.h"
#include "semiseg/device.h"
#include "semiseg/log.h"
#include "train_parts.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

constexpr int kStages = 3;

std::string stage_name(int stage) { return str("stage", stage); }

// Puts a hard link to `from` at `to`, in one step; a copy where the file system has no such links.
void link_file(const std::string& from, const std::string& to) {
  const std::string temporary = str(to, ".tmp-", ::getpid());
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_hard_link(from, temporary, error);
  if (error) return write_file(to, read_file(from));
  fs::rename(temporary, to, error);
  if (error) throw Error(ErrorKind::kDisk, "cannot put the file in its place: " + error.message(), to);
  fs::remove(temporary, error);  // still there when both were links to one file already
}

// How long a stage is to be.
struct StageLength {
  int64_t steps = 0, epochs = 0, images_per_step = 0;
};

// What the stages before the present one reached.
struct Past {
  int64_t steps = 0;
  std::string data_fingerprint;
  std::vector<EpochRecord> history;

  // The history with a stage's epochs behind it, counted through.
  std::vector<EpochRecord> with(std::vector<EpochRecord> stage) const {
    std::vector<EpochRecord> all = history;
    for (EpochRecord& record : stage) {
      record.epoch += static_cast<int64_t>(history.size());
      record.step += steps;
      all.push_back(std::move(record));
    }
    return all;
  }

  // Makes what a stage says of itself hold for the run, whose stages from this one on have these lengths.
  void count_through(RunInfo* stage, std::span<const StageLength> lengths) const {
    stage->first_step += steps;
    stage->first_epoch += static_cast<int64_t>(history.size());
    stage->total_steps = steps;
    stage->total_epochs = static_cast<int64_t>(history.size());
    for (const StageLength& length : lengths) stage->total_steps += length.steps, stage->total_epochs += length.epochs;
  }

  void add(const TrainState& stage) {
    history = with(stage.history);
    data_fingerprint = stage.data_fingerprint;
    steps += stage.step;
  }
};

// What one stage reports: to its own folder, and to the run's with everything counted through. Keeps the run's checkpoints.
class StageReport : public Reporter {
 public:
  // `lengths`: of this stage and of those to come.
  StageReport(const Past& past, const Config& run_config, const RunFolder& run, std::span<const StageLength> lengths,
              Reporter& to_run)
      : past_(past), run_config_(run_config), run_(run), lengths_(lengths), to_run_(to_run) {
    own_.add(make_metrics_file());
    own_.add(make_status_file());
  }

  void begin(const RunInfo& info) override {
    dir_ = info.dir;
    own_.begin(info);
    RunInfo whole = info;
    whole.dir = run_.dir();
    whole.config = &run_config_;
    past_.count_through(&whole, lengths_);
    to_run_.begin(whole);
    if (!past_.history.empty()) to_run_.epochs(past_.history, /*resumed=*/true);
  }

  void activity(const Activity& now) override {
    own_.activity(now);
    Activity whole = now;
    whole.epoch += static_cast<int64_t>(past_.history.size());
    whole.step += past_.steps;
    to_run_.activity(whole);
  }

  void step(const StepReport& report) override {
    own_.step(report);
    StepReport whole = report;
    whole.epoch += static_cast<int64_t>(past_.history.size());
    whole.step += past_.steps;
    whole.seconds_left = seconds_left(report);
    to_run_.step(whole);
  }

  void first_batch(const FirstBatch& batch) override {
    if (past_.history.empty()) to_run_.first_batch(batch);
  }

  void samples(const EpochSamples& samples) override {
    EpochSamples whole = samples;
    whole.epoch += static_cast<int64_t>(past_.history.size());
    to_run_.samples(whole);
  }

  void epochs(const std::vector<EpochRecord>& history, bool resumed) override {
    own_.epochs(history, resumed);
    const std::vector<EpochRecord> all = past_.with(history);
    link("last");
    const EpochRecord* best = best_of(all);
    if (best != nullptr && best->epoch > static_cast<int64_t>(past_.history.size())) link("best");
    to_run_.epochs(all, resumed);
  }

  // How the stage ended; how the run ends is told by others.
  void end(RunState state, int exit_code, const std::string& message) override {
    link("last");
    own_.end(state, exit_code, message);
  }

 private:
  // Of the run: by the images of the stages to come, as fast as those of this one.
  double seconds_left(const StepReport& report) {
    const StageLength& now = lengths_.front();
    const int64_t images_left = (now.steps - report.step) * now.images_per_step;
    if (images_left > 0) seconds_per_image_ = report.seconds_left / static_cast<double>(images_left);
    double images = static_cast<double>(images_left);
    for (const StageLength& next : lengths_.subspan(1)) images += static_cast<double>(next.steps * next.images_per_step);
    return seconds_per_image_ * images;
  }

  void link(const std::string& name) const {
    const std::string file = "/checkpoints/" + name + ".safetensors";
    if (fs::exists(dir_ + file)) link_file(dir_ + file, run_.dir() + file);
  }

  const Past& past_;
  const Config& run_config_;
  const RunFolder& run_;
  std::span<const StageLength> lengths_;
  Reporter& to_run_;
  Reporters own_;
  std::string dir_;
  double seconds_per_image_ = 0;
};

class SelfTraining {
 public:
  SelfTraining(Config config, RunFolder& run, Reporter& report) : config_(std::move(config)), run_(run), report_(report) {
    // A resumed run, and a later stage, must not choose again.
    config_.run.precision = precision_name(resolve_precision(config_.run.precision, resolve_device(config_.run.device)));

    data_ = open_dataset(config_);
    const int64_t labeled = data_->size(Split::kLabeled), unlabeled = data_->size(Split::kUnlabeled);
    if (unlabeled < 2)
      throw Error(ErrorKind::kData, str("self-training needs at least 2 unlabelled images, there are ", unlabeled),
                  "data.unlabeled");
    const OptimConfig& optim = config_.optim;
    lengths_ = {length(optim, labeled, 0), length(optim, labeled, (unlabeled + 1) / 2), length(optim, labeled, unlabeled)};
  }

  TrainResult run() {
    for (int stage = 1; stage <= kStages; ++stage) {
      if (stage < kStages && fs::exists(in_run(labels_done(stage)))) {
        past_.add(newest_checkpoint(in_run(stage_name(stage)), nullptr).state);
        continue;
      }
      const TrainResult result = train_stage(stage);
      if (result.signal != 0) {
        log_info(str("stopped in stage ", stage, " of ", kStages));
        Past reached = past_;
        reached.add(result.state);
        return end(reached, result.signal);
      }
      past_.add(result.state);
      if (result.early) log_info(str("stage ", stage, " of ", kStages, " ", why_ended_early(config_.eval)));
      if (stage < kStages && !label(stage)) {
        log_info(str("stopped while pseudo-labels were written, after stage ", stage, " of ", kStages));
        return end(past_, stop_signal());
      }
    }
    return end(past_, 0);
  }

 private:
  static TrainResult end(const Past& reached, int signal) {
    TrainState state;
    state.step = reached.steps;
    state.history = reached.history;
    if (const EpochRecord* best = best_of(reached.history)) state.best_miou = best->val->miou, state.best_epoch = best->epoch;
    return {state, signal};
  }

  // The file that is written last of a stage's pseudo-labels.
  static std::string labels_done(int stage) { return str("pseudo_labels_", stage, stage == 1 ? "/list.txt" : "/all.txt"); }

  std::string in_run(const std::string& name) const { return absolute_path(run_.dir() + "/" + name); }
  std::string checkpoint(int stage, const std::string& name) const {
    return in_run(stage_name(stage) + "/checkpoints/" + name + ".safetensors");
  }

  static StageLength length(const OptimConfig& optim, int64_t labeled, int64_t unlabeled) {
    // 0 without labelled images, which the first stage will tell.
    const int64_t per_epoch = std::max<int64_t>(1, count_steps_per_epoch(optim, labeled, unlabeled));
    const int64_t steps = optim.steps ? *optim.steps : *optim.epochs * per_epoch;
    return {steps, count_epochs(steps, per_epoch),
            optim.accumulate * (optim.batch_labeled + (unlabeled > 0 ? optim.batch_unlabeled : 0))};
  }
  // Of a stage and all after it.
  std::span<const StageLength> lengths_from(int stage) const {
    return std::span(lengths_).subspan(static_cast<size_t>(stage - 1));
  }

  // The config of a stage as its own run, complete and checked.
  Config stage_config(int stage) const {
    Config config = config_;
    config.run.dir.clear();
    config.run.name += "-" + stage_name(stage);
    config.data.unlabeled_truth = false;  // its labels are predictions now
    config.semi.method = stage == 1 ? "supervised" : "retrain";
    if (stage == 1) {
      config.semi.ema_decay = 0;                                    // no average is evaluated or labels
      config.checkpoint.every_steps = (lengths_[0].steps + 2) / 3;  // ST++ compares a third, two thirds and the end
      config.checkpoint.keep = 3;
    } else {
      config.data.unlabeled = in_run(stage == 2 ? "pseudo_labels_1/reliable.txt" : "pseudo_labels_2/all.txt");
      if (is_drawn(config_)) {
        config.data.format = "list";
        config.data.classes = "synthetic";
        config.data.labeled = in_run("scenes/labeled.txt");
        config.data.val = in_run("scenes/val.txt");
      }
    }
    return parse_config(to_yaml(config), in_run(stage_name(stage)), {});
  }

  TrainResult train_stage(int stage) {
    static const char* const kWhat[] = {"learning from the labelled images",
                                        "learning from the more reliable pseudo-labels too", "learning from all pseudo-labels"};
    log_info(str("stage ", stage, " of ", kStages, ": ", kWhat[stage - 1]));
    Config config = stage_config(stage);
    const int64_t wanted = config_.checkpoint.every_steps, given = config.checkpoint.every_steps;
    if (wanted > 0 && wanted < given)
      log_warning(str("numbered checkpoints of this stage come after each third of it, ", given, " steps, not every ", wanted,
                      " (checkpoint.every_steps): reliability compares those"));
    const std::string dir = in_run(stage_name(stage));
    std::optional<Checkpoint> from;
    if (has_checkpoint(dir)) {
      from = checkpoint_to_go_on_from(dir);
      if (stage == kStages) take_over_length(from->config.optim, &config.optim);
      for (const std::string& key : differing_keys(from->config, config))
        if (!may_change_on_resume(key))
          throw Error(ErrorKind::kConfig,
                      "the stage was begun with another " + key + " (" + value_text(from->config, key) + ")",
                      run_.dir() + "/config.yaml", "restore it, or start a new run");
    }

    RunFolder folder = RunFolder::stage(run_, config_, stage_name(stage), from.has_value());
    StageReport report(past_, config_, run_, lengths_from(stage), report_);
    try {
      TrainResult result = train(config, 0, from, folder, report);
      if (result.signal != 0)
        report.end(RunState::kStopped, exit_code_of(result.signal), why_stopped(result.signal));
      else
        report.end(RunState::kDone, 0, result.early ? why_ended_early(config.eval) : "");
      return result;
    } catch (const std::exception& e) {
      if (!folder.opened()) throw;
      try {
        const Failure failure = describe_failure(e);
        report.end(RunState::kFailed, failure.exit_code, failure.message);
      } catch (const std::exception&) {
        // The disk is full, say: the error that ended the stage is the one to show.
      }
      throw;
    }
  }

  // A process that begins with labels has had no stage yet that opened the run's folder and began its report.
  void begin_labeling(int stage) {
    if (run_.opened()) return;
    TrainState state;
    state.step = past_.steps;
    state.history = past_.history;
    state.data_fingerprint = past_.data_fingerprint;
    const torch::Device device = resolve_device(config_.run.device);
    run_.open(config_, data_->classes(), state, device);
    RunInfo info;
    info.dir = run_.dir();
    info.config = &config_;
    info.classes = &data_->classes();
    past_.count_through(&info, lengths_from(stage + 1));
    report_.begin(info);
    report_.epochs(past_.history, /*resumed=*/true);
  }

  // A last stage that was made longer on its own: train --resume RUN/stage3 --extend N.
  void take_over_length(const OptimConfig& reached, OptimConfig* optim) {
    if (reached.epochs.value_or(0) > optim->epochs.value_or(0)) optim->epochs = reached.epochs;
    if (reached.steps.value_or(0) > optim->steps.value_or(0)) optim->steps = reached.steps;
    lengths_.back() = length(*optim, data_->size(Split::kLabeled), data_->size(Split::kUnlabeled));
  }

  // Writes what the stage after this one learns from. False when a signal stopped it.
  bool label(int stage) {
    begin_labeling(stage);
    PseudoLabelJob job;
    job.progress = [&](int64_t images, int64_t of) {
      report_.activity({Phase::kPseudoLabeling, static_cast<int64_t>(past_.history.size()), past_.steps, images, of});
    };
    job.threshold = config_.semi.threshold.value;
    job.undo_class_bias = config_.semi.undo_class_bias;
    job.checkpoint = checkpoint(stage, "best");
    if (stage == 1) {
      if (is_drawn(config_)) {
        make_folders(in_run("scenes"));
        if (!write_split(*data_, Split::kLabeled, config_, in_run("scenes/labeled")) ||
            !write_split(*data_, Split::kVal, config_, in_run("scenes/val")))
          return false;
      }
      const std::string last = checkpoint(stage, "last");
      job.earlier = earlier_checkpoints(last);
      if (job.earlier.empty())
        log_warning(
            "the first stage ended before a third of its steps (eval.patience), so there is no earlier checkpoint to "
            "agree with: images are ranked by mean confidence instead");
      if (read_checkpoint(job.checkpoint).state.step != read_checkpoint(last).state.step) job.newest = last;
      return write_pseudo_labels(job, config_, in_run("pseudo_labels_1"));
    }
    Config rest = stage_config(stage);
    rest.semi.method = "supervised";  // the labels in its list are to be replaced
    rest.data.unlabeled = in_run("pseudo_labels_1/rest.txt");
    if (!write_pseudo_labels(job, rest, in_run("pseudo_labels_2"))) return false;
    write_file(in_run(labels_done(stage)),
               read_file(in_run("pseudo_labels_1/reliable.txt")) + read_file(in_run("pseudo_labels_2/list.txt")));
    return true;
  }

  Config config_;
  RunFolder& run_;
  Reporter& report_;
  std::unique_ptr<Dataset> data_;
  std::array<StageLength, kStages> lengths_;
  Past past_;
};

// The name must be known to configs; the method itself has no step.
const bool kRegistered = methods().add(kSelfTraining, [](const SemiConfig&, const MethodParts&) -> std::shared_ptr<Method> {
  throw Error(ErrorKind::kConfig, "self_training is a chain of runs, not a step", "semi.method",
              "its stages are semi.method: supervised and semi.method: retrain");
});

}  // namespace

bool is_self_training(const std::string& run_dir) { return fs::is_directory(run_dir + "/" + stage_name(1)); }

TrainResult self_train(Config config, RunFolder& run, Reporter& report) {
  return SelfTraining(std::move(config), run, report).run();
}

}  // namespace semiseg
