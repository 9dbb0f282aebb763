// An image file that is read in two steps, so that a crop can be chosen by the image's size before pixels are decoded.
#pragma once

#include <array>
#include <string>

#include "plain_png.h"
#include "semiseg/dataset.h"

namespace cv {
class Mat;
}

namespace semiseg {

// PNG and JPEG are decoded in part; other formats as a whole, by the constructor.
class ImageFile {
 public:
  // Reads the file and checks its structure. Throws Error(kData) as read_image does.
  explicit ImageFile(std::string path);
  ImageFile(const ImageFile&) = delete;
  ImageFile& operator=(const ImageFile&) = delete;

  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  // Whether read() may give a reduced image.
  bool is_reducible() const { return kind_ == Kind::kJpeg; }

  // At least the pixels of `window`, uint8 RGB. Throws Error(kData) for pixels that cannot be decoded. `warning` (may be null)
  // gets what the decoder passed over, such as damaged data in the middle of a JPEG; it is left alone where there is nothing.
  ImagePart read(const Window& window, std::string* warning = nullptr) const;

 private:
  enum class Kind { kPlainPng, kJpeg, kOther };

  Tensor decode_whole() const;  // by OpenCV

  std::string path_, bytes_;
  Kind kind_ = Kind::kOther;
  PngLayout png_;  // of views into bytes_
  Tensor whole_;   // of kOther
  int64_t height_ = 0, width_ = 0;
};

// Says that a label holds a value that is neither a class nor ignored, at which pixel, and which values are.
std::string bad_value_text(int value, int64_t row, int64_t column, const std::array<int16_t, 256>& value_to_class);

// Encoders of results, through files.h: PNG and JPEG get the mark of those (result_mark.h), which write_label_png and
// write_image do not give, as what they write may be the data itself.
void write_picture(const std::string& path, const cv::Mat& picture);   // by the ending; 8-bit, BGR or of one channel
void write_result_png(const std::string& path, const Tensor& pixels);  // uint8, grey [H, W] or RGB [H, W, 3]

// One channel of a colour laid over another: weight in 0..256.
inline uint8_t blend(int under, int over, int weight) {
  return static_cast<uint8_t>((under * (256 - weight) + over * weight + 128) / 256);
}

}  // namespace semiseg
