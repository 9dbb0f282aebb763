// Reading images and labels with checks that the decoders leave out, and writing pictures.
// clang-format off
#include <cstdio>  // which jpeglib.h wants before it
#include <jpeglib.h>
// clang-format on
#include <libdeflate.h>
#include <png.h>
#include <sys/stat.h>

#include <cerrno>
#include <csetjmp>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <opencv2/core.hpp>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <string_view>

#include "image_file.h"
#include "image_header.h"
#include "result_mark.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "spelling.h"

namespace semiseg {
namespace {

constexpr const char* kCopyAgain = "download or copy the file again";
constexpr int64_t kLargestPngSide = 1'000'000;       // libpng's limit
constexpr int64_t kLargestImage = int64_t{1} << 30;  // OpenCV's limit, in pixels
constexpr std::string_view kPngSignature("\x89PNG\r\n\x1a\n", 8);

[[noreturn]] void fail(const std::string& path, const std::string& problem, const std::string& hint = "") {
  throw Error(ErrorKind::kData, problem, path, hint);
}

// The bytes of a file that should hold an image.
std::string image_bytes(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) fail(path, "file not found");
    fail(path, str("cannot read the file: ", std::strerror(errno)));
  }
  if (S_ISDIR(info.st_mode)) fail(path, "is a folder, not an image");
  std::string bytes;
  try {
    bytes = read_file(path);
  } catch (const Error& error) {
    fail(path, error.problem());
  }
  if (bytes.empty()) fail(path, "empty file (0 bytes)", kCopyAgain);
  return bytes;
}

bool is_png(std::string_view bytes) { return bytes.substr(0, 8) == kPngSignature; }
bool is_jpeg(std::string_view bytes) { return bytes.substr(0, 3) == "\xff\xd8\xff"; }

uint32_t big_endian(std::string_view bytes, size_t at, size_t count) {
  uint32_t value = 0;
  for (size_t i = 0; i < count; ++i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  return value;
}

[[noreturn]] void fail_zero_size(const std::string& path, uint32_t height, uint32_t width) {
  fail(path, str("the image has no pixels (", height, " x ", width, ")"), kCopyAgain);
}

struct JpegLayout {
  int64_t height = 0, width = 0;
  int components = 0;
};

// Walks the markers up to the end of image (ITU T.81, annex B): decoders fill what is missing with grey and report success.
JpegLayout check_jpeg(std::string_view bytes, const std::string& path) {
  JpegLayout layout;
  const auto byte = [&](size_t at) { return static_cast<uint8_t>(bytes[at]); };
  const auto truncated = [&] { fail(path, str("truncated JPEG: no end marker after ", bytes.size(), " bytes"), kCopyAgain); };
  size_t at = 2;
  while (true) {
    // The next marker: in entropy-coded data FF 00 is a data byte, and restart markers belong to the scan.
    while (at + 1 < bytes.size() && (byte(at) != 0xff || byte(at + 1) == 0x00 || byte(at + 1) == 0xff)) ++at;
    if (at + 1 >= bytes.size()) truncated();
    const uint8_t marker = byte(at + 1);
    at += 2;
    if (marker == 0xd9) return layout;
    if ((marker >= 0xd0 && marker <= 0xd8) || marker == 0x01) continue;
    if (at + 2 > bytes.size()) truncated();
    const uint32_t length = big_endian(bytes, at, 2);
    if (length < 2) fail(path, str("damaged JPEG: a segment of length ", length, " at byte ", at), kCopyAgain);
    if (at + length > bytes.size()) truncated();
    const bool frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
    if (frame && length >= 7) {
      const uint32_t height = big_endian(bytes, at + 3, 2), width = big_endian(bytes, at + 5, 2);
      if (height == 0 || width == 0) fail_zero_size(path, height, width);
      layout = {height, width, length >= 8 ? byte(at + 7) : 0};
    }
    at += length;
  }
}

// Fills in what IHDR says. Leaves `plain` false for all that the fast decoder does not know.
void read_png_header(std::string_view header, PngLayout& layout) {
  const auto byte = [&](size_t at) { return static_cast<uint8_t>(header[at]); };
  layout.width = big_endian(header, 0, 4);
  layout.height = big_endian(header, 4, 4);
  const uint8_t depth = byte(8), colour = byte(9), compression = byte(10), filter = byte(11), interlace = byte(12);
  layout.palette = colour == PNG_COLOR_TYPE_PALETTE;
  layout.channels = colour == PNG_COLOR_TYPE_RGB ? 3 : colour == PNG_COLOR_TYPE_RGB_ALPHA ? 4 : 1;
  const bool known = layout.channels != 1 || layout.palette || colour == PNG_COLOR_TYPE_GRAY;
  layout.plain = known && depth == 8 && compression == 0 && filter == 0 && interlace == PNG_INTERLACE_NONE &&
                 layout.height <= kLargestPngSide && layout.width <= kLargestPngSide &&
                 layout.height * layout.width <= kLargestImage;
}

// Walks the chunks and their checksums up to IEND.
PngLayout check_png(std::string_view bytes, const std::string& path) {
  const auto truncated = [&](const std::string& where) {
    fail(path, str("truncated PNG: the file ends ", where, " after ", bytes.size(), " bytes"), kCopyAgain);
  };
  PngLayout layout;
  std::string last;  // type of the chunk before
  bool has_colours = false;
  size_t at = kPngSignature.size();
  while (true) {
    if (at + 8 > bytes.size()) truncated("before its last chunk");
    const uint64_t length = big_endian(bytes, at, 4);
    const std::string type(bytes.substr(at + 4, 4));
    for (const char letter : type)
      if (!std::isalpha(static_cast<unsigned char>(letter)))
        fail(path, str("damaged PNG: no chunk where one should start, at byte ", at), kCopyAgain);
    if (at + 12 + length > bytes.size()) truncated("inside chunk " + type);
    if (libdeflate_crc32(0, bytes.data() + at + 4, length + 4) != big_endian(bytes, at + 8 + length, 4))
      fail(path, str("damaged PNG: wrong checksum of chunk ", type, " at byte ", at), kCopyAgain);
    const std::string_view content = bytes.substr(at + 8, length);
    if (type == "IHDR" && length >= 8) {
      const uint32_t width = big_endian(content, 0, 4), height = big_endian(content, 4, 4);
      if (height == 0 || width == 0) fail_zero_size(path, height, width);
    }
    // What is out of the ordinary is libpng's to judge.
    if (type == "IHDR" && last.empty() && length == 13) {
      read_png_header(content, layout);
    } else if (type == "PLTE" && !has_colours && layout.data.empty()) {
      has_colours = true;
    } else if (type == "IDAT" && (layout.data.empty() || last == "IDAT")) {
      layout.data.push_back(content);
    } else if (type == "IEND") {
      layout.plain = layout.plain && !layout.data.empty() && (has_colours || !layout.palette);
      return layout;
    } else if (std::isupper(static_cast<unsigned char>(type[0])) || type == "tRNS") {
      layout.plain = false;
    }
    last = type;
    at += 12 + length;
  }
}

// Errors become ours; OpenCV's own log would add lines to stderr.
cv::Mat decode(const std::string& bytes, int flags, const std::string& path) {
  static std::once_flag silenced;
  std::call_once(silenced, [] { cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT); });
  const cv::Mat source(1, static_cast<int>(bytes.size()), CV_8UC1, const_cast<char*>(bytes.data()));
  cv::Mat pixels;
  try {
    pixels = cv::imdecode(source, flags);
  } catch (const cv::Exception& error) {
    fail(path, "the image cannot be decoded: " + error.err, kCopyAgain);
  }
  if (!pixels.empty()) return pixels;
  if (is_jpeg(bytes) || is_png(bytes)) fail(path, "the image data is damaged", kCopyAgain);
  require_readable(read_image_header(bytes), path);
  if (bytes.rfind("version https://git-lfs", 0) == 0) fail(path, "a Git LFS pointer, not the image itself", "run git lfs pull");
  fail(path, "not an image", "PNG, JPEG, BMP, TIFF and WebP files are read");
}

Tensor empty_uint8(at::IntArrayRef shape) { return at::empty(shape, at::TensorOptions().dtype(at::kByte)); }

// Drops alpha, or repeats grey.
Tensor to_rgb(const Tensor& pixels_HWC) {
  const int64_t channels = pixels_HWC.size(2);
  if (channels == 3) return pixels_HWC;
  Tensor rgb_HWC = empty_uint8({pixels_HWC.size(0), pixels_HWC.size(1), 3});
  const auto rows = static_cast<int>(pixels_HWC.size(0)), columns = static_cast<int>(pixels_HWC.size(1));
  const cv::Mat from(rows, columns, channels == 1 ? CV_8UC1 : CV_8UC4, pixels_HWC.data_ptr<uint8_t>());
  cv::Mat to(rows, columns, CV_8UC3, rgb_HWC.data_ptr<uint8_t>());
  cv::cvtColor(from, to, channels == 1 ? cv::COLOR_GRAY2RGB : cv::COLOR_RGBA2RGB);
  return rgb_HWC;
}

[[noreturn]] void fail_colour(const std::string& path, int channels) {
  fail(path, str("colour label (", channels, " channels)"),
       "labels hold one class index per pixel, or, with data.format: list, the colours of a class file: see data.classes");
}

[[noreturn]] void fail_depth(const std::string& path, const std::string& depth) {
  fail(path, depth + " label", "save it with 8 bits");
}

// libpng reports errors by longjmp. The functions that call setjmp hold no object with a destructor, so a jump skips none;
// what must be freed is a member here.
class PngDecoder {
 public:
  explicit PngDecoder(std::string_view bytes) : bytes_(bytes) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      throw std::bad_alloc();
    }
    png_set_read_fn(png_, this, on_read);
  }
  ~PngDecoder() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;

  // False when libpng found an error; error() says which.
  bool read_header() {
    if (setjmp(png_jmpbuf(png_))) return false;
    png_read_info(png_, info_);
    png_set_packing(png_);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }

  // REQUIRES: read_header() was true; rows: height() pointers to width() bytes each, for one channel of up to 8 bits.
  bool read_rows(png_bytep* rows) {
    if (setjmp(png_jmpbuf(png_))) return false;
    png_read_image(png_, rows);
    png_read_end(png_, nullptr);
    return true;
  }

  int64_t height() const { return png_get_image_height(png_, info_); }
  int64_t width() const { return png_get_image_width(png_, info_); }
  int bit_depth() const { return png_get_bit_depth(png_, info_); }
  int channels() const { return png_get_channels(png_, info_); }
  const char* error() const { return error_; }

 private:
  static void on_error(png_structp png, png_const_charp message) {
    auto* self = static_cast<PngDecoder*>(png_get_error_ptr(png));
    std::strncpy(self->error_, message, sizeof(self->error_) - 1);
    png_longjmp(png, 1);
  }
  static void on_warning(png_structp, png_const_charp) {}
  static void on_read(png_structp png, png_bytep out, size_t count) {
    auto* self = static_cast<PngDecoder*>(png_get_io_ptr(png));
    if (count > self->bytes_.size() - self->at_) png_error(png, "unexpected end of file");
    std::memcpy(out, self->bytes_.data() + self->at_, count);
    self->at_ += count;
  }

  std::string_view bytes_;
  size_t at_ = 0;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  char error_[160] = {};
};

// libjpeg reports errors by longjmp too, and the same holds as for PngDecoder.
class JpegDecoder {
 public:
  explicit JpegDecoder(std::string_view bytes) : bytes_(bytes) {
    decoder_.err = jpeg_std_error(&errors_);
    decoder_.client_data = this;
    errors_.error_exit = on_error;
    errors_.emit_message = on_message;
    created_ = create();
  }
  ~JpegDecoder() { jpeg_destroy_decompress(&decoder_); }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  // Reads the header and chooses a size: whole() is the reduced image, part() what read() will give of it. False for an error.
  bool start(const Window& window) {
    if (!created_ || setjmp(jump_)) return false;
    jpeg_mem_src(&decoder_, reinterpret_cast<const unsigned char*>(bytes_.data()), bytes_.size());
    jpeg_read_header(&decoder_, TRUE);
    decoder_.out_color_space = JCS_RGB;
    reduction_ = window.reduction >= 8 ? 8 : window.reduction >= 4 ? 4 : window.reduction >= 2 ? 2 : 1;
    decoder_.scale_num = 1;
    decoder_.scale_denom = static_cast<unsigned>(reduction_);
    jpeg_start_decompress(&decoder_);
    height_ = decoder_.output_height;
    full_width_ = decoder_.output_width;
    // A few pixels more: smooth upsampling of colours looks at neighbours.
    top_ = std::clamp<int64_t>(window.top / reduction_ - kMargin, 0, height_ - 1);
    bottom_ = std::clamp<int64_t>((window.bottom + reduction_ - 1) / reduction_ + kMargin, top_ + 1, height_);
    JDIMENSION left = static_cast<JDIMENSION>(std::clamp<int64_t>(window.left / reduction_ - kMargin, 0, full_width_ - 1));
    JDIMENSION width = static_cast<JDIMENSION>(
        std::clamp<int64_t>((window.right + reduction_ - 1) / reduction_ + kMargin, left + 1, full_width_) - left);
    jpeg_crop_scanline(&decoder_, &left, &width);
    left_ = left;
    return true;
  }

  int64_t full_height() const { return height_; }
  int64_t full_width() const { return full_width_; }
  int64_t top() const { return top_; }
  int64_t left() const { return left_; }
  int64_t rows() const { return bottom_ - top_; }
  int64_t columns() const { return decoder_.output_width; }
  const char* warning() const { return warning_; }  // "" where there was none

  // REQUIRES: start() was true; room for rows() x columns() pixels at `out`.
  bool read(uint8_t* out) {
    if (setjmp(jump_)) return false;
    if (top_ > 0) jpeg_skip_scanlines(&decoder_, static_cast<JDIMENSION>(top_));
    while (decoder_.output_scanline < bottom_) {
      JSAMPROW row = out + 3 * (decoder_.output_scanline - top_) * columns();
      jpeg_read_scanlines(&decoder_, &row, 1);
    }
    return true;
  }

 private:
  static constexpr int64_t kMargin = 2;

  bool create() {
    if (setjmp(jump_)) return false;
    jpeg_create_decompress(&decoder_);
    return true;
  }
  static void on_error(j_common_ptr decoder) { std::longjmp(static_cast<JpegDecoder*>(decoder->client_data)->jump_, 1); }
  static void on_message(j_common_ptr decoder, int level) {
    auto* self = static_cast<JpegDecoder*>(decoder->client_data);
    // Below 0: damaged data. The first such message is kept; those that follow are often its consequences.
    if (level < 0 && self->warning_[0] == '\0') self->errors_.format_message(decoder, self->warning_);
  }

  std::string_view bytes_;
  jpeg_decompress_struct decoder_{};
  jpeg_error_mgr errors_{};
  std::jmp_buf jump_{};
  char warning_[JMSG_LENGTH_MAX] = {};
  bool created_ = false;
  int64_t reduction_ = 1;
  int64_t height_ = 0, full_width_ = 0, top_ = 0, bottom_ = 0, left_ = 0;
};

Tensor png_label(std::string_view bytes, const std::string& path) {
  const PngLayout layout = check_png(bytes, path);
  if (layout.plain && layout.channels == 1) {
    Tensor values_HW = empty_uint8({layout.height, layout.width});
    if (decode_plain_png(layout, layout.height, layout.width, values_HW.data_ptr<uint8_t>())) return values_HW;
  }
  PngDecoder decoder(bytes);
  const auto fail_damaged = [&] { fail(path, str("damaged PNG: ", decoder.error()), kCopyAgain); };
  if (!decoder.read_header()) fail_damaged();
  if (decoder.channels() != 1) fail_colour(path, decoder.channels());
  if (decoder.bit_depth() > 8) fail_depth(path, "16-bit");
  if (decoder.height() * decoder.width() > kLargestImage)
    fail(path, str("damaged PNG: ", decoder.height(), " x ", decoder.width(), " pixels"), kCopyAgain);
  Tensor values_HW = empty_uint8({decoder.height(), decoder.width()});
  std::vector<png_bytep> rows;
  for (int64_t y = 0; y < decoder.height(); ++y) rows.push_back(values_HW.data_ptr<uint8_t>() + y * decoder.width());
  if (!decoder.read_rows(rows.data())) fail_damaged();
  return values_HW;
}

// Such as "0..10" or "7, 8, 11..13": the label values for which `wanted` holds.
template <class Predicate>
std::string ranges_text(Predicate wanted) {
  std::string text;
  for (int first = 0; first < 256; ++first) {
    if (!wanted(first)) continue;
    int last = first;
    while (last < 255 && wanted(last + 1)) ++last;
    text += (text.empty() ? "" : ", ") + std::to_string(first);
    if (last > first) text += (last == first + 1 ? ", " : "..") + std::to_string(last);
    first = last;
  }
  return text;
}

void write_encoded(const std::string& extension, const std::string& path, const cv::Mat& pixels, bool is_result) {
  std::vector<uchar> bytes;
  if (!cv::imencode(extension, pixels, bytes)) throw Error(ErrorKind::kDisk, "the picture cannot be encoded", path);
  if (is_result && has_mark(extension)) mark_result(extension, bytes);
  write_file(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

// uint8, grey [H, W] or RGB [H, W, 3].
void write_encoded(const std::string& extension, const std::string& path, const Tensor& pixels, bool is_result) {
  const Tensor whole = pixels.contiguous();
  const auto rows = static_cast<int>(whole.size(0)), columns = static_cast<int>(whole.size(1));
  cv::Mat encoded(rows, columns, whole.dim() == 3 ? CV_8UC3 : CV_8UC1, whole.data_ptr<uint8_t>());
  if (whole.dim() == 3) {
    cv::Mat bgr;
    cv::cvtColor(encoded, bgr, cv::COLOR_RGB2BGR);
    encoded = bgr;
  }
  write_encoded(extension, path, encoded, is_result);
}

}  // namespace

std::string bad_value_text(int value, int64_t row, int64_t column, const std::array<int16_t, 256>& value_to_class) {
  const auto is_ignored = [&](int v) { return value_to_class[v] == kIgnore; };
  const auto is_class = [&](int v) { return value_to_class[v] >= 0 && !is_ignored(v); };
  int ignored_count = 0;
  for (int v = 0; v < 256; ++v) ignored_count += is_ignored(v);
  const std::string at = str("label value ", value, " at row ", row, ", column ", column, " is ");
  const std::string classes = "a class (" + ranges_text(is_class) + ")";
  if (ignored_count == 0) return at + "not " + classes;
  return at + "neither " + classes + " nor " + (ignored_count == 1 ? "the ignore index " : "one of the ignored values ") +
         ranges_text(is_ignored);
}

ImageFile::ImageFile(std::string path) : path_(std::move(path)), bytes_(image_bytes(path_)) {
  if (is_png(bytes_)) {
    png_ = check_png(bytes_, path_);
    if (png_.plain && !png_.palette) {
      kind_ = Kind::kPlainPng;
      height_ = png_.height;
      width_ = png_.width;
      return;
    }
  } else if (is_jpeg(bytes_)) {
    const JpegLayout jpeg = check_jpeg(bytes_, path_);
    if ((jpeg.components == 1 || jpeg.components == 3) && jpeg.height * jpeg.width <= kLargestImage) {
      kind_ = Kind::kJpeg;
      height_ = jpeg.height;
      width_ = jpeg.width;
      return;
    }
  }
  whole_ = decode_whole();
  height_ = whole_.size(0);
  width_ = whole_.size(1);
}

Tensor ImageFile::decode_whole() const {
  const cv::Mat bgr = decode(bytes_, cv::IMREAD_COLOR | cv::IMREAD_IGNORE_ORIENTATION, path_);
  Tensor image_HWC = empty_uint8({bgr.rows, bgr.cols, 3});
  cv::Mat rgb(bgr.rows, bgr.cols, CV_8UC3, image_HWC.data_ptr<uint8_t>());
  cv::cvtColor(bgr, rgb, cv::COLOR_BGR2RGB);
  return image_HWC;
}

ImagePart ImageFile::read(const Window& window, std::string* warning) const {
  if (kind_ == Kind::kPlainPng) {
    // A pixel is coded relative to those above and to the left of it: the part begins at the image's first pixel.
    const int64_t rows = std::clamp<int64_t>(window.bottom, 1, height_), columns = std::clamp<int64_t>(window.right, 1, width_);
    Tensor part_HWC = empty_uint8({rows, columns, png_.channels});
    if (decode_plain_png(png_, rows, columns, part_HWC.data_ptr<uint8_t>())) return {to_rgb(part_HWC), height_, width_, 0, 0};
  }
  if (kind_ == Kind::kJpeg) {
    JpegDecoder decoder(bytes_);
    if (decoder.start(window)) {
      Tensor part_HWC = empty_uint8({decoder.rows(), decoder.columns(), 3});
      if (decoder.read(part_HWC.data_ptr<uint8_t>())) {
        if (warning != nullptr && decoder.warning()[0] != '\0') *warning = decoder.warning();
        return {part_HWC, decoder.full_height(), decoder.full_width(), decoder.top(), decoder.left()};
      }
    }
  }
  // What the fast decoders refuse is OpenCV's to judge.
  return whole_image(whole_.defined() ? whole_ : decode_whole());
}

Tensor read_image(const std::string& path) {
  const ImageFile file(path);
  return file.read({0, 0, file.height(), file.width()}).pixels_HWC;
}

Tensor read_label_values(const std::string& path) {
  const std::string bytes = image_bytes(path);
  if (is_png(bytes)) return png_label(bytes, path);
  if (is_jpeg(bytes)) fail(path, "JPEG label: lossy compression changes class indices", "save labels as PNG");
  // OpenCV gives the shades that a palette, single bits or a white 0 stand for, and of several TIFF channels maybe the first.
  const ImageHeader header = read_image_header(bytes);
  if (header.palette || header.inverted || (header.bits > 0 && header.bits < 8))
    fail(path, "label stored as " + header.text() + ": what is read are shades, not class indices", "save it as PNG");
  if (header.format == "TIFF" && header.channels > 1) fail_colour(path, header.channels);
  const cv::Mat pixels = decode(bytes, cv::IMREAD_UNCHANGED, path);
  if (pixels.channels() != 1) fail_colour(path, pixels.channels());
  if (pixels.depth() != CV_8U) fail_depth(path, str(8 * pixels.elemSize1(), "-bit"));
  Tensor values_HW = empty_uint8({pixels.rows, pixels.cols});
  pixels.copyTo(cv::Mat(pixels.rows, pixels.cols, CV_8UC1, values_HW.data_ptr<uint8_t>()));
  return values_HW;
}

Tensor map_label(const Tensor& values_HW, const std::array<int16_t, 256>& value_to_class, const std::string& path) {
  std::array<uint8_t, 256> table{}, invalid{};
  for (size_t value = 0; value < 256; ++value) {
    table[value] = static_cast<uint8_t>(value_to_class[value]);
    invalid[value] = value_to_class[value] < 0;
  }
  const Tensor source_HW = values_HW.contiguous();
  Tensor label_HW = at::empty_like(source_HW);
  const uint8_t* in = source_HW.const_data_ptr<uint8_t>();
  uint8_t* out = label_HW.data_ptr<uint8_t>();
  // Labels are areas of one value: eight pixels are mostly those that stand to their left.
  uint8_t any_invalid = 0;
  const auto map = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      out[i] = table[in[i]];
      any_invalid |= invalid[in[i]];
    }
  };
  uint64_t last = 0, mapped = 0;
  int64_t i = 0;
  for (; i + 8 <= source_HW.numel(); i += 8) {
    uint64_t pixels;
    std::memcpy(&pixels, in + i, 8);
    if (i == 0 || pixels != last) {
      map(i, i + 8);
      std::memcpy(&mapped, out + i, 8);
      last = pixels;
    } else {
      std::memcpy(out + i, &mapped, 8);
    }
  }
  map(i, source_HW.numel());
  if (any_invalid) {
    const int64_t at = std::find_if(in, in + source_HW.numel(), [&](uint8_t value) { return invalid[value]; }) - in;
    const int64_t W = source_HW.size(1);
    fail(path, bad_value_text(in[at], at / W, at % W, value_to_class), "see data.classes and data.ignore_index");
  }
  return label_HW;
}

void write_picture(const std::string& path, const cv::Mat& picture) {
  write_encoded(std::filesystem::path(path).extension().string(), path, picture, /*is_result=*/true);
}

void write_result_png(const std::string& path, const Tensor& pixels) {
  TORCH_CHECK((pixels.dim() == 2 || (pixels.dim() == 3 && pixels.size(2) == 3)) && pixels.scalar_type() == at::kByte,
              "write_result_png wants uint8 [H, W] or [H, W, 3]");
  write_encoded(".png", path, pixels, /*is_result=*/true);
}

void write_label_png(const std::string& path, const Tensor& label_HW) {
  TORCH_CHECK(label_HW.dim() == 2 && label_HW.scalar_type() == at::kByte, "write_label_png wants uint8 [H, W]");
  write_encoded(".png", path, label_HW, /*is_result=*/false);
}

void write_image(const std::string& path, const Tensor& image_HWC) {
  TORCH_CHECK(image_HWC.dim() == 3 && image_HWC.size(2) == 3 && image_HWC.scalar_type() == at::kByte,
              "write_image wants uint8 [H, W, 3]");
  const std::string extension = lowered(std::filesystem::path(path).extension().string());
  if (extension != ".png" && extension != ".jpg" && extension != ".jpeg")
    throw Error(ErrorKind::kConfig, "pictures cannot be written with this ending", path, "use .png or .jpg");
  write_encoded(extension, path, image_HWC, /*is_result=*/false);
}

Tensor overlay(const Tensor& image_HWC, const Tensor& label_HW, const ClassSet& classes, double opacity) {
  TORCH_CHECK(image_HWC.size(0) == label_HW.size(0) && image_HWC.size(1) == label_HW.size(1),
              "overlay wants an image and a label of one size");
  const Tensor label = label_HW.to(at::kByte).contiguous();
  Tensor result_HWC = image_HWC.contiguous().clone();
  const uint8_t* classes_at = label.const_data_ptr<uint8_t>();
  uint8_t* pixels = result_HWC.data_ptr<uint8_t>();
  const int weight = static_cast<int>(opacity * 256 + 0.5);
  for (int64_t i = 0; i < label.numel(); ++i) {
    if (classes_at[i] >= classes.size()) continue;
    const auto& colour = classes.colours[classes_at[i]];
    for (int c = 0; c < 3; ++c) {
      uint8_t& value = pixels[3 * i + c];
      value = blend(value, colour[c], weight);
    }
  }
  return result_HWC;
}

}  // namespace semiseg
