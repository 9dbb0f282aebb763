// A loop over indices on several threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace semiseg {

// Calls body(index, thread) once for each index in 0..n-1; thread is in 0..max(1, workers)-1. Rethrows the exception of the
// lowest index that threw: indices are handed out in order, so which one that is does not depend on the threads.
template <class Body>
void for_each_index(int64_t n, int64_t workers, const Body& body) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::exception_ptr failure;
  int64_t failed_index = n;

  const auto run = [&](int64_t thread) {
    for (int64_t index; !stop && (index = next++) < n;) {
      try {
        body(index, thread);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (index < failed_index) {
          failed_index = index;
          failure = std::current_exception();
        }
        stop = true;
      }
    }
  };

  {
    std::vector<std::jthread> threads;
    for (int64_t thread = 1; thread < workers && thread < n; ++thread) threads.emplace_back(run, thread);
    run(0);
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace semiseg
