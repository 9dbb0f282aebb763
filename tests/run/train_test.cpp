// Whole runs of the program, as a user types them.
#include <cmath>

#include "program.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

class Runs : public ProgramTest {
 protected:
  Runs()
      : ProgramTest(R"(seed: 5
data: {format: synthetic, size: [64, 96], counts: [6, 8, 2], crop: 64, workers: 2}
model: {backbone: resnet18}
loss: {class_weights: enet}
semi: {method: fixmatch, teacher: ema, threshold: 0.2}
optim: {lr: 0.01, batch_labeled: 2, batch_unlabeled: 2, epochs: 2}
report: {every_steps: 1}
)") {}
};

TEST_F(Runs, TrainLeavesTheFolderThatIsPromised) {
  const Outcome run = semiseg("train tiny.yaml");
  ASSERT_EQ(run.code, 0) << run.output;
  for (const char* file : {"config.yaml", "environment.json", "status.json", "train.log", "metrics.jsonl", "metrics.csv",
                           "report.html", "checkpoints/last.safetensors", "checkpoints/best.safetensors"})
    EXPECT_TRUE(fs::exists(dir_ + "/runs/tiny/" + file)) << file;
  const auto lines = metrics("runs/tiny");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[1]["epoch"], 2);
  EXPECT_EQ(lines[1]["step"], 8);  // the larger of 6 / 2 and 8 / 2 a epoch
  for (const char* key : {"seconds", "lr", "images_per_s", "data_wait", "peak_memory_mb", "train", "val", "pseudo", "alarms"})
    EXPECT_TRUE(lines[0].contains(key)) << key;
  EXPECT_EQ(lines[0]["val"]["iou"].size(), 19u);
  EXPECT_EQ(nlohmann::json::parse(read_file(dir_ + "/runs/tiny/status.json"))["state"], "done");
  EXPECT_EQ(read_file(dir_ + "/runs/tiny/train.log").find('\x1b'), std::string::npos);

  // A second run beside it, the same to the bit; its config is the resolved one.
  const Outcome again = semiseg("train runs/tiny/config.yaml data.workers=0");
  ASSERT_EQ(again.code, 0) << again.output;
  ASSERT_TRUE(fs::exists(dir_ + "/runs/tiny-2")) << again.output;
  expect_equal(tensors("runs/tiny/checkpoints/last.safetensors"), tensors("runs/tiny-2/checkpoints/last.safetensors"));

  const Outcome eval = semiseg("eval runs/tiny/checkpoints/last.safetensors --json val.json --predictions out");
  ASSERT_EQ(eval.code, 0) << eval.output;
  EXPECT_EQ(nlohmann::json::parse(read_file(dir_ + "/val.json")), lines[1]["val"]);
}

TEST_F(Runs, ResumeFromTheMiddleOfAnEpochEqualsTheRunThatWasNeverStopped) {
  ASSERT_EQ(semiseg("train tiny.yaml checkpoint.every_steps=1 checkpoint.keep=100").code, 0);
  for (const char* step : {"step_00000003", "step_00000004", "step_00000006"}) {
    fs::remove_all(dir_ + "/cut");
    make_folders(dir_ + "/cut/checkpoints");
    fs::copy(dir_ + "/runs/tiny/checkpoints/" + step + ".safetensors", dir_ + "/cut/checkpoints/");
    write_file(dir_ + "/cut/metrics.jsonl", "{\"epoch\": 1}\n{\"epoch\": 1}\ntorn");
    const Outcome resumed = semiseg("train --resume cut data.workers=1");
    ASSERT_EQ(resumed.code, 0) << resumed.output;
    expect_equal(tensors("runs/tiny/checkpoints/last.safetensors"), tensors("cut/checkpoints/last.safetensors"));
    const auto whole = metrics("runs/tiny"), cut = metrics("cut");
    ASSERT_EQ(cut.size(), 2u);
    for (size_t e = 0; e < 2; ++e)
      for (const char* key : {"epoch", "step", "lr", "train", "val", "pseudo"})
        EXPECT_EQ(cut[e][key], whole[e][key]) << step << key;
  }
}

// The scale of the loss is part of a checkpoint.
TEST_F(Runs, InFp16LearnAndResumeToTheSameResult) {
  const Outcome run = semiseg(
      "train tiny.yaml run.precision=fp16 checkpoint.every_steps=3 data.size=[32,64] data.counts=[4,4,1] data.crop=32 "
      "optim.lr=0.03");
  ASSERT_EQ(run.code, 0) << run.output;
  const auto lines = metrics("runs/tiny");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_LT(lines[1]["train"]["loss"], lines[0]["train"]["loss"]);
  EXPECT_EQ(nlohmann::json::parse(read_file(dir_ + "/runs/tiny/environment.json"))["precision"], "fp16");
  EXPECT_GE(tensors("runs/tiny/checkpoints/last.safetensors").at("optimizer.loss_scale").item<double>(), 1);
  make_folders(dir_ + "/cut/checkpoints");
  fs::copy(dir_ + "/runs/tiny/checkpoints/step_00000003.safetensors", dir_ + "/cut/checkpoints/");
  const Outcome resumed = semiseg("train --resume cut");
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  expect_equal(tensors("runs/tiny/checkpoints/last.safetensors"), tensors("cut/checkpoints/last.safetensors"));
}

TEST_F(Runs, TwinsOfCpsStartFromOneBackboneAndDifferBehindIt) {
  ASSERT_EQ(semiseg("train tiny.yaml semi.method=supervised optim.steps=1 run.dir=first").code, 0);
  const Outcome run = semiseg(
      "train tiny.yaml semi.method=cps model.weights=first/checkpoints/last.safetensors optim.steps=1 optim.lr=1e-9 "
      "run.dir=cps");
  ASSERT_EQ(run.code, 0) << run.output;
  const auto first = tensors("first/checkpoints/last.safetensors"), cps = tensors("cps/checkpoints/last.safetensors");
  const auto differs = [&](const std::string& of, const std::string& name) {
    return (cps.at(of + name) - first.at(name)).abs().max().item<double>() > 1e-6;
  };
  for (const char* name : {"encoder.layer1.0.conv1.weight", "decoder.p5.weight", "segmentation_head.0.weight"}) {
    EXPECT_FALSE(differs("", name)) << name;
    EXPECT_EQ(differs("twin.", name), !std::string(name).starts_with("encoder.")) << name;
  }
}

TEST_F(Runs, ExtendAddsEpochsAndContinuesTheSchedule) {
  ASSERT_EQ(semiseg("train tiny.yaml").code, 0);
  const Outcome done = semiseg("train --resume runs/tiny");
  EXPECT_EQ(done.code, 0) << done.output;
  const Outcome extended = semiseg("train --resume runs/tiny --extend 1");
  ASSERT_EQ(extended.code, 0) << extended.output;
  const auto lines = metrics("runs/tiny");
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[2]["epoch"], 3);
  EXPECT_NEAR(lines[2]["lr"].get<double>(), 0.01 * std::pow(1 - 11.0 / 12, 0.9), 1e-12);
}

TEST_F(Runs, ResumeRefusesOtherSettingsAndNamesTheKey) {
  ASSERT_EQ(semiseg("train tiny.yaml optim.epochs=1").code, 0);
  const Outcome outcome = semiseg("train --resume runs/tiny optim.lr=0.5");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.output.find("optim.lr"), std::string::npos) << outcome.output;
}

TEST_F(Runs, ADamagedNewestCheckpointIsPassedOver) {
  ASSERT_EQ(semiseg("train tiny.yaml checkpoint.every_steps=3").code, 0);
  const std::string folder = dir_ + "/runs/tiny/checkpoints/";
  for (const char* name : {"last", "best"}) {
    const std::string path = folder + name + ".safetensors";
    write_file(path, read_file(path).substr(0, 5000));
  }
  const Outcome resumed = semiseg("train --resume runs/tiny");
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_NE(resumed.output.find("damaged"), std::string::npos) << resumed.output;
  EXPECT_EQ(metrics("runs/tiny").size(), 2u);
}

TEST_F(Runs, ALossThatIsNotFiniteEndsWithItsOwnCode) {
  const Outcome outcome = semiseg("train tiny.yaml optim.lr=1e30");
  EXPECT_EQ(outcome.code, 4) << outcome.output;
  EXPECT_NE(outcome.output.find("optim.lr"), std::string::npos) << outcome.output;
  EXPECT_FALSE(fs::exists(dir_ + "/runs/tiny/checkpoints/last.safetensors"));
}

TEST_F(Runs, AFullDiskEndsWithItsOwnCodeAndKeepsWhatIsWritten) {
  // The limit on file sizes stands in for a full disk; a checkpoint is larger than it, all other files are smaller.
  const Outcome outcome = semiseg("config tiny.yaml >/dev/null; ulimit -f 20000; " SEMISEG_BINARY " train tiny.yaml");
  EXPECT_EQ(outcome.code, 6) << outcome.output;
  EXPECT_NE(outcome.output.find("checkpoints/best.safetensors"), std::string::npos) << outcome.output;
  EXPECT_TRUE(fs::is_empty(dir_ + "/runs/tiny/checkpoints"));
}

struct MethodCase {
  const char *name, *settings;
};

class EachMethod : public Runs, public testing::WithParamInterface<MethodCase> {};

// With one and with eight loader threads, and gone on with in the middle of the second epoch. (Self-training, a chain of runs,
// has tests of its own.)
TEST_P(EachMethod, ComesToTheSameResult) {
  const std::string train = str("train tiny.yaml semi.method=", GetParam().name, " ", GetParam().settings,
                                " checkpoint.every_steps=6 report.html=false report.tensorboard=false report.samples=0 ");
  for (const char* workers : {"1", "8"}) {
    const Outcome outcome = semiseg(str(train, "data.workers=", workers, " run.dir=", workers));
    ASSERT_EQ(outcome.code, 0) << outcome.output;
  }
  make_folders(dir_ + "/cut/checkpoints");
  fs::copy(dir_ + "/1/checkpoints/step_00000006.safetensors", dir_ + "/cut/checkpoints/");
  fs::copy(dir_ + "/1/metrics.jsonl", dir_ + "/cut/metrics.jsonl");
  const Outcome resumed = semiseg("train --resume cut data.workers=8");
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  const auto expected = metrics("1");
  for (const std::string run : {"8", "cut"}) {
    SCOPED_TRACE(run);
    expect_equal(tensors("1/checkpoints/last.safetensors"), tensors(run + "/checkpoints/last.safetensors"));
    const auto lines = metrics(run);
    ASSERT_EQ(lines.size(), expected.size());
    for (size_t e = 0; e < lines.size(); ++e)
      for (const char* key : {"epoch", "step", "lr", "train", "val", "pseudo"})
        EXPECT_EQ(lines[e][key], expected[e][key]) << key;
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, EachMethod,
                         testing::Values(MethodCase{"supervised", "semi.ema_decay=0.9"},
                                         MethodCase{"pseudo_label", "semi.teacher=history semi.history=1"},
                                         MethodCase{"mean_teacher", ""}, MethodCase{"fixmatch", "semi.teacher=twin"},
                                         MethodCase{"unimatch", "semi.mix=classmix"}, MethodCase{"unimatch_v2", ""},
                                         MethodCase{"augseg", "'semi.threshold={kind: quantile, share: 0.5}'"},
                                         MethodCase{"prevmatch", "semi.history=1 semi.align_distribution=true"},
                                         MethodCase{"cps", "'semi.threshold={kind: class_adaptive}'"}, MethodCase{"u2pl", ""}),
                         [](const auto& of) { return std::string(of.param.name); });

}  // namespace
}  // namespace semiseg
