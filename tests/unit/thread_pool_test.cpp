#include "thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

namespace semiseg {
namespace {

TEST(ThreadPool, OneThreadKeepsTheOrder) {
  std::vector<int> order;
  std::vector<std::future<int>> results;
  ThreadPool pool(1);
  for (int i = 0; i < 100; ++i)
    results.push_back(pool.submit([&order, i] {
      order.push_back(i);
      return i * i;
    }));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(results[static_cast<size_t>(i)].get(), i * i);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(ThreadPool, AnExceptionReachesWhoWaits) {
  ThreadPool pool(2);
  auto failing = pool.submit([]() -> int { throw std::runtime_error("broken"); });
  auto fine = pool.submit([] { return 1; });
  EXPECT_THROW(failing.get(), std::runtime_error);
  EXPECT_EQ(fine.get(), 1);
}

TEST(ThreadPool, TasksThatHaveNotBegunAreDroppedAtTheEnd) {
  std::promise<void> begun, go_on;
  std::atomic<int> ran = 0;
  std::future<void> first, second;
  {
    ThreadPool pool(1);
    first = pool.submit([&] {
      begun.set_value();
      go_on.get_future().wait();
      ++ran;
    });
    second = pool.submit([&] { ++ran; });
    begun.get_future().wait();
    std::jthread later([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      go_on.set_value();
    });
  }
  EXPECT_NO_THROW(first.get());
  EXPECT_LE(ran, 2);
  if (ran == 1) {
    EXPECT_THROW(second.get(), std::future_error);
  }
}

TEST(ThreadPool, WithoutThreadsATaskRunsAtOnce) {
  ThreadPool pool(0);
  EXPECT_FALSE(pool.has_threads());
  int ran = 0;
  auto first = pool.submit([&] { return ++ran; });
  EXPECT_EQ(ran, 1);
  EXPECT_EQ(first.get(), 1);
  EXPECT_THROW(pool.submit([]() -> int { throw std::runtime_error("broken"); }).get(), std::runtime_error);
}

TEST(ThreadPool, WaitingTasksCanBeDropped) {
  ThreadPool pool(1);
  std::promise<void> begun, go_on;
  auto running = pool.submit([&] {
    begun.set_value();
    go_on.get_future().wait();
  });
  begun.get_future().wait();
  auto waiting = pool.submit([] {});
  pool.drop_waiting();
  EXPECT_THROW(waiting.get(), std::future_error);
  go_on.set_value();
  EXPECT_NO_THROW(running.get());
}

}  // namespace
}  // namespace semiseg
