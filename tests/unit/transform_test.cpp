#include "semiseg/transform.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace semiseg {
namespace {

constexpr std::array<uint8_t, 3> kFill{1, 2, 3};

Tensor noise(int64_t H, int64_t W, uint64_t seed = 0) {
  Random random(seed, Purpose::kScene);
  Tensor image_HWC = at::empty({H, W, 3}, at::kByte);
  auto* values = image_HWC.data_ptr<uint8_t>();
  for (int64_t i = 0; i < image_HWC.numel(); ++i) values[i] = static_cast<uint8_t>(random.below(256));
  return image_HWC;
}

Geometry geometry_of(int64_t scaled_H, int64_t scaled_W, int64_t top, int64_t left, int64_t crop_H, int64_t crop_W,
                     bool flip = false) {
  Geometry geometry;
  geometry.scaled_H = scaled_H;
  geometry.scaled_W = scaled_W;
  geometry.top = top;
  geometry.left = left;
  geometry.crop_H = crop_H;
  geometry.crop_W = crop_W;
  geometry.flip = flip;
  return geometry;
}

int at_pixel(const Tensor& image_HWC, int64_t y, int64_t x, int64_t c) {
  return image_HWC.data_ptr<uint8_t>()[(y * image_HWC.size(1) + x) * image_HWC.size(2) + c];
}
int at_pixel(const Tensor& label_HW, int64_t y, int64_t x) { return label_HW.data_ptr<uint8_t>()[y * label_HW.size(1) + x]; }

TEST(DrawGeometry, StaysInsideAndCoversItsRange) {
  const WeakViewOptions options{.crop_H = 30, .crop_W = 50, .scale_low = 0.5, .scale_high = 2.0, .flip = true};
  double lowest = 9, highest = 0;
  int flips = 0, tops = 0;
  for (uint64_t draw = 0; draw < 500; ++draw) {
    Random random(1, Purpose::kWeakView, draw);
    const Geometry geometry = draw_geometry(40, 80, options, random);
    EXPECT_EQ(geometry.scaled_H, std::lround(40 * geometry.scale));
    EXPECT_EQ(geometry.scaled_W, std::lround(80 * geometry.scale));
    EXPECT_EQ(geometry.crop_H, 30);
    EXPECT_EQ(geometry.crop_W, 50);
    EXPECT_GE(geometry.top, 0);
    EXPECT_LE(geometry.top, std::max<int64_t>(0, geometry.scaled_H - 30));
    EXPECT_GE(geometry.left, 0);
    EXPECT_LE(geometry.left, std::max<int64_t>(0, geometry.scaled_W - 50));
    lowest = std::min(lowest, geometry.scale);
    highest = std::max(highest, geometry.scale);
    flips += geometry.flip;
    tops += geometry.top > 0;
  }
  EXPECT_LT(lowest, 0.52);
  EXPECT_GE(lowest, 0.5);
  EXPECT_GT(highest, 1.98);
  EXPECT_LT(highest, 2.0);
  EXPECT_NEAR(flips, 250, 60);
  EXPECT_GT(tops, 200);
}

TEST(DrawGeometry, SwitchingTheFlipOffKeepsTheCrops) {
  WeakViewOptions options{.crop_H = 8, .crop_W = 8};
  for (uint64_t draw = 0; draw < 50; ++draw) {
    Random with(1, Purpose::kWeakView, draw), without(1, Purpose::kWeakView, draw);
    options.flip = true;
    const Geometry a = draw_geometry(40, 80, options, with);
    options.flip = false;
    const Geometry b = draw_geometry(40, 80, options, without);
    EXPECT_FALSE(b.flip);
    EXPECT_EQ(a.top, b.top);
    EXPECT_EQ(a.left, b.left);
  }
}

TEST(ViewOfImage, ScaleOneIsACopy) {
  const Tensor image = noise(9, 13);
  EXPECT_TRUE(at::equal(view_of_image(image, geometry_of(9, 13, 0, 0, 9, 13), kFill), image));
  EXPECT_TRUE(at::equal(view_of_image(image, geometry_of(9, 13, 2, 3, 4, 5), kFill), image.slice(0, 2, 6).slice(1, 3, 8)));
  EXPECT_TRUE(at::equal(view_of_image(image, geometry_of(9, 13, 2, 3, 4, 5, true), kFill),
                        image.slice(0, 2, 6).slice(1, 3, 8).flip(1)));
}

TEST(ViewOfImage, PadsAtTheRightAndTheBottomBeforeMirroring) {
  const Tensor image = noise(2, 3);
  for (const bool flip : {false, true}) {
    const Geometry geometry = geometry_of(2, 3, 0, 0, 4, 5, flip);
    const Tensor view = view_of_image(image, geometry, kFill);
    const Tensor label = view_of_label(image.select(2, 0), geometry);
    const Tensor valid = view_valid(geometry);
    for (int64_t y = 0; y < 4; ++y) {
      for (int64_t x = 0; x < 5; ++x) {
        const int64_t from = flip ? 4 - x : x;
        const bool inside = y < 2 && from < 3;
        EXPECT_EQ(at_pixel(valid, y, x), inside);
        EXPECT_EQ(at_pixel(label, y, x), inside ? at_pixel(image, y, from, 0) : kIgnore);
        for (int64_t c = 0; c < 3; ++c) {
          EXPECT_EQ(at_pixel(view, y, x, c), inside ? at_pixel(image, y, from, c) : kFill[static_cast<size_t>(c)]);
        }
      }
    }
  }
}

// On a ramp of 4 per pixel bilinear interpolation gives 4 times the source coordinate, held at the edges.
TEST(ViewOfImage, EnlargesWithAlignedPixelCentres) {
  constexpr int64_t kH = 30, kW = 60;
  Tensor image = at::empty({kH, kW, 3}, at::kByte);
  for (int64_t y = 0; y < kH; ++y) {
    for (int64_t x = 0; x < kW; ++x) {
      auto* pixel = image.data_ptr<uint8_t>() + (y * kW + x) * 3;
      pixel[0] = static_cast<uint8_t>(4 * x);
      pixel[1] = static_cast<uint8_t>(4 * y);
      pixel[2] = 77;
    }
  }
  for (const bool flip : {false, true}) {
    const std::array<Geometry, 4> cases{geometry_of(60, 120, 0, 0, 60, 120, flip), geometry_of(47, 93, 17, 33, 30, 60, flip),
                                        geometry_of(53, 120, 13, 5, 20, 30, flip), geometry_of(40, 70, 0, 0, 64, 96, flip)};
    for (const Geometry& geometry : cases) {
      const Tensor view = view_of_image(image, geometry, kFill);
      const Tensor valid = view_valid(geometry);
      for (int64_t y = 0; y < geometry.crop_H; ++y) {
        for (int64_t x = 0; x < geometry.crop_W; ++x) {
          if (at_pixel(valid, y, x) == 0) continue;
          const int64_t column = geometry.left + (flip ? geometry.crop_W - 1 - x : x);
          const double source_x = (static_cast<double>(column) + 0.5) * kW / static_cast<double>(geometry.scaled_W) - 0.5;
          const double source_y =
              (static_cast<double>(geometry.top + y) + 0.5) * kH / static_cast<double>(geometry.scaled_H) - 0.5;
          ASSERT_NEAR(at_pixel(view, y, x, 0), 4 * std::clamp(source_x, 0.0, kW - 1.0), 0.7) << y << ' ' << x;
          ASSERT_NEAR(at_pixel(view, y, x, 1), 4 * std::clamp(source_y, 0.0, kH - 1.0), 0.7) << y << ' ' << x;
          ASSERT_EQ(at_pixel(view, y, x, 2), 77);
        }
      }
    }
  }
}

TEST(ViewOfImage, ShrinksByTheMeanOfAreas) {
  const Tensor image = noise(8, 12);
  const Tensor view = view_of_image(image, geometry_of(4, 6, 1, 2, 2, 3, true), kFill);
  for (int64_t y = 0; y < 2; ++y) {
    for (int64_t x = 0; x < 3; ++x) {
      for (int64_t c = 0; c < 3; ++c) {
        const int64_t from_y = 2 * (1 + y), from_x = 2 * (2 + 2 - x);
        const int sum = at_pixel(image, from_y, from_x, c) + at_pixel(image, from_y, from_x + 1, c) +
                        at_pixel(image, from_y + 1, from_x, c) + at_pixel(image, from_y + 1, from_x + 1, c);
        EXPECT_NEAR(at_pixel(view, y, x, c), sum / 4.0, 0.51);
      }
    }
  }
}

// 3 pixels to 2: each takes one whole pixel and half of the middle one.
TEST(ViewOfImage, ShrinksByFractionsOfPixels) {
  Tensor image = at::empty({1, 3, 3}, at::kByte);
  for (int64_t x = 0; x < 3; ++x) image.select(1, x).fill_(std::array<int, 3>{30, 90, 240}[static_cast<size_t>(x)]);
  const Tensor view = view_of_image(image, geometry_of(1, 2, 0, 0, 1, 2), kFill);
  EXPECT_EQ(at_pixel(view, 0, 0, 0), 50);
  EXPECT_EQ(at_pixel(view, 0, 1, 2), 190);
  EXPECT_EQ(at_pixel(view_of_image(image, geometry_of(1, 2, 0, 1, 1, 1), kFill), 0, 0, 1), 190);
}

TEST(ViewOfImage, NeedsOnlyItsWindow) {
  const int64_t H = 61, W = 83;
  const Tensor image_HWC = (at::arange(H * W * 3, at::kInt) * 7919 % 251).to(at::kByte).view({H, W, 3});
  const WeakViewOptions options{.crop_H = 30, .crop_W = 26, .scale_low = 0.15, .scale_high = 2.5};
  for (uint64_t draw = 0; draw < 200; ++draw) {
    Random random(1, Purpose::kWeakView, draw);
    const Geometry geometry = draw_geometry(H, W, options, random);
    const Window window = window_of(H, W, geometry);
    ASSERT_TRUE(0 <= window.top && window.top < window.bottom && window.bottom <= H) << draw;
    ASSERT_TRUE(0 <= window.left && window.left < window.right && window.right <= W) << draw;
    const double reduction = 1 / geometry.scale;
    EXPECT_LE(static_cast<double>(window.reduction), std::max(1.0, reduction + 0.2)) << draw;
    const Tensor part_HWC = image_HWC.slice(0, window.top, window.bottom).slice(1, window.left, window.right);
    EXPECT_TRUE(at::equal(view_of_image({part_HWC, H, W, window.top, window.left}, geometry, {1, 2, 3}),
                          view_of_image(image_HWC, geometry, {1, 2, 3})))
        << draw;
  }
}

TEST(ViewOfImage, PaddingNeverBlendsIntoTheImage) {
  const Tensor image = at::full({10, 14, 3}, 200, at::kByte);
  for (const int64_t scaled : {7, 10, 15, 20}) {
    for (const bool flip : {false, true}) {
      const Geometry geometry = geometry_of(scaled, scaled, 0, 0, 32, 32, flip);
      const Tensor view = view_of_image(image, geometry, kFill);
      const Tensor valid = view_valid(geometry);
      for (int64_t i = 0; i < 32 * 32; ++i) {
        const bool inside = valid.data_ptr<uint8_t>()[i] != 0;
        for (int64_t c = 0; c < 3; ++c) {
          ASSERT_EQ(view.data_ptr<uint8_t>()[3 * i + c], inside ? 200 : kFill[static_cast<size_t>(c)]);
        }
      }
      EXPECT_EQ(valid.sum().item<int64_t>(), scaled * scaled);
    }
  }
}

// Red says which half in x, green which half in y, and the label says both: a view must keep them in agreement at every pixel
// but those whose centre lies on the border itself.
TEST(Views, ImageAndLabelStayAligned) {
  constexpr int64_t kH = 37, kW = 53, kBorderY = 16, kBorderX = 29;
  Tensor image = at::zeros({kH, kW, 3}, at::kByte);
  Tensor label = at::zeros({kH, kW}, at::kByte);
  image.select(2, 0).slice(1, kBorderX).fill_(200);
  image.select(2, 1).slice(0, kBorderY).fill_(200);
  label.slice(1, kBorderX).add_(1);
  label.slice(0, kBorderY).add_(2);

  const WeakViewOptions options{.crop_H = 48, .crop_W = 40};
  int64_t compared = 0, mixed = 0;
  for (uint64_t draw = 0; draw < 300; ++draw) {
    Random random(2, Purpose::kWeakView, draw);
    const Geometry geometry = draw_geometry(kH, kW, options, random);
    const Tensor view = view_of_image(image, geometry, kFill);
    const Tensor view_label = view_of_label(label, geometry);
    const Tensor valid = view_valid(geometry);
    for (int64_t y = 0; y < 48; ++y) {
      for (int64_t x = 0; x < 40; ++x) {
        const int value = at_pixel(view_label, y, x);
        ASSERT_EQ(at_pixel(valid, y, x) != 0, value != kIgnore);
        if (value == kIgnore) continue;
        const int red = at_pixel(view, y, x, 0), green = at_pixel(view, y, x, 1);
        mixed += red % 200 != 0 || green % 200 != 0;
        if (std::abs(red - 100) <= 7 || std::abs(green - 100) <= 7) continue;  // 1/32 pixel
        ++compared;
        ASSERT_EQ(value, (red > 100 ? 1 : 0) + (green > 100 ? 2 : 0)) << draw << ": " << y << ' ' << x;
      }
    }
  }
  EXPECT_GT(compared, 100000);
  EXPECT_GT(mixed, 1000);
}

// The strong view's changes after their definitions (torchvision on PIL images), with HSV from the textbook.
struct Colour {
  double r, g, b;
};

double grey_of(const Colour& c) { return std::floor(0.299 * c.r + 0.587 * c.g + 0.114 * c.b + 0.5); }

double blended(double base, double value, double factor) {
  return std::floor(std::clamp(base + factor * (value - base), 0.0, 255.0));
}

Colour turned(const Colour& c, double turns) {
  const double high = std::max({c.r, c.g, c.b}), chroma = high - std::min({c.r, c.g, c.b});
  if (chroma == 0) return c;
  double hue = high == c.r ? (c.g - c.b) / chroma : high == c.g ? 2 + (c.b - c.r) / chroma : 4 + (c.r - c.g) / chroma;
  hue = std::fmod(hue + 6 * turns + 12, 6.0);
  const double low = high - chroma, part = hue - std::floor(hue);
  const double falling = std::round(high - chroma * part), rising = std::round(low + chroma * part);
  switch (static_cast<int>(hue)) {
    case 0:
      return {high, rising, low};
    case 1:
      return {falling, high, low};
    case 2:
      return {low, high, rising};
    case 3:
      return {low, falling, high};
    case 4:
      return {rising, low, high};
    default:
      return {high, low, falling};
  }
}

TEST(StrongView, ChangesColoursByTheirDefinitions) {
  int jittered = 0, greyed = 0, blurred = 0;
  for (uint64_t draw = 0; draw < 400; ++draw) {
    const Tensor image = noise(6, 7, draw);
    Random random(4, Purpose::kStrongView, draw);
    const Tensor view = strong_view(image, random);

    Random again(4, Purpose::kStrongView, draw);
    const bool jitter = again.chance(0.8);
    const std::vector<int64_t> order = again.permutation(4);
    const double brightness = again.uniform(0.5, 1.5), contrast = again.uniform(0.5, 1.5), saturation = again.uniform(0.5, 1.5);
    const double hue = again.uniform(-0.25, 0.25);
    const bool grey = again.chance(0.2), blur = again.chance(0.5);
    jittered += jitter;
    greyed += grey;
    blurred += blur;
    if (blur) continue;

    std::vector<Colour> colours;
    for (int64_t i = 0; i < 42; ++i) {
      const auto* pixel = image.data_ptr<uint8_t>() + 3 * i;
      colours.push_back({double(pixel[0]), double(pixel[1]), double(pixel[2])});
    }
    for (const int64_t change : jitter ? order : std::vector<int64_t>{}) {
      double mean = 0;
      for (const Colour& c : colours) mean += grey_of(c) / 42;
      mean = std::floor(mean + 0.5);
      for (Colour& c : colours) {
        const double base = change == 0 ? 0 : change == 1 ? mean : grey_of(c);
        const double factor = change == 0 ? brightness : change == 1 ? contrast : saturation;
        c = change == 3 ? turned(c, hue)
                        : Colour{blended(base, c.r, factor), blended(base, c.g, factor), blended(base, c.b, factor)};
      }
    }
    for (int64_t i = 0; i < 42; ++i) {
      const Colour& c = colours[static_cast<size_t>(i)];
      const double luma = grey_of(c);
      const auto* pixel = view.data_ptr<uint8_t>() + 3 * i;
      // Each of four changes may round a tie the other way, and a later one stretches that by at most 1.5.
      ASSERT_NEAR(pixel[0], grey ? luma : c.r, 4) << draw;
      ASSERT_NEAR(pixel[1], grey ? luma : c.g, 4) << draw;
      ASSERT_NEAR(pixel[2], grey ? luma : c.b, 4) << draw;
    }
  }
  EXPECT_NEAR(jittered, 320, 40);
  EXPECT_NEAR(greyed, 80, 40);
  EXPECT_NEAR(blurred, 200, 50);
}

// Colours are changed in blocks: an image of several shows what a small one of the same pixels shows.
TEST(StrongView, LargeImagesAreChangedAsSmallOnesAre) {
  const Tensor image = noise(6, 7, 5);
  for (uint64_t draw = 0; draw < 60; ++draw) {
    Random random(4, Purpose::kStrongView, draw), again = random;
    again.chance(0.8);
    again.permutation(4);
    for (int number = 0; number < 4; ++number) again.uniform();
    again.chance(0.2);
    if (again.chance(0.5)) continue;  // blur mixes neighbours
    Random same = random;
    EXPECT_TRUE(at::equal(strong_view(image.repeat({13, 11, 1}), random), strong_view(image, same).repeat({13, 11, 1})))
        << draw;
  }
}

TEST(StrongView, KeepsTheGeometry) {
  Tensor image = at::zeros({40, 60, 3}, at::kByte);
  image.slice(1, 30).select(2, 0).fill_(180);
  image.slice(1, 0, 30).select(2, 1).fill_(90);
  int changed = 0;
  for (uint64_t draw = 0; draw < 100; ++draw) {
    Random random(4, Purpose::kStrongView, draw);
    const Tensor view = strong_view(image, random);
    ASSERT_EQ(view.sizes(), image.sizes());
    changed += !at::equal(view, image);
    // Blur at its widest (sigma 2) reaches 6 pixels from the border between the halves.
    for (const auto& half : {view.slice(1, 0, 23), view.slice(1, 37)}) {
      ASSERT_TRUE(at::equal(half, half.slice(0, 0, 1).slice(1, 0, 1).expand_as(half))) << draw;
    }
  }
  EXPECT_GT(changed, 80);
}

TEST(StrongView, IsAFunctionOfItsStreamAndLeavesItsInputAlone) {
  const Tensor image = noise(20, 30), copy = image.clone();
  Random a(4, Purpose::kStrongView, 1), b(4, Purpose::kStrongView, 1), c(4, Purpose::kStrongView, 2);
  const Tensor view = strong_view(image, a);
  EXPECT_TRUE(at::equal(view, strong_view(image, b)));
  EXPECT_FALSE(at::equal(view, strong_view(image, c)));
  EXPECT_TRUE(at::equal(image, copy));
}

TEST(StrongView, DrawsTheSameNumbersForEveryImage) {
  for (uint64_t draw = 0; draw < 20; ++draw) {
    Random a(4, Purpose::kStrongView, draw), b(4, Purpose::kStrongView, draw);
    strong_view(noise(20, 30), a);
    strong_view(at::zeros({3, 3, 3}, at::kByte), b);
    EXPECT_EQ(a.next(), b.next());
  }
}

TEST(DrawCutmixBox, LiesInsideHalfOfTheTime) {
  for (const auto& [H, W] : std::vector<std::pair<int64_t, int64_t>>{{256, 256}, {64, 512}, {1, 40}, {1, 1}}) {
    int boxes = 0;
    for (uint64_t draw = 0; draw < 1000; ++draw) {
      Random random(6, Purpose::kCutMix, draw);
      const Box box = draw_cutmix_box(H, W, random);
      if (box.bottom == 0 && box.right == 0) {
        EXPECT_EQ(box.top, 0);
        EXPECT_EQ(box.left, 0);
        continue;
      }
      ++boxes;
      EXPECT_GE(box.top, 0);
      EXPECT_GE(box.left, 0);
      EXPECT_LT(box.top, box.bottom);
      EXPECT_LT(box.left, box.right);
      EXPECT_LE(box.bottom, H);
      EXPECT_LE(box.right, W);
      if (std::min(H, W) < 64) continue;
      const double h = double(box.bottom - box.top) / double(H), w = double(box.right - box.left) / double(W);
      EXPECT_LE(h * w, 0.4);
      EXPECT_GE((h + 1.0 / double(H)) * (w + 1.0 / double(W)), 0.02);
      EXPECT_LE(h / (w + 1.0 / double(W)), 1 / 0.3);
      EXPECT_GE((h + 1.0 / double(H)) / w, 0.3);
    }
    EXPECT_NEAR(boxes, 500, 80);
  }
}

// What random_strong_view draws, replayed from its stream.
struct RandomViewDraws {
  int64_t count;
  std::array<int64_t, 3> kind;
  std::array<double, 3> strength;
  std::array<bool, 3> negative;
};

RandomViewDraws replay(Random random) {
  RandomViewDraws draws{};
  draws.count = 1 + random.below(3);
  for (size_t i = 0; i < 3; ++i) {
    draws.kind[i] = random.below(11);
    draws.strength[i] = random.uniform();
    draws.negative[i] = random.chance(0.5);
  }
  return draws;
}

enum Operation {
  kIdentity,
  kAutocontrast,
  kEqualize,
  kBlur,
  kContrast,
  kBrightness,
  kSaturation,
  kSharpness,
  kPosterize,
  kSolarize,
  kHue
};

// The view by one operation alone, of the first streams that draw it, with the strength that was drawn.
struct SingleView {
  Tensor view_HWC;
  double strength;
  bool negative;
};
std::vector<SingleView> single_views(Operation kind, const Tensor& image_HWC, size_t wanted = 5) {
  std::vector<SingleView> views;
  for (uint64_t draw = 0; views.size() < wanted; ++draw) {
    Random random(8, Purpose::kStrongView, draw);
    const RandomViewDraws draws = replay(random);
    if (draws.count != 1 || draws.kind[0] != kind) continue;
    views.push_back({random_strong_view(image_HWC, random), draws.strength[0], draws.negative[0]});
  }
  return views;
}

// One row of pixels.
Tensor row_of(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong).to(at::kByte).view({1, -1, 3}); }

// PIL's blend, truncated; `slack` is for single against double precision next to a whole number.
void expect_blend(int got, double base, double value, double factor) {
  EXPECT_NEAR(got, std::floor(base + factor * (value - base) + 1e-4), 1e-9) << base << ' ' << value << ' ' << factor;
}

TEST(RandomStrongView, IdentityKeepsTheImage) {
  const Tensor image = noise(5, 7);
  EXPECT_TRUE(at::equal(single_views(kIdentity, image, 1)[0].view_HWC, image));
}

TEST(RandomStrongView, AutocontrastStretchesEachChannel) {
  // Red 10 .. 110: x 2.55, 127.5 truncated. Green 0 .. 255 stays. Blue holds one value and stays.
  const Tensor image = row_of({10, 0, 77, 60, 100, 77, 110, 255, 77});
  EXPECT_TRUE(at::equal(single_views(kAutocontrast, image, 1)[0].view_HWC, row_of({0, 0, 77, 127, 100, 77, 255, 255, 77})));
}

TEST(RandomStrongView, EqualizeFlattensEachChannel) {
  // 600 pixels. Red: 255 of 10, 255 of 20, 90 of 30: step 510 / 255 = 2, from 1 on: 1 / 2, 256 / 2, 511 / 2.
  // Green: 346 of 5, 254 of 9: step 1: 0, and 346 cut at 255. Blue: 254 of 40, 346 of 200: too few below the highest.
  Tensor image = at::empty({20, 30, 3}, at::kByte), expected = image.clone();
  for (int64_t i = 0; i < 600; ++i) {
    auto* from = image.data_ptr<uint8_t>() + 3 * i;
    auto* to = expected.data_ptr<uint8_t>() + 3 * i;
    from[0] = i < 255 ? 10 : i < 510 ? 20 : 30;
    to[0] = i < 255 ? 0 : i < 510 ? 128 : 255;
    from[1] = i < 346 ? 5 : 9;
    to[1] = i < 346 ? 0 : 255;
    from[2] = to[2] = i < 254 ? 40 : 200;
  }
  EXPECT_TRUE(at::equal(single_views(kEqualize, image, 1)[0].view_HWC, expected));
  const Tensor flat = at::full({20, 30, 3}, 9, at::kByte);
  EXPECT_TRUE(at::equal(single_views(kEqualize, flat, 1)[0].view_HWC, flat));
}

TEST(RandomStrongView, EnhancersBlendByTheirFactor) {
  // Greys: 30, 76, 150, 29 (of red, green and blue 255 .299, .587, .114), their mean 71.
  const std::vector<int64_t> values{30, 30, 30, 255, 0, 0, 0, 255, 0, 0, 0, 255};
  const std::array<double, 4> greys{30, 76, 150, 29};
  const Tensor image = row_of(values);
  for (const Operation kind : {kContrast, kBrightness, kSaturation}) {
    for (const SingleView& view : single_views(kind, image)) {
      const double factor = 0.95 - 0.9 * view.strength;
      for (size_t i = 0; i < 12; ++i) {
        const double base = kind == kContrast ? 71 : kind == kBrightness ? 0 : greys[i / 3];
        expect_blend(view.view_HWC.data_ptr<uint8_t>()[i], base, static_cast<double>(values[i]), factor);
      }
    }
  }
}

TEST(RandomStrongView, SharpnessBlendsWithTheSmoothedMiddle) {
  Tensor image = at::full({3, 4, 3}, 13, at::kByte);
  image[1][1].fill_(130);
  // Smoothed: (8 x 13 + 5 x 130) / 13 = 58 at the bright pixel, (12 x 13 + 130) / 13 = 22 beside it; the border stays.
  for (const SingleView& view : single_views(kSharpness, image)) {
    const double factor = 0.95 - 0.9 * view.strength;
    for (int64_t c = 0; c < 3; ++c) {
      expect_blend(at_pixel(view.view_HWC, 1, 1, c), 58, 130, factor);
      expect_blend(at_pixel(view.view_HWC, 1, 2, c), 22, 13, factor);
    }
    Tensor border = view.view_HWC.clone();
    border.slice(0, 1, 2).slice(1, 1, 3).fill_(13);
    EXPECT_TRUE(border.eq(13).all().item<bool>());
  }
  for (const auto& [H, W] : {std::pair(2, 5), std::pair(5, 2), std::pair(1, 1)}) {
    const Tensor small = noise(H, W);
    EXPECT_TRUE(at::equal(single_views(kSharpness, small, 1)[0].view_HWC, small));
  }
}

TEST(RandomStrongView, PosterizeKeepsFourToSevenBits) {
  std::vector<int> seen(9);
  for (const SingleView& view : single_views(kPosterize, row_of({0, 17, 34, 170, 187, 255}), 40)) {
    const int bits = 8 - std::max(1, static_cast<int>(std::ceil(4 * view.strength)));
    ++seen[static_cast<size_t>(bits)];
    const std::vector<int64_t> four{0, 16, 32, 160, 176, 240}, seven{0, 16, 34, 170, 186, 254};
    if (bits == 4) {
      EXPECT_TRUE(at::equal(view.view_HWC, row_of(four)));
    } else if (bits == 7) {
      EXPECT_TRUE(at::equal(view.view_HWC, row_of(seven)));
    }
  }
  for (const size_t bits : {4, 5, 6, 7}) EXPECT_GT(seen[bits], 3) << bits;
}

TEST(RandomStrongView, SolarizeInvertsFromTheThresholdOn) {
  const Tensor image = row_of({0, 1, 60, 128, 200, 255});
  for (const SingleView& view : single_views(kSolarize, image, 20)) {
    const int threshold = 256 - std::max(1, static_cast<int>(std::ceil(255 * view.strength)));
    ASSERT_GE(threshold, 1);
    ASSERT_LE(threshold, 255);
    for (int64_t i = 0; i < 6; ++i) {
      const int value = image.data_ptr<uint8_t>()[i];
      EXPECT_EQ(view.view_HWC.data_ptr<uint8_t>()[i], value < threshold ? value : 255 - value) << threshold;
    }
  }
}

TEST(RandomStrongView, HueTurnsEitherWayByUpToHalfTheCircle) {
  int backward = 0;
  for (const SingleView& view : single_views(kHue, row_of({200, 80, 40, 9, 9, 9}), 20)) {
    backward += view.negative;
    const Colour expected = turned({200, 80, 40}, (view.negative ? -0.5 : 0.5) * view.strength);
    EXPECT_NEAR(at_pixel(view.view_HWC, 0, 0, 0), expected.r, 1);
    EXPECT_NEAR(at_pixel(view.view_HWC, 0, 0, 1), expected.g, 1);
    EXPECT_NEAR(at_pixel(view.view_HWC, 0, 0, 2), expected.b, 1);
    EXPECT_EQ(at_pixel(view.view_HWC, 0, 1, 0), 9);  // grey has no hue
  }
  EXPECT_GT(backward, 2);
  EXPECT_LT(backward, 18);
}

TEST(RandomStrongView, BlurKeepsFlatsAndTheMean) {
  Tensor image = at::zeros({41, 41, 3}, at::kByte);
  image.slice(0, 15, 26).slice(1, 15, 26).fill_(200);
  const Tensor flat = at::full({9, 9, 3}, 123, at::kByte);
  EXPECT_TRUE(at::equal(single_views(kBlur, flat, 1)[0].view_HWC, flat));
  for (const SingleView& view : single_views(kBlur, image)) {
    EXPECT_NEAR(view.view_HWC.to(at::kDouble).mean().item<double>(), image.to(at::kDouble).mean().item<double>(), 0.3);
    EXPECT_EQ(at_pixel(view.view_HWC, 20, 20, 0), 200);  // more than 2 sigma inside
    EXPECT_EQ(at_pixel(view.view_HWC, 0, 0, 0), 0);
    if (view.strength > 0.2) {
      EXPECT_LT(at_pixel(view.view_HWC, 15, 15, 0), 150);
    }
  }
}

TEST(RandomStrongView, AppliesOneToThreeInOrder) {
  const Tensor image = noise(12, 9);
  std::array<int, 4> counts{};
  int composed = 0;
  for (uint64_t draw = 0; draw < 3000; ++draw) {
    Random random(8, Purpose::kStrongView, draw);
    const RandomViewDraws draws = replay(random);
    ++counts[static_cast<size_t>(draws.count)];
    // Posterize and solarize do not commute: by hand in the order drawn.
    const auto is = [&](int64_t first, int64_t second) { return draws.kind[0] == first && draws.kind[1] == second; };
    if (draws.count != 2 || !(is(kPosterize, kSolarize) || is(kSolarize, kPosterize))) continue;
    ++composed;
    Tensor expected = image.to(at::kLong);
    for (size_t i = 0; i < 2; ++i) {
      const int dropped = std::max(1, static_cast<int>(std::ceil(4 * draws.strength[i])));
      const int threshold = 256 - std::max(1, static_cast<int>(std::ceil(255 * draws.strength[i])));
      if (draws.kind[i] == kPosterize)
        expected = expected.div(1 << dropped, "floor") * (1 << dropped);
      else
        expected = at::where(expected < threshold, expected, 255 - expected);
    }
    EXPECT_TRUE(at::equal(random_strong_view(image, random).to(at::kLong), expected)) << draw;
  }
  EXPECT_GT(composed, 3);
  EXPECT_EQ(counts[0], 0);
  for (const size_t count : {1, 2, 3}) EXPECT_NEAR(counts[count], 1000, 150);
}

TEST(RandomStrongView, IsAFunctionOfItsStreamAndDrawsTheSameNumbersForEveryImage) {
  const Tensor image = noise(20, 30), copy = image.clone();
  int changed = 0;
  for (uint64_t draw = 0; draw < 40; ++draw) {
    Random a(4, Purpose::kStrongView, draw), b(4, Purpose::kStrongView, draw), c(4, Purpose::kStrongView, draw);
    const Tensor view = random_strong_view(image, a);
    EXPECT_TRUE(at::equal(view, random_strong_view(image, b)));
    random_strong_view(at::zeros({1, 2, 3}, at::kByte), c);
    EXPECT_EQ(a.next(), c.next());
    changed += !at::equal(view, image);
  }
  EXPECT_GT(changed, 25);
  EXPECT_TRUE(at::equal(image, copy));
}

TEST(DrawAugsegBox, FollowsItsDefinition) {
  constexpr int64_t kH = 96, kW = 64;
  for (const bool labeled : {true, false}) {
    for (uint64_t draw = 0; draw < 200; ++draw) {
      Random random(6, Purpose::kCutMix, draw), again(6, Purpose::kCutMix, draw);
      const Box box = draw_augseg_box(kH, kW, labeled, random);
      std::vector<double> uniform(labeled ? 9 : 7);
      for (double& value : uniform) value = again.uniform();
      std::sort(uniform.begin(), uniform.end());
      const double side = std::sqrt(1 - uniform[labeled ? 7 : 3]);
      const int64_t cut_H = static_cast<int64_t>(kH * side), cut_W = static_cast<int64_t>(kW * side);
      const int64_t y = 12 + again.below(84), x = 8 + again.below(56);
      if (cut_H < 2 || cut_W < 2) {
        EXPECT_EQ(box.bottom + box.right, 0);
        continue;
      }
      EXPECT_EQ(box.top, std::max<int64_t>(0, y - cut_H / 2));
      EXPECT_EQ(box.left, std::max<int64_t>(0, x - cut_W / 2));
      EXPECT_EQ(box.bottom, std::min(kH, y + cut_H / 2));
      EXPECT_EQ(box.right, std::min(kW, x + cut_W / 2));
    }
  }
}

// The mean of 1 - lambda is .2 for Beta(8, 2) and .5 for Beta(4, 4): shown by the boxes that nothing is cut off from.
TEST(DrawAugsegBox, UnlabelledContentTakesMore) {
  const auto mean_area = [](bool labeled) {
    double sum = 0;
    for (uint64_t draw = 0; draw < 2000; ++draw) {
      Random random(6, Purpose::kCutMix, draw);
      const Box box = draw_augseg_box(1000, 1000, labeled, random);
      sum += double(box.bottom - box.top) * double(box.right - box.left) / 1e6;
    }
    return sum / 2000;
  };
  const double labeled = mean_area(true), unlabeled = mean_area(false);
  EXPECT_GT(labeled, 0.12);
  EXPECT_LT(labeled, 0.2);
  EXPECT_GT(unlabeled, 0.25);
  EXPECT_LT(unlabeled, 0.45);
}

TEST(DrawAugsegBox, AnySizeWillDo) {
  for (const auto& [H, W] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {1, 40}, {7, 7}, {8, 3}}) {
    for (uint64_t draw = 0; draw < 100; ++draw) {
      Random random(6, Purpose::kCutMix, draw);
      const Box box = draw_augseg_box(H, W, draw % 2 == 0, random);
      EXPECT_GE(box.top, 0);
      EXPECT_GE(box.left, 0);
      EXPECT_LE(box.top, box.bottom);
      EXPECT_LE(box.left, box.right);
      EXPECT_LE(box.bottom, H);
      EXPECT_LE(box.right, W);
    }
  }
}

}  // namespace
}  // namespace semiseg
