#include "semiseg/random.h"

#include <cmath>
#include <numbers>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace semiseg {

namespace {

// Counter of a stream: [purpose : block number, b, a low, a high]. The purpose takes the top 5 bits of the first word and the
// block number the 27 below, so that streams of different (purpose, a, b) share no counter; a stream ends after 2^29 draws.
constexpr int kBlockBits = 27;
constexpr uint32_t kBlockMask = (uint32_t{1} << kBlockBits) - 1;

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

uint64_t hash_name(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return hash;
}

Random::Random(uint64_t seed, Purpose purpose, uint64_t a, uint32_t b)
    : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
      counter_{static_cast<uint32_t>(purpose) << kBlockBits, b, static_cast<uint32_t>(a), static_cast<uint32_t>(a >> 32)} {}

uint32_t Random::next() {
  if (used_ == 4) {
    block_ = philox4x32(counter_, key_);
    used_ = 0;
    if ((++counter_[0] & kBlockMask) == 0) throw std::length_error("a stream of random numbers is used up");
  }
  return block_[static_cast<size_t>(used_++)];
}

double Random::uniform() {
  const uint64_t high = next() >> 5, low = next() >> 6;  // 27 + 26 bits
  return static_cast<double>((high << 26) | low) * 0x1p-53;
}

double Random::uniform(double low, double high) { return low + (high - low) * uniform(); }

int64_t Random::below(int64_t n) {
  const auto range = static_cast<uint64_t>(n);
  if (range <= UINT32_MAX) {  // Lemire, "Fast random integer generation in an interval", 2019
    const auto rejected_below = static_cast<uint32_t>((uint64_t{1} << 32) % range);
    uint64_t product = uint64_t{next()} * range;
    while (static_cast<uint32_t>(product) < rejected_below) product = uint64_t{next()} * range;
    return static_cast<int64_t>(product >> 32);
  }
  const uint64_t rejected_below = (0 - range) % range;  // 2^64 mod range
  uint64_t value = 0;
  do {
    value = (uint64_t{next()} << 32) | next();
  } while (value < rejected_below);
  return static_cast<int64_t>(value % range);
}

double Random::normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

std::vector<int64_t> Random::permutation(int64_t n) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (int64_t i = n - 1; i > 0; --i) std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(below(i + 1))]);
  return order;
}

}  // namespace semiseg
