#include <gtest/gtest.h>
#include <png.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "image_file.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "tiff.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

class ImageIoTest : public testing::Test {
 protected:
  ImageIoTest()
      : folder_(fs::path(testing::TempDir()) /
                ("image_io_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()))) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~ImageIoTest() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  std::string put(const std::string& name, const std::string& bytes) const {
    std::ofstream(path(name), std::ios::binary) << bytes;
    return path(name);
  }

  // A picture that does not compress to almost nothing.
  static cv::Mat noise(int rows, int cols, int type) {
    cv::Mat image(rows, cols, type);
    uint32_t state = 1;
    for (size_t i = 0; i < image.total() * image.elemSize(); ++i)
      image.data[i] = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
    return image;
  }

  static std::string encoded(const std::string& extension, const cv::Mat& image) {
    std::vector<uchar> bytes;
    cv::imencode(extension, image, bytes);
    return {bytes.begin(), bytes.end()};
  }

  // By libpng: OpenCV writes neither palettes nor packed bits.
  std::string put_png(const std::string& name, int width, int height, int bits, int colour_type,
                      const std::vector<std::vector<uint8_t>>& rows, int interlace = PNG_INTERLACE_NONE,
                      int filters = PNG_ALL_FILTERS, bool transparent = false) const {
    FILE* file = std::fopen(path(name).c_str(), "wb");
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
    png_infop info = png_create_info_struct(png);
    png_init_io(png, file);
    png_set_IHDR(png, info, width, height, bits, colour_type, interlace, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (colour_type == PNG_COLOR_TYPE_PALETTE) {
      std::vector<png_color> palette(std::min(256, 1 << bits));
      for (size_t i = 0; i < palette.size(); ++i)
        palette[i] = {static_cast<png_byte>(200 - i), 7, static_cast<png_byte>(i * 3)};
      png_set_PLTE(png, info, palette.data(), static_cast<int>(palette.size()));
    }
    if (transparent) {
      png_color_16 colour{};
      png_byte alpha = 0;
      png_set_tRNS(png, info, &alpha, 1, &colour);
    }
    png_set_filter(png, PNG_FILTER_TYPE_BASE, filters);
    png_write_info(png, info);
    std::vector<std::vector<uint8_t>> copy = rows;
    std::vector<png_bytep> pointers;
    for (auto& row : copy) pointers.push_back(row.data());
    png_write_image(png, pointers.data());
    png_write_end(png, nullptr);
    png_destroy_write_struct(&png, &info);
    std::fclose(file);
    return path(name);
  }

  // Rows of bytes that every filter predicts now well, now badly: ramps with noise.
  static std::vector<std::vector<uint8_t>> textured_rows(int rows, int bytes) {
    std::vector<std::vector<uint8_t>> result(rows, std::vector<uint8_t>(bytes));
    uint32_t state = 7;
    for (int y = 0; y < rows; ++y)
      for (int x = 0; x < bytes; ++x) {
        state = state * 1664525 + 1013904223;
        const bool rough = y % 3 == 0;
        result[y][x] = static_cast<uint8_t>(5 * y + 3 * x + (rough ? state >> 24 : state >> 30));
      }
    return result;
  }

  // What OpenCV decodes, as RGB.
  static Tensor by_opencv(const std::string& file) {
    const cv::Mat bgr = cv::imread(file, cv::IMREAD_COLOR | cv::IMREAD_IGNORE_ORIENTATION);
    Tensor image_HWC = at::empty({bgr.rows, bgr.cols, 3}, at::kByte);
    cv::Mat rgb(bgr.rows, bgr.cols, CV_8UC3, image_HWC.data_ptr<uint8_t>());
    cv::cvtColor(bgr, rgb, cv::COLOR_BGR2RGB);
    return image_HWC;
  }

  static Tensor window_of_image(const Tensor& image_HWC, const Window& window) {
    return image_HWC.slice(0, window.top, window.bottom).slice(1, window.left, window.right);
  }

  // The window, cut out of what ImageFile reads for it.
  static Tensor read_window(const std::string& file, Window window) {
    const ImagePart part = ImageFile(file).read(window);
    window.top -= part.top;
    window.bottom -= part.top;
    window.left -= part.left;
    window.right -= part.left;
    return window_of_image(part.pixels_HWC, window);
  }

  fs::path folder_;
};

// The Error that `action` throws; fails the test when it throws none.
template <class Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text;
}

std::vector<int> values_of(const Tensor& tensor) {
  const Tensor ints = tensor.to(at::kInt).contiguous();
  return {ints.const_data_ptr<int>(), ints.const_data_ptr<int>() + ints.numel()};
}

TEST_F(ImageIoTest, ReadsRgbInOrder) {
  cv::Mat bgr(1, 2, CV_8UC3);
  bgr.at<cv::Vec3b>(0, 0) = {30, 20, 10};
  bgr.at<cv::Vec3b>(0, 1) = {3, 2, 1};
  const Tensor image = read_image(put("a.png", encoded(".png", bgr)));
  EXPECT_EQ(image.sizes(), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(values_of(image), (std::vector<int>{10, 20, 30, 1, 2, 3}));
}

TEST_F(ImageIoTest, ReadsGreyAndSixteenBitImages) {
  EXPECT_EQ(values_of(read_image(put("grey.png", encoded(".png", cv::Mat(1, 1, CV_8UC1, cv::Scalar(77)))))),
            (std::vector<int>{77, 77, 77}));
  const cv::Mat deep(1, 1, CV_16UC3, cv::Scalar(0x1234, 0x5678, 0x9abc));
  EXPECT_EQ(values_of(read_image(put("deep.png", encoded(".png", deep)))), (std::vector<int>{0x9a, 0x56, 0x12}));
}

TEST_F(ImageIoTest, IgnoresExifOrientation) {
  std::string bytes = encoded(".jpg", noise(8, 16, CV_8UC3));
  // APP1: Exif, little-endian TIFF, one entry: orientation 6 (turn by 90 degrees).
  const std::string exif(
      "\xff\xe1\x00\x22"
      "Exif\0\0"
      "II*\0\x08\0\0\0"
      "\x01\0"
      "\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
      "\0\0\0\0",
      36);
  bytes.insert(2, exif);
  EXPECT_EQ(read_image(put("turned.jpg", bytes)).sizes(), (std::vector<int64_t>{8, 16, 3}));
}

TEST_F(ImageIoTest, TruncatedImagesAreErrorsAtEveryLength) {
  for (const std::string extension : {".jpg", ".png"}) {
    const std::string whole = encoded(extension, noise(24, 32, CV_8UC3));
    EXPECT_EQ(read_image(put("whole" + extension, whole)).size(0), 24);
    for (const size_t left :
         {size_t{9}, size_t{40}, whole.size() / 2, whole.size() * 9 / 10, whole.size() - 2, whole.size() - 1}) {
      const std::string file = put("cut" + extension, whole.substr(0, left));
      const std::string message = message_of([&] { read_image(file); });
      expect_contains(message, file + ": truncated " + (extension == ".jpg" ? "JPEG" : "PNG"));
      expect_contains(message, str(left, " bytes; download or copy the file again"));
    }
  }
}

TEST_F(ImageIoTest, JpegWithThumbnailNeedsItsOwnEndMarker) {
  const std::string thumbnail = encoded(".jpg", noise(8, 8, CV_8UC3));
  std::string bytes = encoded(".jpg", noise(24, 32, CV_8UC3));
  std::string segment = "\xff\xe2";
  segment += static_cast<char>((thumbnail.size() + 2) >> 8);
  segment += static_cast<char>((thumbnail.size() + 2) & 0xff);
  bytes.insert(2, segment + thumbnail);
  EXPECT_EQ(read_image(put("a.jpg", bytes)).size(0), 24);
  EXPECT_EQ(read_image(put("trailing.jpg", bytes + "trailing bytes")).size(0), 24);
  bytes.resize(bytes.size() - 100);
  expect_contains(message_of([&] { read_image(put("b.jpg", bytes)); }), "truncated JPEG: no end marker");
}

TEST_F(ImageIoTest, DamagedPngChunkIsNamed) {
  std::string bytes = encoded(".png", noise(8, 8, CV_8UC1));
  const size_t data = bytes.find("IDAT");
  bytes[data + 20] ^= 1;
  const std::string file = put("a.png", bytes);
  const std::string expected = str("damaged PNG: wrong checksum of chunk IDAT at byte ", data - 4);
  expect_contains(message_of([&] { read_image(file); }), expected);
  expect_contains(message_of([&] { read_label_values(file); }), expected);
}

TEST_F(ImageIoTest, WhatIsNoImage) {
  std::string empty_size = encoded(".jpg", noise(8, 8, CV_8UC1));
  const size_t frame = empty_size.find("\xff\xc0");
  empty_size[frame + 5] = empty_size[frame + 6] = 0;
  const struct {
    std::string file, message;
  } kCases[] = {
      {put("empty.png", ""), "empty file (0 bytes)"},
      {path("absent.png"), "file not found"},
      {folder_.string(), "is a folder"},
      {put("text.png", "hello, world"), "not an image"},
      {put("pointer.png", "version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"},
      {put("zero.jpg", empty_size), "the image has no pixels (0 x 8)"},
  };
  for (const auto& test : kCases) expect_contains(message_of([&] { read_image(test.file); }), test.file + ": " + test.message);
}

TEST_F(ImageIoTest, PaletteLabelsKeepIndices) {
  const std::string file = put_png("a.png", 3, 2, 8, PNG_COLOR_TYPE_PALETTE, {{0, 1, 2}, {11, 255, 3}});
  EXPECT_EQ(values_of(read_label_values(file)), (std::vector<int>{0, 1, 2, 11, 255, 3}));
}

TEST_F(ImageIoTest, PackedLabelsKeepValues) {
  EXPECT_EQ(values_of(read_label_values(put_png("one.png", 10, 1, 1, PNG_COLOR_TYPE_GRAY, {{0b10110001, 0b01000000}}))),
            (std::vector<int>{1, 0, 1, 1, 0, 0, 0, 1, 0, 1}));
  EXPECT_EQ(values_of(read_label_values(put_png("four.png", 3, 1, 4, PNG_COLOR_TYPE_PALETTE, {{0x5f, 0x20}}))),
            (std::vector<int>{5, 15, 2}));
}

TEST_F(ImageIoTest, InterlacedLabels) {
  std::vector<std::vector<uint8_t>> rows(9, std::vector<uint8_t>(9));
  std::vector<int> expected;
  for (int i = 0; i < 81; ++i) expected.push_back(rows[i / 9][i % 9] = static_cast<uint8_t>(i));
  EXPECT_EQ(values_of(read_label_values(put_png("a.png", 9, 9, 8, PNG_COLOR_TYPE_GRAY, rows, PNG_INTERLACE_ADAM7))), expected);
}

TEST_F(ImageIoTest, BmpAndTiffLabels) {
  cv::Mat label(1, 3, CV_8UC1);
  for (int x = 0; x < 3; ++x) label.at<uint8_t>(0, x) = static_cast<uint8_t>(x * 100);
  for (const std::string extension : {".bmp", ".tif"})
    EXPECT_EQ(values_of(read_label_values(put("a" + extension, encoded(extension, label)))), (std::vector<int>{0, 100, 200}))
        << extension;
}

// Four pixels in a row, of up to 8 bits. `grey` is what the palette makes of each value (-1: not in the palette).
std::string bmp(uint32_t bits, const std::string& pixels, const std::function<int(int)>& grey) {
  std::string palette;
  for (int value = 0; value < 1 << bits && grey(value) >= 0; ++value)
    palette += std::string(3, static_cast<char>(grey(value))) + '\0';
  std::string bytes = "BM";
  const auto put = [&](uint32_t value, int count) {
    for (int i = 0; i < count; ++i) bytes += static_cast<char>(value >> 8 * i);
  };
  const auto begin = static_cast<uint32_t>(54 + palette.size());
  for (const uint32_t value : {begin + 4, 0u, begin, 40u, 4u, 1u}) put(value, 4);
  put(1, 2);
  put(bits, 2);
  for (const uint32_t value : {0u, 4u, 0u, 0u, static_cast<uint32_t>(palette.size() / 4), 0u}) put(value, 4);
  return bytes + palette + (pixels + std::string(4, '\0')).substr(0, 4);
}

TEST_F(ImageIoTest, LabelsInGreyBmpAndTiffKeepValues) {
  const std::string values("\x00\x01\x12\xc8", 4);
  const std::vector<int> expected{0, 1, 18, 200};
  EXPECT_EQ(values_of(read_label_values(put("a.bmp", bmp(8, values, [](int v) { return v; })))), expected);
  EXPECT_EQ(values_of(read_label_values(put("few.bmp", bmp(8, values, [](int v) { return v <= 200 ? v : -1; })))), expected);
  EXPECT_EQ(values_of(read_label_values(put("a.tif", tiff(1, 4, 1, 8, 1, values)))), expected);
}

TEST_F(ImageIoTest, LabelsOfWhichOnlyShadesAreReadAreRefused) {
  const auto same = [](int v) { return v; };
  const struct {
    std::string file, stored;
  } kCases[] = {
      {put("one.bmp", bmp(1, "\xb0", same)), "BMP palette 1-bit"},
      {put("four.bmp", bmp(4, "\x01\x23", same)), "BMP palette 4-bit"},
      {put("other.bmp", bmp(8, "\1\2\3\4", [](int v) { return 255 - v; })), "BMP palette 8-bit"},
      {put("one.tif", tiff(1, 4, 1, 1, 1, "\xb0")), "TIFF grey 1-bit"},
      {put("palette.tif", tiff(1, 4, 1, 8, 3, "\1\2\3\4")), "TIFF palette 8-bit"},
      {put("white.tif", tiff(1, 4, 1, 8, 0, "\1\2\3\4")), "TIFF grey 8-bit, 0 is white"},
  };
  for (const auto& test : kCases)
    EXPECT_EQ(message_of([&] { read_label_values(test.file); }),
              test.file + ": label stored as " + test.stored + ": what is read are shades, not class indices; save it as PNG");
  expect_contains(message_of([&] { read_label_values(put("two.tif", tiff(1, 2, 2, 8, 1, "\1\2\3\4"))); }),
                  "colour label (2 channels)");
}

TEST_F(ImageIoTest, TiffImagesThatAreNotReadSayWhatTheyAre) {
  for (const uint32_t channels : {1, 2, 3, 4})
    for (const uint32_t bits : {8, 16})
      EXPECT_EQ(read_image(put("a.tif", tiff(6, 8, channels, bits, channels < 3 ? 1 : 2))).sizes(),
                (std::vector<int64_t>{6, 8, 3}))
          << channels << " " << bits;
  const struct {
    uint32_t channels, bits;
    const char* what;
  } kCases[] = {{5, 8, "5 channels of 8 bits"},
                {8, 16, "8 channels of 16 bits"},
                {1, 4, "1 channel of 4 bits"},
                {1, 32, "1 channel of 32 bits"},
                {3, 32, "3 channels of 32 bits"}};
  for (const auto& [channels, bits, what] : kCases) {
    const std::string file = put("b.tif", tiff(6, 8, channels, bits, 1));
    EXPECT_EQ(message_of([&] { read_image(file); }),
              file + ": TIFF with " + what + "; 1 to 4 channels of 8 or 16 bits are read");
  }
}

TEST_F(ImageIoTest, WhatIsNoLabel) {
  const struct {
    std::string file, message;
  } kCases[] = {
      {put("deep.png", encoded(".png", cv::Mat(2, 2, CV_16UC1, cv::Scalar(5)))), "16-bit label; save it with 8 bits"},
      {put("deep.tif", encoded(".tif", cv::Mat(2, 2, CV_16UC1, cv::Scalar(5)))), "16-bit label; save it with 8 bits"},
      {put("rgb.png", encoded(".png", noise(2, 2, CV_8UC3))),
       "colour label (3 channels); labels hold one class index per pixel, or, with data.format: list, the "
       "colours of a class file"},
      {put("rgba.png", encoded(".png", noise(2, 2, CV_8UC4))), "colour label (4 channels)"},
      {put_png("grey_alpha.png", 1, 1, 8, PNG_COLOR_TYPE_GRAY_ALPHA, {{1, 255}}), "colour label (2 channels)"},
      {put("rgb.bmp", encoded(".bmp", noise(2, 2, CV_8UC3))), "colour label (3 channels)"},
      {put("a.jpg", encoded(".jpg", noise(8, 8, CV_8UC1))), "JPEG label: lossy compression"},
      {put("text.png", "hello"), "not an image"},
  };
  for (const auto& test : kCases)
    expect_contains(message_of([&] { read_label_values(test.file); }), test.file + ": " + test.message);
}

TEST_F(ImageIoTest, EveryPngFilterOfEveryPixelSizeIsUndone) {
  const std::pair<int, int> kColours[] = {
      {PNG_COLOR_TYPE_GRAY, 1}, {PNG_COLOR_TYPE_RGB, 3}, {PNG_COLOR_TYPE_RGB_ALPHA, 4}, {PNG_COLOR_TYPE_PALETTE, 1}};
  const int kFilters[] = {PNG_FILTER_NONE, PNG_FILTER_SUB, PNG_FILTER_UP, PNG_FILTER_AVG, PNG_FILTER_PAETH, PNG_ALL_FILTERS};
  for (const auto& [colour, channels] : kColours) {
    for (const int filters : kFilters) {
      for (const int width : {1, 2, 3, 33}) {
        const auto rows = textured_rows(23, width * channels);
        const std::string file = put_png("a.png", width, 23, 8, colour, rows, PNG_INTERLACE_NONE, filters);
        EXPECT_TRUE(at::equal(read_image(file), by_opencv(file))) << colour << " " << filters << " " << width;
        if (channels > 1) continue;
        std::vector<int> expected;
        for (const auto& row : rows) expected.insert(expected.end(), row.begin(), row.end());
        EXPECT_EQ(values_of(read_label_values(file)), expected) << colour << " " << filters << " " << width;
      }
    }
  }
}

TEST_F(ImageIoTest, UnusualPngImagesAreReadAsOpenCvReadsThem) {
  const struct {
    const char* name;
    int bits, colour, bytes_of_row;
    int interlace = PNG_INTERLACE_NONE;
    bool transparent = false;
  } kCases[] = {
      {"packed grey", 2, PNG_COLOR_TYPE_GRAY, 5},
      {"deep grey", 16, PNG_COLOR_TYPE_GRAY, 34},
      {"grey and alpha", 8, PNG_COLOR_TYPE_GRAY_ALPHA, 34},
      {"deep colours", 16, PNG_COLOR_TYPE_RGB, 102},
      {"deep colours and alpha", 16, PNG_COLOR_TYPE_RGB_ALPHA, 136},
      {"packed palette", 4, PNG_COLOR_TYPE_PALETTE, 9},
      {"interlaced", 8, PNG_COLOR_TYPE_RGB, 51, PNG_INTERLACE_ADAM7},
      {"interlaced alpha", 8, PNG_COLOR_TYPE_RGB_ALPHA, 68, PNG_INTERLACE_ADAM7},
      {"transparent colour", 8, PNG_COLOR_TYPE_RGB, 51, PNG_INTERLACE_NONE, true},
      {"transparent grey", 8, PNG_COLOR_TYPE_GRAY, 17, PNG_INTERLACE_NONE, true},
      {"transparent palette", 8, PNG_COLOR_TYPE_PALETTE, 17, PNG_INTERLACE_NONE, true},
  };
  for (const auto& test : kCases) {
    const std::string file = put_png("a.png", 17, 13, test.bits, test.colour, textured_rows(13, test.bytes_of_row),
                                     test.interlace, PNG_ALL_FILTERS, test.transparent);
    EXPECT_TRUE(at::equal(read_image(file), by_opencv(file))) << test.name;
  }
}

TEST_F(ImageIoTest, WindowsOfPngImages) {
  const std::pair<int, int> kColours[] = {{PNG_COLOR_TYPE_GRAY, 1}, {PNG_COLOR_TYPE_RGB, 3}, {PNG_COLOR_TYPE_RGB_ALPHA, 4}};
  for (const auto& [colour, channels] : kColours) {
    const std::string file = put_png("a.png", 40, 30, 8, colour, textured_rows(30, 40 * channels));
    const Tensor whole_HWC = by_opencv(file);
    for (const Window& window : {Window{0, 0, 30, 40}, Window{0, 0, 1, 1}, Window{29, 39, 30, 40}, Window{7, 11, 22, 30}})
      EXPECT_TRUE(at::equal(read_window(file, window), window_of_image(whole_HWC, window))) << colour;
  }
}

TEST_F(ImageIoTest, WindowsOfJpegImagesAreThoseOfTheWholeImage) {
  cv::Mat image = noise(150, 230, CV_8UC3);
  cv::GaussianBlur(image, image, cv::Size(), 2);
  for (const int progressive : {0, 1}) {
    for (const bool grey : {false, true}) {
      std::vector<uchar> bytes;
      cv::Mat stored = image;
      if (grey) cv::cvtColor(image, stored, cv::COLOR_BGR2GRAY);
      cv::imencode(".jpg", stored, bytes, {cv::IMWRITE_JPEG_PROGRESSIVE, progressive});  // colours at half the resolution
      const std::string file = put("a.jpg", {bytes.begin(), bytes.end()});
      const Tensor whole_HWC = by_opencv(file);
      for (int64_t top = 0; top < 100; top += 9) {
        for (const int64_t left : {0, 1, 15, 16, 17, 40, 95, 129}) {
          const Window window{top, left, top + 50, left + 101};
          EXPECT_TRUE(at::equal(read_window(file, window), window_of_image(whole_HWC, window)))
              << progressive << " " << grey << " " << top << " " << left;
        }
      }
    }
  }
}

TEST_F(ImageIoTest, JpegImagesAreReadReducedWhereThatIsAllowed) {
  cv::Mat image = noise(151, 233, CV_8UC3);
  cv::GaussianBlur(image, image, cv::Size(), 6);
  cv::normalize(image, image, 0, 255, cv::NORM_MINMAX);
  const std::string file = put("a.jpg", encoded(".jpg", image));
  const ImagePart part = ImageFile(file).read({40, 60, 120, 160, /*reduction=*/3});
  EXPECT_EQ(part.H, 76);
  EXPECT_EQ(part.W, 117);
  EXPECT_LE(part.top, 20);
  EXPECT_LE(part.left, 30);
  EXPECT_GE(part.top + part.pixels_HWC.size(0), 60);
  EXPECT_GE(part.left + part.pixels_HWC.size(1), 80);
  // Each pixel is about the mean of two by two.
  const Tensor whole_HWC = by_opencv(file).slice(0, 0, 150).slice(1, 0, 232).to(at::kFloat);
  const Tensor means_HWC = whole_HWC.view({75, 2, 116, 2, 3}).mean(std::vector<int64_t>{1, 3});
  const Tensor expected = window_of_image(means_HWC, {20, 30, 60, 80});
  const Tensor got = window_of_image(part.pixels_HWC, {20 - part.top, 30 - part.left, 60 - part.top, 80 - part.left});
  const Tensor difference = (got.to(at::kFloat) - expected).abs();
  EXPECT_LE(difference.mean().item<float>(), 1.5);
  EXPECT_LE(difference.max().item<float>(), 8);
}

// A valid chunk structure around a compressed stream that libpng refuses: the error must come through libpng's longjmp.
TEST_F(ImageIoTest, LibpngErrorsBecomeErrors) {
  std::string bytes = encoded(".png", noise(16, 16, CV_8UC1));
  const size_t data = bytes.find("IDAT");
  const uint32_t length = static_cast<uint8_t>(bytes[data - 2]) << 8 | static_cast<uint8_t>(bytes[data - 1]);
  for (size_t i = data + 4; i < data + 4 + length; ++i) bytes[i] = 0x55;
  const uint32_t crc = [&] {
    uint32_t c = 0xffffffff;  // PNG specification, annex D
    for (size_t i = data; i < data + 4 + length; ++i) {
      c ^= static_cast<uint8_t>(bytes[i]);
      for (int bit = 0; bit < 8; ++bit) c = c & 1 ? 0xedb88320 ^ c >> 1 : c >> 1;
    }
    return ~c;
  }();
  for (int i = 0; i < 4; ++i) bytes[data + 4 + length + i] = static_cast<char>(crc >> (24 - 8 * i));
  const std::string file = put("a.png", bytes);
  expect_contains(message_of([&] { read_label_values(file); }), file + ": damaged PNG: ");
}

TEST_F(ImageIoTest, MapLabelNamesValueAndPixel) {
  std::array<int16_t, 256> map;
  map.fill(-1);
  for (int16_t k = 0; k <= 10; ++k) map[k] = k;
  map[255] = kIgnore;
  Tensor values = at::zeros({20, 50}, at::kByte);
  values[3][4] = 10;
  values[5][6] = 255;
  const Tensor label = map_label(values, map, "x.png");
  EXPECT_EQ(label[3][4].item<int>(), 10);
  EXPECT_EQ(label[5][6].item<int>(), kIgnore);
  values[12][40] = 37;
  values[13][1] = 36;
  EXPECT_EQ(message_of([&] { map_label(values, map, "labels/x.png"); }),
            "labels/x.png: label value 37 at row 12, column 40 is neither a class (0..10) nor the ignore index 255; "
            "see data.classes and data.ignore_index");
}

TEST_F(ImageIoTest, MapLabelNamesScatteredValues) {
  Tensor values = at::full({1, 1}, 99, at::kByte);
  expect_contains(
      message_of([&] { map_label(values, cityscapes_label_ids_to_classes(), "x.png"); }),
      "label value 99 at row 0, column 0 is neither a class (7, 8, 11..13, 17, 19..28, 31..33) nor one of the ignored "
      "values 0..6, 9, 10, 14..16, 18, 29, 30, 255");
}

TEST_F(ImageIoTest, WritesWhatItReads) {
  const Tensor label = at::arange(256, at::kByte).reshape({8, 32});
  write_label_png(path("label.png"), label);
  EXPECT_TRUE(at::equal(read_label_values(path("label.png")), label));
  const Tensor image = at::arange(90, at::kByte).reshape({5, 6, 3});
  write_image(path("image.png"), image);
  EXPECT_TRUE(at::equal(read_image(path("image.png")), image));
  write_image(path("image.JPG"), image);
  EXPECT_EQ(read_image(path("image.JPG")).sizes(), image.sizes());
  EXPECT_THROW(write_image(path("image.gif"), image), Error);
}

TEST_F(ImageIoTest, OverlayBlendsAndKeepsIgnored) {
  const ClassSet classes = load_classes("cityscapes", 255);
  const Tensor image = at::full({1, 2, 3}, 100, at::kByte);
  Tensor label = at::zeros({1, 2}, at::kByte);
  label[0][1] = kIgnore;
  EXPECT_EQ(values_of(overlay(image, label, classes, 0.5)),
            (std::vector<int>{114, 82, 114, 100, 100, 100}));  // road: 128 64 128
  EXPECT_EQ(values_of(overlay(image, label, classes, 1.0)), (std::vector<int>{128, 64, 128, 100, 100, 100}));
}

}  // namespace
}  // namespace semiseg
