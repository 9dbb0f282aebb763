// The fused operations on a GPU: kernels alone, without LibTorch, so that tests can run them on the CPU too
// (tests/cuda_on_cpu.h).
//
// A cell is the square between four neighbouring low-resolution points; every output pixel lies in one. Logits are read at the
// cell's corners and interpolated in registers, so that nothing of full resolution and K classes exists. All sums are made in a
// fixed order: results are the same in every run.
#pragma once

#include <cstdint>

#include "ops/cuda/axis.cuh"
#include "ops/cuda/words.cuh"

namespace semiseg::ops::cuda {

constexpr int kIgnoredLabel = 255;

// Contiguous logits [B, K, h, w].
template <class T>
struct Logits {
  const T* data;
  int K;
  Axis y, x;

  __device__ float at(int b, int k, int i, int j) const {
    return static_cast<float>(data[((static_cast<int64_t>(b) * K + k) * y.points + i) * x.points + j]);
  }
  __device__ int64_t pixel(int b, int row, int column) const {
    return (static_cast<int64_t>(b) * y.pixels + row) * x.pixels + column;
  }
};

// --- cross-entropy and its gradient ---

template <class T>
struct CrossEntropyArguments {
  Logits<T> logits;
  const int64_t* label_BHW;
  const float* weight_K;          // null: ones
  const float* pixel_weight_BHW;  // null: ones, or the mask
  const bool* mask_BHW;           // null: ones
  float label_smoothing, focal_gamma;
  float* gradient_BKhw;  // of the sum of all losses; not read where none is wanted
  float* sums_N2;        // of each block: loss, weight
};

// The lanes that share a cell are neighbours within a warp.
template <int kLanes>
__device__ unsigned lanes_of_cell() {
  const unsigned first = threadIdx.x % 32 / kLanes * kLanes;
  return (kLanes == 32 ? 0xffffffffu : (1u << kLanes) - 1) << first;
}
template <int kLanes>
__device__ float sum_over_lanes(float value) {
  for (int distance = kLanes / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(lanes_of_cell<kLanes>(), value, distance);
  return value;
}
template <int kLanes>
__device__ float max_over_lanes(float value) {
  for (int distance = kLanes / 2; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(lanes_of_cell<kLanes>(), value, distance));
  return value;
}

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// Without the care for numbers below 2^-126 that the libraries' functions take.
__device__ inline float fast_exp2(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}
__device__ inline float fast_log2(float x) {
#ifdef __CUDA_ARCH__
  return __log2f(x);
#else
  return log2f(x);
#endif
}
__device__ inline float fast_quotient(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fdividef(a, b);
#else
  return a / b;
#endif
}

enum class Form { kPlain, kSmooth, kFocal };  // kSmooth: with label smoothing; kFocal: a focal loss

// The pixels of one row in one cell. They are worked on by kLanes threads, of which lane l holds the classes l, l + kLanes, ...:
// kClasses of them.
//
// What a pixel costs is its exponentials, so that little else is done for each: logits are kept by base 2 and below a bound that holds
// for the row, what the label takes away from loss and gradient is added up over neighbours of one label, and a pixel's label is
// fetched while the one before is worked on.
template <int kLanes, int kClasses, bool kGradient, Form kForm>
struct CellRow {
  static constexpr bool kSmooth = kForm == Form::kSmooth, kFocal = kForm == Form::kFocal;

  int lane;
  // Logits to base 2 along the row; -infinity and 0 where there is no such class.
  float left[kClasses] = {}, slope[kClasses] = {};
  float left_gradient[kClasses] = {}, right_gradient[kClasses] = {};
  float of_cell = 0, of_lane = 0;  // the loss, to base 2 but for a focal one: what all lanes know, what one knows
  float weight = 0;

  // Pixels begin_x .. end_x - 1 of row y.
  template <class T>
  __device__ void walk(const CrossEntropyArguments<T>& a, int b, int y, int begin_x, int end_x) {
    const Logits<T>& logits = a.logits;
    const int K = logits.K;
    const float smooth = kSmooth ? a.label_smoothing / static_cast<float>(K) : 0.0f;
    const auto class_weight = [&](int n) {
      const int k = lane + n * kLanes;
      return k >= K ? 0.0f : a.weight_K ? a.weight_K[k] : 1.0f;
    };

    float bound = -INFINITY;
    SEMISEG_UNROLL
    for (int n = 0; n < kClasses; ++n) bound = fmaxf(bound, fmaxf(left[n], left[n] + slope[n]));
    bound = max_over_lanes<kLanes>(bound);
    float all_weights = 0, smooth_left = 0, smooth_slope = 0;  // sums over the classes: of weights, and of these times logits
    SEMISEG_UNROLL
    for (int n = 0; n < kClasses; ++n) {
      left[n] -= bound;
      if (kSmooth && lane + n * kLanes < K) {
        all_weights += class_weight(n);
        smooth_left += class_weight(n) * left[n];
        smooth_slope += class_weight(n) * slope[n];
      }
    }
    if (kSmooth) {
      all_weights = sum_over_lanes<kLanes>(all_weights);
      smooth_left = sum_over_lanes<kLanes>(smooth_left);
      smooth_slope = sum_over_lanes<kLanes>(smooth_slope);
    }

    // Of the neighbours of one label that were passed last, and of all: sums of what goes to the left and to the right.
    int label_before = -1;
    float weight_of_label = 1, label_left = 0, label_right = 0, all_left = 0, all_right = 0;
    const auto settle_label = [&] {
      if (label_before < 0) return;
      SEMISEG_UNROLL
      for (int n = 0; n < kClasses; ++n)
        if (lane + n * kLanes == label_before) {
          if (!kFocal) of_lane -= label_left * left[n] + label_right * (left[n] + slope[n]);
          left_gradient[n] -= label_left;
          right_gradient[n] -= label_right;
        }
      label_left = label_right = 0;
    };
    int next_label = 0;
    float next_v = 0;
    const auto fetch = [&](int x) {
      next_v = 0;
      if (x >= end_x) return;
      const int64_t pixel = logits.pixel(b, y, x);
      const int64_t label = a.label_BHW[pixel];
      next_label = static_cast<int>(label);
      next_v = a.pixel_weight_BHW ? a.pixel_weight_BHW[pixel] : 1.0f;
      if (a.mask_BHW) next_v = a.mask_BHW[pixel] ? next_v : 0.0f;
      if (label == kIgnoredLabel) next_v = 0;
      CUDA_KERNEL_ASSERT(label == kIgnoredLabel || (label >= 0 && label < K && "a label is neither a class nor ignored"));
    };
    fetch(begin_x);
    for (int x = begin_x; x < end_x; ++x) {
      const int label = next_label;
      const float v = next_v;
      fetch(x + 1);
      if (v == 0) continue;  // all lanes of the cell alike
      if (label != label_before) {
        settle_label();
        label_before = label;
        weight_of_label = a.weight_K ? a.weight_K[label] : 1.0f;
      }

      const float right = logits.x.fraction(x);
      float exponential[kClasses], sum = 0, below = 0;
      SEMISEG_UNROLL
      for (int n = 0; n < kClasses; ++n) {
        exponential[n] = fast_exp2(left[n] + right * slope[n]);
        sum += exponential[n];
      }
      sum = sum_over_lanes<kLanes>(sum);
      if (!(sum > 0x1p-100f)) {
        // All logits here are far below the row's bound: the pixel's own largest one is the bound.
        float largest = -INFINITY;
        SEMISEG_UNROLL
        for (int n = 0; n < kClasses; ++n) largest = fmaxf(largest, left[n] + right * slope[n]);
        below = max_over_lanes<kLanes>(largest);
        sum = 0;
        SEMISEG_UNROLL
        for (int n = 0; n < kClasses; ++n) {
          exponential[n] = fast_exp2(left[n] + right * slope[n] - below);
          sum += exponential[n];
        }
        sum = sum_over_lanes<kLanes>(sum);
      }
      const float log_sum = fast_log2(sum) + below;

      // d loss / d z_k = of_all p_k - of_one [k is the label] - v smooth w_k
      float of_all, of_one;
      if (kFocal) {
        float of_label = 0;
        SEMISEG_UNROLL
        for (int n = 0; n < kClasses; ++n)
          if (lane + n * kLanes == label) of_label = left[n] + right * slope[n];
        const float nll = kLn2 * (log_sum - sum_over_lanes<kLanes>(of_label));
        const float probability = expf(-nll), doubt = fmaxf(-expm1f(-nll), 1e-6f);
        const float power = powf(doubt, a.focal_gamma);
        of_one = power + (-expm1f(-nll) > 1e-6f ? a.focal_gamma * power / doubt * probability * nll : 0.0f);
        of_all = of_one = of_one * v * weight_of_label;
        of_cell += power * nll * v * weight_of_label;
      } else {
        of_all = of_one = (kSmooth ? 1 - a.label_smoothing : 1.0f) * weight_of_label * v;
        of_cell += of_one * log_sum;
        if (kSmooth) {
          of_cell += v * smooth * (all_weights * log_sum - (smooth_left + right * smooth_slope));
          of_all += v * smooth * all_weights;
          all_left += v * (1 - right);
          all_right += v * right;
        }
      }
      label_left += of_one * (1 - right);
      label_right += of_one * right;
      weight += v * weight_of_label;

      if (kGradient) {
        const float to_right = fast_quotient(of_all, sum) * right, to_left = fast_quotient(of_all, sum) * (1 - right);
        SEMISEG_UNROLL
        for (int n = 0; n < kClasses; ++n) {
          left_gradient[n] += to_left * exponential[n];
          right_gradient[n] += to_right * exponential[n];
        }
      }
    }
    settle_label();
    if (kGradient && kSmooth) {
      SEMISEG_UNROLL
      for (int n = 0; n < kClasses; ++n) {
        left_gradient[n] -= smooth * class_weight(n) * all_left;
        right_gradient[n] -= smooth * class_weight(n) * all_right;
      }
    }
  }

  // What walk() has added to the loss, as this lane's share of it.
  __device__ float loss() const { return (kFocal ? 1.0f : kLn2) * (lane == 0 ? of_cell + of_lane : of_lane); }
};

// The sums over a block of kThreads threads, for sums_N2.
template <int kThreads>
__device__ void write_sums(float loss, float weight, float* sums_N2) {
  __shared__ float loss_sum[kThreads], weight_sum[kThreads];
  loss_sum[threadIdx.x] = loss;
  weight_sum[threadIdx.x] = weight;
  for (int left = kThreads; left > 1;) {
    const int half = (left + 1) / 2;
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < left - half) {
      loss_sum[threadIdx.x] += loss_sum[threadIdx.x + half];
      weight_sum[threadIdx.x] += weight_sum[threadIdx.x + half];
    }
    left = half;
  }
  if (threadIdx.x == 0) {
    const int64_t block = (static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    sums_N2[2 * block] = loss_sum[0];
    sums_N2[2 * block + 1] = weight_sum[0];
  }
}

// For few classes: a thread holds all of them. A warp takes a row of pixels in the cells between its lanes' points, first_j - 1 + lane:
// what is right of a point is its neighbour's, and a point's gradient along the row is of its own cell and its neighbour's. So 30 of
// 32 lanes have points to write. A block takes the rows of `point_rows` rows of points, kRowWarps at a time, which meet in shared
// memory; of its threads each adds up some points and classes down the rows, in their order. For gradients it begins a cell
// earlier, whose losses another block counts. Grid: (columns of kRowPoints, rows of point_rows, B).
constexpr int kRowWarps = 4, kRowThreads = 32 * kRowWarps, kRowPoints = 30;
constexpr int kRowBlocks = 3;  // on a multiprocessor at once: then a thread's registers hold all it needs of 20 classes

template <class T, int kClasses, bool kGradient, Form kForm>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks) cross_entropy_rows_kernel(CrossEntropyArguments<T> a, int point_rows) {
  __shared__ float along[kGradient ? kRowWarps : 1][kClasses][32];  // gradients of the points along the rows of pixels
  constexpr int kSums = (kClasses * 32 + kRowThreads - 1) / kRowThreads;  // of a thread

  const Logits<T>& logits = a.logits;
  const int K = logits.K, b = static_cast<int>(blockIdx.z), points_y = logits.y.points, points_x = logits.x.points;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int first_i = static_cast<int>(blockIdx.y) * point_rows, last_i = first_i + point_rows;  // its rows of points
  const int first_j = static_cast<int>(blockIdx.x) * kRowPoints;
  const int j = first_j - 1 + lane;
  const bool has_cell = lane < 31 && j >= 0 && j < logits.x.cells();
  const int point_j = j < 0 ? 0 : (j < points_x ? j : points_x - 1);
  const int begin_x = has_cell ? logits.x.first_pixel(j) : 0, end_x = has_cell ? logits.x.first_pixel(j + 1) : 0;
  const T* column = logits.data + static_cast<int64_t>(b) * K * points_y * points_x + point_j;
  const int64_t plane = static_cast<int64_t>(points_y) * points_x;

  int current = kGradient && first_i > 0 ? first_i - 1 : first_i;  // the row of points that `above` belongs to
  float above[kSums] = {}, below[kSums] = {};                      // sums of it and of the next one
  const auto pass_row = [&] {
    SEMISEG_UNROLL
    for (int s = 0; s < kSums; ++s) {
      const int at = static_cast<int>(threadIdx.x) + s * kRowThreads, k = at / 32, of_lane = at % 32;
      const int to_j = first_j - 1 + of_lane;
      if (current >= first_i && current < last_i && current < points_y && k < K && of_lane >= 1 && of_lane <= kRowPoints &&
          to_j < points_x)
        a.gradient_BKhw[(static_cast<int64_t>(b) * K + k) * plane + static_cast<int64_t>(current) * points_x + to_j] = above[s];
      above[s] = below[s];
      below[s] = 0;
    }
    ++current;
  };

  float loss = 0, weight = 0;
  const int begin_y = logits.y.first_pixel(current), end_y = logits.y.first_pixel(last_i);
  for (int first_y = begin_y; first_y < end_y; first_y += kRowWarps) {
    const int y = first_y + warp;
    if (y < end_y) {  // a warp as a whole
      const int i = logits.y.cell(y);
      const float down = logits.y.fraction(y);
      const T *upper = column + static_cast<int64_t>(i) * points_x,
              *lower = column + static_cast<int64_t>(logits.y.next(i)) * points_x;
      CellRow<1, kClasses, kGradient, kForm> row{};
      SEMISEG_UNROLL
      for (int k = 0; k < kClasses; ++k) {
        row.left[k] = -INFINITY;
        row.slope[k] = 0;
        if (k >= K) continue;  // all threads alike
        const float top = static_cast<float>(upper[k * plane]), bottom = static_cast<float>(lower[k * plane]);
        row.left[k] = kLog2E * (top + down * (bottom - top));
        row.slope[k] = __shfl_down_sync(0xffffffffu, row.left[k], 1) - row.left[k];
      }
      if (has_cell) row.walk(a, b, y, begin_x, end_x);
      if (lane >= 1 && i >= first_i) loss += row.loss(), weight += row.weight;
      if (kGradient) {
        SEMISEG_UNROLL
        for (int k = 0; k < kClasses; ++k)
          along[warp][k][lane] = row.left_gradient[k] + __shfl_up_sync(0xffffffffu, row.right_gradient[k], 1);
      }
    }
    if (kGradient) {
      __syncthreads();
      for (int r = 0; r < kRowWarps && first_y + r < end_y; ++r) {
        while (current < logits.y.cell(first_y + r)) pass_row();
        const float down = logits.y.fraction(first_y + r);
        SEMISEG_UNROLL
        for (int s = 0; s < kSums; ++s) {
          const int at = static_cast<int>(threadIdx.x) + s * kRowThreads;
          if (at >= kClasses * 32) break;
          const float gradient = along[r][at / 32][at % 32];
          above[s] += (1 - down) * gradient;
          below[s] += down * gradient;
        }
      }
      __syncthreads();
    }
  }
  if (kGradient)
    while (current < last_i && current < points_y) pass_row();
  write_sums<kRowThreads>(loss, weight, a.sums_N2);
}

// For more classes: kLanes threads a cell. A block works on kCellsY x kCellsX cells. Gradients of a point come from the four cells
// around it, so the block computes a row and a column of cells more than it has points to write, whose losses another block counts.
// Grid: (columns, rows, B) of blocks.
template <class T, int kLanes, int kClasses, int kCellsY, int kCellsX, bool kGradient, Form kForm>
__global__ void __launch_bounds__(kLanes* kCellsY* kCellsX, 512 / (kLanes * kCellsY * kCellsX))
    cross_entropy_kernel(CrossEntropyArguments<T> a) {
  constexpr int kCells = kCellsY * kCellsX, kThreads = kCells * kLanes, kHalo = kGradient ? 1 : 0;
  __shared__ float corner[kGradient ? kClasses : 1][4][kGradient ? kThreads : 1];  // gradients, of each thread

  const Logits<T>& logits = a.logits;
  const int K = logits.K, b = static_cast<int>(blockIdx.z);
  const int lane = static_cast<int>(threadIdx.x) % kLanes, cell = static_cast<int>(threadIdx.x) / kLanes;
  const int cy = cell / kCellsX, cx = cell % kCellsX;
  const int first_i = static_cast<int>(blockIdx.y) * (kCellsY - kHalo),
            first_j = static_cast<int>(blockIdx.x) * (kCellsX - kHalo);
  const int i = first_i - kHalo + cy, j = first_j - kHalo + cx;
  const bool exists = i >= 0 && i < logits.y.cells() && j >= 0 && j < logits.x.cells();
  const bool counts = cy >= kHalo && cx >= kHalo;

  const auto own = [&](int n, int c) -> float& { return corner[n][c][threadIdx.x]; };  // top left, top right, bottom left and right
  if (kGradient) {
    SEMISEG_UNROLL
    for (int n = 0; n < kClasses; ++n) own(n, 0) = own(n, 1) = own(n, 2) = own(n, 3) = 0;
  }
  float loss = 0, weight = 0;
  if (exists) {
    const int i1 = logits.y.next(i), j1 = logits.x.next(j);
    const int begin_x = logits.x.first_pixel(j), end_x = logits.x.first_pixel(j + 1);
    const int end_y = logits.y.first_pixel(i + 1);
    for (int y = logits.y.first_pixel(i); y < end_y; ++y) {
      const float down = logits.y.fraction(y);
      CellRow<kLanes, kClasses, kGradient, kForm> row{lane};
      SEMISEG_UNROLL
      for (int n = 0; n < kClasses; ++n) {
        const int k = lane + n * kLanes;
        row.left[n] = -INFINITY;
        row.slope[n] = 0;
        if (k >= K) continue;
        const float tl = logits.at(b, k, i, j), tr = logits.at(b, k, i, j1);
        const float bl = logits.at(b, k, i1, j), br = logits.at(b, k, i1, j1);
        row.left[n] = kLog2E * (tl + down * (bl - tl));
        row.slope[n] = kLog2E * (tr + down * (br - tr)) - row.left[n];
      }
      row.walk(a, b, y, begin_x, end_x);
      loss += row.loss();
      weight += row.weight;
      if (kGradient) {
        SEMISEG_UNROLL
        for (int n = 0; n < kClasses; ++n) {
          own(n, 0) += (1 - down) * row.left_gradient[n];
          own(n, 1) += (1 - down) * row.right_gradient[n];
          own(n, 2) += down * row.left_gradient[n];
          own(n, 3) += down * row.right_gradient[n];
        }
      }
    }
  }

  if (kGradient) {
    // A point's gradient is the sum over the (up to four) cells around it.
    __syncthreads();
    constexpr int kPoints = (kCellsY - 1) * (kCellsX - 1);
    for (int t = static_cast<int>(threadIdx.x); t < kPoints * K; t += kThreads) {
      const int k = t / kPoints, py = t % kPoints / (kCellsX - 1), px = t % (kCellsX - 1);
      const int to_i = first_i + py, to_j = first_j + px;
      if (to_i >= logits.y.points || to_j >= logits.x.points) continue;
      // Cells above and below the point, left and right of it; those beyond the border hold zeros. Where there is one point along an
      // axis, its only cell gives it all as the upper or left one: every fraction is 0.
      const int below = py + 1, above = py, at_right = px + 1, at_left = px;
      const auto of = [&](int c, int row, int column) {
        return corner[k / kLanes][c][(row * kCellsX + column) * kLanes + k % kLanes];
      };
      a.gradient_BKhw[((static_cast<int64_t>(b) * K + k) * logits.y.points + to_i) * logits.x.points + to_j] =
          of(0, below, at_right) + of(1, below, at_left) + of(2, above, at_right) + of(3, above, at_left);
    }
  }
  write_sums<kThreads>(counts ? loss : 0.0f, counts && lane == 0 ? weight : 0.0f, a.sums_N2);
}

// --- what is read off the upsampled logits of each pixel ---

// Up to kRun pixels of one row that lie in one cell, with the class of the highest logit (the first of equal ones) of each.
template <class T>
struct Run {
  static constexpr int kRun = 4;
  const Logits<T>& logits;
  int b, y, i, j, x, count;
  float down, right[kRun], largest[kRun], sum[kRun];
  int best[kRun];

  __device__ void line(int k, float* left, float* slope) const {
    const int i1 = logits.y.next(i), j1 = logits.x.next(j);
    const float tl = logits.at(b, k, i, j), tr = logits.at(b, k, i, j1);
    const float bl = logits.at(b, k, i1, j), br = logits.at(b, k, i1, j1);
    *left = tl + down * (bl - tl);
    *slope = tr + down * (br - tr) - *left;
  }
  // Calls take(r) for the pixels of the run.
  template <class Take>
  __device__ void for_each(const Take& take) const {
    SEMISEG_UNROLL
    for (int r = 0; r < kRun; ++r)
      if (r < count) take(r);
  }
  __device__ void find_best() {
    SEMISEG_UNROLL
    for (int r = 0; r < kRun; ++r) largest[r] = -INFINITY, best[r] = 0;
    for (int k = 0; k < logits.K; ++k) {
      float left, slope;
      line(k, &left, &slope);
      SEMISEG_UNROLL
      for (int r = 0; r < kRun; ++r) {
        const float z = left + right[r] * slope;
        if (z > largest[r]) largest[r] = z, best[r] = k;
      }
    }
  }
  __device__ void sum_exponentials() {
    SEMISEG_UNROLL
    for (int r = 0; r < kRun; ++r) sum[r] = 0;
    for (int k = 0; k < logits.K; ++k) {
      float left, slope;
      line(k, &left, &slope);
      SEMISEG_UNROLL
      for (int r = 0; r < kRun; ++r) sum[r] += expf(left + right[r] * slope - largest[r]);
    }
  }
};

// Calls take(run) for the runs of this thread's cell in its row of pixels. Threads: x over cells, y over rows; grid z over B.
template <class T, class Take>
__device__ void for_each_run(const Logits<T>& logits, const Take& take) {
  const int j = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x),
            y = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  if (j >= logits.x.cells() || y >= logits.y.pixels) return;
  const int end = logits.x.first_pixel(j + 1);
  Run<T> run{logits, static_cast<int>(blockIdx.z), y, logits.y.cell(y), j, 0, 0, logits.y.fraction(y), {}, {}, {}, {}};
  for (run.x = logits.x.first_pixel(j); run.x < end; run.x += Run<T>::kRun) {
    run.count = end - run.x < Run<T>::kRun ? end - run.x : Run<T>::kRun;
    SEMISEG_UNROLL
    for (int r = 0; r < Run<T>::kRun; ++r) run.right[r] = logits.x.fraction(run.x + (r < run.count ? r : 0));
    take(run);
  }
}

// class_BHW of the highest logit and, where confidence_BHW is not null, its softmax probability.
template <class T>
__global__ void predict_kernel(Logits<T> logits, int64_t* class_BHW, float* confidence_BHW) {
  for_each_run(logits, [&](Run<T>& run) {
    run.find_best();
    if (confidence_BHW) run.sum_exponentials();
    const int64_t pixel = logits.pixel(run.b, run.y, run.x);
    run.for_each([&](int r) {
      class_BHW[pixel + r] = run.best[r];
      if (confidence_BHW) confidence_BHW[pixel + r] = 1 / run.sum[r];
    });
  });
}

// Softmax probability of each pixel's label; 1 where it is ignored.
template <class T>
__global__ void label_probability_kernel(Logits<T> logits, const int64_t* label_BHW, float* probability_BHW) {
  for_each_run(logits, [&](Run<T>& run) {
    run.find_best();
    run.sum_exponentials();
    const int64_t pixel = logits.pixel(run.b, run.y, run.x);
    run.for_each([&](int r) {
      const int64_t label = label_BHW[pixel + r];
      if (label == kIgnoredLabel) {
        probability_BHW[pixel + r] = 1;
        return;
      }
      CUDA_KERNEL_ASSERT(label >= 0 && label < logits.K && "a label is neither a class nor ignored");
      float left, slope;
      run.line(static_cast<int>(label), &left, &slope);
      probability_BHW[pixel + r] = expf(left + run.right[r] * slope - run.largest[r]) / run.sum[r];
    });
  });
}

// sum grows by the softmax probabilities; its strides are given for [B, K, H, W].
template <class T>
__global__ void add_softmax_kernel(Logits<T> logits, float* sum, int64_t by_image, int64_t by_class, int64_t by_row,
                                   int64_t by_column) {
  for_each_run(logits, [&](Run<T>& run) {
    run.find_best();
    run.sum_exponentials();
    float* to = sum + run.b * by_image + run.y * by_row + run.x * by_column;
    for (int k = 0; k < logits.K; ++k) {
      float left, slope;
      run.line(k, &left, &slope);
      run.for_each(
          [&](int r) { to[k * by_class + r * by_column] += expf(left + run.right[r] * slope - run.largest[r]) / run.sum[r]; });
    }
  });
}

// Counts that a block makes in shared memory, where `cells` of them fit, and adds to those of all blocks at its end; else at once. All
// threads of the block call begin() and end().
struct BlockCounts {
  static constexpr int kShared = 64 * 64;
  unsigned* of_block;  // [kShared], in shared memory
  unsigned long long* of_all;
  int cells;

  __device__ bool shared() const { return cells <= kShared; }
  template <class Take>
  __device__ void for_own(const Take& take) const {
    const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x),
              threads = static_cast<int>(blockDim.x * blockDim.y);
    for (int c = thread; c < cells; c += threads) take(c);
  }
  __device__ void begin() const {
    if (!shared()) return;
    for_own([&](int c) { of_block[c] = 0; });
    __syncthreads();
  }
  __device__ void add(int64_t cell, unsigned count) const {
    if (shared())
      atomicAdd(&of_block[cell], count);
    else
      atomicAdd(&of_all[cell], static_cast<unsigned long long>(count));
  }
  __device__ void end() const {
    if (!shared()) return;
    __syncthreads();
    for_own([&](int c) {
      if (of_block[c] > 0) atomicAdd(&of_all[c], static_cast<unsigned long long>(of_block[c]));
    });
  }
};

// counts_K[k] grows by the pixels of class k where the mask is set. Classes outside [0, K) are left out.
__global__ SEMISEG_KERNEL void count_kernel(const int64_t* classes, const bool* mask, int64_t pixels, int K,
                                            unsigned long long* counts_K) {
  __shared__ unsigned of_block[BlockCounts::kShared];
  const BlockCounts counts{of_block, counts_K, K};
  counts.begin();
  // Neighbours are mostly of one class: a thread adds up a run before it counts it.
  constexpr int kRun = 8;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t begin = thread * kRun; begin < pixels; begin += static_cast<int64_t>(gridDim.x) * blockDim.x * kRun) {
    int64_t of = -1;
    unsigned run = 0;
    const auto count = [&] {
      if (run > 0 && of >= 0 && of < K) counts.add(of, run);
    };
    for (int64_t i = begin; i < begin + kRun && i < pixels; ++i) {
      if (!mask[i]) continue;
      if (classes[i] != of) count(), of = classes[i], run = 0;
      ++run;
    }
    count();
  }
  counts.end();
}

// counts_KK[label][class of the highest logit] grows by the pixels whose label is in [0, K). class_BHW may be null.
template <class T, class Label>
__global__ void confusion_kernel(Logits<T> logits, const Label* label_BHW, unsigned long long* counts_KK, int64_t* class_BHW) {
  __shared__ unsigned of_block[BlockCounts::kShared];
  const int K = logits.K;
  const BlockCounts counts{of_block, counts_KK, K * K};
  counts.begin();
  for_each_run(logits, [&](Run<T>& run) {
    run.find_best();
    const int64_t pixel = logits.pixel(run.b, run.y, run.x);
    run.for_each([&](int r) {
      if (class_BHW) class_BHW[pixel + r] = run.best[r];
      const auto label = static_cast<int64_t>(label_BHW[pixel + r]);
      if (label >= 0 && label < K) counts.add(label * K + run.best[r], 1);
    });
  });
  counts.end();
}

}  // namespace semiseg::ops::cuda
