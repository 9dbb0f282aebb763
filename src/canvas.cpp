#include "canvas.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>

namespace semiseg {
namespace {

constexpr int kFont = cv::FONT_HERSHEY_SIMPLEX;
constexpr double kCapital = 21;  // height of its capital letters at scale 1
constexpr int kFine = 4;         // text is drawn so much larger and then shrunk: OpenCV's own small letters are ragged
constexpr int kSubpixel = 4;     // bits of fractions in OpenCV's coordinates
constexpr int kStripe = 9;       // pixels from stripe to stripe

cv::Mat mat_of(const Tensor& image_HWC) {
  return {static_cast<int>(image_HWC.size(0)), static_cast<int>(image_HWC.size(1)), CV_8UC3, image_HWC.data_ptr<uint8_t>()};
}

cv::Scalar scalar(const Colour& colour) { return {double(colour[0]), double(colour[1]), double(colour[2])}; }

cv::Point fine(Point at) {
  const double unit = 1 << kSubpixel;
  return {static_cast<int>(std::lround(at.x * unit)), static_cast<int>(std::lround(at.y * unit))};
}

// One '?' for each character that the font lacks, however many bytes it takes.
std::string printable(const std::string& text) {
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80 && byte < 0xc0) continue;  // UTF-8: inside a character
    result += byte < 0x20 || byte > 0x7e ? '?' : c;
  }
  return result;
}

int fine_thickness(double size) { return std::max(kFine, static_cast<int>(std::lround(size * kFine * 0.13))); }

cv::Size fine_size(const std::string& text, double size) {
  int baseline = 0;
  return cv::getTextSize(text, kFont, size * kFine / kCapital, fine_thickness(size), &baseline);
}

// Coverage of the letters in 0..255, with capital letters in the vertical middle: uint8 [h, w].
Tensor letters(const std::string& text, double size) {
  const int margin = kFine * 2, body = static_cast<int>(std::lround(size * kFine));
  const auto round_up = [](int n) { return (n + kFine - 1) / kFine * kFine; };
  const int width = round_up(fine_size(text, size).width + 2 * margin);
  const int side = round_up(body / 2 + body / 2 + margin);  // below and above: descenders and brackets
  cv::Mat large(body / kFine * kFine + 2 * side, width, CV_8UC1, cv::Scalar(0));
  cv::putText(large, text, {margin, large.rows / 2 + body / 2}, kFont, size * kFine / kCapital, cv::Scalar(255),
              fine_thickness(size), cv::LINE_AA);
  Tensor small_HW = at::empty({large.rows / kFine, large.cols / kFine}, at::kByte);
  cv::Mat small(large.rows / kFine, large.cols / kFine, CV_8UC1, small_HW.data_ptr<uint8_t>());
  cv::resize(large, small, small.size(), 0, 0, cv::INTER_AREA);
  return small_HW;
}

double offset(Anchor anchor, double width) {
  return anchor == Anchor::kLeft ? 0 : anchor == Anchor::kCentre ? width / 2 : width;
}

}  // namespace

Colour blend(const Colour& a, const Colour& b, double share) {
  Colour colour;
  for (size_t c = 0; c < 3; ++c) colour[c] = static_cast<uint8_t>(std::lround(a[c] + share * (b[c] - a[c])));
  return colour;
}

bool is_dark(const Colour& colour) { return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140; }

int text_width(const std::string& text, double size) { return (fine_size(printable(text), size).width + kFine - 1) / kFine; }

std::string fitted(const std::string& text, double size, int width) {
  std::string kept = printable(text);
  if (text_width(kept, size) <= width) return kept;
  while (!kept.empty() && text_width(kept + "..", size) > width) kept.pop_back();
  return kept + "..";
}

std::string fitted_end(const std::string& text, double size, int width) {
  std::string kept = printable(text);
  if (text_width(kept, size) <= width) return kept;
  while (!kept.empty() && text_width(".." + kept, size) > width) kept.erase(0, 1);
  return ".." + kept;
}

Canvas::Canvas(int width, int height, const Colour& background) : image_HWC_(at::empty({height, width, 3}, at::kByte)) {
  fill({0, 0, width, height}, background);
}

void Canvas::fill(const Rect& rect, const Colour& colour) {
  cv::rectangle(mat_of(image_HWC_), cv::Rect(rect.left, rect.top, rect.width, rect.height), scalar(colour), cv::FILLED);
}

void Canvas::frame(const Rect& rect, const Colour& colour, int thickness) {
  const int t = std::min({thickness, rect.width, rect.height});
  fill({rect.left, rect.top, rect.width, t}, colour);
  fill({rect.left, rect.top + rect.height - t, rect.width, t}, colour);
  fill({rect.left, rect.top, t, rect.height}, colour);
  fill({rect.left + rect.width - t, rect.top, t, rect.height}, colour);
}

void Canvas::line(Point from, Point to, const Colour& colour, double thickness) {
  cv::line(mat_of(image_HWC_), fine(from), fine(to), scalar(colour), std::max(1, static_cast<int>(std::lround(thickness))),
           cv::LINE_AA, kSubpixel);
}

void Canvas::dot(Point centre, double radius, const Colour& colour) {
  cv::circle(mat_of(image_HWC_), fine(centre), fine({radius, 0}).x, scalar(colour), cv::FILLED, cv::LINE_AA, kSubpixel);
}

void Canvas::text(Point at, const std::string& text, double size, const Colour& colour, Anchor anchor) {
  const std::string shown = printable(text);
  if (shown.empty()) return;
  const Tensor opacity_HW = letters(shown, size);
  const double left = at.x - 2 - offset(anchor, static_cast<double>(opacity_HW.size(1)) - 4);  // less the margins
  blend_mask(static_cast<int>(std::lround(left)),
             static_cast<int>(std::lround(at.y - static_cast<double>(opacity_HW.size(0)) / 2)), opacity_HW, colour);
}

void Canvas::text_upwards(Point at, const std::string& text, double size, const Colour& colour, Anchor anchor) {
  const std::string shown = printable(text);
  if (shown.empty()) return;
  const Tensor opacity_HW = letters(shown, size).t().flip({0}).contiguous();
  const double length = static_cast<double>(opacity_HW.size(0)) - 4;
  const double bottom = at.y + 2 + offset(anchor, length);
  blend_mask(static_cast<int>(std::lround(at.x - static_cast<double>(opacity_HW.size(1)) / 2)),
             static_cast<int>(std::lround(bottom)) - static_cast<int>(opacity_HW.size(0)), opacity_HW, colour);
}

void Canvas::image(const Rect& rect, const Tensor& image_HWC, bool sharp) {
  const Tensor packed = image_HWC.contiguous();
  const cv::Mat source = mat_of(packed);
  cv::Mat target = mat_of(image_HWC_)(cv::Rect(rect.left, rect.top, rect.width, rect.height));
  const bool shrinks = source.cols > rect.width || source.rows > rect.height;
  cv::resize(source, target, target.size(), 0, 0, shrinks ? cv::INTER_AREA : sharp ? cv::INTER_NEAREST : cv::INTER_LINEAR);
}

void Canvas::hatch(const Rect& rect, const Tensor& mask_HW) {
  const Tensor mask = mask_HW.to(at::kByte).contiguous();
  const auto* holds = mask.const_data_ptr<uint8_t>();
  const int64_t H = mask.size(0), W = mask.size(1);
  auto* pixels = image_HWC_.data_ptr<uint8_t>();
  for (int y = 0; y < rect.height; ++y)
    for (int x = 0; x < rect.width; ++x) {
      if ((x + y) % kStripe < kStripe / 3 || !holds[y * H / rect.height * W + x * W / rect.width]) continue;
      uint8_t* pixel = pixels + 3 * (static_cast<int64_t>(rect.top + y) * width() + rect.left + x);
      for (int c = 0; c < 3; ++c) pixel[c] = static_cast<uint8_t>(pixel[c] / 5);
    }
}

void Canvas::blend_mask(int left, int top, const Tensor& opacity_HW, const Colour& colour) {
  const auto* opacity = opacity_HW.const_data_ptr<uint8_t>();
  const int h = static_cast<int>(opacity_HW.size(0)), w = static_cast<int>(opacity_HW.size(1));
  auto* pixels = image_HWC_.data_ptr<uint8_t>();
  for (int y = std::max(0, -top); y < h && top + y < height(); ++y)
    for (int x = std::max(0, -left); x < w && left + x < width(); ++x) {
      uint8_t* pixel = pixels + 3 * (static_cast<int64_t>(top + y) * width() + left + x);
      const int share = opacity[y * w + x];
      for (size_t c = 0; c < 3; ++c)
        pixel[c] = static_cast<uint8_t>((pixel[c] * (255 - share) + colour[c] * share + 127) / 255);
    }
}

}  // namespace semiseg
