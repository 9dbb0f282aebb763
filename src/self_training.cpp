#include "self_training.h"

#include <ATen/ATen.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <set>

#include "commands/failure.h"
#include "semiseg/device.h"
#include "semiseg/evaluate.h"
#include "semiseg/loader.h"
#include "semiseg/log.h"
#include "train_parts.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

// --- files that later stages read ---

// A path as a column of a list.
std::string list_column(const std::string& path) {
  const bool plain = path.find_first_of(" \t\r,") == std::string::npos && path.front() != '"';
  if (path.find('\n') != std::string::npos || (!plain && path.find('"') != std::string::npos))
    throw Error(ErrorKind::kData, "this path cannot be written in a list", path, "rename the file or its folder");
  return plain ? path : "\"" + path + "\"";
}

// File names of images without folder and ending, each given out once: images of one name in two folders do not collide.
class FileNames {
 public:
  std::string of(const std::string& id, int64_t index) {
    std::string name = fs::path(id).stem().string();
    while (!taken_.insert(name).second) name += str("_", index);
    return name;
  }

 private:
  std::set<std::string> taken_;
};

// Values that stand for classes in label files: uint8 [256], by class index and kIgnore.
Tensor values_of_classes(const ClassSet& classes, int64_t ignore_index) {
  const auto values = at::full({256}, ignore_index, at::kByte);
  uint8_t* of_class = values.data_ptr<uint8_t>();
  for (int value = 255; value >= 0; --value) {
    const int16_t index = classes.value_to_class[static_cast<size_t>(value)];
    if (index >= 0 && index != kIgnore) of_class[index] = static_cast<uint8_t>(value);
  }
  return values;
}

// class_HW: uint8, on the host.
void write_label(const std::string& path, const Tensor& class_HW, const Tensor& values) {
  write_label_png(path, values.index_select(0, class_HW.flatten().to(at::kLong)).view_as(class_HW));
}

// Data that is drawn has no files until they are written.
bool is_drawn(const Config& config) { return config.data.format == "synthetic"; }

// Writes a labelled split as images, labels and `folder`.txt, the list of them. False when a signal stopped it.
bool write_split(const Dataset& data, Split split, const Config& config, const std::string& folder) {
  make_folders(folder + "/images");
  make_folders(folder + "/labels");
  const Tensor values = values_of_classes(data.classes(), config.data.ignore_index);
  FileNames names;
  std::string list;
  OrderedReader reader(data, split, config.data.workers);
  for (int64_t index = 0; index < data.size(split); ++index) {
    if (stop_signal() != 0) return false;
    const Sample sample = reader.next();
    const std::string name = names.of(sample.id, index) + ".png";
    const std::string image = folder + "/images/" + name, label = folder + "/labels/" + name;
    write_image(image, sample.image_HWC);
    write_label(label, sample.label_HW, values);
    list += list_column(image) + " " + list_column(label) + "\n";
  }
  write_file(folder + ".txt", list);
  return true;
}

// --- the stages ---

constexpr int kStages = 3;

std::string stage_name(int stage) { return str("stage", stage); }

bool holds_checkpoint(const std::string& run_dir) {
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(run_dir + "/checkpoints", none))
    if (entry.path().extension() == ".safetensors") return true;
  return false;
}

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

// What the stages before the present one reached.
struct Past {
  int64_t steps = 0;
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

  void add(const TrainState& stage) {
    history = with(stage.history);
    steps += stage.step;
  }
};

// What one stage reports: to its own folder, and to the run's with everything counted through. Keeps the run's checkpoints.
class StageReport : public Reporter {
 public:
  StageReport(const Past& past, const Config& run_config, const RunFolder& run, int64_t total_steps, Reporter& to_run)
      : past_(past), run_config_(run_config), run_(run), total_steps_(total_steps), to_run_(to_run) {
    own_.add(make_metrics_file());
    own_.add(make_status_file());
  }

  void begin(const RunInfo& info) override {
    dir_ = info.dir;
    own_.begin(info);
    RunInfo whole = info;
    whole.dir = run_.dir();
    whole.config = &run_config_;
    whole.total_steps = total_steps_;
    whole.first_step += past_.steps;
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
  void link(const std::string& name) const {
    const std::string file = "/checkpoints/" + name + ".safetensors";
    if (fs::exists(dir_ + file)) link_file(dir_ + file, run_.dir() + file);
  }

  const Past& past_;
  const Config& run_config_;
  const RunFolder& run_;
  int64_t total_steps_;
  Reporter& to_run_;
  Reporters own_;
  std::string dir_;
};

class SelfTraining {
 public:
  SelfTraining(Config config, RunFolder& run, Reporter& report) : config_(std::move(config)), run_(run), report_(report) {
    if (config_.semi.threshold.kind != "fixed")
      throw Error(ErrorKind::kConfig,
                  "semi.method: self_training takes a number as semi.threshold, not " + value_text(config_, "semi.threshold"),
                  "semi.threshold", "labels are written once, so no threshold can adapt to them");
    // A resumed run, and a later stage, must not choose again.
    const bool bf16 = resolve_bf16(config_.run.precision, resolve_device(config_.run.device));
    config_.run.precision = bf16 ? "bf16" : "fp32";

    const auto data = open_dataset(config_);
    const int64_t labeled = data->size(Split::kLabeled), unlabeled = data->size(Split::kUnlabeled);
    if (unlabeled < 2)
      throw Error(ErrorKind::kData, str("self-training needs at least 2 unlabelled images, there are ", unlabeled),
                  "data.unlabeled");
    steps_ = {count_steps(labeled, 0), count_steps(labeled, (unlabeled + 1) / 2), count_steps(labeled, unlabeled)};
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

  // Updates of a stage.
  int64_t count_steps(int64_t labeled, int64_t unlabeled) const {
    const OptimConfig& optim = config_.optim;
    return optim.steps ? *optim.steps : *optim.epochs * count_steps_per_epoch(optim, labeled, unlabeled);
  }

  // The config of a stage as its own run, complete and checked.
  Config stage_config(int stage) const {
    Config config = config_;
    config.run.dir.clear();
    config.run.name += "-" + stage_name(stage);
    config.data.unlabeled_truth = false;  // its labels are predictions now
    config.semi.method = stage == 1 ? "supervised" : "retrain";
    if (stage == 1) {
      config.checkpoint.every_steps = (steps_[0] + 2) / 3;  // ST++ compares a third, two thirds and the end
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
    const Config config = stage_config(stage);
    const std::string dir = in_run(stage_name(stage));
    std::optional<Checkpoint> from;
    if (holds_checkpoint(dir)) {
      from = checkpoint_to_go_on_from(dir);
      for (const std::string& key : differing_keys(from->config, config))
        if (!may_change_on_resume(key))
          throw Error(ErrorKind::kConfig,
                      "the stage was begun with another " + key + " (" + value_text(from->config, key) + ")",
                      run_.dir() + "/config.yaml", "restore it, or start a new run");
    }

    RunFolder folder = RunFolder::stage(run_, config_, stage_name(stage), from.has_value());
    StageReport report(past_, config_, run_, std::accumulate(steps_.begin(), steps_.end(), int64_t{0}), report_);
    try {
      TrainResult result = train(config, 0, from, folder, report);
      if (result.signal != 0)
        report.end(RunState::kStopped, exit_code_of(result.signal), why_stopped(result.signal));
      else
        report.end(RunState::kDone, 0, "");
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

  // Writes what the stage after this one learns from. False when a signal stopped it.
  bool label(int stage) {
    PseudoLabelJob job;
    job.threshold = config_.semi.threshold.value;
    job.checkpoint = checkpoint(stage, "best");
    if (stage == 1) {
      if (is_drawn(config_)) {
        const auto data = open_dataset(config_);
        make_folders(in_run("scenes"));
        if (!write_split(*data, Split::kLabeled, config_, in_run("scenes/labeled")) ||
            !write_split(*data, Split::kVal, config_, in_run("scenes/val")))
          return false;
      }
      const std::string last = checkpoint(stage, "last");
      job.earlier = earlier_checkpoints(last);
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
  std::array<int64_t, kStages> steps_{};  // updates of each stage
  Past past_;
};

// The name must be known to configs; the method itself has no step.
const bool kRegistered = methods().add(kSelfTraining, [](const SemiConfig&, const MethodParts&) -> std::shared_ptr<Method> {
  throw Error(ErrorKind::kConfig, "self_training is a chain of runs, not a step", "semi.method",
              "its stages are semi.method: supervised and semi.method: retrain");
});

}  // namespace

bool write_pseudo_labels(const PseudoLabelJob& job, const Config& config, const std::string& folder) {
  use_fused_ops(config.ops.fused);
  const torch::Device device = resolve_device(config.run.device);
  const bool bf16 = resolve_bf16(config.run.precision, device);
  const EvalOptions options = make_eval_options(config, device, bf16);
  const auto data = open_dataset(config);
  const int64_t count = data->size(Split::kUnlabeled), K = data->classes().size();
  if (count == 0) throw Error(ErrorKind::kData, "there is no unlabelled image", "data.unlabeled", "name a list of images");

  const auto load = [&](const std::string& path) {
    const auto network = load_model(path, &config, device).network;
    if (network->num_classes() != K)
      throw Error(ErrorKind::kConfig, str("the checkpoint has ", network->num_classes(), " classes, the data set ", K), path,
                  "give the config it was trained with, or set data.classes");
    return network;
  };
  const auto labeler = load(job.checkpoint);
  std::vector<std::shared_ptr<Segmenter>> earlier;
  for (const std::string& path : job.earlier) earlier.push_back(load(path));
  const auto newest = earlier.empty() || job.newest.empty() ? labeler : load(job.newest);
  log_info(str("pseudo-labels of ", count, " images by ", job.checkpoint, ", reliability by ",
               earlier.empty() ? "mean confidence" : str("agreement with ", earlier.size(), " earlier checkpoints"), ", ",
               describe_device(device), ", ", bf16 ? "bf16" : "fp32"));

  const std::string root = absolute_path(folder);
  make_folders(root + "/labels");
  if (is_drawn(config)) make_folders(root + "/images");
  for (const char* list : {"/list.txt", "/reliable.txt", "/rest.txt", "/reliability.csv"}) remove_file(root + list);

  struct Row {
    std::string id, line;
    double reliability, accepted, confidence;
  };
  std::vector<Row> rows;
  std::string list;
  const Tensor values = values_of_classes(data->classes(), config.data.ignore_index);
  ConfusionMatrix agreement(K, device), truth(K, device);
  bool truth_known = false;
  FileNames names;
  double accepted_sum = 0;
  const Stopwatch watch;
  OrderedReader reader(*data, Split::kUnlabeled, config.data.workers);
  for (int64_t index = 0; index < count; ++index) {
    if (stop_signal() != 0) return false;
    const Sample sample = reader.next();
    const Prediction prediction = predict_with_confidence(*labeler, sample.image_HWC, options);
    const auto class_HW = prediction.class_BHW[0], confidence_HW = prediction.confidence_BHW[0];
    const auto accepted_HW = confidence_HW >= job.threshold;

    const std::string name = names.of(sample.id, index) + ".png", label = root + "/labels/" + name;
    std::string image = absolute_path((fs::path(config.data.root) / sample.id).string());
    if (is_drawn(config)) {
      image = root + "/images/" + name;
      write_image(image, sample.image_HWC);
    }
    write_label(label, at::where(accepted_HW, class_HW, kIgnore).to(at::kCPU, at::kByte), values);

    Row row{sample.id, list_column(image) + " " + list_column(label) + "\n", 0, 0, 0};
    row.accepted = accepted_HW.to(at::kFloat).mean().item<double>();
    row.confidence = confidence_HW.mean().item<double>();
    row.reliability = earlier.empty() ? row.confidence : 0;
    if (!earlier.empty()) {
      const auto newest_HW = newest == labeler ? class_HW : predict_image(*newest, sample.image_HWC, options);
      for (const auto& network : earlier) {
        agreement.reset();
        agreement.add(predict_image(*network, sample.image_HWC, options), newest_HW);
        row.reliability += agreement.scores().miou / static_cast<double>(earlier.size());
      }
    }
    if (sample.label_HW.defined()) {
      truth_known = true;
      truth.add(class_HW, at::where(accepted_HW, sample.label_HW.to(device, at::kLong), kIgnore));
    }
    accepted_sum += row.accepted;
    list += row.line;
    rows.push_back(std::move(row));
    show_status(str("pseudo-labels ", index + 1, "/", count, ": ", name));
  }

  std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.reliability > b.reliability; });
  std::string table = "image,reliability,accepted,confidence\n", reliable, rest;
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    table += list_column(row.id) + format(",%.6f,%.6f,%.6f\n", row.reliability, row.accepted, row.confidence);
    (i < (rows.size() + 1) / 2 ? reliable : rest) += row.line;
  }
  write_file(root + "/reliability.csv", table);
  write_file(root + "/reliable.txt", reliable);
  if (!rest.empty()) write_file(root + "/rest.txt", rest);
  write_file(root + "/list.txt", list);

  const double seconds = watch.seconds();
  log_info(format("pseudo-labels of %lld images in %.1f s (%.2f images/s), %.1f%% of the pixels at confidence >= %g; in ",
                  static_cast<long long>(count), seconds, static_cast<double>(count) / std::max(seconds, 1e-9),
                  100 * accepted_sum / static_cast<double>(count), job.threshold) +
           root);
  if (truth_known) log_info("pseudo-labels against the true labels:\n" + score_table(truth.scores(), data->classes().names));
  return true;
}

std::vector<std::string> earlier_checkpoints(const std::string& checkpoint) {
  std::vector<std::string> earlier;
  if (!is_checkpoint(checkpoint)) return earlier;
  const int64_t reached = read_checkpoint(checkpoint).state.step;
  const fs::path folder = fs::absolute(checkpoint).parent_path();
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().stem().string(), number = name.substr(name.find('_') + 1);
    int64_t step = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), step);
    const bool numbered = error == std::errc() && name == numbered_name(step) && entry.path().extension() == ".safetensors";
    if (numbered && step < reached) earlier.push_back(entry.path().string());
  }
  std::sort(earlier.begin(), earlier.end());
  return earlier;
}

bool is_self_training(const std::string& run_dir) { return fs::is_directory(run_dir + "/" + stage_name(1)); }

TrainResult self_train(Config config, RunFolder& run, Reporter& report) {
  return SelfTraining(std::move(config), run, report).run();
}

}  // namespace semiseg
