#include "server/grpc/dispatcher.h"

#include <utility>

#include "engine/clock.h"

namespace sluice::server {

Dispatcher::Dispatcher() : thread_([this] { Run(); }) {}

Dispatcher::~Dispatcher() {
  {
    const absl::MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.Signal();
  }
  thread_.join();
}

void Dispatcher::Post(Task task) {
  const absl::MutexLock lock(&mutex_);
  ready_.push_back(std::move(task));
  changed_.Signal();
}

void Dispatcher::PostAfter(absl::Duration delay, Task task) {
  const absl::MutexLock lock(&mutex_);
  later_.emplace(SteadyClock().Now() + delay, std::move(task));
  changed_.Signal();
}

void Dispatcher::Run() {
  const SteadyClock clock;
  std::vector<Task> batch;
  mutex_.Lock();
  while (true) {
    const absl::Duration now = clock.Now();
    while (!later_.empty() && later_.begin()->first <= now) {
      ready_.push_back(std::move(later_.begin()->second));
      later_.erase(later_.begin());
    }
    if (ready_.empty()) {
      if (stopping_) break;
      const absl::Duration wait =
          later_.empty() ? absl::InfiniteDuration() : later_.begin()->first - now;
      changed_.WaitWithTimeout(&mutex_, wait);
      continue;
    }
    batch.swap(ready_);
    mutex_.Unlock();
    for (Task& task : batch) task();
    batch.clear();
    mutex_.Lock();
  }
  mutex_.Unlock();
}

}  // namespace sluice::server
