// Group and batch normalisation of channels-last tensors with what follows, on a GPU: relu(scale x + shift + residual). Kernels alone,
// without LibTorch, so that tests can run them on the CPU too (tests/cuda_on_cpu.h).
//
// x is [B, P, C]: B images of P pixels. Mean and variance are those of an image's group of neighbouring channels. Batch
// normalisation is the case of one image that holds all pixels, and of one channel a group.
//
// A thread holds one pack of neighbouring channels, 16 bytes, and goes down the pixels. A block holds `tile` packs beside each
// other, in kNormThreads / tile pixels at once, and works on `chunk` pixels. Grid: (chunks, tiles, B). Sums are made in a fixed
// order: results are the same in every run.
#pragma once

#include <cstdint>

#include "ops/cuda/pack.cuh"
#include "ops/cuda/words.cuh"

namespace semiseg::ops::cuda {

constexpr int kNormThreads = 256;
constexpr int kMostPacks = 32;  // of a tile

struct NormShape {
  int64_t P;
  int C, tile, chunk, chunks;
};

// Where a thread works.
template <class T>
struct Place {
  __device__ explicit Place(const NormShape& shape)
      : pack(static_cast<int>(threadIdx.x) % shape.tile),
        lane(static_cast<int>(threadIdx.x) / shape.tile),
        lanes(kNormThreads / shape.tile),
        c((static_cast<int>(blockIdx.y) * shape.tile + pack) * kPack<T>),
        works(lane < lanes && c < shape.C),
        b(static_cast<int>(blockIdx.z)),
        begin(static_cast<int64_t>(blockIdx.x) * shape.chunk),
        end(begin + shape.chunk < shape.P ? begin + shape.chunk : shape.P),
        first(static_cast<int64_t>(b) * shape.P * shape.C + c) {}

  int pack, lane, lanes;
  int c;       // the first of its channels
  bool works;  // others only wait at barriers
  int b;
  int64_t begin, end;  // pixels of the block
  int64_t first;       // of the image's values in its channels
};

// Two sums for each channel of the block, over its pixels: sums_BN2C[b, chunk, 0 and 1, c]. `own`: the thread's.
template <class T>
__device__ void add_up(const NormShape& shape, const Place<T>& place, const float (&own)[2][kPack<T>], float* sums_BN2C) {
  __shared__ float all[2 * kPack<T>][kNormThreads];
  SEMISEG_UNROLL
  for (int i = 0; i < kPack<T>; ++i) {
    all[i][threadIdx.x] = own[0][i];
    all[kPack<T> + i][threadIdx.x] = own[1][i];
  }
  __syncthreads();
  float* to = sums_BN2C + (static_cast<int64_t>(place.b) * shape.chunks + blockIdx.x) * 2 * shape.C;
  const int sums = shape.tile * 2 * kPack<T>;
  for (int s = static_cast<int>(threadIdx.x); s < sums; s += kNormThreads) {
    const int value = s % (2 * kPack<T>), pack = s / (2 * kPack<T>);
    const int c = (static_cast<int>(blockIdx.y) * shape.tile + pack) * kPack<T> + value % kPack<T>;
    if (c >= shape.C) continue;
    float sum = 0;
    for (int lane = 0; lane < place.lanes; ++lane) sum += all[value][lane * shape.tile + pack];
    to[value / kPack<T> * shape.C + c] = sum;
  }
}

// Sums of x - first and of its square, with the image's first pixel as `first`: no digits are lost where the mean is far from 0.
template <class T>
__global__ void __launch_bounds__(kNormThreads) moments_kernel(const T* x, NormShape shape, float* sums_BN2C) {
  const Place<T> place(shape);
  float own[2][kPack<T>] = {};
  if (place.works) {
    const T* at = x + place.first;
    float first[kPack<T>];
    load(at, first);
    SEMISEG_UNROLL_4
    for (int64_t p = place.begin + place.lane; p < place.end; p += place.lanes) {
      float values[kPack<T>];
      load(at + p * shape.C, values);
      SEMISEG_UNROLL
      for (int i = 0; i < kPack<T>; ++i) {
        const float value = values[i] - first[i];
        own[0][i] += value;
        own[1][i] += value * value;
      }
    }
  }
  add_up(shape, place, own, sums_BN2C);
}

// --- from the sums of the chunks to what is done to each pixel ---

// Threads of a block: kChannels channels, a multiple of those of a group, and as many parts of the chunks as there is room for.
constexpr int kFinishThreads = 1024;
template <int kChannels>
constexpr int kFinishParts = kFinishThreads / kChannels;

// The two sums of channel c over the chunks, in shared memory of [parts][2][channels]; whole for part 0.
template <int kChannels>
__device__ void gather_sums(const NormShape& shape, const float* sums_BN2C, int b, int c, double (*all)[2][kChannels]) {
  const int channel = static_cast<int>(threadIdx.x), part = static_cast<int>(threadIdx.y);
  double first = 0, second = 0;
  if (c < shape.C)
    for (int chunk = part; chunk < shape.chunks; chunk += kFinishParts<kChannels>) {
      const float* from = sums_BN2C + (static_cast<int64_t>(b) * shape.chunks + chunk) * 2 * shape.C + c;
      first += from[0];
      second += from[shape.C];
    }
  all[part][0][channel] = first;
  all[part][1][channel] = second;
  __syncthreads();
  if (part > 0) return;
  for (int other = 1; other < kFinishParts<kChannels>; ++other) {
    first += all[other][0][channel];
    second += all[other][1][channel];
  }
  all[0][0][channel] = first;
  all[0][1][channel] = second;
}

struct NormParameters {
  const float *weight_C, *bias_C;
  float epsilon;
  int channels_of_group;
};

// Grid: (blocks of kChannels channels, B).
template <class T, int kChannels>
__global__ void __launch_bounds__(kFinishThreads) finish_moments_kernel(const T* x, NormShape shape, const float* sums_BN2C, NormParameters parameters,
                                      float* scale_BC, float* shift_BC, float* mean_BC, float* rstd_BC, float* running_mean_C,
                                      float* running_var_C, float momentum) {
  __shared__ double all[kFinishParts<kChannels>][2][kChannels];
  const int b = static_cast<int>(blockIdx.y), channel = static_cast<int>(threadIdx.x);
  const int c = static_cast<int>(blockIdx.x) * kChannels + channel;
  gather_sums<kChannels>(shape, sums_BN2C, b, c, all);
  const bool works = threadIdx.y == 0 && c < shape.C;
  if (works) {
    // Of the channel alone.
    const double P = static_cast<double>(shape.P), difference = all[0][0][channel] / P;
    const double variance = all[0][1][channel] / P - difference * difference;
    all[0][0][channel] = static_cast<double>(static_cast<float>(x[static_cast<int64_t>(b) * shape.P * shape.C + c])) + difference;
    all[0][1][channel] = variance > 0 || variance != variance ? variance : 0;
  }
  __syncthreads();
  if (!works) return;
  const int D = parameters.channels_of_group, first = channel / D * D;
  double mean = 0, variance = 0;
  for (int i = first; i < first + D; ++i) mean += all[0][0][i] / D;
  for (int i = first; i < first + D; ++i) {
    const double away = all[0][0][i] - mean;
    variance += (all[0][1][i] + away * away) / D;
  }
  const auto rstd = static_cast<float>(1 / sqrt(variance + static_cast<double>(parameters.epsilon)));
  const int64_t to = static_cast<int64_t>(b) * shape.C + c;
  mean_BC[to] = static_cast<float>(mean);
  rstd_BC[to] = rstd;
  const float scale = parameters.weight_C[c] * rstd;
  scale_BC[to] = scale;
  shift_BC[to] = parameters.bias_C[c] - static_cast<float>(mean) * scale;
  if (!running_mean_C) return;
  const double N = static_cast<double>(shape.P), unbiased = variance * N / (N - 1);
  running_mean_C[c] += momentum * (static_cast<float>(mean) - running_mean_C[c]);
  running_var_C[c] += momentum * (static_cast<float>(unbiased) - running_var_C[c]);
}

// Batch normalisation by its running statistics.
__global__ SEMISEG_KERNEL void affine_of_running_kernel(const float* running_mean_C, const float* running_var_C, NormParameters parameters, int C,
                                         float* scale_C, float* shift_C) {
  const int c = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (c >= C) return;
  const float scale = parameters.weight_C[c] / sqrtf(running_var_C[c] + parameters.epsilon);
  scale_C[c] = scale;
  shift_C[c] = parameters.bias_C[c] - running_mean_C[c] * scale;
}

// --- the pixels ---

template <class T, bool kReLU, bool kResidual>
__global__ void __launch_bounds__(kNormThreads)
    apply_norm_kernel(const T* __restrict__ x, const T* __restrict__ residual, NormShape shape, const float* scale_BC,
                      const float* shift_BC, T* __restrict__ y) {
  const Place<T> place(shape);
  if (!place.works) return;
  float scale[kPack<T>], shift[kPack<T>];
  SEMISEG_UNROLL
  for (int i = 0; i < kPack<T>; ++i) {
    scale[i] = scale_BC[static_cast<int64_t>(place.b) * shape.C + place.c + i];
    shift[i] = shift_BC[static_cast<int64_t>(place.b) * shape.C + place.c + i];
  }
  SEMISEG_UNROLL_4
  for (int64_t p = place.begin + place.lane; p < place.end; p += place.lanes) {
    const int64_t at = place.first + p * shape.C;
    float values[kPack<T>], others[kPack<T>];
    load(x + at, values);
    if (kResidual) load(residual + at, others);
    SEMISEG_UNROLL
    for (int i = 0; i < kPack<T>; ++i) {
      float value = values[i] * scale[i] + shift[i];
      if (kResidual) value += others[i];
      values[i] = kReLU && value < 0 ? 0.0f : value;  // not a number stays so
    }
    store(values, y + at);
  }
}

// g, the gradient behind the ReLU, is `above` where the output is positive: y where there is a residual, else what x makes. Sums of g
// and of g (x - mean); with a residual, g is written too, which is the residual's gradient.
template <class T, bool kReLU, bool kResidual>
__global__ void __launch_bounds__(kNormThreads)
    gradient_sums_kernel(const T* __restrict__ x, const T* __restrict__ above, const T* __restrict__ y, NormShape shape, const float* scale_BC, const float* shift_BC,
                         const float* mean_BC, T* __restrict__ g, float* sums_BN2C) {
  const Place<T> place(shape);
  float own[2][kPack<T>] = {};
  if (place.works) {
    float scale[kPack<T>], shift[kPack<T>], mean[kPack<T>];
    SEMISEG_UNROLL
    for (int i = 0; i < kPack<T>; ++i) {
      const int64_t of = static_cast<int64_t>(place.b) * shape.C + place.c + i;
      scale[i] = scale_BC[of], shift[i] = shift_BC[of], mean[i] = mean_BC[of];
    }
    SEMISEG_UNROLL_4
    for (int64_t p = place.begin + place.lane; p < place.end; p += place.lanes) {
      const int64_t at = place.first + p * shape.C;
      float values[kPack<T>], gradients[kPack<T>], outputs[kPack<T>];
      load(x + at, values);
      load(above + at, gradients);
      if (kReLU && kResidual) load(y + at, outputs);
      SEMISEG_UNROLL
      for (int i = 0; i < kPack<T>; ++i) {
        if (kReLU && !((kResidual ? outputs[i] : values[i] * scale[i] + shift[i]) > 0)) gradients[i] = 0;
        own[0][i] += gradients[i];
        own[1][i] += gradients[i] * (values[i] - mean[i]);
      }
      if (kReLU && kResidual) store(gradients, g + at);
    }
  }
  add_up(shape, place, own, sums_BN2C);
}

// With S and S' the sums over a group of weight g and of weight g (x - mean), and N its values:
//   dx = scale g + q x + r,   q = -rstd^3 S' / N,   r = -rstd S / N - q mean
// and of each image dweight = rstd sum g (x - mean), dbias = sum g.
template <int kChannels>
__global__ void __launch_bounds__(kFinishThreads) finish_gradient_kernel(NormShape shape, const float* sums_BN2C, NormParameters parameters,
                                              const float* mean_BC, const float* rstd_BC, float* q_BC, float* r_BC,
                                              float* of_weight_BC, float* of_bias_BC) {
  __shared__ double all[kFinishParts<kChannels>][2][kChannels];
  const int b = static_cast<int>(blockIdx.y), channel = static_cast<int>(threadIdx.x);
  const int c = static_cast<int>(blockIdx.x) * kChannels + channel;
  gather_sums<kChannels>(shape, sums_BN2C, b, c, all);
  const bool works = threadIdx.y == 0 && c < shape.C;
  const int64_t at = static_cast<int64_t>(b) * shape.C + c;
  if (works) {
    of_bias_BC[at] = static_cast<float>(all[0][0][channel]);
    of_weight_BC[at] = static_cast<float>(all[0][1][channel]) * rstd_BC[at];
    all[0][0][channel] *= static_cast<double>(parameters.weight_C[c]);
    all[0][1][channel] *= static_cast<double>(parameters.weight_C[c]);
  }
  __syncthreads();
  if (!works) return;
  const int D = parameters.channels_of_group, first = channel / D * D;
  double sum = 0, product = 0;
  for (int i = first; i < first + D; ++i) {
    sum += all[0][0][i];
    product += all[0][1][i];
  }
  const double N = static_cast<double>(shape.P) * D, rstd = static_cast<double>(rstd_BC[at]);
  const double q = -rstd * rstd * rstd * product / N;
  q_BC[at] = static_cast<float>(q);
  r_BC[at] = static_cast<float>(-rstd * sum / N - q * static_cast<double>(mean_BC[at]));
}

// `g` as gradient_sums_kernel has written it, or, without a residual, `above`.
template <class T, bool kReLU, bool kResidual>
__global__ void __launch_bounds__(kNormThreads)
    norm_gradient_kernel(const T* __restrict__ x, const T* __restrict__ g, NormShape shape, const float* scale_BC, const float* shift_BC, const float* q_BC,
                         const float* r_BC, T* __restrict__ of_x) {
  const Place<T> place(shape);
  if (!place.works) return;
  float scale[kPack<T>], shift[kPack<T>], q[kPack<T>], r[kPack<T>];
  SEMISEG_UNROLL
  for (int i = 0; i < kPack<T>; ++i) {
    const int64_t of = static_cast<int64_t>(place.b) * shape.C + place.c + i;
    scale[i] = scale_BC[of], shift[i] = shift_BC[of], q[i] = q_BC[of], r[i] = r_BC[of];
  }
  SEMISEG_UNROLL_4
  for (int64_t p = place.begin + place.lane; p < place.end; p += place.lanes) {
    const int64_t at = place.first + p * shape.C;
    float values[kPack<T>], gradients[kPack<T>];
    load(x + at, values);
    load(g + at, gradients);
    SEMISEG_UNROLL
    for (int i = 0; i < kPack<T>; ++i) {
      if (kReLU && !kResidual && !(values[i] * scale[i] + shift[i] > 0)) gradients[i] = 0;
      values[i] = scale[i] * gradients[i] + (q[i] * values[i] + r[i]);
    }
    store(values, of_x + at);
  }
}

}  // namespace semiseg::ops::cuda
