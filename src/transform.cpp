#include "semiseg/transform.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <vector>

#include "strong_view.h"
#include "vectorized.h"

namespace semiseg {

namespace {

cv::Mat as_mat(const Tensor& image_HWC) {
  return {static_cast<int>(image_HWC.size(0)), static_cast<int>(image_HWC.size(1)), CV_8UC3, image_HWC.data_ptr<uint8_t>()};
}

// The part of a crop that the image covers, in the finished view: padding lies at the right and the bottom before mirroring.
cv::Rect covered(const Geometry& geometry) {
  const int64_t width = std::clamp<int64_t>(geometry.scaled_W - geometry.left, 0, geometry.crop_W);
  const int64_t height = std::clamp<int64_t>(geometry.scaled_H - geometry.top, 0, geometry.crop_H);
  const int64_t x = geometry.flip ? geometry.crop_W - width : 0;
  return {static_cast<int>(x), 0, static_cast<int>(width), static_cast<int>(height)};
}

// The source pixel whose square holds the centre of pixel `position` of an axis resized from `size` to `scaled`:
// floor((position + 1/2) size / scaled).
int64_t nearest(int64_t position, int64_t size, int64_t scaled) { return (2 * position + 1) * size / (2 * scaled); }

// One axis of an enlargement: where pixel `position` of the finished view lies in the source, as slope * position + offset, and
// the source pixels [begin, end) that interpolation reads.
struct Axis {
  double slope, offset;
  int begin, end;
};

Axis enlarge_axis(int64_t first, int64_t length, int64_t size, int64_t scaled, bool mirrored) {
  const double step = static_cast<double>(size) / static_cast<double>(scaled);
  const auto at = [&](int64_t position) { return (static_cast<double>(first + position) + 0.5) * step - 0.5; };
  const auto begin = static_cast<int>(std::clamp<double>(std::floor(at(0)) - 1, 0, static_cast<double>(size - 1)));
  const auto end = static_cast<int>(std::clamp<double>(std::floor(at(length - 1)) + 3, begin + 1, static_cast<double>(size)));
  return {mirrored ? -step : step, (mirrored ? at(length - 1) : at(0)) - begin, begin, end};
}

// One axis of a reduction: pixel `position` of the result is the mean of `taps` source pixels from begin[position] on, each
// weighted by how much of it lies in the interval that the pixel covers.
struct AreaAxis {
  int64_t taps;
  std::vector<int64_t> begin;
  std::vector<float> weights;  // [position, tap]
};

int64_t area_taps(int64_t size, int64_t scaled) { return std::min(size, (size + scaled - 1) / scaled + 1); }

int64_t area_begin(int64_t position, int64_t size, int64_t scaled) {
  return std::min(position * size / scaled, size - area_taps(size, scaled));
}

AreaAxis area_axis(int64_t first, int64_t length, int64_t size, int64_t scaled) {
  AreaAxis axis{area_taps(size, scaled), {}, {}};
  for (int64_t position = first; position < first + length; ++position) {
    const int64_t low = position * size, high = low + size;  // in units of 1 / scaled source pixels
    axis.begin.push_back(area_begin(position, size, scaled));
    for (int64_t pixel = axis.begin.back(); pixel < axis.begin.back() + axis.taps; ++pixel) {
      const int64_t overlap = std::min(high, (pixel + 1) * scaled) - std::max(low, pixel * scaled);
      axis.weights.push_back(static_cast<float>(std::max<int64_t>(overlap, 0)) / static_cast<float>(size));
    }
  }
  return axis;
}

bool shrinks(int64_t H, int64_t W, const Geometry& geometry) { return geometry.scaled_H < H || geometry.scaled_W < W; }

// The three channels of a pixel, and a fourth value that counts for nothing.
using Float4 = float __attribute__((vector_size(16)));

// sum[i] += weight * values[i].
SEMISEG_VECTORIZED void add_weighted(float* sum, const uint8_t* values, float weight, int64_t count) {
  for (int64_t i = 0; i < count; ++i) sum[i] += weight * static_cast<float>(values[i]);
}

// INTER_AREA of the crop alone: cv::resize could only start at a pixel of the source, inside which the crop's edge may lie.
void shrink(const ImagePart& image, const Geometry& geometry, cv::Mat& target) {
  const AreaAxis ys = area_axis(geometry.top, target.rows, image.H, geometry.scaled_H);
  const AreaAxis xs = area_axis(geometry.left, target.cols, image.W, geometry.scaled_W);
  const cv::Mat source = as_mat(image.pixels_HWC);
  const int64_t first = xs.begin.front();
  const int64_t length = 3 * (xs.begin.back() + xs.taps - first);
  std::vector<float> row(static_cast<size_t>(length) + 1);  // reduced in y only; pixels are read as four values
  for (int y = 0; y < target.rows; ++y) {
    std::fill(row.begin(), row.end(), 0.0F);
    for (int64_t tap = 0; tap < ys.taps; ++tap) {
      const int64_t from_y = ys.begin[static_cast<size_t>(y)] + tap - image.top;
      add_weighted(row.data(), source.ptr(static_cast<int>(from_y)) + 3 * (first - image.left),
                   ys.weights[static_cast<size_t>(y * ys.taps + tap)], length);
    }
    uint8_t* to = target.ptr(y);
    const float* weight = xs.weights.data();
    for (int x = 0; x < target.cols; ++x) {
      const float* pixel = row.data() + 3 * (xs.begin[static_cast<size_t>(x)] - first);
      Float4 sum{0.5F, 0.5F, 0.5F, 0.5F};  // rounds
      for (int64_t tap = 0; tap < xs.taps; ++tap, ++weight, pixel += 3) {
        Float4 values;
        std::memcpy(&values, pixel, sizeof(values));
        sum += *weight * values;
      }
      uint8_t* rgb = to + 3 * (geometry.flip ? target.cols - 1 - x : x);
      for (int c = 0; c < 3; ++c) rgb[c] = static_cast<uint8_t>(std::min(sum[c], 255.0F));
    }
  }
}

ColourChange brightness_change(double factor) { return {ColourChange::kBlend, static_cast<float>(factor), 0, 0}; }
ColourChange saturation_change(double factor) { return {ColourChange::kSaturation, static_cast<float>(factor), 0, 0}; }

ColourChange hue_change(double turns) {
  return {ColourChange::kHue, 1, 0, static_cast<int>(std::lround((turns - std::floor(turns)) * 6 * kHueOne))};
}

// Pixels by channel, few enough to stay in the first-level cache.
struct ColourBlock {
  static constexpr int64_t kPixels = 1024;
  std::array<int, kPixels> r, g, b;
};

// Applies the changes in order. `to` may be `from`, or null where only the result is wanted: the sum of the pixels' grey.
SEMISEG_VECTORIZED int64_t change_colours(const uint8_t* from, uint8_t* to, int64_t pixels,
                                          const std::vector<ColourChange>& changes) {
  ColourBlock block;
  int *const r = block.r.data(), *const g = block.g.data(), *const b = block.b.data();
  int64_t sum = 0;
  for (int64_t begin = 0; begin < pixels; begin += ColourBlock::kPixels) {
    const int64_t count = std::min(ColourBlock::kPixels, pixels - begin);
    const uint8_t* in = from + 3 * begin;
    for (int64_t i = 0; i < count; ++i) {
      r[i] = in[3 * i];
      g[i] = in[3 * i + 1];
      b[i] = in[3 * i + 2];
    }
    // Each kind has its loop, which a compiler turns into vector code.
    for (const ColourChange& change : changes) {
      switch (change.kind) {
        case ColourChange::kSaturation:
          for (int64_t i = 0; i < count; ++i) change_saturation(r[i], g[i], b[i], change.factor);
          break;
        case ColourChange::kHue:
          for (int64_t i = 0; i < count; ++i) turn_hue(r[i], g[i], b[i], change.shift);
          break;
        case ColourChange::kGrey:
          for (int64_t i = 0; i < count; ++i) r[i] = g[i] = b[i] = grey(r[i], g[i], b[i]);
          break;
        default:
          for (int64_t i = 0; i < count; ++i) r[i] = blend(change.base, r[i], change.factor);
          for (int64_t i = 0; i < count; ++i) g[i] = blend(change.base, g[i], change.factor);
          for (int64_t i = 0; i < count; ++i) b[i] = blend(change.base, b[i], change.factor);
      }
    }
    if (to == nullptr) {
      int block_sum = 0;
      for (int64_t i = 0; i < count; ++i) block_sum += grey(r[i], g[i], b[i]);
      sum += block_sum;
      continue;
    }
    uint8_t* out = to + 3 * begin;
    for (int64_t i = 0; i < count; ++i) {
      out[3 * i] = static_cast<uint8_t>(r[i]);
      out[3 * i + 1] = static_cast<uint8_t>(g[i]);
      out[3 * i + 2] = static_cast<uint8_t>(b[i]);
    }
  }
  return sum;
}

// Blends with the image's mean grey, rounded, which is that of `from` after `before`.
ColourChange contrast_change(const uint8_t* from, int64_t pixels, const std::vector<ColourChange>& before, double factor) {
  const int64_t sum = change_colours(from, nullptr, pixels, before);
  return {ColourChange::kBlend, static_cast<float>(factor), mean_grey(sum, pixels), 0};
}

// Replaces each value of each channel c by tables[c][value].
using ChannelTables = std::array<std::array<uint8_t, 256>, 3>;
void look_up(uint8_t* rgb, int64_t pixels, const ChannelTables& tables) {
  for (int64_t i = 0; i < pixels; ++i, rgb += 3) {
    for (size_t c = 0; c < 3; ++c) rgb[c] = tables[c][rgb[c]];
  }
}

// Applies a function of the value to all channels.
template <class Function>
void map_values(uint8_t* rgb, int64_t pixels, const Function& function) {
  std::array<uint8_t, 256> table;
  for (int value = 0; value < 256; ++value) table[static_cast<size_t>(value)] = static_cast<uint8_t>(function(value));
  look_up(rgb, pixels, {table, table, table});
}

std::array<std::array<int64_t, 256>, 3> histograms(const uint8_t* rgb, int64_t pixels) {
  std::array<std::array<int64_t, 256>, 3> counts{};
  for (int64_t i = 0; i < pixels; ++i, rgb += 3) {
    for (size_t c = 0; c < 3; ++c) ++counts[c][rgb[c]];
  }
  return counts;
}

// ImageOps.autocontrast: each channel's lowest value becomes 0, its highest 255; a channel of one value stays.
void autocontrast(uint8_t* rgb, int64_t pixels) {
  const auto counts = histograms(rgb, pixels);
  ChannelTables tables;
  for (size_t c = 0; c < 3; ++c) {
    int low = 0, high = 255;
    while (low < 255 && counts[c][static_cast<size_t>(low)] == 0) ++low;
    while (high > 0 && counts[c][static_cast<size_t>(high)] == 0) --high;
    if (high <= low) low = 0, high = 255;
    const double scale = 255.0 / (high - low), offset = -low * scale;
    for (int value = 0; value < 256; ++value)
      tables[c][static_cast<size_t>(value)] = static_cast<uint8_t>(std::clamp(value * scale + offset, 0.0, 255.0));
  }
  look_up(rgb, pixels, tables);
}

// ImageOps.equalize: each channel's histogram becomes about uniform. A channel with fewer than 255 pixels below its highest
// value stays.
void equalize(uint8_t* rgb, int64_t pixels) {
  const auto counts = histograms(rgb, pixels);
  ChannelTables tables;
  for (size_t c = 0; c < 3; ++c) {
    size_t highest = 255;
    while (highest > 0 && counts[c][highest] == 0) --highest;
    const int64_t step = (pixels - counts[c][highest]) / 255;
    int64_t below = step / 2;
    for (size_t value = 0; value < 256; ++value) {
      tables[c][value] = static_cast<uint8_t>(step > 0 ? std::min<int64_t>(below / step, 255) : static_cast<int64_t>(value));
      below += counts[c][value];
    }
  }
  look_up(rgb, pixels, tables);
}

// ImageEnhance.Sharpness: blends with ImageFilter.SMOOTH, the mean of 3 x 3 pixels with weight 5 for the middle one, rounded;
// the outermost pixels stay.
void change_sharpness(uint8_t* rgb, int64_t H, int64_t W, float factor) {
  const std::vector<uint8_t> source(rgb, rgb + 3 * H * W);
  for (int64_t y = 1; y + 1 < H; ++y) {
    for (int64_t i = 3 * (y * W + 1); i < 3 * (y * W + W - 1); ++i) {
      const uint8_t* middle = source.data() + i;
      int sum = 4 * *middle;
      for (const int64_t row : {-3 * W, int64_t{0}, 3 * W}) sum += middle[row - 3] + middle[row] + middle[row + 3];
      rgb[i] = static_cast<uint8_t>(blend((2 * sum + 13) / 26, *middle, factor));
    }
  }
}

// Keeps the upper `bits` of each value.
void posterize(uint8_t* rgb, int64_t pixels, int bits) {
  map_values(rgb, pixels, [dropped = 0xff >> bits](int value) { return value & ~dropped; });
}

// Inverts the values from `threshold` on.
void solarize(uint8_t* rgb, int64_t pixels, int threshold) {
  map_values(rgb, pixels, [threshold](int value) { return value < threshold ? value : 255 - value; });
}

void blur(const Tensor& image_HWC, double sigma) {
  cv::Mat image = as_mat(image_HWC);
  cv::GaussianBlur(image, image, cv::Size(), sigma, sigma, cv::BORDER_REPLICATE);
}

// OpenCV's choices for bytes (modules/imgproc/src/smooth.dispatch.cpp): the radius, and taps from the ends inwards, each
// rounded together with what the rounding of those before has left.
void plan_blur(double sigma, ColourPlan* plan) {
  const int size = static_cast<int>(std::lrint(sigma * 6 + 1)) | 1;
  const cv::Mat kernel = cv::getGaussianKernel(size, sigma, CV_64F);
  plan->sigma = sigma;
  plan->radius = size / 2;
  double rest = 0;
  int middle = 256;
  for (int i = 0; i < plan->radius; ++i) {
    const double wanted = 256 * kernel.at<double>(i) + rest;
    const auto tap = static_cast<int>(std::lrint(wanted));
    rest = wanted - tap;
    plan->taps[plan->radius - i] = tap;
    middle -= 2 * tap;
  }
  plan->taps[0] = middle;
}

// Beta(a, b) of whole a and b is the a-th smallest of a + b - 1 uniform draws.
double draw_beta(size_t a, size_t b, Random& random) {
  std::vector<double> draws(a + b - 1);
  for (double& draw : draws) draw = random.uniform();
  std::sort(draws.begin(), draws.end());
  return draws[a - 1];
}

}  // namespace

Geometry draw_geometry(int64_t H, int64_t W, const WeakViewOptions& options, Random& random) {
  Geometry geometry;
  geometry.scale = random.uniform(options.scale_low, options.scale_high);
  geometry.scaled_H = std::max<int64_t>(1, std::llround(static_cast<double>(H) * geometry.scale));
  geometry.scaled_W = std::max<int64_t>(1, std::llround(static_cast<double>(W) * geometry.scale));
  geometry.crop_H = options.crop_H;
  geometry.crop_W = options.crop_W;
  geometry.top = random.below(std::max<int64_t>(geometry.scaled_H - geometry.crop_H, 0) + 1);
  geometry.left = random.below(std::max<int64_t>(geometry.scaled_W - geometry.crop_W, 0) + 1);
  geometry.flip = random.chance(0.5) && options.flip;
  return geometry;
}

Window window_of(int64_t H, int64_t W, const Geometry& geometry) {
  const cv::Rect part = covered(geometry);
  if (part.empty()) return {0, 0, 1, 1};
  if (shrinks(H, W, geometry)) {
    const auto end = [](int64_t last, int64_t size, int64_t scaled) {
      return area_begin(last, size, scaled) + area_taps(size, scaled);
    };
    return {area_begin(geometry.top, H, geometry.scaled_H), area_begin(geometry.left, W, geometry.scaled_W),
            end(geometry.top + part.height - 1, H, geometry.scaled_H),
            end(geometry.left + part.width - 1, W, geometry.scaled_W),
            std::max<int64_t>(1, std::min(H / geometry.scaled_H, W / geometry.scaled_W))};
  }
  const Axis y = enlarge_axis(geometry.top, part.height, H, geometry.scaled_H, false);
  const Axis x = enlarge_axis(geometry.left, part.width, W, geometry.scaled_W, geometry.flip);
  return {y.begin, x.begin, y.end, x.end};
}

Tensor view_of_image(const Tensor& image_HWC, const Geometry& geometry, std::array<uint8_t, 3> fill) {
  return view_of_image(whole_image(image_HWC), geometry, fill);
}

Tensor view_of_image(const ImagePart& image, const Geometry& geometry, std::array<uint8_t, 3> fill) {
  ImagePart packed = image;
  packed.pixels_HWC = image.pixels_HWC.contiguous();
  Tensor view_HWC = at::empty({geometry.crop_H, geometry.crop_W, 3}, at::kByte);
  cv::Mat view = as_mat(view_HWC);
  const cv::Rect part = covered(geometry);
  if (part.width < view.cols || part.height < view.rows) view.setTo(cv::Scalar(fill[0], fill[1], fill[2]));
  if (part.empty()) return view_HWC;

  cv::Mat target = view(part);
  if (shrinks(image.H, image.W, geometry)) {
    shrink(packed, geometry, target);
    return view_HWC;
  }
  // Interpolation at the image's edge repeats its last pixel and never meets the padding, which lies outside `target`.
  const Axis x = enlarge_axis(geometry.left, part.width, image.W, geometry.scaled_W, geometry.flip);
  const Axis y = enlarge_axis(geometry.top, part.height, image.H, geometry.scaled_H, false);
  const cv::Matx23d to_source(x.slope, 0, x.offset, 0, y.slope, y.offset);
  const auto left = static_cast<int>(image.left), top = static_cast<int>(image.top);
  const cv::Mat source =
      as_mat(packed.pixels_HWC)(cv::Range(y.begin - top, y.end - top), cv::Range(x.begin - left, x.end - left));
  cv::warpAffine(source, target, to_source, target.size(), cv::INTER_LINEAR | cv::WARP_INVERSE_MAP, cv::BORDER_REPLICATE);
  return view_HWC;
}

Tensor view_of_label(const Tensor& label_HW, const Geometry& geometry) {
  const Tensor packed = label_HW.contiguous();
  const int64_t H = packed.size(0), W = packed.size(1);
  const auto* source = packed.data_ptr<uint8_t>();
  Tensor view_HW = at::empty({geometry.crop_H, geometry.crop_W}, at::kByte);
  auto* view = view_HW.data_ptr<uint8_t>();
  const cv::Rect part = covered(geometry);
  if (part.width < geometry.crop_W || part.height < geometry.crop_H) {
    std::memset(view, kIgnore, static_cast<size_t>(view_HW.numel()));
  }

  std::vector<int64_t> columns(static_cast<size_t>(part.width));
  for (int64_t x = 0; x < part.width; ++x) {
    columns[static_cast<size_t>(x)] = nearest(geometry.left + (geometry.flip ? part.width - 1 - x : x), W, geometry.scaled_W);
  }
  for (int64_t y = 0; y < part.height; ++y) {
    const uint8_t* from = source + nearest(geometry.top + y, H, geometry.scaled_H) * W;
    uint8_t* to = view + y * geometry.crop_W + part.x;
    for (size_t x = 0; x < columns.size(); ++x) to[x] = from[columns[x]];
  }
  return view_HW;
}

Tensor view_valid(const Geometry& geometry) {
  Tensor valid_HW = at::empty({geometry.crop_H, geometry.crop_W}, at::kByte);
  cv::Mat valid(static_cast<int>(geometry.crop_H), static_cast<int>(geometry.crop_W), CV_8UC1, valid_HW.data_ptr<uint8_t>());
  valid.setTo(0);
  valid(covered(geometry)).setTo(1);
  return valid_HW;
}

ColourPlan draw_strong_view(Random& random) {
  // Everything is drawn before anything is decided: later draws of the stream do not depend on earlier ones.
  const bool jitter = random.chance(0.8);
  const std::vector<int64_t> order = random.permutation(4);
  const double brightness = random.uniform(0.5, 1.5);
  const double contrast = random.uniform(0.5, 1.5);
  const double saturation = random.uniform(0.5, 1.5);
  const double hue = random.uniform(-0.25, 0.25);
  const bool without_colour = random.chance(0.2);
  const bool blurred = random.chance(0.5);
  const double sigma = random.uniform(0.1, 2.0);

  ColourPlan plan;
  const auto add = [&](const ColourChange& change) { plan.changes[plan.count++] = change; };
  const std::array<ColourChange, 4> changes{brightness_change(brightness),
                                            {ColourChange::kContrast, static_cast<float>(contrast)},
                                            saturation_change(saturation),
                                            hue_change(hue)};
  if (jitter)
    for (const int64_t change : order) add(changes[static_cast<size_t>(change)]);
  if (without_colour) add({ColourChange::kGrey});
  if (blurred) plan_blur(sigma, &plan);
  return plan;
}

Tensor strong_view(const Tensor& image_HWC, const ColourPlan& plan) {
  const Tensor packed = image_HWC.contiguous();
  const auto* from = packed.const_data_ptr<uint8_t>();
  const int64_t pixels = packed.size(0) * packed.size(1);
  std::vector<ColourChange> changes;
  for (int i = 0; i < plan.count; ++i) {
    const ColourChange& change = plan.changes[i];
    changes.push_back(change.kind == ColourChange::kContrast ? contrast_change(from, pixels, changes, change.factor) : change);
  }
  Tensor view_HWC = at::empty(packed.sizes(), at::kByte);
  change_colours(from, view_HWC.data_ptr<uint8_t>(), pixels, changes);
  if (plan.radius > 0) blur(view_HWC, plan.sigma);
  return view_HWC;
}

Tensor strong_view(const Tensor& image_HWC, Random& random) { return strong_view(image_HWC, draw_strong_view(random)); }

Tensor random_strong_view(const Tensor& image_HWC, Random& random) {
  // As in strong_view everything is drawn first, for three operations whether they are applied or not.
  struct Operation {
    int64_t kind = 0;
    double strength = 0;  // [0, 1)
    bool negative = false;
  };
  const int64_t count = 1 + random.below(3);
  std::array<Operation, 3> operations;
  for (Operation& operation : operations) {
    operation.kind = random.below(11);
    operation.strength = random.uniform();
    operation.negative = random.chance(0.5);
  }

  const Tensor packed = image_HWC.contiguous();
  Tensor view_HWC = at::empty(packed.sizes(), at::kByte);
  auto* rgb = view_HWC.data_ptr<uint8_t>();
  std::memcpy(rgb, packed.data_ptr<uint8_t>(), static_cast<size_t>(packed.numel()));
  const int64_t H = packed.size(0), W = packed.size(1), pixels = H * W;
  for (int64_t i = 0; i < count; ++i) {
    const Operation& operation = operations[static_cast<size_t>(i)];
    const double strength = operation.strength;
    const auto factor = static_cast<float>(0.95 - 0.9 * strength);  // (.05, .95]
    const auto level = [strength](int levels) { return std::max(1, static_cast<int>(std::ceil(levels * strength))); };
    switch (operation.kind) {
      case 0:  // identity
        break;
      case 1:
        autocontrast(rgb, pixels);
        break;
      case 2:
        equalize(rgb, pixels);
        break;
      case 3:
        blur(view_HWC, 0.1 + 1.9 * strength);
        break;
      case 4:
        change_colours(rgb, rgb, pixels, {contrast_change(rgb, pixels, {}, factor)});
        break;
      case 5:
        change_colours(rgb, rgb, pixels, {brightness_change(factor)});
        break;
      case 6:
        change_colours(rgb, rgb, pixels, {saturation_change(factor)});
        break;
      case 7:
        change_sharpness(rgb, H, W, factor);
        break;
      case 8:
        posterize(rgb, pixels, 8 - level(4));
        break;
      case 9:
        solarize(rgb, pixels, 256 - level(255));
        break;
      default:
        change_colours(rgb, rgb, pixels, {hue_change((operation.negative ? -0.5 : 0.5) * strength)});
    }
  }
  return view_HWC;
}

Box draw_cutmix_box(int64_t H, int64_t W, Random& random) {
  if (!random.chance(0.5)) return {};
  // UniMatch's crops are square. Here the ratio is relative to the crop's own, the same for a square, so that some box always
  // fits.
  const double area = random.uniform(0.02, 0.4);
  for (;;) {
    const double ratio = random.uniform(0.3, 1 / 0.3);
    const auto w = std::max<int64_t>(1, static_cast<int64_t>(std::sqrt(area / ratio) * static_cast<double>(W)));
    const auto h = std::max<int64_t>(1, static_cast<int64_t>(std::sqrt(area * ratio) * static_cast<double>(H)));
    const int64_t left = random.below(W), top = random.below(H);
    if (left + w <= W && top + h <= H) return {top, left, top + h, left + w};
  }
}

Box draw_augseg_box(int64_t H, int64_t W, bool labeled_content, Random& random) {
  const double lambda = labeled_content ? draw_beta(8, 2, random) : draw_beta(4, 4, random);
  const double side = std::sqrt(1 - lambda);
  const int64_t reach_y = static_cast<int64_t>(static_cast<double>(H) * side) / 2;
  const int64_t reach_x = static_cast<int64_t>(static_cast<double>(W) * side) / 2;
  const int64_t y = H / 8 + random.below(H - H / 8), x = W / 8 + random.below(W - W / 8);
  if (reach_y == 0 || reach_x == 0) return {};
  return {std::max<int64_t>(y - reach_y, 0), std::max<int64_t>(x - reach_x, 0), std::min(y + reach_y, H),
          std::min(x + reach_x, W)};
}

}  // namespace semiseg
