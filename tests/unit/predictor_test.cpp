#include "semiseg/predictor.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <opencv2/core.hpp>
#include <thread>

#include "semiseg/dataset.h"
#include "semiseg/evaluate.h"
#include "semiseg/files.h"
#include "semiseg/model.h"
#include "semiseg/weights.h"
#include "train_parts.h"

namespace semiseg {
namespace {

// A network with its initial weights, saved as Python would, and a config that says which it is.
class PredictorTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = testing::TempDir() + "/semiseg_predictor_" + std::to_string(::getpid());  // tests may run side by side
    std::filesystem::remove_all(dir_);
    make_folders(dir_);
    write_file(dir_ + "/net.yaml",
               "data: {format: synthetic, classes: synthetic, crop: 32}\nmodel: {backbone: resnet18}\noptim: {epochs: 1}\n"
               "run: {device: cpu, precision: fp32}\n");
    network_ = make_segmenter(load_config(dir_ + "/net.yaml", {}).model, load_classes("synthetic", 255).size(), /*seed=*/4);
    network_->eval();
    StateDict weights;
    for (const auto& item : network_->named_parameters()) weights[item.key()] = item.value().detach();
    for (const auto& item : network_->named_buffers()) weights[item.key()] = item.value();
    write_safetensors(dir_ + "/net.safetensors", weights, {});
  }
  static void TearDownTestSuite() {
    network_.reset();
    std::filesystem::remove_all(dir_);
  }

  static Predictor predictor(const std::vector<std::string>& settings = {}, bool confidence = false) {
    return Predictor(dir_ + "/net.safetensors", {.config = dir_ + "/net.yaml", .settings = settings, .confidence = confidence});
  }

  // Coloured noise in blobs, BGR.
  static cv::Mat picture(int rows, int columns, uint64_t seed) {
    cv::RNG random(seed);
    cv::Mat small(rows / 8 + 1, columns / 8 + 1, CV_8UC3), image(rows, columns, CV_8UC3);
    random.fill(small, cv::RNG::UNIFORM, 0, 256);
    for (int y = 0; y < rows; ++y)
      for (int x = 0; x < columns; ++x) image.at<cv::Vec3b>(y, x) = small.at<cv::Vec3b>(y / 8, x / 8);
    return image;
  }

  // By the code that eval uses, from RGB.
  static cv::Mat expected(const cv::Mat& image, const std::vector<std::string>& settings) {
    auto image_HWC = at::empty({image.rows, image.cols, 3}, at::kByte);
    for (int y = 0; y < image.rows; ++y)
      for (int x = 0; x < image.cols; ++x)
        for (int c = 0; c < 3; ++c)
          image_HWC.data_ptr<uint8_t>()[(y * image.cols + x) * 3 + c] = image.at<cv::Vec3b>(y, x)[2 - c];
    const Config config = load_config(dir_ + "/net.yaml", settings);
    const auto class_HW = predict_image(*network_, image_HWC, make_eval_options(config, torch::kCPU)).to(at::kByte);
    return cv::Mat(image.rows, image.cols, CV_8UC1, class_HW.contiguous().data_ptr<uint8_t>()).clone();
  }

  static bool equal(const cv::Mat& a, const cv::Mat& b) {
    return a.type() == b.type() && a.size() == b.size() && cv::norm(a, b, cv::NORM_INF) == 0;
  }

  static inline std::string dir_;
  static inline std::shared_ptr<Segmenter> network_;
};

TEST_F(PredictorTest, GivesTheClassesThatEvaluationGives) {
  const cv::Mat image = picture(45, 70, 1);
  const std::vector<std::vector<std::string>> cases = {
      {}, {"eval.flip=true"}, {"eval.mode=sliding", "eval.window=32"}, {"eval.scales=[0.5,1]", "eval.flip=true"}};
  for (const auto& settings : cases) {
    const Segmentation result = predictor(settings).predict(image);
    const std::string first = settings.empty() ? "whole" : settings[0];
    EXPECT_TRUE(equal(result.classes, expected(image, settings))) << first;
    EXPECT_TRUE(result.confidence.empty());

    const Segmentation sure = predictor(settings, /*confidence=*/true).predict(image);
    EXPECT_TRUE(equal(sure.classes, result.classes)) << first;
    ASSERT_EQ(sure.confidence.type(), CV_32FC1);
    double least, most;
    cv::minMaxLoc(sure.confidence, &least, &most);
    EXPECT_GE(least, 1.0 / 19 - 1e-6) << "the largest of 19 probabilities";
    EXPECT_LE(most, 1);
  }
}

// A crop of 33 pixels has 9 logits that lie 4 pixels apart; padded to 64 it would have 16 of them, 4.2 pixels apart.
TEST_F(PredictorTest, AWindowIsSeenAsTrainingSeesACrop) {
  const cv::Mat image = picture(33, 33, 9);
  Tensor image_CHW = at::empty({3, 33, 33});
  for (int y = 0; y < 33; ++y)
    for (int x = 0; x < 33; ++x)
      for (int c = 0; c < 3; ++c) image_CHW[c][y][x] = static_cast<int>(image.at<cv::Vec3b>(y, x)[2 - c]);
  const Config config = load_config(dir_ + "/net.yaml", {});
  const auto options = make_eval_options(config, torch::kCPU);
  at::NoGradGuard no_grad;
  const auto crop_BCHW = normalize(image_CHW.permute({1, 2, 0}).to(at::kByte).unsqueeze(0), options.mean, options.std);
  const auto logits_BKhw = network_->forward(crop_BCHW.contiguous(at::MemoryFormat::ChannelsLast));
  ASSERT_EQ(logits_BKhw.size(2), 9);
  const auto wanted_HW = upsample_argmax(logits_BKhw, {.H = 33, .W = 33}).squeeze(0).to(at::kByte).contiguous();
  const cv::Mat wanted(33, 33, CV_8UC1, wanted_HW.data_ptr<uint8_t>());
  EXPECT_TRUE(equal(expected(image, {"eval.mode=sliding", "eval.window=33"}), wanted));
  EXPECT_FALSE(equal(expected(image, {}), wanted)) << "padded";
}

TEST_F(PredictorTest, SeveralImagesGiveWhatEachGivesAlone) {
  const auto network = predictor({}, /*confidence=*/true);
  const std::vector<cv::Mat> images = {picture(40, 64, 2), picture(33, 47, 3), picture(64, 64, 4)};
  const auto results = network.predict(images);
  ASSERT_EQ(results.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    const Segmentation alone = network.predict(images[i]);
    EXPECT_TRUE(equal(results[i].classes, alone.classes)) << i;
    EXPECT_TRUE(equal(results[i].confidence, alone.confidence)) << i;
  }
  EXPECT_TRUE(network.predict(std::vector<cv::Mat>{}).empty());
}

TEST_F(PredictorTest, ThreadsShareIt) {
  const auto network = predictor({}, /*confidence=*/true);
  std::vector<cv::Mat> images;
  for (int i = 0; i < 6; ++i) images.push_back(picture(32 + 7 * i, 64, static_cast<uint64_t>(i)));
  const auto alone = network.predict(images);
  std::vector<Segmentation> results(24);
  {
    std::vector<std::jthread> threads;
    for (size_t t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        for (size_t i = t; i < results.size(); i += 4) results[i] = network.predict(images[i % 6]);
      });
  }
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_TRUE(equal(results[i].classes, alone[i % 6].classes)) << i;
    EXPECT_TRUE(equal(results[i].confidence, alone[i % 6].confidence)) << i;
  }
}

TEST_F(PredictorTest, TakesPartsOfImages) {
  const auto network = predictor();
  const cv::Mat image = picture(80, 100, 5);
  const cv::Rect part(10, 20, 50, 40);
  EXPECT_TRUE(equal(network.predict(image(part)).classes, network.predict(image(part).clone()).classes));
}

TEST_F(PredictorTest, KnowsTheClasses) {
  const auto network = predictor();
  const ClassSet set = load_classes("synthetic", 255);
  ASSERT_EQ(network.classes().size(), set.names.size());
  EXPECT_EQ(network.classes()[0].name, set.names[0]);
  const auto [red, green, blue] = set.colours[0];
  EXPECT_EQ(network.classes()[0].colour, cv::Vec3b(blue, green, red));
  EXPECT_EQ(network.description().substr(0, 27), "resnet18 + fpn, 19 classes,");
}

TEST_F(PredictorTest, SaysWhatIsWrong) {
  write_file(dir_ + "/text.safetensors", "no weights");
  const std::string weights = dir_ + "/net.safetensors", config = dir_ + "/net.yaml";
  const struct {
    std::function<void()> use;
    ErrorKind kind;
    std::string part;
  } cases[] = {
      {[&] { Predictor(dir_ + "/nowhere.safetensors"); }, ErrorKind::kCheckpoint, "nowhere.safetensors"},
      {[&] { Predictor(dir_ + "/text.safetensors"); }, ErrorKind::kCheckpoint, "text.safetensors"},
      {[&] { Predictor{weights}; }, ErrorKind::kConfig, "net.safetensors"},
      {[&] { predictor({"eval.mod=whole"}); }, ErrorKind::kConfig, "eval.mode"},
      {[&] { predictor({"run.device=cuda:77"}); }, ErrorKind::kConfig, "run.device"},
      {[&] { predictor({"model.backbone=resnet34"}); }, ErrorKind::kCheckpoint, "net.safetensors"},
      {[&] { predictor().predict(cv::Mat()); }, ErrorKind::kData, "empty"},
      {[&] { predictor().predict(cv::Mat(8, 8, CV_8UC1)); }, ErrorKind::kData, "CV_8UC1"},
      {[&] { predictor().predict(cv::Mat(8, 8, CV_16UC3)); }, ErrorKind::kData, "CV_16UC3"},
      {[&] { load_image(dir_ + "/nowhere.png"); }, ErrorKind::kData, "nowhere.png"},
  };
  for (const auto& c : cases) {
    try {
      c.use();
      ADD_FAILURE() << c.part;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), c.kind) << error.what();
      EXPECT_NE(std::string(error.what()).find(c.part), std::string::npos) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace semiseg
