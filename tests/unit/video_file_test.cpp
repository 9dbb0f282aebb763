#include "video_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <opencv2/core.hpp>

#include "semiseg/error.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

class VideoFiles : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "/semiseg_video_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(dir_);
    make_folders(dir_);
  }
  int files() const { return static_cast<int>(std::distance(fs::directory_iterator(dir_), fs::directory_iterator())); }
  std::string dir_;
};

TEST_F(VideoFiles, FramesComeBackInOrderAtTheirRate) {
  auto video = VideoFile::create(dir_ + "/v", 12, {64, 48});
  if (!video) GTEST_SKIP() << "OpenCV here has no video encoder";
  for (int i = 0; i < 9; ++i) video->add(cv::Mat(48, 64, CV_8UC3, cv::Scalar::all(20 + 25 * i)));
  EXPECT_FALSE(fs::exists(dir_ + "/v.mp4") || fs::exists(dir_ + "/v.avi")) << "not before it is complete";
  const std::string path = video->commit();
  EXPECT_EQ(files(), 1);
  EXPECT_TRUE(is_video_name(path));

  VideoReader reader(path);
  EXPECT_EQ(reader.frames(), 9);
  EXPECT_NEAR(reader.frames_per_s(), 12, 1e-6);
  for (int i = 0; i < 9; ++i) {
    const auto frame = reader.next();
    ASSERT_TRUE(frame);
    ASSERT_EQ(frame->size(), cv::Size(64, 48));
    EXPECT_NEAR(cv::mean(*frame)[0], 20 + 25 * i, 6) << i;
  }
  EXPECT_FALSE(reader.next());
}

TEST_F(VideoFiles, OneThatIsNotCommittedLeavesNothing) {
  {
    auto video = VideoFile::create(dir_ + "/v", 25, {64, 48});
    if (video) video->add(cv::Mat(48, 64, CV_8UC3, cv::Scalar::all(0)));
  }
  EXPECT_EQ(files(), 0);
}

TEST_F(VideoFiles, WhatIsNoVideoIsAnErrorOfTheData) {
  write_file(dir_ + "/text.mp4", "not a video");
  for (const std::string name : {"text.mp4", "nowhere.mp4"}) {
    try {
      VideoReader reader(dir_ + "/" + name);
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData);
      EXPECT_EQ(error.where(), dir_ + "/" + name);
    }
  }
}

}  // namespace
}  // namespace semiseg
