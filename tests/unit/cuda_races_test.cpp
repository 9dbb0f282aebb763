// That tests of CUDA kernels on the CPU fail where a kernel is wrong.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cuda_on_cpu.h"

namespace {

using cuda_on_cpu::launch;

// What a launch fails with; empty where it does not.
template <class Kernel>
std::string failure(unsigned blocks, unsigned threads, const Kernel& kernel) {
#ifndef SEMISEG_WATCH_RACES
  return "not watched";
#endif
  try {
    launch({blocks}, {threads}, kernel);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

#define REQUIRE_WATCH()                      \
  if (failure(1, 1, [] {}) == "not watched") \
  GTEST_SKIP() << "this build does not watch memory (another compiler, or sanitizers)"

int of_thread(unsigned offset) { return static_cast<int>((threadIdx.x + offset) % blockDim.x); }

// Each thread takes its neighbour's value.
void pass_on(bool barrier, int* to) {
  __shared__ int values[64];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (barrier) __syncthreads();
  to[blockIdx.x * blockDim.x + threadIdx.x] = values[of_thread(1)];
}

TEST(CudaRaces, AMissingBarrierIsFoundInEitherDirection) {
  REQUIRE_WATCH();
  std::vector<int> to(128);
  EXPECT_EQ(failure(2, 64, [&] { pass_on(true, to.data()); }), "");
  EXPECT_EQ(to[127], 0);
  EXPECT_EQ(to[64], 1);
  EXPECT_NE(failure(2, 64, [&] { pass_on(false, to.data()); }).find("shared memory"), std::string::npos);
  // Written too early after it was read.
  EXPECT_NE(failure(1, 64,
                    [&] {
                      __shared__ int values[64];
                      values[threadIdx.x] = 1;
                      __syncthreads();
                      to[threadIdx.x] = values[of_thread(1)];
                      values[threadIdx.x] = 2;
                    })
                .find("a race for shared memory"),
            std::string::npos);
}

TEST(CudaRaces, AShuffleIsNoBarrier) {
  REQUIRE_WATCH();
  std::vector<float> to(32);
  EXPECT_NE(failure(1, 32,
                    [&] {
                      __shared__ float values[32];
                      values[threadIdx.x] = 1;
                      const float given = __shfl_xor_sync(0xffffffffu, values[threadIdx.x], 1);
                      to[threadIdx.x] = given + values[of_thread(1)];
                    })
                .find("a race for shared memory"),
            std::string::npos);
}

TEST(CudaRaces, BlocksRaceForGlobalMemoryButNotByAtomics) {
  REQUIRE_WATCH();
  unsigned sum = 0;
  std::vector<int> once(4);
  EXPECT_EQ(failure(3, 8, [&] { atomicAdd(&sum, 1u); }), "");
  EXPECT_EQ(sum, 24u);
  EXPECT_NE(failure(3, 1, [&] { ++sum; }).find("two blocks race for global memory"), std::string::npos);
  EXPECT_NE(failure(1, 8, [&] { sum += atomicAdd(&sum, 1u); }).find("a race for global memory"), std::string::npos);
  EXPECT_EQ(failure(4, 1, [&] { once[blockIdx.x] = 1; }), "");
  // Read by all, then written by the last one.
  EXPECT_NE(failure(4, 1,
                    [&] {
                      const int before = once[0];
                      if (blockIdx.x == 3) once[0] = before + 1;
                    })
                .find("two blocks race for global memory"),
            std::string::npos);
}

TEST(CudaRaces, UnwrittenSharedMemoryIsFoundAlsoWhereAnotherBlockHasWrittenIt) {
  REQUIRE_WATCH();
  std::vector<int> to(2);
  EXPECT_NE(failure(2, 1,
                    [&] {
                      __shared__ int value;
                      if (blockIdx.x == 0) value = 1;
                      to[blockIdx.x] = value;
                    })
                .find("a read of unwritten shared memory"),
            std::string::npos);
}

TEST(CudaRaces, AtomicsOrderNothingAndWriteNothingThatWasNotThere) {
  REQUIRE_WATCH();
  std::vector<unsigned> to(8);
  const auto count = [&](bool zeroed, bool barrier) {
    __shared__ unsigned sum;
    if (zeroed && threadIdx.x == 0) sum = 0;
    __syncthreads();
    atomicAdd(&sum, 1u);
    if (barrier) __syncthreads();
    if (threadIdx.x == 7) to[0] = sum;
  };
  EXPECT_EQ(failure(1, 8, [&] { count(true, true); }), "");
  EXPECT_EQ(to[0], 8u);
  EXPECT_NE(failure(1, 8, [&] { count(true, false); }).find("a race for shared memory"), std::string::npos);
  EXPECT_NE(failure(1, 8, [&] { count(false, true); }).find("a read of unwritten shared memory"), std::string::npos);
}

TEST(CudaRaces, ThreadsThatWaitForEachOtherForeverAreFound) {
  const auto half = [] {
    if (threadIdx.x < 16) __shfl_xor_sync(0xffffffffu, 1.0F, 1);
    if (threadIdx.x >= 16) __syncthreads();
  };
  EXPECT_THROW(launch({1}, {32}, half), std::runtime_error);
}

}  // namespace
