#include "semiseg/overlay.h"

#include <gtest/gtest.h>

#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>

namespace semiseg {
namespace {

const std::vector<SegmentationClass> kClasses = {
    {"road", {200, 100, 0}, 7}, {"straße", {0, 0, 0}, 8}, {"sky", {10, 20, 30}, 9}};

// Whether the two pictures differ within the box, and nowhere else.
bool differs_only_in(const cv::Mat& a, const cv::Mat& b, const cv::Rect& box) {
  cv::Mat difference;
  cv::absdiff(a, b, difference);
  const double inside = cv::norm(difference(box), cv::NORM_INF);
  difference(box).setTo(0);
  return inside > 0 && cv::norm(difference, cv::NORM_INF) == 0;
}

TEST(Overlay, BlendsColourAndImageByOpacity) {
  const cv::Mat image(2, 2, CV_8UC3, cv::Scalar(100, 50, 201));
  const cv::Mat classes = (cv::Mat_<uint8_t>(2, 2) << 0, 1, 2, 0);
  const cv::Mat picture = OverlayPainter(kClasses, {.opacity = 0.5}).paint(image, classes);
  EXPECT_EQ(picture.at<cv::Vec3b>(0, 0), cv::Vec3b(150, 75, 101));  // (100 + 200) / 2, (50 + 100) / 2, (201 + 0) / 2 = 100.5
  EXPECT_EQ(picture.at<cv::Vec3b>(0, 1), cv::Vec3b(50, 25, 101));
  EXPECT_EQ(picture.at<cv::Vec3b>(1, 0), cv::Vec3b(55, 35, 116));
  EXPECT_EQ(cv::norm(OverlayPainter(kClasses, {.opacity = 0}).paint(image, classes), image, cv::NORM_INF), 0);
}

TEST(Overlay, TheLegendStandsWhereLeastIsToSee) {
  const cv::Mat image(240, 320, CV_8UC3, cv::Scalar::all(90));
  for (int corner = 0; corner < 4; ++corner) {
    const cv::Rect quiet(corner & 1 ? 160 : 0, corner & 2 ? 120 : 0, 160, 120);
    cv::Mat classes(240, 320, CV_8UC1);
    for (int y = 0; y < 240; ++y)
      for (int x = 0; x < 320; ++x) classes.at<uint8_t>(y, x) = static_cast<uint8_t>((x / 3 + y / 3) % 3);
    classes(quiet).setTo(0);
    const cv::Mat without = OverlayPainter(kClasses, {.legend = false}).paint(image, classes);
    const cv::Mat with = OverlayPainter(kClasses).paint(image, classes);
    EXPECT_EQ(with.size(), image.size());
    EXPECT_TRUE(differs_only_in(with, without, quiet)) << corner;
  }
}

TEST(Overlay, TheLegendOfAVideoStays) {
  const cv::Mat image(240, 320, CV_8UC3, cv::Scalar::all(90));
  cv::Mat first(240, 320, CV_8UC1, cv::Scalar(0));
  first({0, 0, 320, 60}).setTo(2);
  cv::Mat second(240, 320, CV_8UC1, cv::Scalar(0));  // no sky any more, and its upper left corner is full of edges
  for (int x = 0; x < 100; x += 2) second({x, 0, 1, 100}).setTo(1);
  OverlayPainter video(kClasses, {.steady = true});
  video.paint(image, first);
  const cv::Mat frame = video.paint(image, second);
  const cv::Mat without = OverlayPainter(kClasses, {.legend = false}).paint(image, second);
  EXPECT_TRUE(differs_only_in(frame, without, {0, 0, 160, 120}));
  // Sky (third row of three) keeps its place in the list.
  cv::Mat swatches;
  cv::inRange(frame, cv::Scalar(10, 20, 30), cv::Scalar(10, 20, 30), swatches);
  EXPECT_GT(cv::countNonZero(swatches), 10);
}

TEST(Overlay, WhatDoesNotFitIsLeftOut) {
  std::vector<SegmentationClass> many;
  for (int c = 0; c < 40; ++c) many.push_back({"class " + std::to_string(c), {0, static_cast<uint8_t>(c), 255}, {}});
  cv::Mat classes(100, 260, CV_8UC1);
  for (int y = 0; y < 100; ++y)
    for (int x = 0; x < 260; ++x) classes.at<uint8_t>(y, x) = static_cast<uint8_t>(x % 40);
  const cv::Mat image(100, 260, CV_8UC3, cv::Scalar::all(0));
  EXPECT_NE(cv::norm(OverlayPainter(many).paint(image, classes), OverlayPainter(many, {.legend = false}).paint(image, classes)),
            0);

  many[0].name = std::string(300, 'w');
  const std::pair<cv::Size, const char*> without_legend[] = {
      {{100, 60}, "small"}, {{200, 100}, "long names"}, {{1, 1}, "a pixel"}};
  for (const auto& [size, what] : without_legend) {
    const cv::Mat picture(size, CV_8UC3, cv::Scalar::all(0)), labels(size, CV_8UC1, cv::Scalar(0));
    EXPECT_EQ(
        cv::norm(OverlayPainter(many).paint(picture, labels), OverlayPainter(many, {.legend = false}).paint(picture, labels)),
        0)
        << what;
  }
}

TEST(Overlay, ConfidenceIsColouredAndHasAScale) {
  cv::Mat confidence(120, 160, CV_32FC1, cv::Scalar(0));
  confidence.col(1).setTo(1);
  const cv::Mat picture = paint_confidence(confidence);
  const cv::Mat ends = (cv::Mat_<uint8_t>(1, 2) << 0, 255);
  cv::Mat colours;
  cv::applyColorMap(ends, colours, cv::COLORMAP_CIVIDIS);
  EXPECT_EQ(picture.at<cv::Vec3b>(50, 0), colours.at<cv::Vec3b>(0, 0));
  EXPECT_EQ(picture.at<cv::Vec3b>(50, 1), colours.at<cv::Vec3b>(0, 1));
  EXPECT_EQ(picture.rows, 120);
  EXPECT_GT(picture.cols, 160);
  for (const cv::Size size : {cv::Size(1, 1), cv::Size(500, 3), cv::Size(3, 500)})
    EXPECT_EQ(paint_confidence(cv::Mat(size, CV_32FC1, cv::Scalar(0.5))).rows, size.height);
}

TEST(Overlay, SharesAreOfAllPixels) {
  const cv::Mat classes = (cv::Mat_<uint8_t>(2, 4) << 0, 0, 2, 2, 2, 0, 2, 2);
  EXPECT_EQ(class_shares(classes, 4), (std::vector<double>{3.0 / 8, 0, 5.0 / 8, 0}));
  EXPECT_EQ(class_shares(classes, 2), (std::vector<double>{3.0 / 8, 0}));  // 2 is no class then
}

TEST(Overlay, LeavesPixelsOfNoClassAsTheyAre) {
  const cv::Mat image(1, 2, CV_8UC3, cv::Scalar(10, 20, 30)), classes = (cv::Mat_<uint8_t>(1, 2) << 255, 0);
  const cv::Mat picture = OverlayPainter({{"road", {200, 100, 0}, {}}}).paint(image, classes);
  EXPECT_EQ(picture.at<cv::Vec3b>(0, 0), cv::Vec3b(10, 20, 30));
  EXPECT_NE(picture.at<cv::Vec3b>(0, 1), cv::Vec3b(10, 20, 30));
}

}  // namespace
}  // namespace semiseg
