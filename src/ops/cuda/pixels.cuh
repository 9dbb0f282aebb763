// Pasting where a mask holds, and the k-th smallest of many values, on a GPU. Kernels alone, without LibTorch, so that tests can run
// them on the CPU too (tests/cuda_on_cpu.h).
#pragma once

#include <cstdint>

#include "ops/cuda/words.cuh"

namespace semiseg::ops::cuda {

// --- pasting ---

// A tensor as planes of B * pixels: channels-last images are one plane of wide pixels, contiguous ones a plane for each channel.
struct PastedPair {
  const void *source, *target;
  void* out;
  int planes, pixel_bytes;
};
constexpr int kMostPairs = 8, kPasteThreads = 256;
struct Paste {
  const bool* mask;
  int64_t B, pixels;  // of an image
  PastedPair pairs[kMostPairs];
};

template <class Word>
__device__ void copy_words(const char* from, char* to, int bytes) {
  for (int i = 0; i < bytes / static_cast<int>(sizeof(Word)); ++i)
    reinterpret_cast<Word*>(to)[i] = reinterpret_cast<const Word*>(from)[i];
}

// Of each pixel only what is taken is read. Grid: (kPasteThreads of all pixels, pairs).
__global__ SEMISEG_KERNEL void __launch_bounds__(kPasteThreads) paste_kernel(Paste paste) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kPasteThreads + threadIdx.x;
  if (at >= paste.B * paste.pixels) return;
  const PastedPair& pair = paste.pairs[blockIdx.y];
  const int64_t b = at / paste.pixels, pixel = at % paste.pixels;
  const auto* from = static_cast<const char*>(paste.mask[at] ? pair.source : pair.target);
  auto* to = static_cast<char*>(pair.out);
  for (int plane = 0; plane < pair.planes; ++plane) {
    const int64_t first = ((b * pair.planes + plane) * paste.pixels + pixel) * pair.pixel_bytes;
    if (pair.pixel_bytes % 8 == 0)
      copy_words<uint64_t>(from + first, to + first, pair.pixel_bytes);
    else if (pair.pixel_bytes % 4 == 0)
      copy_words<uint32_t>(from + first, to + first, pair.pixel_bytes);
    else
      copy_words<uint8_t>(from + first, to + first, pair.pixel_bytes);
  }
}

// --- the k-th smallest ---

// Non-negative floats are in the order of their bits. The bits are found from above, in kPasses passes: of the values that begin with
// what is found, counts by their next kDigitBits; the digit in which the k-th lies; its rank among those of that digit.
constexpr int kPasses = 3, kDigitBits = 11, kDigits = 1 << kDigitBits;  // 33 bits: a float's and one more
constexpr int kCountThreads = 256, kPickThreads = 1024;

struct Rank {
  unsigned found;           // the upper digits
  unsigned long long rank;  // from 1, among the values that begin with them
};

__device__ inline uint64_t bits_of(float value) {
#ifdef __CUDA_ARCH__
  return static_cast<uint64_t>(__float_as_uint(value));
#else
  return __builtin_bit_cast(uint32_t, value);
#endif
}

// Counts in shared memory by block, then in counts[kDigits]. Grid: any number of blocks.
__global__ SEMISEG_KERNEL void __launch_bounds__(kCountThreads)
    count_digits_kernel(const float* values, int64_t count, int pass, const Rank* rank,
                                                   unsigned long long* counts) {
  __shared__ unsigned of_block[kDigits];
  for (int digit = static_cast<int>(threadIdx.x); digit < kDigits; digit += kCountThreads) of_block[digit] = 0;
  __syncthreads();
  const int shift = (kPasses - 1 - pass) * kDigitBits;
  const uint64_t found = pass == 0 ? 0 : rank->found;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kCountThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kCountThreads) {
    const uint64_t digits = bits_of(values[i]) >> shift;
    if (digits >> kDigitBits == found) atomicAdd(&of_block[digits % kDigits], 1u);
  }
  __syncthreads();
  for (int digit = static_cast<int>(threadIdx.x); digit < kDigits; digit += kCountThreads)
    if (of_block[digit] > 0) atomicAdd(&counts[digit], static_cast<unsigned long long>(of_block[digit]));
}

// The digit, and counts that are 0 again. In the last pass the value is known. One block of kPickThreads.
__global__ SEMISEG_KERNEL void __launch_bounds__(kPickThreads)
    pick_digit_kernel(unsigned long long* counts, int64_t k, int pass, Rank* rank, float* value) {
  constexpr int kOwn = kDigits / kPickThreads;
  __shared__ unsigned long long up_to[kPickThreads];  // the counts of a thread's digits and of those before
  const int thread = static_cast<int>(threadIdx.x);
  const unsigned long long wanted = pass == 0 ? static_cast<unsigned long long>(k) : rank->rank;
  const uint64_t found = pass == 0 ? 0 : rank->found;
  unsigned long long own[kOwn], sum = 0;
  SEMISEG_UNROLL
  for (int n = 0; n < kOwn; ++n) {
    own[n] = counts[thread * kOwn + n];
    counts[thread * kOwn + n] = 0;
    sum += own[n];
  }
  up_to[thread] = sum;
  for (int distance = 1; distance < kPickThreads; distance *= 2) {
    __syncthreads();
    const unsigned long long before = thread >= distance ? up_to[thread - distance] : 0;
    __syncthreads();
    up_to[thread] += before;
  }
  unsigned long long before = up_to[thread] - sum;
  if (wanted <= before || wanted > before + sum) return;  // one thread is left
  int n = 0;
  while (wanted > before + own[n]) before += own[n++];
  const uint64_t digits = found << kDigitBits | static_cast<uint64_t>(thread * kOwn + n);
  rank->found = static_cast<unsigned>(digits);
  rank->rank = wanted - before;
  if (pass < kPasses - 1) return;
#ifdef __CUDA_ARCH__
  *value = __uint_as_float(static_cast<unsigned>(digits));
#else
  *value = __builtin_bit_cast(float, static_cast<uint32_t>(digits));
#endif
}

}  // namespace semiseg::ops::cuda
