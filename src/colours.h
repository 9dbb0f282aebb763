// Colour augmentation of a pixel, for the loops over an image on the host (transform.cpp) and for the kernels of a GPU
// (ops/cuda/colours.cuh) alike: both give the same bits. Without LibTorch and OpenCV.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SEMISEG_PIXEL __host__ __device__ inline
#else
#define SEMISEG_PIXEL [[gnu::always_inline]] inline
#endif

namespace semiseg {

// A change of each pixel for itself; kContrast needs the image's mean besides.
struct ColourChange {
  enum Kind : int32_t { kBlend, kContrast, kSaturation, kHue, kGrey } kind = kGrey;
  float factor = 1;  // kBlend: with the value `base`; kContrast: with the image's mean grey; kSaturation: with the pixel's
  int32_t base = 0;
  int32_t shift = 0;  // kHue: sixths of the colour circle, in 16-bit fixed point
};

inline constexpr int kHueOne = 1 << 16;

// All that a strong view does to an image: changes in their order, then a Gaussian blur.
struct ColourPlan {
  static constexpr int kMostChanges = 5, kMostRadius = 6;
  ColourChange changes[kMostChanges];
  int32_t count = 0;
  // Of the blur, in pixels; radius 0: there is none.
  double sigma = 0;
  int32_t radius = 0;
  // As OpenCV blurs bytes: in 8-bit fixed point, with a sum of 256 from one end to the other; the middle one first.
  int32_t taps[kMostRadius + 1] = {256};
};

// PIL's grey: ITU-R 601 luma in 16-bit fixed point, rounded.
SEMISEG_PIXEL int grey(int r, int g, int b) { return (19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16; }

// PIL's blend: `factor` 0 gives `base`, 1 gives `value`, and beyond 1 it extrapolates; clamped, then truncated.
SEMISEG_PIXEL int blend(int base, int value, float factor) {
#ifdef __CUDA_ARCH__  // never as one operation, which would round otherwise
  const float mixed = __fadd_rn(static_cast<float>(base), __fmul_rn(factor, static_cast<float>(value - base)));
#else
  const float mixed = static_cast<float>(base) + factor * static_cast<float>(value - base);
#endif
  const float low = mixed < 0.0F ? 0.0F : mixed;
  return static_cast<int>(low > 255.0F ? 255.0F : low);
}

SEMISEG_PIXEL void change_saturation(int& r, int& g, int& b, float factor) {
  const int base = grey(r, g, b);
  r = blend(base, r, factor);
  g = blend(base, g, factor);
  b = blend(base, b, factor);
}

// max - clamp(min(k, 4 - k), 0, 1) * chroma, in units of one = chroma * kHueOne, with k = (n + hue) mod 6: a channel of HSV.
SEMISEG_PIXEL int channel_of_hue(int n, int hue, int one, int high) {
  int k = n * one + hue;  // 0 .. 16 chroma
  k -= k >= 6 * one ? 6 * one : 0;
  k -= k >= 6 * one ? 6 * one : 0;
  const int rest = 4 * one - k;
  const int ramp = k < rest ? k : rest;
  const int below_one = ramp < one ? ramp : one;
  const int drop = below_one > 0 ? below_one : 0;
  return high - ((drop + kHueOne / 2) >> 16);
}

// Turns the hue of HSV. It is kept as 6 * chroma * turns in 16-bit fixed point, which needs no division.
SEMISEG_PIXEL void turn_hue(int& r, int& g, int& b, int shift) {
  const int rg = r > g ? r : g, least_rg = r < g ? r : g;
  const int high = rg > b ? rg : b;
  const int chroma = high - (least_rg < b ? least_rg : b);
  const int of_green = 2 * chroma + b - r, of_blue = 4 * chroma + r - g;
  const int of_others = high == g ? of_green : of_blue;
  const int sector = high == r ? g - b : of_others;  // -chroma .. 5 chroma
  const int hue = sector * kHueOne + chroma * shift;
  const int one = chroma * kHueOne;
  r = channel_of_hue(5, hue, one, high);
  g = channel_of_hue(3, hue, one, high);
  b = channel_of_hue(1, hue, one, high);
}

// Any change but of the contrast, which has become a blend with the image's mean by then.
SEMISEG_PIXEL void change_pixel(int& r, int& g, int& b, const ColourChange& change) {
  switch (change.kind) {
    case ColourChange::kSaturation:
      return change_saturation(r, g, b, change.factor);
    case ColourChange::kHue:
      return turn_hue(r, g, b, change.shift);
    case ColourChange::kGrey:
      r = g = b = grey(r, g, b);
      return;
    default:
      r = blend(change.base, r, change.factor);
      g = blend(change.base, g, change.factor);
      b = blend(change.base, b, change.factor);
  }
}

// The mean of `sum` over `pixels`, rounded.
SEMISEG_PIXEL int mean_grey(int64_t sum, int64_t pixels) { return static_cast<int>((2 * sum + pixels) / (2 * pixels)); }

}  // namespace semiseg
