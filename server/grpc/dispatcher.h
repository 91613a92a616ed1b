// One thread that runs short tasks in order, now or later. Every write and finish of the gRPC
// streams happens on it, so that the engine thread never touches a socket and a stream needs no
// lock but its queue's. Tasks must not block.
#pragma once

#include <functional>
#include <map>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace sluice::server {

class Dispatcher {
 public:
  using Task = std::function<void()>;

  Dispatcher();
  // Runs what was posted without delay, drops what is later.
  ~Dispatcher();
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // Any thread.
  void Post(Task task);
  void PostAfter(absl::Duration delay, Task task);

 private:
  void Run();

  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::vector<Task> ready_ ABSL_GUARDED_BY(mutex_);
  std::multimap<absl::Duration, Task> later_ ABSL_GUARDED_BY(mutex_);  // by steady time
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace sluice::server
