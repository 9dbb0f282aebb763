// Counter-based random numbers: every draw of a run is a pure function of (seed, purpose, indices), so that neither the order
// of threads nor a stop and resume can change it. LibTorch's global generator is never drawn from.
//
// Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace semiseg {

// Ten rounds of Philox on one counter. Known answers are in tests/unit/random_test.cpp.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// FNV-1a, to turn a name into part of a key.
uint64_t hash_name(std::string_view name);

// What a stream of draws is for: two purposes never share numbers.
enum class Purpose : uint32_t {
  kInit = 1,
  kDropout = 2,
  kOrder = 3,  // order of a list in one pass
  kSplit = 4,  // labelled fractions
  kWeakView = 5,
  kStrongView = 6,
  kCutMix = 7,
  kScene = 8,  // synthetic data
  kRareClass = 9,
  kEnsemble = 10,  // past models that vote
  kContrast = 11,  // U2PL's anchors and negatives
};

// A stream of draws, keyed by the seed, addressed by (purpose, a, b).
class Random {
 public:
  Random(uint64_t seed, Purpose purpose, uint64_t a = 0, uint32_t b = 0);

  uint32_t next();   // uniform over all 32-bit values
  double uniform();  // [0, 1), 53 bits
  double uniform(double low, double high);
  int64_t below(int64_t n);  // uniform over 0..n-1, without modulo bias. REQUIRES: n > 0
  bool chance(double probability) { return uniform() < probability; }
  double normal();  // mean 0, variance 1 (Box-Muller)

  // A uniformly drawn permutation of 0..n-1 (Fisher-Yates).
  std::vector<int64_t> permutation(int64_t n);

 private:
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 4> block_{};
  int used_ = 4;
};

}  // namespace semiseg
