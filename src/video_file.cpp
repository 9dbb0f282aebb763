#include "video_file.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/videoio.hpp>
#include <set>

#include "semiseg/error.h"
#include "spelling.h"

namespace semiseg {
namespace {

// Messages of OpenCV and FFmpeg would add lines to stderr; what they are about is told by an Error.
void silence_decoders() {
  static std::once_flag once;
  std::call_once(once, [] {
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
    ::setenv("OPENCV_FFMPEG_LOGLEVEL", "-8", /*overwrite=*/0);  // AV_LOG_QUIET
  });
}

// A file whose header says nothing, or nonsense, is shown at an ordinary speed.
double plausible_rate(double frames_per_s) {
  return std::isfinite(frames_per_s) && frames_per_s > 0 && frames_per_s <= 1000 ? frames_per_s : 25;
}

}  // namespace

bool is_video_name(const std::string& path) {
  static const std::set<std::string> known = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".gif"};
  return known.count(lowered(std::filesystem::path(path).extension().string())) != 0;
}

VideoReader::VideoReader(std::string path) : path_(std::move(path)) {
  silence_decoders();
  capture_ = std::make_unique<cv::VideoCapture>(path_);
  if (!capture_->isOpened())
    throw Error(ErrorKind::kData, "the video cannot be opened", path_, "OpenCV here has no decoder for it, or it is damaged");
  frames_per_s_ = plausible_rate(capture_->get(cv::CAP_PROP_FPS));
  const double announced = capture_->get(cv::CAP_PROP_FRAME_COUNT);
  if (announced > 0 && announced < 1e9) frames_ = static_cast<int64_t>(announced);
}

VideoReader::~VideoReader() = default;

std::optional<cv::Mat> VideoReader::next() {
  cv::Mat frame;
  if (!capture_->read(frame)) {
    if (read_ == 0) throw Error(ErrorKind::kData, "no frame of the video could be decoded", path_);
    return std::nullopt;
  }
  ++read_;
  return frame;
}

std::unique_ptr<VideoFile> VideoFile::create(const std::string& stem, double frames_per_s, cv::Size size) {
  silence_decoders();
  struct Form {
    const char* ending;
    int codec;
  };
  const Form forms[] = {{".mp4", cv::VideoWriter::fourcc('a', 'v', 'c', '1')},
                        {".mp4", cv::VideoWriter::fourcc('m', 'p', '4', 'v')},
                        {".avi", cv::VideoWriter::fourcc('M', 'J', 'P', 'G')}};
  for (const Form& form : forms) {
    auto file = std::make_unique<AtomicPath>(stem + form.ending);
    auto writer = std::make_unique<cv::VideoWriter>(file->temporary(), form.codec, frames_per_s, size);
    if (writer->isOpened())
      return std::unique_ptr<VideoFile>(new VideoFile(stem + form.ending, std::move(file), std::move(writer)));
  }
  return nullptr;
}

VideoFile::VideoFile(std::string path, std::unique_ptr<AtomicPath> file, std::unique_ptr<cv::VideoWriter> writer)
    : path_(std::move(path)), file_(std::move(file)), writer_(std::move(writer)) {}

VideoFile::~VideoFile() = default;

void VideoFile::add(const cv::Mat& frame) {
  writer_->write(frame);
  ++frames_;
}

std::string VideoFile::commit() {
  writer_->release();
  // The encoders report no failed write.
  const cv::VideoCapture written(file_->temporary());
  if (!written.isOpened() || static_cast<int64_t>(written.get(cv::CAP_PROP_FRAME_COUNT)) != frames_)
    throw Error(ErrorKind::kDisk, "the video could not be written whole", path_, "is the disk full?");
  file_->commit();
  return path_;
}

}  // namespace semiseg
