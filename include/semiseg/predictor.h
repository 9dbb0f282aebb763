// Prediction for applications: a checkpoint in, the class of each pixel out. Needs OpenCV's core alone, not LibTorch's headers.
//
//   semiseg::Predictor predictor("best.safetensors");
//   const cv::Mat image = semiseg::load_image("street.jpg");
//   const semiseg::Segmentation result = predictor.predict(image);   // result.classes: CV_8U, index into predictor.classes()
//   cv::imwrite("overlay.jpg", semiseg::OverlayPainter(predictor.classes()).paint(image, result.classes));   // overlay.h
//
// All functions throw semiseg::Error: its kind() says what went wrong, what() is one line that names the file and what to do.
#pragma once

#include <memory>
#include <opencv2/core/mat.hpp>
#include <optional>
#include <string>
#include <vector>

#include "semiseg/config.h"
#include "semiseg/error.h"

namespace semiseg {

struct PredictorOptions {
  // A config file. Needed for weights that are no checkpoint of semiseg, such as a state_dict from Python, to say which network
  // they are of; with a checkpoint its settings of data, eval and run replace the checkpoint's.
  std::string config;
  // Settings as on the command line: "run.device=cuda:1", "run.precision=fp32", "eval.mode=sliding", "eval.flip=true",
  // "eval.scales=[0.75,1,1.25]". What is not set is as the network was evaluated in training.
  std::vector<std::string> settings;
  bool confidence = false;  // fill Segmentation::confidence
};

// A class that the network knows.
struct SegmentationClass {
  std::string name;
  cv::Vec3b colour;             // BGR, for pictures
  std::optional<int> label_id;  // the value that Cityscapes' labelIds use, where the classes have such
};

struct Segmentation {
  cv::Mat classes;     // CV_8UC1 [H, W]: index of each pixel's class
  cv::Mat confidence;  // CV_32FC1 [H, W]: probability of that class, in 0..1; empty unless PredictorOptions::confidence
};

// Results equal those of `semiseg predict` and `semiseg eval` to the bit, on the same device with the same number of compute
// threads. Any number of threads may call predict() at once. On the CPU each call computes with all of OpenMP's threads:
// where several threads call, OMP_NUM_THREADS=1 (or cores / callers) is faster.
class Predictor {
 public:
  // Reads `checkpoint` and moves the network to the device. ops.fused holds for the whole process.
  explicit Predictor(const std::string& checkpoint, const PredictorOptions& options = {});
  ~Predictor();
  Predictor(Predictor&&) noexcept;
  Predictor& operator=(Predictor&&) noexcept;

  // `image`: 8-bit BGR of any size (CV_8UC3), as load_image and cv::imread give it. Throws Error(kData) for another type and
  // Error(kMemory) where the image is too large for the device.
  Segmentation predict(const cv::Mat& image) const;
  // The same for several images, whose sizes may differ. They pass through the network one by one, so that no result depends on
  // its neighbours; a GPU is kept busy, as none is waited for before all are queued.
  std::vector<Segmentation> predict(const std::vector<cv::Mat>& images) const;

  const std::vector<SegmentationClass>& classes() const;
  const Config& config() const;     // resolved
  std::string description() const;  // such as "resnet50 + fpn, 11 classes, cuda:0, bf16"

 private:
  struct Network;
  std::unique_ptr<const Network> network_;
};

// 8-bit BGR, as training reads images: EXIF orientation is not applied (cv::imread needs IMREAD_COLOR |
// IMREAD_IGNORE_ORIENTATION to give the same). Throws Error(kData) for a file that is missing, truncated or no image.
cv::Mat load_image(const std::string& path);

// Share of all pixels that each of `count` classes has, [count], in 0..1; values that are none of them (255) belong to none.
// REQUIRES: classes is CV_8UC1.
std::vector<double> class_shares(const cv::Mat& classes, size_t count);

}  // namespace semiseg
