// Pictures of predictions: classes as colours over the image with a legend, confidence as colours with a scale.
#pragma once

#include <opencv2/core/mat.hpp>
#include <vector>

#include "semiseg/predictor.h"

namespace semiseg {

struct OverlayOptions {
  double opacity = 0.6;  // of the class colours over the image
  bool legend = true;    // names, colours and shares of the classes that occur, in the corner that hides least
  // For the frames of a video: the legend stays in its corner, and a class that has occurred stays in it.
  bool steady = false;
};

class OverlayPainter {
 public:
  explicit OverlayPainter(std::vector<SegmentationClass> classes, OverlayOptions options = {});

  // `image`: 8-bit BGR [H, W]; `classes`: CV_8UC1 [H, W]; pixels of no class (255) are left as they are. The result
  // has the image's size. A legend has at most half of the width; what is no longer readable is left out: classes of small
  // share, below 160 x 90 pixels the legend.
  cv::Mat paint(const cv::Mat& image, const cv::Mat& classes);

 private:
  void draw_legend(const cv::Mat& classes, cv::Mat* picture);

  std::vector<SegmentationClass> classes_;
  OverlayOptions options_;
  std::vector<bool> seen_;  // [K]
  int corner_ = -1;         // bit 0: right, bit 1: bottom; -1: not chosen yet
};

// Confidence in 0..1, CV_32FC1 [H, W], in the colours of `cividis` (dark blue 0, yellow 1; made for colour-blind people too),
// with the scale at its right: wider than the image.
cv::Mat paint_confidence(const cv::Mat& confidence);

}  // namespace semiseg
