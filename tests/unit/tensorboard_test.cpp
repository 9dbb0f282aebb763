// The events of a run, read back with TensorBoard's own classes (tools/check/tensorboard_events.py).
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "semiseg/dataset.h"
#include "semiseg/files.h"
#include "semiseg/report.h"
#include "tests/python.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kStepsPerEpoch = 4;

class TensorBoardEvents : public testing::Test {
 protected:
  TensorBoardEvents() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    dir_ = testing::TempDir() + "/semiseg_events_" + info->name();
    fs::remove_all(dir_);
    make_folders(dir_);
    config_.optim.lr = 0.25;
    config_.data.labeled = "a list.txt";
    classes_.names = {"road", "traffic light", "sign"};
    classes_.colours = {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}};
  }

  std::unique_ptr<Reporter> begin(int64_t first_step) const {
    auto sink = make_tensorboard();
    RunInfo info;
    info.dir = dir_;
    info.config = &config_;
    info.classes = &classes_;
    info.first_step = first_step;
    sink->begin(info);
    return sink;
  }

  static EpochRecord record(int64_t epoch) {
    EpochRecord record;
    record.epoch = epoch;
    record.step = epoch * kStepsPerEpoch;
    record.loss = 1.0 / static_cast<double>(epoch);
    record.lr = 0.125;
    Scores scores;
    scores.miou = 0.25 * static_cast<double>(epoch);
    scores.iou = {0.5, std::nullopt, 1.0};
    scores.class_accuracy = {0.5, std::nullopt, 0.75};
    scores.label_share = {0.75, 0, 0.25};
    scores.prediction_share = {0.5, 0.25, 0.25};
    record.val = scores;
    PseudoScores pseudo;
    pseudo.accepted = 0.5;
    pseudo.share = {1, 0, 0};
    record.pseudo = pseudo;
    return record;
  }

  static std::vector<EpochRecord> history(int64_t epochs) {
    std::vector<EpochRecord> records;
    for (int64_t epoch = 1; epoch <= epochs; ++epoch) records.push_back(record(epoch));
    return records;
  }

  static StepReport at(int64_t epoch, int64_t step, double mean_loss) {
    StepReport report;
    report.epoch = epoch;
    report.step = step;
    report.loss = mean_loss;
    return report;
  }

  std::vector<std::string> event_files() const {
    std::vector<std::string> files;
    for (const auto& entry : fs::directory_iterator(dir_))
      if (entry.path().filename().string().rfind("events.out.tfevents.", 0) == 0) files.push_back(entry.path().string());
    std::sort(files.begin(), files.end());
    return files;
  }

  std::string dir_;
  Config config_;
  ClassSet classes_;
};

using Points = std::vector<std::pair<int64_t, double>>;

Points points(const nlohmann::json& events, const std::string& tag) {
  Points points;
  for (const auto& point : events["scalars"][tag]) points.emplace_back(point[0], point[1]);
  return points;
}

TEST_F(TensorBoardEvents, AreReadBackAsTheyWereTold) {
  if (const auto missing = missing_python("tensorboard")) GTEST_SKIP() << *missing;
  const auto sink = begin(0);
  sink->step(at(1, 2, 3));
  sink->step(at(1, 4, 2));  // a mean of 2 over four updates: 1 over the last two
  write_image(dir_ + "/confusion_matrix.png", at::zeros({20, 30, 3}, at::kByte));
  make_folders(dir_ + "/samples");
  write_image(dir_ + "/samples/epoch_0001.jpg", at::zeros({40, 50, 3}, at::kByte));
  sink->epochs(history(1), false);
  sink->step(at(2, 6, 5));
  sink->step(at(2, 8, 4));
  sink->epochs(history(2), false);
  sink->end(RunState::kDone, 0, "");

  const auto events = run_python("tools/check/tensorboard_events.py " + dir_);
  EXPECT_EQ(points(events, "step/loss"), (Points{{2, 3}, {4, 1}, {6, 5}, {8, 3}}));
  EXPECT_EQ(points(events, "train/loss"), (Points{{4, 1}, {8, 0.5}}));
  EXPECT_EQ(points(events, "train/lr"), (Points{{4, 0.125}, {8, 0.125}}));
  EXPECT_EQ(points(events, "val/miou"), (Points{{4, 0.25}, {8, 0.5}}));
  EXPECT_EQ(points(events, "val_iou/sign"), (Points{{4, 1}, {8, 1}}));
  EXPECT_EQ(points(events, "epoch"), (Points{{4, 1}, {8, 2}}));
  EXPECT_FALSE(events["scalars"].contains("val_iou/traffic light"));  // it has no IoU
  EXPECT_FALSE(events["scalars"].contains("step/loss_unsupervised"));
  EXPECT_EQ(events["images"]["samples"], nlohmann::json::parse("[[4, 40, 50, true]]"));  // none of epoch 2
  EXPECT_EQ(events["images"]["confusion_matrix"], nlohmann::json::parse("[[4, 20, 30, true], [8, 20, 30, true]]"));
  EXPECT_EQ(events["histograms"]["share_by_class/label"][0][1], nlohmann::json::parse("[0.75, 0.0, 0.25]"));
  EXPECT_EQ(events["histograms"]["classes_by_iou"][0][1][10], 1.0);  // 0.5 of 20 bins
  EXPECT_EQ(events["hparams"]["optim.lr"], 0.25);
  EXPECT_EQ(events["hparam_types"]["optim.lr"], "DATA_TYPE_FLOAT64");
  EXPECT_EQ(events["hparams"]["data.flip"], true);
  EXPECT_EQ(events["hparams"]["semi.method"], "supervised");
  EXPECT_EQ(events["hparams"]["data.labeled"], "a list.txt");
  EXPECT_EQ(events["metrics"][0], "val/miou");
  EXPECT_EQ(events["status"], "STATUS_SUCCESS");
  EXPECT_NE(events["texts"]["config"].get<std::string>().find("lr: 0.25"), std::string::npos);
  EXPECT_EQ(events["files"].size(), 1u);
}

// Killed in the third epoch with half a record at the end of its file, resumed from step 9, killed again after the checkpoint
// of epoch 3 and before the report of it, resumed from there.
TEST_F(TensorBoardEvents, ShowEachStepOnceHoweverOftenTheRunIsKilled) {
  if (const auto missing = missing_python("tensorboard")) GTEST_SKIP() << *missing;
  {
    const auto sink = begin(0);
    for (int64_t epoch = 1; epoch <= 2; ++epoch) {
      sink->step(at(epoch, 4 * epoch, 2));
      sink->epochs(history(epoch), false);
    }
    sink->step(at(3, 9, 7));
    sink->step(at(3, 10, 9));
  }
  const std::string first = event_files().at(0), whole = read_file(first);
  write_file(first, whole.substr(0, whole.size() - 9));  // the record of step 10
  {
    const auto sink = begin(9);
    sink->epochs(history(2), true);
    sink->step(at(3, 11, 3));
    sink->step(at(3, 12, 3));
  }
  {
    const auto sink = begin(12);
    sink->epochs(history(3), true);
    sink->step(at(4, 16, 1));
    sink->epochs(history(4), false);
    sink->end(RunState::kStopped, 143, "");
  }
  const auto events = run_python("tools/check/tensorboard_events.py " + dir_);
  EXPECT_EQ(points(events, "train/loss"), (Points{{4, 1}, {8, 0.5}, {12, static_cast<double>(1.0F / 3)}, {16, 0.25}}));
  EXPECT_EQ(points(events, "epoch"), (Points{{4, 1}, {8, 2}, {12, 3}, {16, 4}}));
  EXPECT_EQ(points(events, "step/loss"), (Points{{4, 2}, {8, 2}, {9, 7}, {11, 3}, {16, 1}}));
  EXPECT_EQ(events["files"].size(), 3u);
  EXPECT_EQ(events["hparams"]["optim.lr"], 0.25);
  EXPECT_TRUE(events["status"].is_null());
}

// Events were switched on late, or the folder was copied without them: the whole history is there.
TEST_F(TensorBoardEvents, OfARunWithoutAnyHoldItsHistory) {
  if (const auto missing = missing_python("tensorboard")) GTEST_SKIP() << *missing;
  const auto sink = begin(9);
  sink->epochs(history(2), true);
  sink->step(at(3, 12, 2));
  sink->epochs(history(3), false);
  const auto events = run_python("tools/check/tensorboard_events.py " + dir_);
  EXPECT_EQ(points(events, "epoch"), (Points{{4, 1}, {8, 2}, {12, 3}}));
  EXPECT_EQ(points(events, "step/loss"), (Points{{12, 2}}));
  EXPECT_EQ(events["hparams"]["optim.lr"], 0.25);
}

TEST_F(TensorBoardEvents, BeginNoFileBeforeThereIsSomethingToTell) {
  begin(0)->end(RunState::kFailed, 3, "bad data");
  EXPECT_TRUE(event_files().empty());
  begin(0)->step(at(1, 1, 1));
  ASSERT_EQ(event_files().size(), 1u);
  const std::string name = fs::path(event_files()[0]).filename().string();
  EXPECT_NE(name.find("." + std::to_string(::getpid())), std::string::npos) << name;
}

}  // namespace
}  // namespace semiseg
