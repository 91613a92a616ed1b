// One thread for work that is too long for the I/O thread: JSON, templates, tokenizing. Jobs run in
// order; those left at destruction run first.
#pragma once

#include <deque>
#include <thread>

#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "server/http/async_signal.h"

namespace sluice::server {

class TextThread {
 public:
  TextThread();
  ~TextThread();

  void Post(absl::AnyInvocable<void()> job);

  // Runs `job` on the text thread while the calling coroutine is suspended. What `job` refers to
  // may live in that coroutine.
  template <class Job>
  asio::awaitable<void> Run(Job& job) {
    const asio::any_io_executor executor = co_await asio::this_coro::executor;
    AsyncSignal done(executor);
    Post([&job, &done, executor] {
      job();
      asio::post(executor, [&done] { done.Notify(); });
    });
    co_await done.Wait();
  }

 private:
  void Work();

  absl::Mutex mutex_;
  std::deque<absl::AnyInvocable<void()>> jobs_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace sluice::server
