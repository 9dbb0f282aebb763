// Feature maps brought to another size, with a sum and a gradient, on a GPU. Kernels alone, without LibTorch, so that tests can run
// them on the CPU too (tests/cuda_on_cpu.h).
//
// Maps are channels-last, [B, h, w, C]; a thread holds one pack of neighbouring channels of one pixel. Gradients gather: no atomics,
// the same result in every run.
#pragma once

#include <cstdint>

#include "ops/cuda/axis.cuh"
#include "ops/cuda/pack.cuh"
#include "ops/cuda/words.cuh"

namespace semiseg::ops::cuda {

// Between which points a pixel lies: (1 - fraction) of `low`, fraction of `high`.
struct Between {
  int low, high;
  float fraction;
  __device__ float share(int point) const {
    return (low == point ? 1.0f - fraction : 0.0f) + (high == point ? fraction : 0.0f);
  }
};

// Bilinear along one axis. begin, end: the pixels that take from a point.
struct Linear {
  Axis axis;
  static constexpr bool kOnePoint = false;
  __device__ Between at(int pixel) const {
    const int cell = axis.cell(pixel);
    return {cell, axis.next(cell), axis.position(pixel) - static_cast<float>(cell)};
  }
  __device__ int begin(int point) const { return point > 0 ? axis.first_pixel(point - 1) : 0; }
  __device__ int end(int point) const { return axis.first_pixel(point + 1); }
};
inline Linear linear_of(int64_t points, int64_t pixels) { return {axis_of(points, pixels, 0, /*align_corners=*/true)}; }

// The nearest point, as ATen's upsample_nearest2d finds it.
struct Nearest {
  int points, pixels;
  float step;  // points per pixel
  static constexpr bool kOnePoint = true;
  __device__ int point(int pixel) const {
    const int at = static_cast<int>(static_cast<float>(pixel) * step);
    return at < points ? at : points - 1;
  }
  __device__ Between at(int pixel) const { return {point(pixel), point(pixel), 0.0f}; }
  __device__ int begin(int of_point) const {
    int pixel = static_cast<int>(static_cast<float>(of_point) / step);
    pixel = pixel < pixels ? pixel : pixels;
    while (pixel > 0 && point(pixel - 1) >= of_point) --pixel;
    while (pixel < pixels && point(pixel) < of_point) ++pixel;
    return pixel;
  }
  __device__ int end(int of_point) const { return of_point + 1 < points ? begin(of_point + 1) : pixels; }
};
inline Nearest nearest_of(int64_t points, int64_t pixels) {
  return {static_cast<int>(points), static_cast<int>(pixels), static_cast<float>(points) / static_cast<float>(pixels)};
}

template <class Along>
struct Enlargement {
  Along y, x;
  int h, w, H, W, C;
};

constexpr int kEnlargeThreads = 256;

// y_BHWC = x_BhwC enlarged + sum_BHWC, which may be null. Grid: (kEnlargeThreads of a row's packs, B * H).
template <class T, class Along>
__global__ void enlarge_kernel(const T* __restrict__ x_BhwC, const T* __restrict__ sum_BHWC, Enlargement<Along> of,
                               T* __restrict__ y_BHWC) {
  const int packs = of.C / kPack<T>, at = static_cast<int>(blockIdx.x * kEnlargeThreads + threadIdx.x);
  if (at >= of.W * packs) return;
  const int column = at / packs, c = at % packs * kPack<T>;
  const int b = static_cast<int>(blockIdx.y) / of.H, row = static_cast<int>(blockIdx.y) % of.H;
  const Between y = of.y.at(row), x = of.x.at(column);
  const auto read = [&](int i, int j, float* values) {
    load(x_BhwC + ((static_cast<int64_t>(b) * of.h + i) * of.w + j) * of.C + c, values);
  };
  float values[kPack<T>];
  read(y.low, x.low, values);
  if (!Along::kOnePoint) {
    float right[kPack<T>], below[kPack<T>], across[kPack<T>];
    read(y.low, x.high, right);
    read(y.high, x.low, below);
    read(y.high, x.high, across);
    SEMISEG_UNROLL
    for (int i = 0; i < kPack<T>; ++i) {
      const float above_i = (1 - x.fraction) * values[i] + x.fraction * right[i];
      const float below_i = (1 - x.fraction) * below[i] + x.fraction * across[i];
      values[i] = (1 - y.fraction) * above_i + y.fraction * below_i;
    }
  }
  const int64_t to = (static_cast<int64_t>(blockIdx.y) * of.W + column) * of.C + c;
  if (sum_BHWC) {
    float others[kPack<T>];
    load(sum_BHWC + to, others);
    SEMISEG_UNROLL
    for (int i = 0; i < kPack<T>; ++i) values[i] += others[i];
  }
  store(values, y_BHWC + to);
}

// The gradient of x from that of y. Grid: (kEnlargeThreads of a row's packs, B * h).
template <class T, class Along>
__global__ void enlarge_gradient_kernel(const T* __restrict__ above_BHWC, Enlargement<Along> of, T* __restrict__ of_x_BhwC) {
  const int packs = of.C / kPack<T>, at = static_cast<int>(blockIdx.x * kEnlargeThreads + threadIdx.x);
  if (at >= of.w * packs) return;
  const int j = at / packs, c = at % packs * kPack<T>;
  const int b = static_cast<int>(blockIdx.y) / of.h, i = static_cast<int>(blockIdx.y) % of.h;
  const int end_y = of.y.end(i), begin_x = of.x.begin(j), end_x = of.x.end(j);
  float sum[kPack<T>] = {};
  for (int row = of.y.begin(i); row < end_y; ++row) {
    const float share_y = of.y.at(row).share(i);
    for (int column = begin_x; column < end_x; ++column) {
      const float share = share_y * of.x.at(column).share(j);
      float values[kPack<T>];
      load(above_BHWC + ((static_cast<int64_t>(b) * of.H + row) * of.W + column) * of.C + c, values);
      SEMISEG_UNROLL
      for (int k = 0; k < kPack<T>; ++k) sum[k] += share * values[k];
    }
  }
  store(sum, of_x_BhwC + (static_cast<int64_t>(blockIdx.y) * of.w + j) * of.C + c);
}

}  // namespace semiseg::ops::cuda
