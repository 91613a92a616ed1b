#include "server/http/text_thread.h"

namespace sluice::server {

TextThread::TextThread() : thread_([this] { Work(); }) {}

TextThread::~TextThread() {
  {
    const absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void TextThread::Post(absl::AnyInvocable<void()> job) {
  const absl::MutexLock lock(&mutex_);
  jobs_.push_back(std::move(job));
}

void TextThread::Work() {
  while (true) {
    absl::AnyInvocable<void()> job;
    {
      const absl::MutexLock lock(&mutex_);
      const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !jobs_.empty();
      };
      mutex_.Await(absl::Condition(&ready));
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

}  // namespace sluice::server
