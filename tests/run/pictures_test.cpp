// The pictures and events that a run leaves behind.
#include "program.h"
#include "tests/python.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

class RunPictures : public ProgramTest {
 protected:
  RunPictures()
      : ProgramTest(R"(seed: 5
data: {format: synthetic, size: [32, 64], counts: [4, 6, 3], crop: 32, workers: 1}
model: {backbone: resnet18}
semi: {method: fixmatch, threshold: 0.2}
optim: {lr: 0.01, batch_labeled: 2, batch_unlabeled: 2, epochs: 1}
report: {every_steps: 2, samples: 2}
)") {}
};

TEST_F(RunPictures, AreThereAndEventsSayWhatMetricsSay) {
  ASSERT_EQ(semiseg("train tiny.yaml").code, 0);
  const Outcome extended = semiseg("train --resume runs/tiny --extend 1");
  ASSERT_EQ(extended.code, 0) << extended.output;
  for (const char* file : {"confusion_matrix.png", "results.png", "class_histogram.png", "train_batch.jpg",
                           "samples/epoch_0001.jpg", "samples/epoch_0002.jpg"})
    EXPECT_TRUE(fs::exists(dir_ + "/runs/tiny/" + file)) << file;

  if (const auto missing = missing_python("tensorboard")) GTEST_SKIP() << *missing;
  const auto events = run_python("tools/check/tensorboard_events.py " + dir_ + "/runs/tiny");
  const auto lines = metrics("runs/tiny");
  const auto names = nlohmann::json::parse(read_file(dir_ + "/runs/tiny/environment.json"))["classes"];
  const auto expect_point = [&](const std::string& tag, size_t epoch, const nlohmann::json& value) {
    SCOPED_TRACE(tag);
    ASSERT_EQ(events["scalars"][tag].size(), 2u);
    EXPECT_EQ(events["scalars"][tag][epoch][0], lines[epoch]["step"]);
    EXPECT_EQ(events["scalars"][tag][epoch][1].get<float>(), value.get<float>());
  };
  for (size_t epoch = 0; epoch < 2; ++epoch) {
    for (const char* loss : {"loss", "loss_supervised", "loss_unsupervised"})
      expect_point(std::string("train/") + loss, epoch, lines[epoch]["train"][loss]);
    for (const char* score : {"miou", "mean_class_accuracy", "pixel_accuracy"})
      expect_point(std::string("val/") + score, epoch, lines[epoch]["val"][score]);
    expect_point("train/lr", epoch, lines[epoch]["lr"]);
    expect_point("pseudo/accepted", epoch, lines[epoch]["pseudo"]["accepted"]);
    for (size_t c = 0; c < names.size(); ++c) {
      if (!lines[epoch]["val"]["iou"][c].is_number()) continue;
      EXPECT_FALSE(events["scalars"]["val_iou/" + names[c]["name"].get<std::string>()].empty()) << c;
    }
  }
  EXPECT_EQ(events["images"]["samples"].size(), 2u);
  EXPECT_EQ(events["status"], "STATUS_SUCCESS");
}

TEST_F(RunPictures, CanBeSwitchedOff) {
  ASSERT_EQ(semiseg("train tiny.yaml report.samples=0 report.tensorboard=false").code, 0);
  EXPECT_FALSE(fs::exists(dir_ + "/runs/tiny/samples"));
  for (const auto& entry : fs::directory_iterator(dir_ + "/runs/tiny"))
    EXPECT_EQ(entry.path().filename().string().find("tfevents"), std::string::npos);
}

}  // namespace
}  // namespace semiseg
