// Videos by OpenCV's videoio.
#pragma once

#include <memory>
#include <opencv2/core/mat.hpp>
#include <optional>
#include <string>

#include "semiseg/files.h"

namespace cv {
class VideoCapture;
class VideoWriter;
}  // namespace cv

namespace semiseg {

// Whether a file's name ends as a video's does.
bool is_video_name(const std::string& path);

class VideoReader {
 public:
  // Throws Error(kData) where the file is no video that OpenCV can decode here.
  explicit VideoReader(std::string path);
  ~VideoReader();

  // 8-bit BGR; nothing at the end. Throws Error(kData) where the first frame cannot be decoded.
  std::optional<cv::Mat> next();
  double frames_per_s() const { return frames_per_s_; }  // 25 where the file does not say
  int64_t frames() const { return frames_; }             // as the file announces; 0 where it does not

 private:
  std::string path_;
  std::unique_ptr<cv::VideoCapture> capture_;
  double frames_per_s_ = 25;
  int64_t frames_ = 0, read_ = 0;
};

// A video that takes its place when it is complete (files.h): H.264 or MPEG-4 in .mp4, else motion JPEG in .avi, whatever can
// be written here.
class VideoFile {
 public:
  // `stem`: the path without ending. Nothing where there is no encoder.
  static std::unique_ptr<VideoFile> create(const std::string& stem, double frames_per_s, cv::Size size);
  ~VideoFile();

  void add(const cv::Mat& frame);  // 8-bit BGR of the size named above
  // Returns the path. Throws Error(kDisk) where the file does not read back with all frames.
  std::string commit();

 private:
  VideoFile(std::string path, std::unique_ptr<AtomicPath> file, std::unique_ptr<cv::VideoWriter> writer);

  std::string path_;
  std::unique_ptr<AtomicPath> file_;
  std::unique_ptr<cv::VideoWriter> writer_;
  int64_t frames_ = 0;
};

}  // namespace semiseg
