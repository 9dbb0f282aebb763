// Threads that work off tasks in the order in which they were given; without threads, submit() runs the task itself.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace semiseg {

class ThreadPool {
 public:
  // Throws std::system_error where the system gives no more threads.
  explicit ThreadPool(int64_t threads) {
    for (int64_t i = 0; i < threads; ++i) threads_.emplace_back([this](const std::stop_token& stop) { work(stop); });
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  // Waits for the tasks that have begun. Those that have not are dropped; their futures throw std::future_error.
  ~ThreadPool() {
    for (std::jthread& thread : threads_) thread.request_stop();
    threads_.clear();
  }

  // The future gives what the task returns or throws. Its destructor does not wait.
  template <class Task>
  std::future<std::invoke_result_t<Task>> submit(Task task) {
    auto packaged = std::make_shared<std::packaged_task<std::invoke_result_t<Task>()>>(std::move(task));
    auto future = packaged->get_future();
    if (threads_.empty()) {
      (*packaged)();
      return future;
    }
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back([packaged] { (*packaged)(); });
    }
    changed_.notify_one();
    return future;
  }

  // Drops the tasks that no thread has begun; their futures throw std::future_error.
  void drop_waiting() {
    const std::lock_guard lock(mutex_);
    tasks_.clear();
  }

  bool has_threads() const { return !threads_.empty(); }

 private:
  void work(const std::stop_token& stop) {
    while (true) {
      std::function<void()> task;
      {
        std::unique_lock lock(mutex_);
        if (!changed_.wait(lock, stop, [&] { return !tasks_.empty(); }) || stop.stop_requested()) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::jthread> threads_;  // last: they use the others
};

}  // namespace semiseg
