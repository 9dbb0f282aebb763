// What ends a run before its last step, and what it says of itself meanwhile.
#include <sys/stat.h>

#include <csignal>
#include <thread>

#include "program.h"
#include "semiseg/error.h"
#include "semiseg/report.h"
#include "semiseg/train.h"

namespace semiseg {
namespace {

class Limits : public ProgramTest {
 protected:
  Limits()
      : ProgramTest(R"(seed: 5
data: {format: synthetic, size: [32, 64], counts: [4, 6, 2], crop: 32, workers: 1}
model: {backbone: resnet18}
semi: {method: fixmatch, threshold: 0.2}
optim: {lr: 0.01, batch_labeled: 2, batch_unlabeled: 2, epochs: 2}
report: {every_steps: 1}
)") {}

  nlohmann::json status(const std::string& run) const {
    return nlohmann::json::parse(read_file(dir_ + "/" + run + "/status.json"));
  }

  // A run in `run` that gets the signal while it evaluates before training. The output ends with its exit code.
  Outcome early(const std::string& signal) const {
    return shell("(" + program() +
                 " train tiny.yaml data.counts=[4,6,300] eval.first=true optim.epochs=1 run.dir=run & pid=$!;"
                 "for i in $(seq 1200); do [ -e run/status.json ] && break; sleep 0.05; done;"
                 "kill -" +
                 signal + " $pid; wait $pid; echo code $?)");
  }
};

TEST_F(Limits, PatienceEndsTrainingAtTheFirstEpochThatIsNoBetterAlsoAfterAResume) {
  const Outcome run = semiseg("train tiny.yaml optim.epochs=6 eval.patience=1 checkpoint.every_steps=2");
  ASSERT_EQ(run.code, 0) << run.output;
  const auto lines = metrics("runs/tiny");
  double best = -1;
  size_t expected = 0;
  while (expected < 6 && lines.at(expected)["val"]["miou"] > best) best = lines.at(expected++)["val"]["miou"];
  ASSERT_LT(expected, 5u) << "mIoU rose in every epoch: nothing is tested";
  ++expected;  // the epoch that was no better is the last
  EXPECT_EQ(lines.size(), expected);
  EXPECT_NE(run.output.find("eval.patience"), std::string::npos) << run.output;
  EXPECT_EQ(status("runs/tiny")["state"], "done");
  EXPECT_NE(status("runs/tiny")["message"].get<std::string>().find("no better mIoU"), std::string::npos);

  make_folders(dir_ + "/cut/checkpoints");
  const int end = static_cast<int>(3 * expected), middle_step = end % 2 == 0 ? end - 2 : end - 1;  // 3 steps an epoch
  const std::string middle = format("step_%08d.safetensors", middle_step);
  std::filesystem::copy(dir_ + "/runs/tiny/checkpoints/" + middle, dir_ + "/cut/checkpoints/");
  const Outcome resumed = semiseg("train --resume cut");
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_EQ(metrics("cut").size(), expected);
  expect_equal(tensors("runs/tiny/checkpoints/last.safetensors"), tensors("cut/checkpoints/last.safetensors"));

  ASSERT_EQ(semiseg("train --resume runs/tiny").code, 0);  // nothing is left to do
  EXPECT_EQ(metrics("runs/tiny").size(), expected);
  ASSERT_EQ(semiseg("train --resume runs/tiny eval.patience=0").code, 0);
  EXPECT_EQ(metrics("runs/tiny").size(), 6u);
}

TEST_F(Limits, ATimeLimitStopsAfterAStepAndTheRunGoesOnToTheSameWeights) {
  ASSERT_EQ(semiseg("train tiny.yaml run.dir=whole").code, 0);
  const Outcome limited = semiseg("train tiny.yaml run.dir=limited run.max_hours=1e-9");
  ASSERT_EQ(limited.code, 0) << limited.output;
  EXPECT_NE(limited.output.find("stopped by run.max_hours at step 1; a checkpoint is written"), std::string::npos)
      << limited.output;
  EXPECT_EQ(status("limited")["state"], "stopped");
  EXPECT_EQ(status("limited")["step"], 1);
  ASSERT_EQ(semiseg("train --resume limited").code, 0);  // the limit holds again: another step
  EXPECT_EQ(status("limited")["step"], 2);
  ASSERT_EQ(semiseg("train --resume limited run.max_hours=0").code, 0);
  EXPECT_EQ(status("limited")["state"], "done");
  expect_equal(tensors("whole/checkpoints/last.safetensors"), tensors("limited/checkpoints/last.safetensors"));
}

TEST_F(Limits, TheSignalOfABatchSystemOrOfAClosedTerminalStopsWithACheckpoint) {
  std::signal(SIGHUP, SIG_DFL);  // for what is started from here, where the tests run under nohup, too
  for (const std::string signal : {"USR1", "HUP"}) {
    // Limited all the same, so that nothing stays behind where the signal is not heard.
    const Outcome outcome = semiseg("--version; " SEMISEG_BINARY " train tiny.yaml optim.epochs=999 run.dir=" + signal +
                                    " run.max_hours=0.02 & pid=$!;"
                                    "for i in $(seq 300); do grep -qs '\"phase\": \"training\"' " +
                                    signal + "/status.json && break; sleep 0.1; done; kill -" + signal + " $pid; wait $pid");
    EXPECT_EQ(outcome.code, 143) << outcome.output;
    EXPECT_EQ(status(signal)["state"], "stopped");
    EXPECT_EQ(status(signal)["exit_code"], 143);
    EXPECT_EQ(status(signal)["message"], "stopped by SIG" + signal);
    EXPECT_TRUE(std::filesystem::exists(dir_ + "/" + signal + "/checkpoints/last.safetensors"));
  }
}

TEST_F(Limits, AHangUpUnderNohupStopsNothing) {
  EXPECT_EXIT(
      {
        std::signal(SIGHUP, SIG_IGN);
        install_signal_handlers();
        std::raise(SIGHUP);
        std::_Exit(stop_signal());
      },
      testing::ExitedWithCode(0), "");
}

TEST_F(Limits, TrainingGoesOnWhenNobodyReadsItsOutput) {
  shell("(" + program() + " train tiny.yaml optim.epochs=1 run.dir=run; echo $? > code) | true");
  EXPECT_EQ(read_file(dir_ + "/code"), "0\n");
  EXPECT_EQ(status("run")["state"], "done");
}

TEST_F(Limits, AnInterruptedEvaluationBeforeTrainingIsMadeUpForOnResume) {
  const Outcome stopped = early("TERM");
  ASSERT_NE(stopped.output.find("code 143"), std::string::npos) << stopped.output;
  EXPECT_EQ(status("run")["step"], 0);
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/run/before_training.json"));
  const Outcome resumed = semiseg("train --resume run");
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_TRUE(std::filesystem::exists(dir_ + "/run/before_training.json"));
  EXPECT_NE(resumed.output.find("before training:"), std::string::npos) << resumed.output;
  EXPECT_EQ(semiseg("train --resume run --extend 1").output.find("before training:"), std::string::npos);
}

TEST_F(Limits, ARunThatWasKilledBeforeItsFirstCheckpointIsBegunAnewInItsFolder) {
  const Outcome killed = early("KILL");
  ASSERT_NE(killed.output.find("code 137"), std::string::npos) << killed.output;
  EXPECT_EQ(semiseg("train --resume run").code, 7);

  const std::string again = "train tiny.yaml optim.epochs=1 run.dir=run";
  const auto expect_refused = [&](const std::string& says) {
    const Outcome outcome = semiseg(again);
    EXPECT_EQ(outcome.code, 2) << outcome.output;
    EXPECT_NE(outcome.output.find(says), std::string::npos) << outcome.output;
  };
  {
    const FolderLock alive(dir_ + "/run");
    expect_refused("in use by process");
  }
  for (const std::string foreign : {"notes.txt", "checkpoints/notes.txt", "samples/notes.txt"}) {
    make_folders(std::filesystem::path(dir_ + "/run/" + foreign).parent_path().string());
    write_file(dir_ + "/run/" + foreign, "not of a run");
    expect_refused("not empty");
    std::filesystem::remove_all(dir_ + "/run/" + foreign);
    std::filesystem::remove(dir_ + "/run/samples");
  }
  write_file(dir_ + "/run/metrics.jsonl", "{}\n");  // an epoch was finished: its checkpoint was taken away
  expect_refused("not empty");
  write_file(dir_ + "/run/metrics.jsonl", "");
  write_file(dir_ + "/run/checkpoints/last.safetensors.tmp-1", "half");
  write_file(dir_ + "/run/before_training.json", "old");

  const Outcome anew = semiseg(again);
  ASSERT_EQ(anew.code, 0) << anew.output;
  EXPECT_NE(anew.output.find("begun anew in "), std::string::npos) << anew.output;
  EXPECT_NE(read_file(dir_ + "/run/train.log").find("begun anew in "), std::string::npos);
  EXPECT_EQ(metrics("run").size(), 1u);
  for (const char* old : {"checkpoints/last.safetensors.tmp-1", "before_training.json"})
    EXPECT_FALSE(std::filesystem::exists(dir_ + "/run/" + old)) << old;
  expect_refused("not empty");
}

TEST_F(Limits, StatusIsFreshWhileNothingHappensAndSilentAfterTheEnd) {
  const auto written = [&] {
    struct stat info {};
    ::stat((dir_ + "/status.json").c_str(), &info);
    return std::pair(info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
  };
  const auto reporter = make_status_file();
  RunInfo info;
  info.dir = dir_;
  info.total_steps = 8;
  info.total_epochs = 2;
  info.steps_per_epoch = 4;
  reporter->begin(info);
  EXPECT_EQ(status(".")["phase"], "starting");
  reporter->activity({Phase::kPseudoLabeling, 1, 4, 3, 9});
  const auto before = written();
  std::this_thread::sleep_for(std::chrono::milliseconds(2600));
  EXPECT_GT(written(), before);
  EXPECT_EQ(status(".")["phase"], "pseudo-labelling");
  EXPECT_EQ(status(".")["evaluated"]["images"], 3);
  EXPECT_EQ(status(".")["step"], 4);
  reporter->end(RunState::kStopped, 130, "stopped by SIGINT");
  const auto last = written();
  std::this_thread::sleep_for(std::chrono::milliseconds(2200));
  EXPECT_EQ(written(), last);
  for (const char* key : {"state",
                          "phase",
                          "epoch",
                          "step",
                          "total_steps",
                          "total_epochs",
                          "steps_per_epoch",
                          "evaluated",
                          "seconds_left",
                          "images_per_s",
                          "data_wait",
                          "lr",
                          "loss",
                          "loss_supervised",
                          "loss_unsupervised",
                          "best",
                          "alarms",
                          "exit_code",
                          "message",
                          "pid",
                          "host",
                          "started",
                          "active",
                          "updated"})
    EXPECT_TRUE(status(".").contains(key)) << key;
}

TEST_F(Limits, WatchShowsARunOnceWhereThereIsNoTerminal) {
  ASSERT_EQ(semiseg("train tiny.yaml").code, 0);
  const Outcome watch = semiseg("watch runs/tiny");
  EXPECT_EQ(watch.code, 0) << watch.output;
  for (const char* part : {"runs/tiny", "done", "100%  epoch 2/2  step 6/6", "mIoU ", "pixel accuracy", "rider"})
    EXPECT_NE(watch.output.find(part), std::string::npos) << part << " in " << watch.output;
  EXPECT_EQ(watch.output.find('\x1b'), std::string::npos);
  EXPECT_EQ(semiseg("watch --once").output, watch.output);  // the newest run
  EXPECT_EQ(semiseg("watch runs/none --once").code, 2);
  EXPECT_EQ(semiseg("watch tiny.yaml").code, 2);
  std::filesystem::create_directory(dir_ + "/runs/other");
  write_file(dir_ + "/runs/other/notes.txt", "no run");
  EXPECT_EQ(semiseg("watch runs/other").code, 2);

  // Killed: status.json says running, its process is no more.
  auto killed = status("runs/tiny");
  killed["state"] = "running";
  killed["pid"] = 4194305;  // above the largest that Linux gives
  killed["updated"] = "2020-01-01T00:00:00Z";
  write_file(dir_ + "/runs/tiny/status.json", killed.dump());
  EXPECT_NE(semiseg("watch runs/tiny").output.find("semiseg train --resume runs/tiny"), std::string::npos);
}

}  // namespace
}  // namespace semiseg
