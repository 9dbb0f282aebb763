// Labels that are colour pictures, in data.format: list.
#include "colour_labels.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <opencv2/imgcodecs.hpp>

#include "data_check.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

class ColourLabels : public testing::Test {
 protected:
  ColourLabels()
      : dir_(testing::TempDir() + "/semiseg_colours_" + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(dir_);
    make_folders(dir_);
    classes("{name: road, colour: [128, 64, 128]}, {name: car, colour: [0, 0, 142]}", "[[0, 0, 0]]");
    write_image(dir_ + "/image.png", at::arange(2 * 3 * 3, at::kByte).view({2, 3, 3}));
    // road car void / car car road
    write_image(dir_ + "/label.png",
                colours({{128, 64, 128}, {0, 0, 142}, {0, 0, 0}, {0, 0, 142}, {0, 0, 142}, {128, 64, 128}}));
    write_file(dir_ + "/list.txt", "image.png label.png\n");
    config_.data.format = "list";
    config_.data.root = dir_;
    config_.data.classes = dir_ + "/classes.yaml";
    config_.data.crop = {2, 3};
    config_.data.labeled = dir_ + "/list.txt";
  }

  void classes(const std::string& list, const std::string& ignore) {
    write_file(dir_ + "/classes.yaml", "classes: [" + list + "]\nignore: " + ignore + "\n");
  }
  static Tensor colours(const std::vector<std::array<int, 3>>& pixels) {
    auto image_HWC = at::empty({2, 3, 3}, at::kByte);
    for (int64_t i = 0; i < 6; ++i)
      for (int64_t c = 0; c < 3; ++c) image_HWC[i / 3][i % 3][c] = pixels[i][c];
    return image_HWC;
  }
  std::vector<int> label() const {
    const Tensor label_HW = open_dataset(config_)->label(Split::kLabeled, 0);
    std::vector<int> values;
    for (int64_t i = 0; i < label_HW.numel(); ++i) values.push_back(label_HW.view(-1)[i].item<int>());
    return values;
  }
  std::string error() const {
    try {
      label();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kData);
      return e.what();
    }
    return "";
  }
  void expect_error(const std::vector<std::string>& words) const {
    for (const std::string& word : words) EXPECT_NE(error().find(word), std::string::npos) << word << "\n" << error();
  }

  const std::string dir_;
  Config config_;
  const std::vector<int> kExpected{0, 1, kIgnore, 1, 1, 0};
};

TEST_F(ColourLabels, AreReadByTheColoursOfTheClassFile) {
  EXPECT_EQ(label(), kExpected);
  config_.data.cache = dir_ + "/cache";
  EXPECT_EQ(label(), kExpected);
  EXPECT_EQ(label(), kExpected);  // from the cache
  classes("{name: car, colour: [0, 0, 142]}, {name: road, colour: [128, 64, 128]}", "[[0, 0, 0]]");
  EXPECT_EQ(label(), (std::vector<int>{1, 0, kIgnore, 0, 0, 1}));  // colours are cached, not classes
}

TEST_F(ColourLabels, MayHaveAnAlphaChannelOrBeABitmap) {
  const cv::Mat bgr = cv::imread(dir_ + "/label.png");
  cv::imwrite(dir_ + "/label.bmp", bgr);
  std::filesystem::rename(dir_ + "/label.bmp", dir_ + "/label.png");
  EXPECT_EQ(label(), kExpected);
  cv::Mat bgra(bgr.size(), CV_8UC4);
  for (int y = 0; y < 2; ++y)
    for (int x = 0; x < 3; ++x) {
      const auto& pixel = bgr.at<cv::Vec3b>(y, x);
      bgra.at<cv::Vec4b>(y, x) = {pixel[0], pixel[1], pixel[2], static_cast<uint8_t>(40 * x)};
    }
  cv::imwrite(dir_ + "/label.png", bgra);
  EXPECT_EQ(label(), kExpected);
}

TEST_F(ColourLabels, ANearlyRightColourIsAnError) {
  write_image(dir_ + "/label.png", colours({{128, 64, 128}, {0, 0, 142}, {0, 0, 0}, {0, 0, 142}, {1, 0, 142}, {128, 64, 128}}));
  expect_error({"label.png", "colour [1, 0, 142] at row 1, column 1 is that of no class", "data.classes"});
  write_image(dir_ + "/label.png", colours({{1, 1, 1}, {0, 0, 142}, {0, 0, 0}, {0, 0, 142}, {0, 0, 142}, {128, 64, 128}}));
  expect_error({"row 0, column 0", "one channel"});
}

TEST_F(ColourLabels, AColourOfTwoClassesStandsForNeither) {
  classes("{name: road, colour: [128, 64, 128]}, {name: car, colour: [0, 0, 142]}, {name: van, colour: [0, 0, 142]}",
          "[[0, 0, 0]]");
  expect_error({"colour [0, 0, 142] at row 0, column 1 is that of two classes"});
}

TEST_F(ColourLabels, AreRefusedWhereTheClassFileGivesNoColours) {
  classes("{name: road}, {name: car}", "[254]");
  expect_error({"colour label (3 channels)", "class file"});
}

TEST_F(ColourLabels, AreCountedByCheck) {
  FactsCache nothing("");
  DataReport report = check_data(config_, nothing);
  EXPECT_EQ(report.count(Severity::kProblem), 0);
  EXPECT_EQ(report[Split::kLabeled].pixels, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(report[Split::kLabeled].ignored, 1);

  classes("{name: road, colour: [128, 64, 128]}", "[[0, 0, 0]]");
  report = check_data(config_, nothing);
  ASSERT_EQ(report.count(Severity::kProblem), 1);
  EXPECT_NE(
      report.findings[0].message.find("colour [0, 0, 142] at row 0, column 1 is that of no class; in all 3 pixels of 1 file"),
      std::string::npos)
      << report.findings[0].message;

  // A mask that was resized with smoothing has thousands of colours.
  write_image(dir_ + "/label.png", (at::arange(60 * 60 * 3, at::kLong) * 7919 % 65521 % 256).to(at::kByte).view({60, 60, 3}));
  write_image(dir_ + "/image.png", at::ones({60, 60, 3}, at::kByte));
  report = check_data(config_, nothing);
  ASSERT_EQ(report.count(Severity::kProblem), 1);
  EXPECT_NE(report.findings[0].message.find("more than 256 colours"), std::string::npos) << report.findings[0].message;
}

TEST(ColourMap, OfPresetsHasTheirColoursAndVoid) {
  const ColourMap camvid = load_colours("camvid");
  EXPECT_EQ(camvid.size(), 12u);
  EXPECT_EQ(camvid.at(0x804080), 3);  // road
  EXPECT_EQ(camvid.at(0x000000), kIgnore);
}

TEST_F(ColourLabels, ColourTablesAreClassFiles) {
  for (const char* table : {"128 64 128\troad\n0 0 142\t\tcar \"x\"\n0 0 0\tVoid\n",
                            "name,r,g,b\nroad,128, 64,128\r\ncar \"x\",0,0,142\r\nunlabelled,0,0,0\r\n",
                            "# colours\n\n128,64,128,road\n0,0,142,car \"x\"\n0,0,0,ignore"}) {
    write_file(dir_ + "/table.txt", table);
    config_.data.classes = dir_ + "/table.txt";
    const auto data = open_dataset(config_);
    EXPECT_EQ(data->classes().names, (std::vector<std::string>{"road", "car \"x\""})) << table;
    EXPECT_EQ(data->classes().colours[1], (std::array<uint8_t, 3>{0, 0, 142}));
    const auto expected = at::tensor({0, 1, 255, 1, 1, 0}, at::kLong).to(at::kByte).view({2, 3});
    EXPECT_TRUE(at::equal(data->label(Split::kLabeled, 0), expected)) << table;
  }
  // Errors name the line of the table.
  for (const auto& [table, says] : {std::pair("128 64 128 road\n1 2 300 car\n", ":2: colour must be"),
                                    std::pair("1 2 3 a\n4 5 6 a\n", ":2: class \"a\" is listed twice"),
                                    std::pair("title\nwords.\n", "a class file starts with")}) {
    write_file(dir_ + "/table.txt", table);
    try {
      open_dataset(config_);
      ADD_FAILURE() << table;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace semiseg
