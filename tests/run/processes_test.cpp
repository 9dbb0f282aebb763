// Several processes that train together: the same as one, and what happens when one of them fails.
#include <ATen/ATen.h>

#include <csignal>
#include <thread>

#include "program.h"
#include "semiseg/error.h"

namespace semiseg {
namespace {

class Processes : public ProgramTest {
 protected:
  Processes()
      : ProgramTest(R"(seed: 5
run: {precision: fp32}
data: {format: synthetic, size: [32, 64], counts: [8, 8, 3], crop: 32, workers: 1}
model: {backbone: resnet18, norm: group, dropout: 0}
loss: {class_weights: enet}
semi: {method: fixmatch, threshold: 0.3}
optim: {lr: 0.001, batch_labeled: 4, batch_unlabeled: 4, epochs: 2}
report: {every_steps: 1, html: false, tensorboard: false}
)") {
    if (semiseg("train tiny.yaml --processes 2 optim.batch_labeled=3").output.find("one process alone") != std::string::npos)
      skip_ = true;
  }

  void SetUp() override {
    if (skip_) GTEST_SKIP() << "this build has no process groups";
  }

  nlohmann::json status(const std::string& run) const {
    return nlohmann::json::parse(read_file(dir_ + "/" + run + "/status.json"));
  }

  // A training of two that would take long; what is done to it after its first steps, $! being the starter; then its exit code.
  Outcome after_a_step(const std::string& then) const {
    return shell("(" + program() +
                 " train tiny.yaml --processes 2 optim.epochs=200 run.dir=run & "
                 "for i in $(seq 600); do grep -qs '\"step\": *[1-9]' run/status.json && break; sleep 0.1; done; " +
                 then + "; wait $!; echo code $?)");
  }

  // Those with `part` in their names, by their norms.
  static void expect_near(const StateDict& a, const StateDict& b, const std::string& part, double tolerance) {
    ASSERT_EQ(a.size(), b.size());
    for (const auto& [name, tensor] : a) {
      if (name.find(part) == std::string::npos || !tensor.is_floating_point()) continue;
      const auto wanted = tensor.to(at::kDouble), got = b.at(name).to(at::kDouble);
      EXPECT_LE((got - wanted).norm().item<double>(), tolerance * (wanted.norm().item<double>() + 1)) << name;
    }
  }

  static int lines_of(const std::string& text, const std::string& what) {
    int count = 0;
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
    return count;
  }

 private:
  bool skip_ = false;
};

// Sums are added in another order, so losses differ by rounding alone; a gradient by more where a value at 0 falls to a ReLU's
// other side. The rate is so low that such differences do not grow from update to update: momenta are what is compared.
// Thresholds that follow the predictions, shares of classes and means over accepted pixels are those of the whole batch.
TEST_F(Processes, TwoProcessesTrainAsOneDoesWithTheSameBatch) {
  const char* const kSettings[] = {
      "semi.method=supervised loss.kind=focal",
      "semi.method=fixmatch semi.normalize=accepted semi.class_weights=true semi.undo_class_bias=true optim.accumulate=2",
      "semi.method=fixmatch semi.align_distribution=true 'semi.threshold={kind: class_adaptive, value: 0.9}' semi.teacher=ema",
      "semi.method=pseudo_label 'semi.threshold={kind: quantile, share: 0.5}' optim.kind=adamw",
      "semi.method=cps semi.mix=none",
      "semi.method=mean_teacher optim.clip_grad_norm=1",
  };
  int number = 0;
  for (std::string settings : kSettings) {
    settings += " optim.lr=0.00001";
    const std::string one = str("one", number), two = str("two", number);
    ++number;
    const Outcome alone = semiseg("train tiny.yaml run.dir=" + one + " " + settings);
    ASSERT_EQ(alone.code, 0) << alone.output;
    const Outcome together = semiseg("train tiny.yaml --processes 2 run.dir=" + two + " " + settings);
    ASSERT_EQ(together.code, 0) << together.output;
    EXPECT_EQ(lines_of(together.output, "done: best mIoU"), 1) << together.output;

    const auto a = metrics(one), b = metrics(two);
    ASSERT_EQ(a.size(), 2u);
    ASSERT_EQ(b.size(), 2u);
    for (size_t epoch = 0; epoch < 2; ++epoch) {
      EXPECT_EQ(a[epoch]["step"], b[epoch]["step"]);
      EXPECT_NEAR(a[epoch]["train"]["loss"], b[epoch]["train"]["loss"], 1e-4) << settings << ", epoch " << epoch;
      EXPECT_NEAR(a[epoch]["val"]["pixel_accuracy"], b[epoch]["val"]["pixel_accuracy"], 1e-3) << settings;
      if (!a[epoch]["pseudo"].is_null()) {
        EXPECT_NEAR(a[epoch]["pseudo"]["accepted"], b[epoch]["pseudo"]["accepted"], 1e-3) << settings;
      }
      // All images are scored once: the labels' shares are those of the whole list.
      EXPECT_EQ(a[epoch]["val"]["label_share"], b[epoch]["val"]["label_share"]);
    }
    expect_near(tensors(one + "/checkpoints/last.safetensors"), tensors(two + "/checkpoints/last.safetensors"), "", 5e-3);
  }
}

// One update alone: a ReLU on the other side of 0 by rounding makes another gradient of its channel.
TEST_F(Processes, SyncNormalisesTheImagesOfBothTogether) {
  const std::string settings = " model.norm=sync semi.method=supervised data.size=[64,128] data.crop=64 optim.batch_labeled=8";
  ASSERT_EQ(semiseg("train tiny.yaml run.dir=one optim.epochs=1" + settings).code, 0);
  ASSERT_EQ(semiseg("train tiny.yaml --processes 2 run.dir=two optim.epochs=1" + settings).code, 0);
  const auto a = metrics("one"), b = metrics("two");
  ASSERT_EQ(a.at(0)["step"], 1);
  EXPECT_NEAR(a[0]["train"]["loss"], b.at(0)["train"]["loss"], 1e-5);
  const auto x = tensors("one/checkpoints/last.safetensors"), y = tensors("two/checkpoints/last.safetensors");
  expect_near(x, y, "running_", 1e-3);
  expect_near(x, y, "encoder.layer4.1.conv2.weight", 1e-4);

  // Each by itself sees other statistics.
  ASSERT_EQ(semiseg("train tiny.yaml --processes 2 run.dir=apart optim.epochs=1" + settings + " model.norm=batch").code, 0);
  EXPECT_GT(std::abs(metrics("apart").at(0)["train"]["loss"].get<double>() - a[0]["train"]["loss"].get<double>()), 1e-3);
}

// With batch normalisation of each process' own images the statistics are still the same in both, so a resumed run is exact.
TEST_F(Processes, AStoppedTrainingGoesOnExactly) {
  const std::string settings = " model.norm=batch model.dropout=0.2 semi.method=unimatch checkpoint.every_steps=1";
  const Outcome whole = semiseg("train tiny.yaml --processes 2 run.dir=whole" + settings);
  ASSERT_EQ(whole.code, 0) << whole.output;
  make_folders(dir_ + "/cut/checkpoints");
  std::filesystem::copy(dir_ + "/whole/checkpoints/step_00000003.safetensors", dir_ + "/cut/checkpoints/");
  const Outcome resumed = semiseg("train --resume cut --processes 2");
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_EQ(resumed.output.find("bit-equal"), std::string::npos) << resumed.output;
  expect_equal(tensors("whole/checkpoints/last.safetensors"), tensors("cut/checkpoints/last.safetensors"));
  EXPECT_EQ(metrics("whole").at(1)["train"], metrics("cut").at(1)["train"]);
  EXPECT_EQ(metrics("whole").at(1)["val"], metrics("cut").at(1)["val"]);

  // Another number of processes is another order of sums, which is said.
  ASSERT_EQ(semiseg("train --resume cut --extend 1 --processes 2").code, 0);
  const Outcome alone = semiseg("train --resume cut --extend 1");
  EXPECT_EQ(alone.code, 0) << alone.output;
  EXPECT_NE(alone.output.find("this run computed in 2 processes, now in 1: results are no longer bit-equal"), std::string::npos)
      << alone.output;
}

// Started one by one, as torchrun and cluster managers do.
TEST_F(Processes, TheEnvironmentOfTorchrunIsEnough) {
  const std::string common = "WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29617 ";
  const std::string train = program() + " train tiny.yaml run.dir=run";
  const Outcome both = shell("(" + common + "RANK=1 " + train + " & " + common + "RANK=0 " + train + "; code=$?; wait $!; " +
                             "echo codes $code $?)");
  EXPECT_NE(both.output.find("codes 0 0"), std::string::npos) << both.output;
  EXPECT_EQ(metrics("run").size(), 2u);
  EXPECT_EQ(nlohmann::json::parse(read_file(dir_ + "/run/environment.json"))["processes"], 2);
}

TEST_F(Processes, StartedDifferentlyTheyEndWithTheNameOfTheSetting) {
  const std::string common = "WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29618 ";
  const std::string train = program() + " train tiny.yaml run.dir=run data.workers=";
  const Outcome both = shell("(" + common + "RANK=1 " + train + "1 & " + common + "RANK=0 " + train +
                             "2 optim.lr=0.002 semi.threshold=0.5; code=$?; wait $!; echo codes $code $?)");
  EXPECT_NE(both.output.find("codes 2 2"), std::string::npos) << both.output;
  EXPECT_EQ(lines_of(both.output, "semi.threshold, optim.lr: not the same in all processes"), 2) << both.output;
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/run"));

  ASSERT_EQ(semiseg("synth data --train 8 --val 2 --size 32x64 --seed 1").code, 0);
  std::filesystem::copy(dir_ + "/data", dir_ + "/fewer", std::filesystem::copy_options::recursive);
  for (const char* part : {"leftImg8bit", "gtFine"}) {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(dir_ + "/fewer/" + part + "/train"))
      if (entry.path().extension() == ".png") files.push_back(entry.path().string());
    ASSERT_FALSE(files.empty());
    std::filesystem::remove(*std::max_element(files.begin(), files.end()));
  }
  const std::string cityscapes = train + "1 semi.method=supervised data.format=cityscapes data.root=";
  const Outcome lists = shell("(" + common + "RANK=1 " + cityscapes + "data & " + common + "RANK=0 " + cityscapes +
                              "fewer; code=$?; wait $!; echo codes $code $?)");
  EXPECT_NE(lists.output.find("codes 3 3"), std::string::npos) << lists.output;
  EXPECT_EQ(lines_of(lists.output, "the lists are not the same in all processes"), 2) << lists.output;
}

// Before the processes can handle signals, while they wait for each other, and after.
TEST_F(Processes, ASignalAtAnyTimeEndsAllWithItsCode) {
  for (const std::string seconds : {"0.05", "0.3", "0.8", "1.5"}) {
    const Outcome stopped = shell("(" + program() + " train tiny.yaml --processes 2 optim.epochs=200 run.dir=run" + seconds +
                                  " & sleep " + seconds + "; kill -TERM $!; wait $!; echo code $?)");
    EXPECT_NE(stopped.output.find("code 143"), std::string::npos) << seconds << "\n" << stopped.output;
    EXPECT_EQ(lines_of(stopped.output, "semiseg: error: "), 0) << seconds << "\n" << stopped.output;
  }
  const Outcome waiting = shell("(WORLD_SIZE=2 RANK=0 MASTER_PORT=29619 " + program() +
                                " train tiny.yaml run.dir=run & sleep 3; kill -TERM $!; wait $!; echo code $?)");
  EXPECT_NE(waiting.output.find("code 143"), std::string::npos) << waiting.output;
}

TEST_F(Processes, ASignalToTheStarterStopsAllAfterACheckpoint) {
  const Outcome stopped = after_a_step("kill -TERM $!");
  EXPECT_NE(stopped.output.find("code 143"), std::string::npos) << stopped.output;
  EXPECT_EQ(lines_of(stopped.output, "stopped by SIGTERM"), 1) << stopped.output;
  EXPECT_EQ(status("run")["state"], "stopped");
  EXPECT_TRUE(std::filesystem::exists(dir_ + "/run/checkpoints/last.safetensors"));
}

TEST_F(Processes, AKilledOneEndsTheOthersWithCode8) {
  const Outcome killed = after_a_step(
      "for e in /proc/[0-9]*/environ; do grep -qsz '^RANK=1$' $e && grep -qsz \"^PWD=$PWD\\$\" $e && "
      "kill -KILL $(basename $(dirname $e)); done");
  EXPECT_NE(killed.output.find("code 8"), std::string::npos) << killed.output;
  EXPECT_EQ(lines_of(killed.output, "semiseg: error: "), 1) << killed.output;
  EXPECT_NE(killed.output.find("process 1 of 2 was killed by signal 9"), std::string::npos) << killed.output;
  EXPECT_EQ(status("run")["state"], "failed");
  EXPECT_EQ(status("run")["exit_code"], 8);
}

TEST_F(Processes, AnImageThatOneCannotReadEndsAllWithItsLineAndCode) {
  ASSERT_EQ(semiseg("synth data --train 8 --val 2 --size 32x64 --seed 1").code, 0);
  std::string broken;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir_ + "/data/leftImg8bit/train"))
    if (entry.path().extension() == ".png") broken = entry.path().string();
  std::filesystem::resize_file(broken, std::filesystem::file_size(broken) / 2);
  const Outcome run =
      semiseg("train tiny.yaml --processes 2 run.dir=run data.format=cityscapes data.root=data semi.method=supervised");
  EXPECT_EQ(run.code, 3) << run.output;
  EXPECT_EQ(lines_of(run.output, "semiseg: error: "), 1) << run.output;
  EXPECT_NE(run.output.find(std::filesystem::path(broken).filename().string()), std::string::npos) << run.output;
}

TEST_F(Processes, WhatCannotBeSharedIsOneLine) {
  struct Case {
    std::string words, says;
  };
  const Case cases[] = {
      {"--processes 0", "is no number of processes"},
      {"--processes two", "is no number of processes"},
      {"--processes 3", "4 images cannot be shared equally by 3 processes"},
      {"--processes 2 semi.method=u2pl", "semi.method: u2pl: trains in one process alone"},
      {"--processes 2 semi.method=self_training", "is a chain of trainings in one process"},
      {"--processes 2 --dry-run", "measure one process"},
      {"--processes 2 distributed.backend=nccl", "NCCL works between GPUs"},
      {"--processes 2 optim.lrr=1", "optim.lr"},
  };
  for (const auto& [words, says] : cases) {
    const Outcome run = semiseg("train tiny.yaml run.device=cpu run.dir=run " + words);
    EXPECT_EQ(run.code, 2) << words << "\n" << run.output;
    EXPECT_EQ(lines_of(run.output, "semiseg: error: "), 1) << words << "\n" << run.output;
    EXPECT_NE(run.output.find(says), std::string::npos) << words << "\n" << run.output;
    EXPECT_FALSE(std::filesystem::exists(dir_ + "/run")) << words;
  }
  const std::pair<std::string, std::string> environments[] = {
      {"WORLD_SIZE=2", "RANK: is not set"},
      {"WORLD_SIZE=2 RANK=2", "\"2\" is no whole number from 0 to 1"},
      {"WORLD_SIZE=x", "\"x\" is no whole number"},
      {"WORLD_SIZE=2 RANK=99999999999999999999", "is no whole number from 0 to 1"},
      {"WORLD_SIZE=2 RANK=0", "MASTER_PORT: is not set"},
  };
  for (const auto& [environment, says] : environments) {
    const Outcome run = shell(environment + " " + program() + " train tiny.yaml run.dir=run");
    EXPECT_EQ(run.code, 2) << environment << "\n" << run.output;
    EXPECT_NE(run.output.find(says), std::string::npos) << run.output;
  }
}

}  // namespace
}  // namespace semiseg
