// Included by kernels_avx2.cpp and kernels_avx512.cpp alone; see kernels.h. Defines kKernelTable for the instruction set that
// the including file is compiled for, with GCC's vector types: arithmetic on them is element by element.
#include <cstring>

#include "ops/kernels.h"

namespace semiseg::ops {
namespace {

#ifdef __AVX512F__
constexpr int64_t kLanes = 16;
#else
constexpr int64_t kLanes = 8;
#endif

typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t))));

inline Floats load(const float* from) {
  Floats value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}
inline Ints load(const int32_t* from) {
  Ints value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}
inline void store(float* to, Floats value) { std::memcpy(to, &value, sizeof(value)); }
inline void store(int32_t* to, Ints value) { std::memcpy(to, &value, sizeof(value)); }
inline void add_to(float* to, Floats value) { store(to, load(to) + value); }
inline Floats all(float value) { return Floats{} + value; }
inline Floats max(Floats a, Floats b) { return a > b ? a : b; }
inline Floats as_floats(Ints bits) {
  Floats value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline Ints as_ints(Floats value) {
  Ints bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// e^x to 2 units in the last place for x <= 88; below -87 it is e^-87. (Cephes' expf.)
inline Floats exp(Floats x) {
  x = x < -87.0f ? all(-87.0f) : x;
  // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the low bits of the sum.
  constexpr float kRound = 12582912.0f;
  const Floats rounded = x * 1.44269504088896341f + kRound;
  const Floats n = rounded - kRound;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return as_floats(as_ints(p) + (as_ints(rounded) << 23));
}

// ln x for normal x > 0. (Cephes' logf.)
inline Floats log(Floats x) {
  const Ints bits = as_ints(x);
  Ints exponent = (bits >> 23) - 126;
  Floats m = as_floats((bits & 0x007fffff) | 0x3f000000);  // [.5, 1)
  const Ints low = m < 0.707106781186547524f;              // -1 where true
  exponent += low;
  m = m - 1.0f + (low ? m : Floats{});
  const Floats e = __builtin_convertvector(exponent, Floats);
  const Floats m2 = m * m;
  Floats p = all(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  Floats y = p * m * m2 - e * 2.12194440e-4f - 0.5f * m2;
  y = m + y + e * 0.693359375f;
  return x != x ? x : y;
}

// The left and right edge of `kLanes` cells at one image row: z = left + fx * slope for each class.
struct Edges {
  Floats left[kMaxClasses], slope[kMaxClasses];

  void set(const Strip& strip, int64_t cell, float fy) {
    for (int64_t k = 0; k < strip.K; ++k) {
      const float* top = strip.top + k * strip.stride + cell;
      const float* bottom = strip.bottom + k * strip.stride + cell;
      const Floats top_left = load(top), top_right = load(top + 1);
      left[k] = top_left + fy * (load(bottom) - top_left);
      slope[k] = top_right + fy * (load(bottom + 1) - top_right) - left[k];
    }
  }
};

// Calls work(slot, fx) for every group of slots that holds a pixel of these cells; before() and after(row) around those of one
// row, whose edges are set.
template <class Before, class Work, class After>
inline __attribute__((always_inline)) void for_each_group(const Strip& strip, int64_t cell, Edges& edges, const Before& before,
                                                          const Work& work, const After& after) {
  const Columns& columns = strip.columns;
  for (int64_t row = 0; row < strip.rows; ++row) {
    edges.set(strip, cell, strip.row_fraction[row]);
    before();
    for (int64_t phase = 0; phase < columns.phases; ++phase) {
      const uint8_t* used = columns.used + (phase * columns.padded + cell) / 8;
      if (!used[0] && !used[kLanes / 8 - 1]) continue;
      const int64_t slot = phase * columns.padded + cell;
      work(row * columns.phases * columns.padded + slot, load(columns.fraction + slot));
    }
    after(row);
  }
}

// The same over all cells, where nothing is summed up along a row.
template <class Work>
inline __attribute__((always_inline)) void for_each_group(const Strip& strip, const Work& work) {
  Edges edges;
  for (int64_t cell = 0; cell < strip.columns.padded; cell += kLanes)
    for_each_group(
        strip, cell, edges, [] {}, [&](int64_t slot, Floats fx) { work(edges, slot, fx); }, [](int64_t) {});
}

// z_k of one group of pixels; returns their maximum.
inline Floats logits_of(const Edges& edges, int64_t K, Floats fx, Floats* z) {
  const auto logit = [&](int64_t k) __attribute__((always_inline)) { return z[k] = edges.left[k] + fx * edges.slope[k]; };
  Floats even = logit(0), odd = even;  // two, as one comparison would wait for the other
  for (int64_t k = 1; k + 1 < K; k += 2) {
    odd = max(logit(k), odd);
    even = max(logit(k + 1), even);
  }
  if (K % 2 == 0) odd = max(logit(K - 1), odd);
  return max(odd, even);
}

// z_k <- e^(z_k - highest); returns their sum.
inline Floats exponentials(Floats* z, int64_t K, Floats highest) {
  Floats even{}, odd{};  // two sums, as one addition would wait for the other
  for (int64_t k = 0; k + 1 < K; k += 2) {
    even += z[k] = exp(z[k] - highest);
    odd += z[k + 1] = exp(z[k + 1] - highest);
  }
  if (K % 2) even += z[K - 1] = exp(z[K - 1] - highest);
  return even + odd;
}

// values[index] of each lane; 0 where the index is negative.
inline Floats pick(const Floats* values, const int32_t* index) {
  Floats picked{};
  for (int64_t lane = 0; lane < kLanes; ++lane)
    if (index[lane] >= 0) picked[lane] = reinterpret_cast<const float*>(values + index[lane])[lane];
  return picked;
}

void cross_entropy(const Strip& strip, CrossEntropy& loss) {
  const int64_t K = strip.K;
  const bool gradient = loss.top_gradient != nullptr;
  const float smoothing = loss.smoothing;
  float class_weights = 0;
  for (int64_t k = 0; smoothing > 0 && k < K; ++k) class_weights += loss.class_weight[k];

  Edges edges;
  Floats z[kMaxClasses];
  // Sums over the pixels of a cell in one row of the gradient, and of fx times it.
  Floats sum[kMaxClasses], sum_fx[kMaxClasses];
  for (int64_t cell = 0; cell < strip.columns.padded; cell += kLanes) {
    Floats losses{};
    for_each_group(
        strip, cell, edges,
        [&] {
          for (int64_t k = 0; gradient && k < K; ++k) sum[k] = sum_fx[k] = Floats{};
        },
        [&](int64_t slot, Floats fx) {
          const int32_t* label = loss.label + slot;
          const Ints labels = load(label);
          int32_t any = 0;
          for (int64_t lane = 0; lane < kLanes; ++lane) any |= ~labels[lane];
          if (any >= 0) return;  // not one pixel is counted

          const Floats highest = logits_of(edges, K, fx, z);
          const Floats of_label = pick(z, label);
          Floats others{};  // sum_k weight_k z_k
          for (int64_t k = 0; smoothing > 0 && k < K; ++k) others += loss.class_weight[k] * z[k];
          const Floats total = exponentials(z, K, highest);
          const Floats log_sum = highest + log(total);
          const Ints counted = labels >= 0;
          const Floats weight = counted ? load(loss.weight + slot) : Floats{};
          const Floats nll = counted ? log_sum - of_label : Floats{};

          // The gradient is scale * softmax - at_label * one-hot - each * weight_k.
          Floats scale = weight, at_label = weight, each{};
          if (smoothing > 0) {
            each = (counted ? load(loss.pixel_weight + slot) : Floats{}) * (smoothing / static_cast<float>(K));
            at_label = weight * (1 - smoothing);
            scale = at_label + each * class_weights;
            losses += at_label * nll + (counted ? each * (class_weights * log_sum - others) : Floats{});
          } else if (loss.focal_gamma > 0) {
            // d/dCE of q^gamma CE with q = 1 - p, dq / dCE = p; q is kept off 0, where it has no derivative for gamma < 1.
            const Floats p = exp(-nll), q = 1.0f - p;
            const Floats kept = max(q, all(1e-6f));
            const Floats power = exp(loss.focal_gamma * log(kept));
            losses += weight * power * nll;
            const Floats slope = power + (q > 1e-6f ? loss.focal_gamma * nll * p * power / kept : Floats{});
            scale = at_label = weight * slope;
          } else {
            losses += weight * nll;
          }
          if (!gradient) return;
          scale = scale / total;
          for (int64_t k = 0; k < K; ++k) {
            const Ints here = labels == static_cast<int32_t>(k);
            Floats g = scale * z[k] - (here ? at_label : Floats{});
            if (smoothing > 0) g -= each * loss.class_weight[k];
            sum[k] += g;
            sum_fx[k] += fx * g;
          }
        },
        [&](int64_t row) {
          if (!gradient) return;
          const float fy = strip.row_fraction[row];
          for (int64_t k = 0; k < K; ++k) {
            const Floats left = sum[k] - sum_fx[k], right = sum_fx[k];
            const int64_t at = k * strip.columns.padded + cell, right_at = at + K * strip.columns.padded;
            add_to(loss.top_gradient + at, (1 - fy) * left);
            add_to(loss.top_gradient + right_at, (1 - fy) * right);
            add_to(loss.bottom_gradient + at, fy * left);
            add_to(loss.bottom_gradient + right_at, fy * right);
          }
        });
    for (int64_t lane = 0; lane < kLanes; ++lane) loss.loss += static_cast<double>(losses[lane]);
  }
}

void label_probability(const Strip& strip, const int32_t* label, float* probability) {
  Floats z[kMaxClasses];
  for_each_group(strip, [&](const Edges& edges, int64_t slot, Floats fx) {
    const Floats highest = logits_of(edges, strip.K, fx, z);
    const Floats total = exponentials(z, strip.K, highest);
    const Ints labels = load(label + slot);
    store(probability + slot, labels >= 0 ? pick(z, label + slot) / total : all(1.0f));
  });
}

void predict(const Strip& strip, int32_t* class_of, float* confidence) {
  Floats z[kMaxClasses];
  for_each_group(strip, [&](const Edges& edges, int64_t slot, Floats fx) {
    const Floats highest = logits_of(edges, strip.K, fx, z);
    Ints best{};  // the first of equal ones
    for (int64_t k = strip.K - 1; k > 0; --k) best = z[k] == highest ? Ints{} + static_cast<int32_t>(k) : best;
    store(class_of + slot, z[0] == highest ? Ints{} : best);
    if (confidence != nullptr) store(confidence + slot, 1.0f / exponentials(z, strip.K, highest));
  });
}

void softmax(const Strip& strip, float* probability) {
  const int64_t slots = strip.rows * strip.columns.phases * strip.columns.padded;
  Floats z[kMaxClasses];
  for_each_group(strip, [&](const Edges& edges, int64_t slot, Floats fx) {
    const Floats highest = logits_of(edges, strip.K, fx, z);
    const Floats scale = 1.0f / exponentials(z, strip.K, highest);
    for (int64_t k = 0; k < strip.K; ++k) store(probability + k * slots + slot, z[k] * scale);
  });
}

constexpr Kernels kKernelTable{cross_entropy, label_probability, predict, softmax};

}  // namespace
}  // namespace semiseg::ops
