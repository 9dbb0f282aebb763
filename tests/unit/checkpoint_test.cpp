#include "semiseg/checkpoint.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "semiseg/files.h"
#include "semiseg/weights.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

// A method with a teacher, its optimizer and a state, after one update.
struct Rig {
  explicit Rig(uint64_t seed) {
    config.seed = seed;
    config.data.format = "synthetic";
    config.model.backbone = "resnet18";
    config.semi.method = "mean_teacher";
    config.optim.epochs = 3;
    classes = load_classes("synthetic", 255);
    const auto model = config.model;
    const int64_t K = classes.size();
    method =
        methods().at("mean_teacher")(config.semi, {[=](uint32_t purpose) { return make_segmenter(model, K, seed, purpose); },
                                                   SupervisedLoss(LossConfig{}, {}, {}, torch::kCPU),
                                                   K,
                                                   {},
                                                   {}});
    optimizer = std::make_unique<Optimizer>(method->trained(), config.optim);
  }

  void update() {
    for (auto& p : method->student().parameters()) p.mutable_grad() = at::sin(at::arange(p.numel())).view_as(p);
    optimizer->set_rate(1);
    optimizer->step();
    method->after_update({1, 10, 5});
    state.step = 1;
    state.best_miou = 1.0 / 3;
    state.best_epoch = 1;
    state.class_weights = {0.1, 3};
    state.label_share = {0.75, 0.25};
    state.before_training.emplace().val = scores_of(at::tensor({3, 1, 0, 4}, at::kLong).view({2, 2}));
    state.probe["0"] = at::arange(6, at::kByte).view({2, 3});
    state.data_fingerprint = "3+4+5-0";
    state.epoch_sums["loss"] = at::scalar_tensor(0.1, at::kDouble);
    EpochRecord record;
    record.epoch = 1;
    record.loss = 1.0 / 7;
    record.val = scores_of(at::tensor({5, 1, 0, 0}, at::kLong).view({2, 2}));
    state.history = {record};
  }

  void save(const std::string& path) { save_checkpoint(path, config, classes, state, *method, *optimizer); }

  Config config;
  ClassSet classes;
  std::shared_ptr<Method> method;
  std::unique_ptr<Optimizer> optimizer;
  TrainState state;
};

class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "/semiseg_checkpoint_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(dir_);
    make_folders(dir_ + "/checkpoints");
  }
  std::string path(const std::string& name) const { return dir_ + "/checkpoints/" + name + ".safetensors"; }
  std::string dir_;
};

TEST_F(CheckpointTest, RestoresEveryTensorAndCounterExactly) {
  Rig saved(1);
  saved.update();
  saved.save(path("last"));
  ASSERT_TRUE(is_checkpoint(path("last")));

  const Checkpoint checkpoint = read_checkpoint(path("last"));
  Rig fresh(2);
  restore(checkpoint, *fresh.method, *fresh.optimizer);
  const auto expect_equal = [](const auto& a, const auto& b) {
    for (size_t i = 0; i < a.size(); ++i) ASSERT_TRUE(a[i].equal(b[i]));
  };
  expect_equal(saved.method->parameters(), fresh.method->parameters());
  expect_equal(saved.method->buffers(), fresh.method->buffers());
  for (const auto& [name, tensor] : saved.optimizer->state())
    EXPECT_TRUE(tensor.equal(fresh.optimizer->state().at(name))) << name;
  EXPECT_EQ(checkpoint.state.step, 1);
  EXPECT_EQ(checkpoint.state.best_miou, 1.0 / 3);
  EXPECT_EQ(checkpoint.state.class_weights, saved.state.class_weights);
  EXPECT_EQ(checkpoint.state.label_share, saved.state.label_share);
  ASSERT_TRUE(checkpoint.state.before_training && checkpoint.state.before_training->val);
  EXPECT_EQ(checkpoint.state.before_training->val->confusion, (std::vector<std::vector<int64_t>>{{3, 1}, {0, 4}}));
  EXPECT_TRUE(checkpoint.state.probe.at("0").equal(saved.state.probe.at("0")));
  EXPECT_EQ(checkpoint.state.data_fingerprint, "3+4+5-0");
  EXPECT_EQ(to_json(checkpoint.state.history.at(0)), to_json(saved.state.history.at(0)));
  EXPECT_EQ(checkpoint.state.epoch_sums.at("loss").item<double>(), 0.1);
  EXPECT_TRUE(differing_keys(checkpoint.config, saved.config).empty());
  EXPECT_EQ(checkpoint.classes.names, saved.classes.names);
  EXPECT_EQ(checkpoint.classes.colours, saved.classes.colours);
}

TEST_F(CheckpointTest, HoldsThePredictorUnderBareNames) {
  Rig run(1);
  run.update();
  run.save(path("last"));
  const auto file = read_safetensors(path("last"));
  EXPECT_TRUE(
      file.tensors.at("encoder.conv1.weight").equal(run.method->predictor().named_parameters()["encoder.conv1.weight"]));
  EXPECT_TRUE(
      file.tensors.at("student.encoder.conv1.weight").equal(run.method->student().named_parameters()["encoder.conv1.weight"]));
  EXPECT_EQ(file.tensors.count("optimizer.segmentation_head.0.bias.momentum"), 1u);

  const LoadedModel model = load_model(path("last"), nullptr, torch::kCPU);
  EXPECT_TRUE(model.network->named_parameters()["decoder.p5.weight"].equal(
      run.method->predictor().named_parameters()["decoder.p5.weight"]));
  EXPECT_FALSE(model.network->is_training());
}

TEST_F(CheckpointTest, AFlippedBitOrACutFileIsNotValid) {
  Rig run(1);
  run.update();
  run.save(path("last"));
  const std::string whole = read_file(path("last"));
  for (const size_t at : {size_t{20}, whole.size() / 3, whole.size() - 1}) {
    std::string bytes = whole;
    bytes[at] ^= 1;
    write_file(path("last"), bytes);
    EXPECT_THROW(read_checkpoint(path("last")), Error) << at;
  }
  for (const size_t length : {size_t{0}, size_t{5}, size_t{100}, whole.size() - 1}) {
    write_file(path("last"), whole.substr(0, length));
    try {
      read_checkpoint(path("last"));
      ADD_FAILURE() << length;
    } catch (const Error& e) {
      EXPECT_EQ(e.exit_code(), 7) << e.what();
      EXPECT_NE(std::string(e.what()).find(path("last")), std::string::npos) << e.what();
    }
  }
}

TEST_F(CheckpointTest, TheNewestWholeOneIsFound) {
  Rig run(1);
  run.update();
  for (const int64_t step : {1, 2, 3}) {
    run.state.step = step;
    run.save(path("step_" + std::to_string(step)));
  }
  write_file(path("step_3"), read_file(path("step_3")).substr(0, 1000));
  std::vector<std::string> damaged;
  EXPECT_EQ(newest_checkpoint(dir_, &damaged).state.step, 2);
  ASSERT_EQ(damaged.size(), 1u);
  EXPECT_NE(damaged[0].find("step_3"), std::string::npos);

  for (const char* name : {"step_1", "step_2"}) write_file(path(name), "x");
  try {
    newest_checkpoint(dir_, &damaged);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 7);
  }
}

TEST_F(CheckpointTest, NeverHoldsNaN) {
  Rig run(1);
  run.update();
  {
    at::NoGradGuard no_grad;
    run.method->student().named_parameters()["decoder.p5.weight"].view(-1)[3] = NAN;
  }
  try {
    run.save(path("last"));
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 4);
    EXPECT_NE(std::string(e.what()).find("decoder.p5.weight"), std::string::npos);
  }
  EXPECT_FALSE(fs::exists(path("last")));
}

}  // namespace
}  // namespace semiseg
