// `semiseg predict`, as a user types it.
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>

#include "program.h"
#include "semiseg/overlay.h"
#include "video_file.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

// One tiny network for all tests, and drawn scenes.
class Predictions : public ProgramTest {
 protected:
  Predictions()
      : ProgramTest(R"(data: {format: synthetic, size: [64, 96], counts: [4, 0, 2], crop: 64}
model: {backbone: resnet18}
optim: {lr: 0.01, batch_labeled: 2, steps: 2}
report: {html: false, tensorboard: false, samples: 0}
)") {}

  void SetUp() override {
    if (trained.empty()) {
      trained = testing::TempDir() + "/semiseg_predictions_" + testing::UnitTest::GetInstance()->current_test_info()->name();
      fs::remove_all(trained);
      ASSERT_EQ(semiseg("train tiny.yaml run.dir=" + trained + "/run").code, 0);
      ASSERT_EQ(semiseg("synth " + trained + "/street --train 1 --val 3 --size 120x200").code, 0);
      make_folders(trained + "/images");
      int number = 0;
      for (const auto& entry : fs::recursive_directory_iterator(trained + "/street/leftImg8bit/val"))
        if (entry.path().extension() == ".png")
          fs::copy(entry.path(), trained + "/images/" + std::to_string(number++) + ".png");
      ASSERT_EQ(number, 3);
    }
    checkpoint_ = trained + "/run/checkpoints/last.safetensors";
    fs::copy(trained + "/images", dir_ + "/images");
  }

  static void TearDownTestSuite() { fs::remove_all(trained); }

  cv::Mat read(const std::string& file) const { return cv::imread(dir_ + "/" + file, cv::IMREAD_UNCHANGED); }
  std::vector<std::string> files(const std::string& folder) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(dir_ + "/" + folder))
      if (entry.is_regular_file()) names.push_back(fs::relative(entry.path(), dir_ + "/" + folder).string());
    std::sort(names.begin(), names.end());
    return names;
  }
  Outcome predict(const std::string& words) const { return semiseg("predict " + checkpoint_ + " " + words); }

  static inline std::string trained;  // the folder of the first test: what all of them read
  std::string checkpoint_;
};

using Names = std::vector<std::string>;

TEST_F(Predictions, AFolderGivesLabelsAndOverlaysThatPredictorGives) {
  const Outcome outcome = predict("images -o out data.workers=3");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_EQ(files("out"), (Names{"0.png", "0_overlay.jpg", "1.png", "1_overlay.jpg", "2.png", "2_overlay.jpg"}));
  EXPECT_NE(outcome.output.find("predicted 3 images in "), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("images/s"), std::string::npos) << outcome.output;

  const Predictor predictor(checkpoint_);
  for (const std::string name : {"0", "1", "2"}) {
    const cv::Mat image = load_image(dir_ + "/images/" + name + ".png");
    const cv::Mat classes = predictor.predict(image).classes, written = read("out/" + name + ".png");
    ASSERT_EQ(written.type(), CV_8UC1);
    EXPECT_EQ(cv::norm(written, classes, cv::NORM_INF), 0) << name;
    EXPECT_EQ(read("out/" + name + "_overlay.jpg").size(), image.size());
  }
}

TEST_F(Predictions, ARunFolderStandsForItsBestCheckpoint) {
  const fs::path run = fs::path(checkpoint_).parent_path().parent_path();
  const Outcome outcome = semiseg("predict " + run.string() + " images/0.png -o out");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("/run/checkpoints/best.safetensors"), std::string::npos) << outcome.output;
  EXPECT_EQ(semiseg("export " + run.string() + " -o net.safetensors").code, 0);
  for (const char* verb : {"predict images images -o out", "eval images", "export images -o net.pt"}) {
    const Outcome none = semiseg(verb);
    EXPECT_EQ(none.code, 7) << verb << none.output;
    EXPECT_NE(none.output.find("images: the folder holds no checkpoints/best.safetensors"), std::string::npos) << none.output;
  }
}

TEST_F(Predictions, FlagsChooseWhatIsWritten) {
  ASSERT_EQ(predict("images/0.png -o out").code, 0);
  ASSERT_EQ(predict("'images/[0]*' -o more --no-overlay --confidence --ids label").code, 0);
  EXPECT_EQ(files("more"), (Names{"0.png", "0_confidence.png"}));
  const cv::Mat classes = read("out/0.png"), ids = read("more/0.png");
  const Predictor predictor(checkpoint_);
  for (int y = 0; y < classes.rows; ++y)
    for (int x = 0; x < classes.cols; ++x)
      ASSERT_EQ(int{ids.at<uint8_t>(y, x)}, *predictor.classes()[classes.at<uint8_t>(y, x)].label_id) << y << ' ' << x;
  EXPECT_EQ(read("more/0_confidence.png").rows, classes.rows);
}

TEST_F(Predictions, BrokenInputsAreNamedAndTheOthersPredicted) {
  const std::string whole = read_file(dir_ + "/images/1.png");
  write_file(dir_ + "/images/1.png", whole.substr(0, whole.size() / 2));
  write_file(dir_ + "/images/text.jpg", "no image");
  write_file(dir_ + "/images/video.mp4", "no video");
  const Outcome outcome = predict("images -o out");
  EXPECT_EQ(outcome.code, 3) << outcome.output;
  for (const char* file : {"warning: images/1.png: ", "warning: images/text.jpg: ", "warning: images/video.mp4: "})
    EXPECT_NE(outcome.output.find(file), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("3 of 5 inputs could not be read"), std::string::npos) << outcome.output;
  EXPECT_EQ(files("out"), (Names{"0.png", "0_overlay.jpg", "2.png", "2_overlay.jpg"}));

  const Outcome alone = predict("images/1.png -o alone");
  EXPECT_EQ(alone.code, 3);
  EXPECT_NE(alone.output.find("semiseg: error: images/1.png: truncated PNG"), std::string::npos) << alone.output;
  EXPECT_FALSE(fs::exists(dir_ + "/alone/1.png"));
}

TEST_F(Predictions, AVideoGivesAVideo) {
  auto video = VideoFile::create(dir_ + "/drive", 12.5, {200, 120});
  if (!video) GTEST_SKIP() << "OpenCV here has no video encoder";
  for (int i = 0; i < 5; ++i) video->add(load_image(dir_ + "/images/" + std::to_string(i % 3) + ".png"));
  const std::string path = video->commit();
  const Outcome outcome = predict(path + " images/0.png -o out --confidence");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("predicted 6 images"), std::string::npos) << outcome.output;
  const std::string ending = fs::path(path).extension().string();
  EXPECT_EQ(files("out"),
            (Names{"0.png", "0_confidence.png", "0_overlay.jpg", "drive_000000.png", "drive_000001.png", "drive_000002.png",
                   "drive_000003.png", "drive_000004.png", "drive_confidence" + ending, "drive_overlay" + ending}));
  VideoReader overlay(dir_ + "/out/drive_overlay" + ending);
  EXPECT_EQ(overlay.frames(), 5);
  EXPECT_NEAR(overlay.frames_per_s(), 12.5, 1e-6);
  EXPECT_EQ(overlay.next()->size(), cv::Size(200, 120));
  EXPECT_EQ(outcome.output.find("libx264"), std::string::npos) << "an encoder's own messages: " << outcome.output;
}

TEST_F(Predictions, AFullDiskEndsWithItsOwnCode) {
  // The limit on file sizes (of 512 bytes) stands in for a full disk.
  const Outcome outcome = semiseg("--version; ulimit -f 1; " SEMISEG_BINARY " predict " + checkpoint_ + " images -o out");
  EXPECT_EQ(outcome.code, 6) << outcome.output;
  EXPECT_TRUE(files("out").empty());
}

}  // namespace
}  // namespace semiseg
