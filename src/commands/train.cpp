#include "semiseg/train.h"

#include <filesystem>

#include "batch_size.h"
#include "commands/command.h"
#include "commands/config_file.h"
#include "commands/failure.h"
#include "commands/launch.h"
#include "commands/network_file.h"
#include "parse_number.h"
#include "preflight.h"
#include "run_status.h"
#include "self_training.h"
#include "semiseg/device.h"
#include "semiseg/distributed.h"
#include "semiseg/files.h"
#include "semiseg/log.h"
#include "semiseg/method.h"
#include "shell.h"
#include "train_parts.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

// The run whose checkpoints/ is `folder`, in the words of the user where they say it; "" where it is no such folder.
std::string run_of_checkpoints(fs::path folder) {
  if (!folder.has_filename() && folder.has_parent_path()) folder = folder.parent_path();  // "runs/r1/checkpoints/"
  if (!folder.has_parent_path()) folder = absolute_path(folder.empty() ? "." : folder.string());
  return folder.filename() == "checkpoints" ? folder.parent_path().string() : "";
}

// The run folder that --resume means: by its name or by its newest checkpoint, which is where it goes on.
std::string run_to_resume(const std::string& word) {
  const auto fail = [&](const std::string& problem, const std::string& hint) {
    throw Error(ErrorKind::kConfig, problem, word, hint);
  };
  const auto use = [](const std::string& run) { return "use --resume " + shell_quoted(run); };
  if (fs::is_directory(word)) {
    const std::string run = run_of_checkpoints(word);
    if (!run.empty() && !fs::is_directory(fs::path(word) / "checkpoints")) fail("holds the checkpoints of a run", use(run));
    return word.substr(0, std::max<size_t>(1, word.find_last_not_of('/') + 1));
  }
  if (!fs::exists(word)) fail("there is no such run folder", did_you_mean_run(word, "--resume "));
  if (!is_checkpoint(word)) fail("is neither a run folder nor a checkpoint", "name a folder that `semiseg train` made");
  const std::string run = run_of_checkpoints(fs::path(word).parent_path());
  if (run.empty())
    fail("is a checkpoint outside of a run folder",
         "to begin a new run with its weights: semiseg train CONFIG model.weights=" + shell_quoted(word));
  if (is_self_training(run)) {  // steps are counted anew in each stage, so the names alone tell
    if (fs::path(word).filename() != "last.safetensors") fail("is a checkpoint, and not the newest of its run", use(run));
    return run;
  }
  const Checkpoint newest = newest_checkpoint(run, /*damaged=*/nullptr);
  if (!fs::equivalent(newest.path, word)) {
    const TrainState state = read_checkpoint(word).state;
    if (state.step != newest.state.step || state.history.size() != newest.state.history.size())
      fail(str("is a checkpoint, and not the newest of its run: that is of step ", newest.state.step), use(run));
  }
  return run;
}

// The config that a run was begun with, and what the command line changes in it. `where` is what messages call the former.
Config resumed_config(const Config& stored, const std::string& where, const std::vector<std::string>& overrides) {
  Config config = parse_config(to_yaml(stored), where, overrides);
  for (const std::string& key : differing_keys(stored, config))
    if (!may_change_on_resume(key))
      throw Error(ErrorKind::kConfig, "cannot change on --resume (it was " + value_text(stored, key) + ")",
                  "command line: " + key,
                  key == "optim.epochs" || key == "optim.steps" ? "use --extend EPOCHS to train longer"
                                                                : "start a new run to change it");
  require_utf8(config);
  return config;
}

bool was_done(const std::string& run_dir) {
  const std::string path = run_dir + "/status.json";
  const auto status = fs::is_regular_file(path) ? parse_status(read_file(path)) : std::nullopt;
  return status && status->state == "done";
}

int64_t epochs_of(const std::string& text) {
  const auto epochs = parse_number<int64_t>(text);
  if (!epochs || *epochs < 1) throw Error(ErrorKind::kConfig, "\"" + text + "\" is no number of epochs", "--extend");
  return *epochs;
}

// What the processes of one training cannot do together.
void require_one_process(const Config& config, const Arguments& arguments) {
  if (process_count() == 1) return;
  if (config.semi.method == kSelfTraining)
    throw Error(ErrorKind::kConfig, "is a chain of trainings in one process", "semi.method: self_training",
                "start it without other processes, or choose another method");
  if (config.optim.batch == "auto" || arguments.has("dry-run"))
    throw Error(ErrorKind::kConfig, "--dry-run and optim.batch: auto measure one process", "",
                "try it in one process with its share of the batch, then give optim.batch_labeled and optim.batch_unlabeled");
  require_equal_shares(config);
}

// Processes that were started differently would add up what does not belong together, or wait for each other for ever.
void require_same_in_all_processes(const Config& config, int64_t step, int64_t extend) {
  std::vector<std::string> names{"--extend", "the newest checkpoint"}, values{str(extend), str("step ", step)};
  for (const std::string& key : setting_keys()) {
    // Where the data lies may be a machine's own; what lies there is compared when it is read.
    const bool own = may_change_on_resume(key) && key != "distributed.backend";
    const bool place = key == "data.root" || key == "data.labeled" || key == "data.unlabeled" || key == "data.val";
    if (own || place) continue;
    names.push_back(key);
    values.push_back(value_text(config, key));
  }
  std::string differing;
  for (const size_t i : differing_over_processes(values)) differing += (differing.empty() ? "" : ", ") + names[i];
  if (!differing.empty())
    throw Error(ErrorKind::kConfig, "not the same in all processes that train together", differing,
                "start all of them with the same config file and words");
}

// What a user has changed in the run folder's copy of the config, which is there to be read.
void warn_of_edits(const std::string& dir, const Config& trained) {
  const std::string path = dir + "/config.yaml";
  std::string edited;
  try {
    const Config written = parse_config(read_file(path), path, {});
    for (const std::string& key : differing_keys(trained, written))
      if (!may_change_on_resume(key) && key != "run.dir")  // it may have been moved
        edited +=
            (edited.empty() ? "" : ", ") + key + ": " + value_text(written, key) + " instead of " + value_text(trained, key);
  } catch (const Error&) {
    return;  // it is written anew
  }
  if (!edited.empty())
    log_warning(path + " was changed (" + edited +
                "), but a resumed run goes on with the settings of its checkpoint; start a new run for others");
}

void warn_of_endless_burn_in(const Config& config) {
  const int64_t length = config.optim.epochs ? *config.optim.epochs : config.optim.steps.value_or(0);
  if (!reads_unlabeled(config.semi.method) || config.semi.burn_in_epochs < length) return;
  log_warning(str("semi.burn_in_epochs=", config.semi.burn_in_epochs, " lasts to the end of the training (",
                  config.optim.epochs ? "optim.epochs=" : "optim.steps=", length,
                  "): nothing is learned from unlabelled images; shorten it or train longer"));
}

int run(const Arguments& arguments) {
  const bool resume = arguments.has("resume");
  if (resume != arguments.positional.empty())
    throw Error(ErrorKind::kConfig, resume ? "--resume takes its config from the run folder" : "a config file is missing", "",
                "usage: semiseg train CONFIG.yaml, or semiseg train --resume RUN");
  if (!resume && arguments.has("extend")) throw Error(ErrorKind::kConfig, "--extend goes with --resume", "");
  if (resume && arguments.has("dry-run"))
    throw Error(ErrorKind::kConfig, "--dry-run goes with a config, not with --resume", "");
  if (arguments.has("processes")) return launch(arguments);
  install_signal_handlers();
  end_with_launcher();
  ProcessGroup processes;
  if (!is_writer()) log_nothing();

  std::optional<Checkpoint> from;
  std::optional<RunFolder> folder;
  Config config;
  int64_t extend = 0;
  if (resume) {
    folder = RunFolder::existing(run_to_resume(arguments.get("resume")));
    if (arguments.has("extend")) extend = epochs_of(arguments.get("extend"));
    if (is_self_training(folder->dir())) {
      const std::string path = folder->dir() + "/config.yaml";
      config = resumed_config(parse_config(read_file(path), path, {}), path, arguments.overrides);
      if (extend > 0)
        throw Error(ErrorKind::kConfig, "the stages of semi.method: self_training have a fixed length", "--extend",
                    "extend its last stage: semiseg train --resume " + shell_quoted(folder->dir() + "/stage3") + " --extend " +
                        str(extend));
    } else {
      from = checkpoint_to_go_on_from(folder->dir());
      config = resumed_config(from->config, from->path, arguments.overrides);
      warn_of_edits(folder->dir(), from->config);
    }
    if (!config.run.dir.empty()) config.run.dir = absolute_path(folder->dir());  // it may have been moved
    require_one_process(config, arguments);
  } else {
    config = load_config(config_file(arguments.positional[0]), arguments.overrides);
    require_utf8(config);
    require_one_process(config, arguments);
    warn_of_endless_burn_in(config);
    folder = RunFolder::fresh(config);
    if (config.semi.method == kSelfTraining && (config.optim.batch == "auto" || arguments.has("dry-run")))
      throw Error(ErrorKind::kConfig, "self_training has neither --dry-run nor optim.batch: auto", "semi.method",
                  "try it with semi.method=fixmatch, and give optim.batch_labeled and optim.batch_unlabeled");
    if (config.optim.batch == "auto" && !choose_batch(&config)) return exit_code_of(stop_signal());
    if (arguments.has("dry-run")) return dry_run(config) ? 0 : exit_code_of(stop_signal());
  }

  // All have read the checkpoint, and found the run folder as it is, before the writer changes either.
  const auto stop = [] { return stop_signal() != 0; };
  if (!processes.meet(config.distributed.backend, resolve_device(config.run.device), stop)) return exit_code_of(stop_signal());
  require_same_in_all_processes(config, from ? from->state.step : 0, extend);
  limit_time(config.run.max_hours);
  Reporters report;
  if (is_writer()) {
    report.add(make_metrics_file());
    report.add(make_status_file());
    report.add(make_pictures());
    if (config.report.tensorboard)
      report.add(make_tensorboard(resume && was_done(folder->dir())));  // after the pictures, which it takes in
    report.add(make_terminal());
    if (config.report.html) report.add(make_html_report());
  }
  try {
    const TrainResult result = config.semi.method == kSelfTraining ? self_train(config, *folder, report)
                                                                   : train(config, extend, from, *folder, report);
    const std::string& dir = folder->dir();
    if (result.signal != 0) {
      const int code = exit_code_of(result.signal);
      log_info(str(why_stopped(result.signal), " at step ", result.state.step,
                   "; a checkpoint is written. Go on with: semiseg train --resume ", shell_quoted(dir)));
      report.end(RunState::kStopped, code, why_stopped(result.signal));
      wait_for_processes();
      return code;
    }
    std::string ending;
    if (result.early) {
      ending = why_ended_early(config.eval);
      log_info(ending + ". Go on all the same with: semiseg train --resume " + shell_quoted(dir) + " eval.patience=0");
    }
    log_info(format("done: best mIoU %.2f", 100 * result.state.best_miou) +
             str(" in epoch ", result.state.best_epoch, "; checkpoints in ", dir, "/checkpoints"));
    if (from && from->state.step == result.state.step && !result.early)
      log_info("it was done already; train longer with: semiseg train --resume " + shell_quoted(dir) + " --extend EPOCHS");
    report.end(RunState::kDone, 0, ending);
    wait_for_processes();
    return 0;
  } catch (const std::exception& e) {
    if (!folder->opened()) throw;
    const Failure failure = describe_failure(e);
    const bool bad_input =
        failure.exit_code == static_cast<int>(ErrorKind::kData) || failure.exit_code == static_cast<int>(ErrorKind::kConfig);
    try {
      log_file_only("error: " + failure.message);
      report.end(RunState::kFailed, failure.exit_code, failure.message);
      if (bad_input) folder->discard_if_empty();
    } catch (const std::exception&) {
      // The disk is full, say: the error that ended the run is the one to show.
    }
    throw;
  }
}

const bool kRegistered = add_command({
    .name = "train",
    .synopsis = "CONFIG.yaml [key=value ...] | --resume RUN [--extend EPOCHS] [key=value ...]",
    .summary = "trains a network, or goes on with a run that was stopped",
    .details = R"(examples:
  semiseg train configs/synthetic/demo.yaml
  semiseg train configs/camvid/fixmatch.yaml data.root=/data/camvid model.weights=resnet50.pth run.name=first
  semiseg train configs/cityscapes/fixmatch.yaml data.root=/data/cityscapes data.labeled=1/8 seed=1
  semiseg train configs/camvid/fixmatch.yaml data.root=/data/camvid --dry-run     time, memory and disk; writes nothing
  semiseg train my.yaml optim.batch=auto            with the largest batch that fits into memory
  semiseg train --resume runs/first                 exactly where its newest checkpoint stopped
  semiseg train --resume runs/first --extend 20     20 epochs more
  semiseg train my.yaml --processes auto            on all GPUs of this machine, which share each batch

Ctrl-C (SIGINT), SIGTERM, SIGUSR1 or SIGHUP (a closed terminal, unless under nohup) finishes the step, writes a checkpoint and exits
with 130 or 143; a second Ctrl-C ends at once. run.max_hours does the same and exits with 0. eval.patience ends training that gets no
better.
On --resume, run.device, run.cuda_graph, run.max_hours, data.workers, data.cache, eval.patience, distributed.backend and report.* may
change; results do not depend on the number of workers.

--processes N trains in N processes, one a GPU (or a share of the CPU); batch sizes are those of all together. Over several machines
start the program once a GPU, as torchrun does: torchrun --no-python ... semiseg train my.yaml

semi.method: self_training is a chain of three trainings, RUN/stage1 to stage3, with pseudo-labels written in between.
optim.epochs or optim.steps is the length of each; epochs and steps in RUN are counted through; --resume RUN goes on in
whichever stage was stopped.)",
    .flags = {{"resume", "RUN", "go on with this run folder, which its newest checkpoint may stand for"},
              {"extend", "EPOCHS", "with --resume: add epochs"},
              {"processes", "N", "train in N processes; auto: as many as there are GPUs"},
              {"dry-run", "", "a few updates and an evaluation, then what the run will take; writes nothing"}},
    .min_positional = 0,
    .max_positional = 1,
    .run = run,
});

}  // namespace
}  // namespace semiseg
