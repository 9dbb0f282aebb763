// What comes before training, as a user types it: check, train --dry-run, optim.batch=auto.
#include "program.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

class Preflight : public ProgramTest {
 protected:
  Preflight()
      : ProgramTest(R"(data: {format: synthetic, size: [64, 96], counts: [6, 8, 2], crop: 64, workers: 1}
model: {backbone: resnet18}
semi: {method: fixmatch, threshold: 0.2, burn_in_epochs: 1}
optim: {lr: 0.01, batch_labeled: 2, batch_unlabeled: 2, epochs: 2}
)") {
    ::setenv("XDG_CACHE_HOME", (dir_ + "/cache").c_str(), 1);
  }

  void expect_words(const Outcome& outcome, const std::vector<std::string>& words) const {
    for (const std::string& word : words)
      EXPECT_NE(outcome.output.find(word), std::string::npos) << word << "\n" << outcome.output;
  }
  nlohmann::json json(const std::string& file) const { return nlohmann::json::parse(read_file(dir_ + "/" + file)); }
};

TEST_F(Preflight, ADryRunForecastsAndLeavesNothing) {
  const Outcome outcome = semiseg("train tiny.yaml --dry-run checkpoint.every_steps=2 checkpoint.keep=3");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  expect_words(outcome, {"of 4 images", "4 updates", "2 images", "8 updates, 2 evaluations", "memory", "disk", "fits"});
  EXPECT_FALSE(fs::exists(dir_ + "/runs"));

  // The checkpoint that is foretold is the one that is written.
  ASSERT_EQ(semiseg("train tiny.yaml optim.epochs=1").code, 0);
  const double mb = static_cast<double>(fs::file_size(dir_ + "/runs/tiny/checkpoints/last.safetensors")) / (1 << 20);
  const size_t at = outcome.output.find("a checkpoint is ");
  ASSERT_NE(at, std::string::npos);
  EXPECT_NEAR(std::stod(outcome.output.substr(at + 16)), mb, 1) << outcome.output;

  EXPECT_EQ(semiseg("train --resume runs/tiny --dry-run").code, 2);
  EXPECT_EQ(semiseg("train tiny.yaml --dry-run run.dir=runs/tiny").code, 2);  // as train would say
}

TEST_F(Preflight, ASettingThatIsNotUtf8IsRefusedBeforeAnythingIsWritten) {
  const Outcome outcome = semiseg("train tiny.yaml run.dir=caf\xe9");
  EXPECT_EQ(outcome.code, 2) << outcome.output;
  expect_words(outcome, {"run.dir: not UTF-8"});
  EXPECT_FALSE(fs::exists(dir_ + "/caf\xe9"));
}

TEST_F(Preflight, TheBatchThatIsFoundIsWrittenDown) {
  const Outcome outcome = semiseg("train tiny.yaml optim.batch=auto optim.epochs=1");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  expect_words(outcome, {"2 labelled + 2 unlabelled images: peak", "chosen: optim.batch_labeled=6 optim.batch_unlabeled=6",
                         "bound by the 6 labeled images", "optim.lr stays 0.01"});
  const std::string config = read_file(dir_ + "/runs/tiny/config.yaml");
  for (const char* line : {"batch: given", "batch_labeled: 6", "batch_unlabeled: 6"})
    EXPECT_NE(config.find(line), std::string::npos) << line << "\n" << config;
  EXPECT_EQ(metrics("runs/tiny").at(0)["step"], 2);  // of 8 / 6 images
  EXPECT_EQ(semiseg("train --resume runs/tiny --extend 1").code, 0);
  EXPECT_EQ(metrics("runs/tiny").at(1)["step"], 4);

  // The ratio is the config's.
  const Outcome dry = semiseg("train tiny.yaml optim.batch=auto optim.batch_labeled=1 optim.batch_unlabeled=3 --dry-run");
  ASSERT_EQ(dry.code, 0) << dry.output;
  expect_words(dry,
               {"chosen: optim.batch_labeled=2 optim.batch_unlabeled=6", "bound by the 8 unlabeled images", "of 8 images"});
}

TEST_F(Preflight, CheckTellsOfBrokenDataAndRemembersWhatItRead) {
  ASSERT_EQ(semiseg("synth city --train 3 --val 1 --size 64x96 --seed 1").code, 0);
  write_file(dir_ + "/city.yaml", R"(data: {format: cityscapes, root: city, crop: 64}
model: {backbone: resnet18}
optim: {steps: 1}
)");
  Outcome outcome = semiseg("check city.yaml --json check.json");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  expect_words(outcome, {"labeled           3   64 x 96, PNG RGB 8-bit", "8 files"});
  nlohmann::json report = json("check.json");
  EXPECT_EQ(report["lists"]["labeled"]["images"], 3);
  EXPECT_EQ(report["lists"]["val"]["sizes"][0], (nlohmann::json{{"height", 64}, {"width", 96}, {"images", 1}}));
  int64_t pixels = report["lists"]["labeled"]["ignored_pixels"];
  for (const auto& entry : report["lists"]["labeled"]["classes"]) pixels += entry["pixels"].get<int64_t>();
  EXPECT_EQ(pixels, 3 * 64 * 96);

  std::string image;
  for (const auto& entry : fs::recursive_directory_iterator(dir_ + "/city/leftImg8bit/train"))
    if (entry.is_regular_file()) image = entry.path().string();
  write_file(image, read_file(image).substr(0, 100));
  outcome = semiseg("check city.yaml --json check.json");
  EXPECT_EQ(outcome.code, 3) << outcome.output;
  expect_words(outcome,
               {"problems\n", "truncated PNG", "7 known from an earlier check, 1 read", fs::path(image).filename().string()});
  report = json("check.json");
  EXPECT_EQ(report["verdict"], "broken");
  ASSERT_EQ(report["problems"].size(), 1u);
  EXPECT_EQ(report["problems"][0]["kind"], "truncated PNG");

  expect_words(semiseg("check city.yaml --fresh"), {"(8 files in"});
  outcome = semiseg("check tiny.yaml");  // drawn, not read
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  expect_words(outcome, {"64 x 96, drawn"});
}

TEST_F(Preflight, ACacheThatCannotBeWrittenIsNoError) {
  write_file(dir_ + "/cache", "a file");
  ASSERT_EQ(semiseg("synth city --train 1 --val 1 --size 64x96 --seed 1").code, 0);
  write_file(dir_ + "/city.yaml", "data: {format: cityscapes, root: city, crop: 64}\noptim: {steps: 1}\n");
  const Outcome outcome = semiseg("check city.yaml");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  expect_words(outcome, {"not kept for the next check"});
}

}  // namespace
}  // namespace semiseg
