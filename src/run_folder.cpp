#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/version.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <opencv2/core/version.hpp>
#include <set>

#include "host.h"
#include "self_training.h"
#include "semiseg/device.h"
#include "semiseg/distributed.h"
#include "semiseg/log.h"
#include "semiseg/train.h"
#include "shell.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

std::string& command_line() {
  static std::string words;
  return words;
}

// Whether a folder holds what a run leaves that ended before its first checkpoint, killed perhaps, and nothing else.
bool is_abandoned(const std::string& dir) {
  static const std::set<std::string> kBeforeCheckpoints{
      ".lock",       "before_training.json", "checkpoints", "class_histogram.png", "config.yaml",    "environment.json",
      "metrics.csv", "metrics.jsonl",        "status.json", "train.log",           "train_batch.jpg"};
  const auto has = [&](const char* name) { return fs::exists(dir + "/" + name); };
  if (!has(".lock") || !has("config.yaml") || !fs::is_directory(dir + "/checkpoints")) return false;
  for (const auto& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string(), whole = name.substr(0, name.find(".tmp-"));
    if (kBeforeCheckpoints.count(whole) == 0 && !name.starts_with("events.out.tfevents.")) return false;
  }
  for (const auto& entry : fs::directory_iterator(dir + "/checkpoints"))
    if (entry.path().filename().string().find(".safetensors.tmp-") == std::string::npos) return false;
  if (has("metrics.jsonl") && !fs::is_empty(dir + "/metrics.jsonl")) return false;
  try {
    parse_config(read_file(dir + "/config.yaml"), dir, {});
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

bool may_change_on_resume(const std::string& key) {
  return key == "run.device" || key == "run.cuda_graph" || key == "run.max_hours" || key == "data.workers" ||
         key == "data.cache" || key == "eval.patience" || key == "distributed.backend" || key.rfind("report.", 0) == 0;
}

Checkpoint checkpoint_to_go_on_from(const std::string& run_dir) {
  std::vector<std::string> damaged;
  Checkpoint from = newest_checkpoint(run_dir, &damaged);
  for (const std::string& message : damaged) log_warning("a damaged checkpoint is passed over: " + message);
  log_info(str("going on from ", from.path, ", step ", from.state.step));
  return from;
}

void remember_command_line(int argc, char** argv) {
  for (int i = 0; i < argc; ++i) command_line() += (i ? " " : "") + shell_quoted(argv[i]);
}

RunFolder RunFolder::fresh(const Config& config) {
  RunFolder folder;
  if (!config.run.dir.empty()) {
    folder.dir_ = config.run.dir;
    if (fs::exists(folder.dir_) && !fs::is_directory(folder.dir_))
      throw Error(ErrorKind::kConfig, "is a file, not a folder", "run.dir: " + folder.dir_, "choose another");
    if (!is_writer() || !fs::exists(folder.dir_) || fs::is_empty(folder.dir_)) return folder;
    // Asked again under the lock: until then its run may have been alive.
    if (is_abandoned(folder.dir_)) folder.lock_ = std::make_shared<FolderLock>(folder.dir_);
    if (!folder.lock_ || !is_abandoned(folder.dir_))
      throw Error(ErrorKind::kConfig, "the run folder is not empty", "run.dir: " + folder.dir_,
                  has_checkpoint(folder.dir_) || is_self_training(folder.dir_)
                      ? "continue it with `semiseg train --resume " + shell_quoted(folder.dir_) + "` or choose another"
                      : "choose another");
    return folder;
  }
  folder.name_ = config.run.name;
  folder.dir_ = folder.free_name();
  return folder;
}

std::string RunFolder::free_name() const {
  std::string dir = "runs/" + name_;
  for (int number = 2; fs::exists(dir); ++number) dir = "runs/" + name_ + "-" + std::to_string(number);
  return dir;
}

RunFolder RunFolder::existing(const std::string& dir) {
  if (!fs::is_directory(dir)) throw Error(ErrorKind::kConfig, "there is no such run folder", dir);
  RunFolder folder;
  folder.dir_ = dir;
  folder.resumed_ = true;
  if (is_writer()) folder.lock_ = std::make_shared<FolderLock>(dir);
  return folder;
}

RunFolder RunFolder::stage(RunFolder& run, const Config& run_config, const std::string& name, bool resumed) {
  RunFolder folder;
  folder.dir_ = run.dir_ + "/" + name;
  folder.resumed_ = resumed;
  folder.run_ = &run;
  folder.stage_ = name;
  folder.run_config_ = run_config;
  return folder;
}

void RunFolder::open(const Config& config, const ClassSet& classes, const TrainState& state, torch::Device device) {
  if (!is_writer()) return;
  if (run_ != nullptr) {
    if (!run_->opened_) run_->open(run_config_, classes, state, device);
    dir_ = run_->dir_ + "/" + stage_;  // the run's may have changed
  }
  if (!name_.empty()) {
    // Another run of this name may have begun since: making the folder decides who has it.
    make_folders("runs");
    while (!fs::create_directory(dir_)) dir_ = free_name();
  }
  if (lock_ && !resumed_) {
    log_info("begun anew in " + dir_ + ": the run there ended before its first checkpoint; its files are replaced");
    for (const auto& entry : fs::directory_iterator(dir_))
      if (entry.path().filename() != ".lock") fs::remove_all(entry.path());
  }
  make_folders(dir_ + "/checkpoints");
  if (!lock_) lock_ = std::make_shared<FolderLock>(dir_);
  remove_stale_temporaries(dir_);
  remove_stale_temporaries(dir_ + "/checkpoints");
  opened_ = true;
  if (run_ == nullptr) {
    log_to_file(dir_ + "/train.log");
  } else {
    std::error_code there_already;
    fs::create_symlink("../train.log", dir_ + "/train.log", there_already);
  }
  write_file(dir_ + "/config.yaml", to_yaml(config));

  // A resumed run keeps what the first start wrote and adds itself.
  const std::string path = dir_ + "/environment.json";
  nlohmann::ordered_json environment;
  if (resumed_ && fs::exists(path))
    environment = nlohmann::ordered_json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  const nlohmann::ordered_json now = {{"semiseg", SEMISEG_VERSION},
                                      {"commit", SEMISEG_COMMIT},
                                      {"torch", TORCH_VERSION},
                                      {"opencv", CV_VERSION},
                                      {"device", describe_device(device)},
                                      {"precision", precision_name(resolve_precision(config.run.precision, device))},
                                      {"threads", at::get_num_threads()},
                                      {"processes", process_count()},
                                      {"host", host_name()},
                                      {"command_line", command_line()},
                                      {"working_directory", fs::current_path().string()},
                                      {"seed", config.seed},
                                      {"data_fingerprint", state.data_fingerprint},
                                      {"started", utc_now()},
                                      {"resumed_at_step", resumed_ ? nlohmann::ordered_json(state.step) : nullptr}};
  if (environment.is_object()) {
    environment["resumed"].push_back(now);
  } else {
    environment = now;
    environment["classes"] = nlohmann::ordered_json::array();
    for (size_t c = 0; c < classes.names.size(); ++c) {
      environment["classes"].push_back({{"name", classes.names[c]}, {"colour", classes.colours[c]}});
      if (c < state.label_share.size()) environment["classes"].back()["label_share"] = state.label_share[c];
    }
    environment["origins"] = nlohmann::ordered_json::object();  // config.yaml holds values alone
    for (const auto& [key, origin] : config.origins) environment["origins"][key] = origin.text();
  }
  write_file(path, environment.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

void RunFolder::discard_if_empty() {
  if (!opened_ || resumed_ || !fs::is_empty(dir_ + "/checkpoints")) return;
  log_close();
  std::error_code error;
  fs::remove_all(dir_, error);
}

}  // namespace semiseg
