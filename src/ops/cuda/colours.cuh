// Strong views on a GPU: colours, blur and normalisation of uint8 images, to the bit as the host makes them
// (src/transform.cpp). Kernels alone, without LibTorch, so that tests can run them on the CPU too (tests/cuda_on_cpu.h).
//
// Images are [B, H, W, 3] of bytes, each with a plan of its own. Three kernels in a row:
//   grey_sums_kernel       the sums that contrast needs, for plans that change it
//   change_colours_kernel  the changes, pixel by pixel
//   blur_kernel            the blur, or none, and what the network wants to see: float32, normalised
#pragma once

#include <cstdint>

#include "colours.h"
#include "ops/cuda/words.cuh"

namespace semiseg::ops::cuda {

constexpr int kColourThreads = 256;

struct Rgb {
  int r, g, b;
};

__device__ inline Rgb pixel_at(const uint8_t* image, int64_t pixel) {
  return {image[3 * pixel], image[3 * pixel + 1], image[3 * pixel + 2]};
}

// sums_B[b] grows by the grey of image b after the changes that come before its change of contrast, where there is one. Whole
// numbers: the order of the sum does not matter. Grid: (any, B).
__global__ SEMISEG_KERNEL void grey_sums_kernel(const uint8_t* image_BP3, const ColourPlan* plan_B, int64_t pixels,
                                                unsigned long long* sums_B) {
  __shared__ unsigned of_threads[kColourThreads];
  const ColourPlan& plan = plan_B[blockIdx.y];
  int before = 0;
  while (before < plan.count && plan.changes[before].kind != ColourChange::kContrast) ++before;
  if (before == plan.count) return;  // the whole block

  const uint8_t* image = image_BP3 + static_cast<int64_t>(blockIdx.y) * pixels * 3;
  unsigned sum = 0;  // 2^24 pixels a thread fit in it
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * kColourThreads + threadIdx.x; p < pixels;
       p += static_cast<int64_t>(gridDim.x) * kColourThreads) {
    Rgb at = pixel_at(image, p);
    for (int i = 0; i < before; ++i) change_pixel(at.r, at.g, at.b, plan.changes[i]);
    sum += static_cast<unsigned>(grey(at.r, at.g, at.b));
  }
  of_threads[threadIdx.x] = sum;
  for (unsigned half = kColourThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) of_threads[threadIdx.x] += of_threads[threadIdx.x + half];
  }
  if (threadIdx.x == 0) atomicAdd(&sums_B[blockIdx.y], static_cast<unsigned long long>(of_threads[0]));
}

// Grid: (any, B).
__global__ SEMISEG_KERNEL void change_colours_kernel(const uint8_t* image_BP3, const ColourPlan* plan_B, int64_t pixels,
                                                     const unsigned long long* sums_B, uint8_t* changed_BP3) {
  const ColourPlan& plan = plan_B[blockIdx.y];
  const int mean = mean_grey(static_cast<int64_t>(sums_B[blockIdx.y]), pixels);
  const int64_t first = static_cast<int64_t>(blockIdx.y) * pixels * 3;
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * kColourThreads + threadIdx.x; p < pixels;
       p += static_cast<int64_t>(gridDim.x) * kColourThreads) {
    Rgb at = pixel_at(image_BP3 + first, p);
    for (int i = 0; i < plan.count; ++i) {
      ColourChange change = plan.changes[i];
      if (change.kind == ColourChange::kContrast) change.base = mean;
      change_pixel(at.r, at.g, at.b, change);
    }
    uint8_t* to = changed_BP3 + first + 3 * p;
    to[0] = static_cast<uint8_t>(at.r);
    to[1] = static_cast<uint8_t>(at.g);
    to[2] = static_cast<uint8_t>(at.b);
  }
}

struct Normalisation {
  float scale[3], shift[3];  // of a byte's value
};

// A block makes kBlurColumns x kBlurRows pixels of one image, a thread each. Grid: (columns, rows, B).
constexpr int kBlurColumns = 32, kBlurRows = 8;

__global__ SEMISEG_KERNEL void blur_kernel(const uint8_t* image_BHW3, const ColourPlan* plan_B, int H, int W,
                                           Normalisation normalisation, float* view_BHW3) {
  constexpr int kMost = ColourPlan::kMostRadius, kTileRows = kBlurRows + 2 * kMost;
  constexpr int kThreads = kBlurColumns * kBlurRows;
  __shared__ int blurred[3][kTileRows][kBlurColumns];  // along rows alone; 8 bits behind the point
  const ColourPlan& plan = plan_B[blockIdx.z];
  const int radius = plan.radius, rows = kBlurRows + 2 * radius;
  const int left = static_cast<int>(blockIdx.x) * kBlurColumns, top = static_cast<int>(blockIdx.y) * kBlurRows;
  const uint8_t* image = image_BHW3 + static_cast<int64_t>(blockIdx.z) * H * W * 3;
  const auto within = [](int at, int size) { return at < 0 ? 0 : (at < size ? at : size - 1); };  // the edge is repeated

  for (int i = static_cast<int>(threadIdx.y) * kBlurColumns + static_cast<int>(threadIdx.x); i < rows * kBlurColumns;
       i += kThreads) {
    const int row = i / kBlurColumns, column = i % kBlurColumns;
    const int64_t line = static_cast<int64_t>(within(top + row - radius, H)) * W;
    int sums[3] = {};
    for (int tap = -radius; tap <= radius; ++tap) {
      const Rgb at = pixel_at(image, line + within(left + column + tap, W));
      const int weight = plan.taps[tap < 0 ? -tap : tap];
      sums[0] += weight * at.r;
      sums[1] += weight * at.g;
      sums[2] += weight * at.b;
    }
    for (int c = 0; c < 3; ++c) blurred[c][row][column] = sums[c];
  }
  __syncthreads();

  const int x = left + static_cast<int>(threadIdx.x), y = top + static_cast<int>(threadIdx.y);
  if (x >= W || y >= H) return;
  float* to = view_BHW3 + ((static_cast<int64_t>(blockIdx.z) * H + y) * W + x) * 3;
  for (int c = 0; c < 3; ++c) {
    int sum = 1 << 15;  // rounds
    for (int tap = -radius; tap <= radius; ++tap)
      sum += plan.taps[tap < 0 ? -tap : tap] * blurred[c][static_cast<int>(threadIdx.y) + radius + tap][threadIdx.x];
    to[c] = static_cast<float>(sum >> 16) * normalisation.scale[c] + normalisation.shift[c];
  }
}

}  // namespace semiseg::ops::cuda
