// Drawing on a uint8 RGB picture: charts and the frames around images. With image_io.cpp and transform.cpp the only user of
// OpenCV's drawing.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "semiseg/types.h"

namespace semiseg {

using Colour = std::array<uint8_t, 3>;  // RGB

inline constexpr Colour kWhite{255, 255, 255}, kInk{32, 36, 44}, kFaintInk{110, 116, 126}, kRule{222, 225, 230};

struct Point {
  double x = 0, y = 0;
};

struct Rect {
  int left = 0, top = 0, width = 0, height = 0;
};

enum class Anchor { kLeft, kCentre, kRight };

// The colour between two, `share` of the second.
Colour blend(const Colour& a, const Colour& b, double share);
// Whether white letters on this colour are easier to read than black ones.
bool is_dark(const Colour& colour);

// Letters are Latin; other characters are shown as '?'. Sizes are heights of capital letters in pixels.
int text_width(const std::string& text, double size);
// The text, with its end (or, as of a path, its beginning) replaced by ".." where it is wider than `width`.
std::string fitted(const std::string& text, double size, int width);
std::string fitted_end(const std::string& text, double size, int width);

class Canvas {
 public:
  Canvas(int width, int height, const Colour& background = kWhite);

  int width() const { return static_cast<int>(image_HWC_.size(1)); }
  int height() const { return static_cast<int>(image_HWC_.size(0)); }
  const Tensor& image_HWC() const { return image_HWC_; }

  void fill(const Rect& rect, const Colour& colour);
  // The outline inside the rectangle.
  void frame(const Rect& rect, const Colour& colour, int thickness = 1);
  void line(Point from, Point to, const Colour& colour, double thickness = 1);
  void dot(Point centre, double radius, const Colour& colour);
  // `at`: the anchor, at half the height of capital letters.
  void text(Point at, const std::string& text, double size, const Colour& colour = kInk, Anchor anchor = Anchor::kLeft);
  // Reading upwards: `at` is the anchor at half the letters' height, now the horizontal middle.
  void text_upwards(Point at, const std::string& text, double size, const Colour& colour = kInk, Anchor anchor = Anchor::kLeft);
  // uint8 RGB of any size, resized; pixels stay sharp where they are enlarged and `sharp` asks for it.
  void image(const Rect& rect, const Tensor& image_HWC, bool sharp);
  // Darkens two of three diagonal stripes where mask_HW (bool, of any size, resized) holds: what is below still shows through.
  void hatch(const Rect& rect, const Tensor& mask_HW);

 private:
  void blend_mask(int left, int top, const Tensor& opacity_HW, const Colour& colour);

  Tensor image_HWC_;
};

}  // namespace semiseg
