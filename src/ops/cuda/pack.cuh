// Neighbouring values that a thread reads and writes at once: 16 bytes, which must lie at a multiple of 16.
#pragma once

#include "ops/cuda/words.cuh"

namespace semiseg::ops::cuda {

template <class T>
constexpr int kPack = 16 / sizeof(T);

template <class T>
struct alignas(16) Pack {
  T at[kPack<T>];
};

template <class T>
__device__ void load(const T* from, float* to) {
  const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(from);
  SEMISEG_UNROLL
  for (int i = 0; i < kPack<T>; ++i) to[i] = static_cast<float>(pack.at[i]);
}
template <class T>
__device__ void store(const float* from, T* to) {
  Pack<T> pack;
  SEMISEG_UNROLL
  for (int i = 0; i < kPack<T>; ++i) pack.at[i] = static_cast<T>(from[i]);
  *reinterpret_cast<Pack<T>*>(to) = pack;
}

}  // namespace semiseg::ops::cuda
