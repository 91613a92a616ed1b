// The one pool of compute threads: the calling thread is worker 0, the others are pinned, spin for
// a bounded time after their last task and then sleep. Not a general executor: one caller, tasks
// that wait for nothing, files aside while a model is loaded.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace sluice::kernels::cpu {

class ThreadPool {
 public:
  // `threads` counts the caller; 1 makes a pool without any thread or synchronisation.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls task(index, worker) for every index in [0, num_tasks) and returns when all are done.
  // Tasks are claimed by ticket, in ascending order. Worker is in [0, num_threads()). A worker that
  // is asleep or late delays nothing: only claimed tasks are waited for.
  template <typename Task>
  void ParallelFor(int64_t num_tasks, Task&& task) {
    if (num_threads_ == 1 || num_tasks <= 1) {
      for (int64_t i = 0; i < num_tasks; ++i) task(i, 0);
      return;
    }
    Run(
        num_tasks,
        [](void* context, int64_t index, int worker) {
          (*static_cast<std::remove_reference_t<Task>*>(context))(index, worker);
        },
        const_cast<void*>(static_cast<const void*>(&task)));
  }

 private:
  using TaskFunction = void (*)(void* context, int64_t index, int worker);

  // The ticket word is (job number << 32) | next task index. kClosed as index: no task can be
  // claimed.
  static constexpr uint64_t kClosed = 0xFFFFFFFFu;

  void Run(int64_t num_tasks, TaskFunction function, void* context);
  void WorkerLoop(int worker);
  void Claim(int worker);

  const int num_threads_;
  // The job. Written only while the ticket word is closed; a worker that reads a half-written job
  // cannot claim a task of it, because the claim is a compare-exchange on the ticket word.
  std::atomic<TaskFunction> function_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int64_t> num_tasks_{0};
  alignas(64) std::atomic<uint64_t> ticket_{kClosed};
  alignas(64) std::atomic<int64_t> finished_{0};
  alignas(64) std::atomic<uint32_t> signal_{0};  // bumped for every job; workers sleep on it
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace sluice::kernels::cpu
