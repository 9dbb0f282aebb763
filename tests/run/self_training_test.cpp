// Self-training and pseudo-labels as a user types them: whole chains of runs, stopped and resumed.
#include <ATen/ATen.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "program.h"
#include "semiseg/config.h"
#include "semiseg/dataset.h"
#include "semiseg/method.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

class SelfTraining : public ProgramTest {
 protected:
  SelfTraining()
      : ProgramTest(R"(seed: 5
data: {format: synthetic, size: [64, 96], counts: [4, 5, 2], crop: 64, workers: 1}
model: {backbone: resnet18}
semi: {method: self_training}
optim: {lr: 0.01, batch_labeled: 2, batch_unlabeled: 2, steps: 3}
checkpoint: {every_steps: 1}
report: {every_steps: 1}
)") {}

  pid_t start(const std::string& words) const {
    const pid_t pid = ::fork();
    if (pid != 0) return pid;
    const int output = ::open((dir_ + "/output").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::dup2(output, STDOUT_FILENO);
    ::dup2(output, STDERR_FILENO);
    if (::chdir(dir_.c_str()) == 0)
      ::execl("/bin/sh", "sh", "-c", ("exec " SEMISEG_BINARY " " + words).c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }

  Outcome wait(pid_t pid) const {
    int status = 0;
    ::waitpid(pid, &status, 0);
    return {exit_code(status), read_file(dir_ + "/output")};
  }

  // Runs until `file` is there, then sends the signal. The signal comes too late when the program is faster than this.
  Outcome semiseg_until(const std::string& words, const std::string& file, int signal) const {
    const pid_t pid = start(words);
    while (!fs::exists(dir_ + "/" + file)) {
      siginfo_t info{};
      ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT);
      if (info.si_pid == pid) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ::kill(pid, signal);
    return wait(pid);
  }

  std::vector<std::string> lines(const std::string& file) const {
    std::vector<std::string> all;
    std::istringstream text(read_file(dir_ + "/" + file));
    for (std::string line; std::getline(text, line);) all.push_back(line);
    return all;
  }

  nlohmann::json status(const std::string& run) const {
    return nlohmann::json::parse(read_file(dir_ + "/" + run + "/status.json"));
  }
};

TEST_F(SelfTraining, RunsThreeStagesAndResumesEachToTheSameResult) {
  const Outcome whole = semiseg("train tiny.yaml run.dir=whole");
  ASSERT_EQ(whole.code, 0) << whole.output;
  for (const char* stage : {"whole/stage1", "whole/stage2", "whole/stage3"}) {
    EXPECT_EQ(status(stage)["state"], "done") << stage;
    EXPECT_EQ(metrics(stage).back()["step"], 3) << stage;
  }
  EXPECT_EQ(metrics("whole/stage1").back()["pseudo"], nullptr);
  EXPECT_EQ(load_config(dir_ + "/whole/stage1/config.yaml", {}).semi.ema_decay, 0);
  EXPECT_EQ(load_config(dir_ + "/whole/stage2/config.yaml", {}).semi.normalize, "accepted");
  EXPECT_EQ(metrics("whole/stage3").back()["pseudo"]["accepted"], 1.0);
  // 5 unlabelled images: 3 more reliable ones, 2 others, all.
  EXPECT_EQ(lines("whole/pseudo_labels_1/list.txt").size(), 5u);
  EXPECT_EQ(lines("whole/pseudo_labels_1/reliable.txt").size(), 3u);
  EXPECT_EQ(lines("whole/pseudo_labels_2/list.txt").size(), 2u);
  EXPECT_EQ(lines("whole/pseudo_labels_2/all.txt").size(), 5u);

  EXPECT_EQ(semiseg("train --resume whole/checkpoints/last.safetensors").code, 0);
  EXPECT_EQ(semiseg("train --resume whole/stage1/checkpoints/step_00000001.safetensors").code, 2);

  // The run's folder looks like any other's, counted through.
  const auto epochs = metrics("whole");
  size_t of_stages = 0;
  for (const char* stage : {"whole/stage1", "whole/stage2", "whole/stage3"}) of_stages += metrics(stage).size();
  ASSERT_EQ(epochs.size(), of_stages);
  for (size_t i = 0; i < epochs.size(); ++i) EXPECT_EQ(epochs[i]["epoch"], i + 1);
  EXPECT_EQ(epochs.back()["step"], 9);
  EXPECT_EQ(status("whole")["state"], "done");
  EXPECT_EQ(status("whole")["step"], 9);
  EXPECT_EQ(status("whole")["total_steps"], 9);
  EXPECT_EQ(status("whole")["total_epochs"], epochs.size());
  expect_equal(tensors("whole/checkpoints/last.safetensors"), tensors("whole/stage3/checkpoints/last.safetensors"));
  EXPECT_TRUE(fs::exists(dir_ + "/whole/checkpoints/best.safetensors"));
  for (const char* file : {"config.yaml", "environment.json", "train.log", "metrics.csv"})
    EXPECT_TRUE(fs::exists(dir_ + "/whole/" + file)) << file;

  // Killed in stage 1, stopped in stage 2, killed when the second pseudo-labels are begun: the same in the end.
  const Outcome killed =
      semiseg_until("train tiny.yaml run.dir=cut", "cut/stage1/checkpoints/step_00000001.safetensors", SIGKILL);
  ASSERT_EQ(killed.code, 128 + SIGKILL) << killed.output;
  const Outcome stopped = semiseg_until("train --resume cut", "cut/stage2/checkpoints/step_00000001.safetensors", SIGTERM);
  ASSERT_EQ(stopped.code, 128 + SIGTERM) << stopped.output;
  EXPECT_NE(stopped.output.find("stage 2"), std::string::npos) << stopped.output;
  EXPECT_NE(stopped.output.find("semiseg train --resume cut"), std::string::npos) << stopped.output;
  EXPECT_EQ(status("cut")["state"], "stopped");
  const Outcome between = semiseg_until("train --resume cut", "cut/pseudo_labels_2/labels", SIGKILL);
  ASSERT_EQ(between.code, 128 + SIGKILL) << between.output;
  const Outcome resumed = semiseg("train --resume cut data.workers=0");
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  expect_equal(tensors("whole/checkpoints/last.safetensors"), tensors("cut/checkpoints/last.safetensors"));
  expect_equal(tensors("whole/checkpoints/best.safetensors"), tensors("cut/checkpoints/best.safetensors"));
  EXPECT_EQ(read_file(dir_ + "/whole/pseudo_labels_1/reliability.csv"),
            read_file(dir_ + "/cut/pseudo_labels_1/reliability.csv"));
  EXPECT_FALSE(fs::exists(dir_ + "/cut/pseudo_labels_2/progress.csv"));
  const auto again = metrics("cut");
  ASSERT_EQ(again.size(), epochs.size());
  for (size_t i = 0; i < epochs.size(); ++i)
    for (const char* key : {"epoch", "step", "lr", "train", "val", "pseudo"}) EXPECT_EQ(again[i][key], epochs[i][key]) << key;

  // Done, and still done when resumed; other settings are refused.
  EXPECT_EQ(semiseg("train --resume cut").code, 0);
  EXPECT_EQ(metrics("cut").size(), epochs.size());
  // The last stage made longer on its own: the run takes it over.
  ASSERT_EQ(semiseg("train --resume cut/stage3 --extend 1").code, 0);
  const Outcome longer = semiseg("train --resume cut");
  EXPECT_EQ(longer.code, 0) << longer.output;
  EXPECT_EQ(metrics("cut").size(), epochs.size() + 1);
  const auto reached = status("cut");
  EXPECT_EQ(reached["step"], reached["total_steps"]);
  EXPECT_EQ(reached["epoch"], reached["total_epochs"]);
  expect_equal(tensors("cut/stage3/checkpoints/last.safetensors"), tensors("cut/checkpoints/last.safetensors"));
  const Outcome other = semiseg("train --resume cut optim.lr=0.5");
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.output.find("optim.lr"), std::string::npos) << other.output;
}

TEST_F(SelfTraining, PseudoLabelsAreFilesThatTheSameConfigReads) {
  // Two folders hold an image of one name; the class file has other values than class indices.
  const auto image = [&](const std::string& path, int64_t shade) {
    make_folders(fs::path(dir_ + "/" + path).parent_path().string());
    write_image(dir_ + "/" + path, at::full({40, 50, 3}, shade, at::kByte));
  };
  write_file(dir_ + "/classes.yaml", "classes: [{name: a, id: 7}, {name: b, id: 30}, {name: c, id: 11}]\nignore: [200]\n");
  auto label = at::full({40, 50}, 7, at::kByte);
  label.narrow(0, 0, 20).fill_(30);
  label.narrow(1, 0, 20).fill_(11);
  image("x.png", 40);
  write_label_png(dir_ + "/x_label.png", label);
  image("one/y.png", 90);
  image("two/y.png", 140);
  image("two/with space.png", 200);
  write_file(dir_ + "/labeled.txt", "x.png x_label.png\n");
  write_file(dir_ + "/unlabeled.txt", "one/y.png\ntwo/y.png\n\"two/with space.png\"\n");
  write_file(dir_ + "/list.yaml", R"(seed: 5
data: {format: list, classes: classes.yaml, labeled: labeled.txt, unlabeled: unlabeled.txt, val: labeled.txt, crop: 32,
       ignore_index: 254}
model: {backbone: resnet18}
semi: {method: fixmatch, threshold: 0.5}
optim: {batch_labeled: 2, batch_unlabeled: 2, steps: 3}
checkpoint: {every_steps: 1, keep: 3}
)");
  const Outcome trained = semiseg("train list.yaml run.dir=run");
  ASSERT_EQ(trained.code, 0) << trained.output;

  const Outcome all = semiseg("pseudo-label run/checkpoints/last.safetensors list.yaml -o all --threshold 0");
  ASSERT_EQ(all.code, 0) << all.output;
  EXPECT_EQ(lines("all/list.txt").size(), 3u);
  EXPECT_EQ(lines("all/reliable.txt").size(), 2u);
  EXPECT_EQ(lines("all/rest.txt").size(), 1u);
  const auto table = lines("all/reliability.csv");
  ASSERT_EQ(table.size(), 4u);
  EXPECT_EQ(table[0], "image,reliability,accepted,confidence");
  const auto reliability = [&](size_t row) { return std::stod(table[row].substr(table[row].find(',') + 1)); };
  EXPECT_GE(reliability(1), reliability(2));
  EXPECT_GE(reliability(2), reliability(3));
  // ST++: the mean over earlier checkpoints of the mIoU between their prediction and the newest one's.
  double alike = 0;
  for (const std::string which : {"last", "step_00000001", "step_00000002"}) {
    const Outcome predicted = semiseg("predict run/checkpoints/" + which + ".safetensors one/y.png -o " + which);
    ASSERT_EQ(predicted.code, 0) << predicted.output;
    if (which == "last") continue;
    ASSERT_EQ(semiseg("diagnose --labels last --predictions " + which + " --json alike.json").code, 0);
    const double miou = nlohmann::json::parse(read_file(dir_ + "/alike.json")).at("epochs").at(0).at("val").at("miou");
    EXPECT_NE(miou, 2 * alike);  // else one of the two could stand for both
    alike += miou / 2;
  }
  const auto is_one = [](const std::string& row) { return row.find("one/y.png") != std::string::npos; };
  const auto row = std::find_if(table.begin(), table.end(), is_one);
  ASSERT_NE(row, table.end());
  EXPECT_NEAR(reliability(static_cast<size_t>(row - table.begin())), alike, 1e-6);
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(dir_ + "/all/labels")) {
    const auto values = read_label_values(entry.path().string());
    EXPECT_TRUE(((values == 7) | (values == 30) | (values == 11)).all().item<bool>()) << entry.path();
    ++files;
  }
  EXPECT_EQ(files, 3u);

  // A weight of e^30 for one class, and what it makes the network say taken out again.
  ASSERT_EQ(semiseg("train list.yaml run.dir=weighted 'loss.class_weights=[1,1,1e13]' optim.lr=0.001").code, 0);
  const auto has_weighted = [&](const std::string& folder, const std::string& settings) {
    const Outcome labelled = semiseg("pseudo-label weighted/checkpoints/last.safetensors list.yaml --threshold 0 -o " + folder +
                                     " 'loss.class_weights=[1,1,1e13]' " + settings);
    EXPECT_EQ(labelled.code, 0) << labelled.output;
    return (read_label_values(dir_ + "/" + folder + "/labels/y.png") == 11).any().item<bool>();
  };
  EXPECT_TRUE(has_weighted("as_it_is", ""));
  EXPECT_FALSE(has_weighted("undone", "semi.undo_class_bias=true"));
  ASSERT_EQ(semiseg("export weighted/checkpoints/last.safetensors -o weights.safetensors").code, 0);
  const Outcome alone = semiseg("pseudo-label weights.safetensors list.yaml -o alone semi.undo_class_bias=true");
  EXPECT_EQ(alone.code, 2) << alone.output;
  EXPECT_NE(alone.output.find("does not say by which class weights"), std::string::npos) << alone.output;
  EXPECT_FALSE(fs::exists(dir_ + "/alone"));

  const Outcome none = semiseg("pseudo-label run/checkpoints/last.safetensors list.yaml -o none --threshold 1");
  ASSERT_EQ(none.code, 0) << none.output;
  EXPECT_TRUE((read_label_values(dir_ + "/none/labels/y.png") == 254).all().item<bool>());

  const Outcome retrained = semiseg("train list.yaml run.dir=again semi.method=retrain data.unlabeled=all/list.txt");
  ASSERT_EQ(retrained.code, 0) << retrained.output;
  EXPECT_EQ(semiseg("train list.yaml run.dir=labelled data.labeled=all/reliable.txt").code, 0);

  // The third image cannot be read: what was labelled before is kept, but only for the same job.
  const std::string spaced = read_file(dir_ + "/two/with space.png");
  write_file(dir_ + "/two/with space.png", "no image");
  const std::string words = "pseudo-label run/checkpoints/last.safetensors list.yaml -o parts --threshold 0";
  EXPECT_EQ(semiseg(words).code, 3);
  EXPECT_FALSE(fs::exists(dir_ + "/parts/list.txt"));
  write_file(dir_ + "/two/with space.png", spaced);
  write_file(dir_ + "/parts/progress.csv", read_file(dir_ + "/parts/progress.csv") + "0.5,0.");  // killed while it wrote
  fs::copy(dir_ + "/parts", dir_ + "/others", fs::copy_options::recursive);
  const Outcome rest = semiseg(words);
  ASSERT_EQ(rest.code, 0) << rest.output;
  EXPECT_NE(rest.output.find("2 of them are labelled already"), std::string::npos) << rest.output;
  EXPECT_EQ(read_file(dir_ + "/parts/reliability.csv"), read_file(dir_ + "/all/reliability.csv"));
  EXPECT_EQ(lines("parts/list.txt").size(), 3u);
  EXPECT_FALSE(fs::exists(dir_ + "/parts/progress.csv"));
  const Outcome others = semiseg("pseudo-label run/checkpoints/last.safetensors list.yaml -o others --threshold 0.5");
  ASSERT_EQ(others.code, 0) << others.output;
  EXPECT_EQ(others.output.find("labelled already"), std::string::npos) << others.output;

  const struct {
    const char *words, *says;
  } kBad[] = {{"--threshold 1.5", "--threshold"},
              {"--threshold x", "--threshold"},
              {"--checkpoints nowhere.safetensors", "nowhere.safetensors"},
              {"'semi.threshold={kind: quantile, share: 0.5}'", "--threshold"},
              {"semi.method=supervised data.unlabeled=\"\"", "data.unlabeled"}};
  for (const auto& bad : kBad) {
    const Outcome outcome = semiseg("pseudo-label run/checkpoints/last.safetensors list.yaml -o bad " + std::string(bad.words));
    EXPECT_NE(outcome.code, 0) << bad.words;
    EXPECT_NE(outcome.output.find(bad.says), std::string::npos) << outcome.output;
    EXPECT_FALSE(fs::exists(dir_ + "/bad/list.txt"));
  }
}

TEST_F(SelfTraining, BadInputLeavesNothingBehind) {
  const struct {
    const char *words, *says;
  } kBad[] = {{"'semi.threshold={kind: quantile}'", "semi.threshold"},
              {"'data.counts=[4, 1, 2]'", "data.unlabeled"},
              {"'data.counts=[0, 5, 2]'", "label"}};
  for (const auto& bad : kBad) {
    const Outcome outcome = semiseg("train tiny.yaml run.dir=bad " + std::string(bad.words));
    EXPECT_TRUE(outcome.code == 2 || outcome.code == 3) << outcome.output;
    EXPECT_NE(outcome.output.find(bad.says), std::string::npos) << outcome.output;
    EXPECT_FALSE(fs::exists(dir_ + "/bad")) << outcome.output;
  }
}

TEST(Retrain, LearnsFromLabelFilesAndLeavesIgnoredPixelsAndPaddingOut) {
  constexpr int64_t K = 3, kSide = 32;
  ModelConfig model;
  model.backbone = "resnet18";
  model.dropout = 0;
  const auto make_network = [model](uint32_t) { return make_segmenter(model, K, 7); };
  const auto image = [](double phase) {
    return at::sin(at::arange(2 * 3 * kSide * kSide, at::kFloat) * 0.01 + phase).view({2, 3, kSide, kSide});
  };
  TrainBatch batch;
  batch.labeled = {image(0), at::arange(2 * kSide * kSide).remainder(K).view({2, kSide, kSide})};
  batch.unlabeled.weak_BCHW = image(1);
  batch.unlabeled.strong_BCHW = {image(1.3)};
  batch.unlabeled.valid_BHW = at::ones({2, kSide, kSide}, at::kBool);
  batch.unlabeled.valid_BHW.narrow(1, 0, 8).fill_(false);
  batch.unlabeled.truth_BHW = at::arange(2 * kSide * kSide).div(7, "floor").remainder(K).view({2, kSide, kSide});
  batch.unlabeled.truth_BHW.narrow(1, 0, 8).fill_(kIgnore);   // padding, as the loader gives it
  batch.unlabeled.truth_BHW.narrow(1, 26, 6).fill_(kIgnore);  // rejected when the file was written: a quarter of the rest

  const auto network = make_network(0);
  const auto logits_BKHW = at::upsample_bilinear2d(network->forward(at::cat({image(0), image(1.3)})), {kSide, kSide}, true);
  const auto mean_ce = [&](int64_t first, const Tensor& label) {
    return at::cross_entropy_loss(logits_BKHW.narrow(0, first, 2), label, {}, at::Reduction::Mean, kIgnore).item<double>();
  };
  const double supervised = mean_ce(0, batch.labeled.label_BHW), unsupervised = mean_ce(2, batch.unlabeled.truth_BHW);
  for (const auto& [normalize, share] : {std::pair("accepted", 1.0), std::pair("valid", 0.75)}) {
    SemiConfig config;
    config.normalize = normalize;
    config.weight = 2;
    const auto method = methods().at("retrain")(
        config, {make_network, SupervisedLoss(LossConfig{}, {}, {}, torch::kCPU), K, {}, {}, torch::kCPU});
    const StepOutput out = method->step(batch, {});
    EXPECT_NEAR(out.scalars.at("loss_unsupervised").item<double>(), share * unsupervised, 1e-5) << normalize;
    EXPECT_NEAR(out.loss.item<double>(), supervised + 2 * share * unsupervised, 1e-5) << normalize;
    for (const int64_t row : {0, 1}) EXPECT_EQ(out.pseudo_2K[row].sum().item<int64_t>(), 2 * 18 * kSide) << normalize;
  }
}

}  // namespace
}  // namespace semiseg
