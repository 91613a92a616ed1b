#include "server/http/async_signal.h"

#include <boost/asio/redirect_error.hpp>
#include <chrono>

namespace sluice::server {

void AsyncSignal::Notify() {
  notified_ = true;
  timer_.cancel();
}

asio::awaitable<bool> AsyncSignal::Wait(absl::Duration timeout) {
  if (!notified_) {
    // A year stands for ever: time_point::max() overflows inside the timer queue.
    const absl::Duration wait =
        std::min(std::max(timeout, absl::ZeroDuration()), absl::Hours(24 * 365));
    timer_.expires_after(absl::ToChronoMilliseconds(wait));
    boost::system::error_code ignored;
    co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  const bool result = notified_;
  notified_ = false;
  co_return result;
}

}  // namespace sluice::server
