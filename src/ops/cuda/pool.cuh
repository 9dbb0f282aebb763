// The largest of 3 x 3 at a stride of 2 with a padding of 1, and its gradient, on a GPU. Kernels alone, without LibTorch, so
// that tests can run them on the CPU too (tests/cuda_on_cpu.h).
//
// Maps are channels-last, [B, H, W, C]; a thread holds one pack of neighbouring channels of one pixel. Which of the nine was
// the largest is kept in a byte, an eighth of ATen's index. The gradient gathers: no atomics, the same result in every run.
#pragma once

#include <cstdint>

#include "ops/cuda/pack.cuh"
#include "ops/cuda/words.cuh"

namespace semiseg::ops::cuda {

struct PoolShape {
  int H, W, h, w, C;  // of the map, of the pooled one
};

constexpr int kPoolThreads = 256, kPoolSide = 3, kPoolStride = 2, kPoolPadding = 1;

// A pack's bytes, read and written at once.
template <class T>
struct alignas(kPack<T>) Places {
  uint8_t at[kPack<T>];
};

// place_BhwC may be null. Of equal values the first is taken, and one that is not a number goes before all, as in ATen's.
// Grid: (kPoolThreads of a row's packs, B * h).
template <class T>
__global__ void __launch_bounds__(kPoolThreads)
    max_pool_kernel(const T* __restrict__ x_BHWC, PoolShape shape, T* __restrict__ y_BhwC, uint8_t* __restrict__ place_BhwC) {
  const int packs = shape.C / kPack<T>, at = static_cast<int>(blockIdx.x * kPoolThreads + threadIdx.x);
  if (at >= shape.w * packs) return;
  const int j = at / packs, c = at % packs * kPack<T>;
  const int b = static_cast<int>(blockIdx.y) / shape.h, i = static_cast<int>(blockIdx.y) % shape.h;
  const int top = i * kPoolStride - kPoolPadding, left = j * kPoolStride - kPoolPadding;
  float largest[kPack<T>];
  Places<T> places;
  bool first = true;
  SEMISEG_UNROLL
  for (int place = 0; place < kPoolSide * kPoolSide; ++place) {
    const int row = top + place / kPoolSide, column = left + place % kPoolSide;
    if (row < 0 || row >= shape.H || column < 0 || column >= shape.W) continue;  // never all of them
    float values[kPack<T>];
    load(x_BHWC + ((static_cast<int64_t>(b) * shape.H + row) * shape.W + column) * shape.C + c, values);
    SEMISEG_UNROLL
    for (int k = 0; k < kPack<T>; ++k)
      if (first || values[k] > largest[k] || values[k] != values[k])
        largest[k] = values[k], places.at[k] = static_cast<uint8_t>(place);
    first = false;
  }
  const int64_t to = (static_cast<int64_t>(blockIdx.y) * shape.w + j) * shape.C + c;
  store(largest, y_BhwC + to);
  if (place_BhwC) *reinterpret_cast<Places<T>*>(place_BhwC + to) = places;
}

// The gradient of x from that of y: a pixel lies in up to two windows along each side. Grid: (kPoolThreads of a row's packs, B
// * H).
template <class T>
__global__ void __launch_bounds__(kPoolThreads)
    max_pool_gradient_kernel(const T* __restrict__ above_BhwC, const uint8_t* __restrict__ place_BhwC, PoolShape shape,
                             T* __restrict__ of_x_BHWC) {
  const int packs = shape.C / kPack<T>, at = static_cast<int>(blockIdx.x * kPoolThreads + threadIdx.x);
  if (at >= shape.W * packs) return;
  const int column = at / packs, c = at % packs * kPack<T>;
  const int b = static_cast<int>(blockIdx.y) / shape.H, row = static_cast<int>(blockIdx.y) % shape.H;
  float sum[kPack<T>] = {};
  SEMISEG_UNROLL
  for (int n = 0; n < 4; ++n) {
    const int i = row / kPoolStride + n / 2, j = column / kPoolStride + n % 2;
    const int in_window_y = row - (i * kPoolStride - kPoolPadding), in_window_x = column - (j * kPoolStride - kPoolPadding);
    if (i >= shape.h || j >= shape.w || in_window_y < 0 || in_window_x < 0) continue;
    const int64_t from = ((static_cast<int64_t>(b) * shape.h + i) * shape.w + j) * shape.C + c;
    const auto places = *reinterpret_cast<const Places<T>*>(place_BhwC + from);
    float values[kPack<T>];
    load(above_BhwC + from, values);
    SEMISEG_UNROLL
    for (int k = 0; k < kPack<T>; ++k) sum[k] += places.at[k] == in_window_y * kPoolSide + in_window_x ? values[k] : 0.0f;
  }
  store(sum, of_x_BHWC + (static_cast<int64_t>(blockIdx.y) * shape.W + column) * shape.C + c);
}

}  // namespace semiseg::ops::cuda
