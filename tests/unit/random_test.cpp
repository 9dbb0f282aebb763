#include "semiseg/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace semiseg {
namespace {

using Words = std::array<uint32_t, 4>;

// Random123's kat_vectors for philox4x32 with 10 rounds.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(HashName, KnownAnswersOfFnv1a) {
  EXPECT_EQ(hash_name(""), 0xcbf29ce484222325U);
  EXPECT_EQ(hash_name("a"), 0xaf63dc4c8601ec8cU);
  EXPECT_EQ(hash_name("foobar"), 0x85944171f73967e8U);
}

TEST(Random, FollowsItsCounterLayout) {
  Random random(0x299f31d0a4093822, Purpose::kOrder, 0x0370734413198a2e, 0x85a308d3);
  for (uint32_t block = 0; block < 3; ++block) {
    for (const uint32_t word : philox4x32({(3U << 27) | block, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0})) {
      EXPECT_EQ(random.next(), word);
    }
  }
}

TEST(Random, EachPartOfTheAddressGivesAnotherStream) {
  std::set<uint32_t> firsts;
  firsts.insert(Random(1, Purpose::kInit).next());
  firsts.insert(Random(uint64_t{1} << 32, Purpose::kInit).next());
  firsts.insert(Random(1, Purpose::kDropout).next());
  firsts.insert(Random(1, Purpose::kInit, 1).next());
  firsts.insert(Random(1, Purpose::kInit, uint64_t{1} << 32).next());
  firsts.insert(Random(1, Purpose::kInit, 0, 1).next());
  EXPECT_EQ(firsts.size(), 6U);
}

TEST(Random, UniformFillsItsRangeEvenly) {
  constexpr int kDraws = 20000;
  Random random(7, Purpose::kScene);
  std::array<int, 10> bins{};
  for (int i = 0; i < kDraws; ++i) {
    const double value = random.uniform(-1.0, 4.0);
    ASSERT_GE(value, -1.0);
    ASSERT_LT(value, 4.0);
    ++bins[static_cast<size_t>((value + 1.0) * 2.0)];
  }
  for (const int count : bins) EXPECT_NEAR(count, kDraws / 10, 250);  // 6 standard deviations
}

TEST(Random, BelowIsEven) {
  constexpr int kDraws = 30000;
  Random random(7, Purpose::kScene);
  std::array<int, 3> bins{};
  for (int i = 0; i < kDraws; ++i) ++bins[static_cast<size_t>(random.below(3))];
  for (const int count : bins) EXPECT_NEAR(count, kDraws / 3, 500);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(random.below(1), 0);
  // Beyond 32 bits: the mean of uniform 0 .. 2^40 - 1.
  double sum = 0;
  for (int i = 0; i < kDraws; ++i) sum += static_cast<double>(random.below(int64_t{1} << 40));
  EXPECT_NEAR(sum / kDraws / 0x1p40, 0.5, 0.01);
}

TEST(Random, NormalHasItsMoments) {
  constexpr int kDraws = 40000;
  Random random(3, Purpose::kInit);
  double sum = 0, squares = 0, beyond_two = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double value = random.normal();
    sum += value;
    squares += value * value;
    beyond_two += std::abs(value) > 2.0;
  }
  EXPECT_NEAR(sum / kDraws, 0.0, 0.03);
  EXPECT_NEAR(squares / kDraws, 1.0, 0.05);
  EXPECT_NEAR(beyond_two / kDraws, 0.0455, 0.007);
}

TEST(Random, PermutationHoldsEachNumberOnce) {
  Random random(5, Purpose::kOrder);
  EXPECT_TRUE(random.permutation(0).empty());
  EXPECT_EQ(random.permutation(1), std::vector<int64_t>{0});
  std::vector<int64_t> order = random.permutation(100);
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
  std::sort(order.begin(), order.end());
  for (int64_t i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(Random, PermutationsAreEquallyLikely) {
  constexpr int kDraws = 12000;
  Random random(5, Purpose::kOrder);
  std::map<std::vector<int64_t>, int> counts;
  for (int i = 0; i < kDraws; ++i) ++counts[random.permutation(3)];
  EXPECT_EQ(counts.size(), 6U);
  for (const auto& [order, count] : counts) EXPECT_NEAR(count, kDraws / 6, 250);
}

}  // namespace
}  // namespace semiseg
