#include "kernels/cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <chrono>
#include <limits>

#include "kernels/check.h"

namespace sluice::kernels::cpu {
namespace {

constexpr std::chrono::microseconds kSpin{50};
constexpr int kPausesPerClockRead = 32;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Spins until `done` or kSpin has passed. True when done.
template <typename Condition>
bool SpinUntil(const Condition& done) {
  const auto begin = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      if (done()) return true;
      Pause();
    }
  } while (std::chrono::steady_clock::now() - begin < kSpin);
  return false;
}

// Pins the calling thread to one of the processors that this process may use, if there is one for
// each.
void PinTo(int worker, int num_threads) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  if (CPU_COUNT(&allowed) < num_threads) return;
  int seen = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    if (seen++ != worker) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof(one), &one);  // Advice: failure costs only speed.
    return;
  }
}

}  // namespace

ThreadPool::ThreadPool(int threads) : num_threads_(threads) {
  SLUICE_CHECK(threads >= 1) << threads;
  for (int worker = 1; worker < threads; ++worker) {
    threads_.emplace_back([this, worker] {
      PinTo(worker, num_threads_);
      WorkerLoop(worker);
    });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  signal_.fetch_add(1);
  signal_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::Run(int64_t num_tasks, TaskFunction function, void* context) {
  SLUICE_CHECK(num_tasks < std::numeric_limits<int32_t>::max()) << num_tasks;
  const uint64_t job = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store((job << 32) | kClosed);
  // Release stores: whoever sees one of them also sees that the previous job is closed.
  function_.store(function, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  num_tasks_.store(num_tasks, std::memory_order_release);
  finished_.store(0, std::memory_order_relaxed);
  ticket_.store(job << 32);
  signal_.fetch_add(1);
  signal_.notify_all();  // No system call unless somebody sleeps.
  Claim(/*worker=*/0);
  const auto done = [&] { return finished_.load(std::memory_order_acquire) == num_tasks; };
  if (SpinUntil(done)) return;
  // A claimed task runs on another processor, or on this one if that is where its thread waits to
  // run.
  while (!done()) sched_yield();
}

void ThreadPool::WorkerLoop(int worker) {
  uint32_t seen = 0;
  while (!stop_.load()) {
    const auto called = [&] { return signal_.load(std::memory_order_acquire) != seen; };
    if (!SpinUntil(called)) signal_.wait(seen);
    seen = signal_.load();
    Claim(worker);
  }
}

void ThreadPool::Claim(int worker) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (true) {
    const TaskFunction function = function_.load(std::memory_order_acquire);
    void* context = context_.load(std::memory_order_acquire);
    const int64_t num_tasks = num_tasks_.load(std::memory_order_acquire);
    const auto index = static_cast<int64_t>(ticket & kClosed);
    if (index >= num_tasks) return;
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    function(context, index, worker);
    finished_.fetch_add(1, std::memory_order_acq_rel);
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

}  // namespace sluice::kernels::cpu
