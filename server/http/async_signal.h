// Lets one coroutine on the I/O thread wait for something that another part of that thread reports.
// Not thread-safe: other threads post to the I/O context first.
#pragma once

#include "absl/time/time.h"
#include "server/http/asio.h"

namespace sluice::server {

class AsyncSignal {
 public:
  explicit AsyncSignal(const asio::any_io_executor& executor) : timer_(executor) {}

  void Notify();
  // True when notified since the last wait, false after `timeout`. One waiter at a time.
  asio::awaitable<bool> Wait(absl::Duration timeout = absl::InfiniteDuration());

 private:
  asio::steady_timer timer_;
  bool notified_ = false;
};

}  // namespace sluice::server
