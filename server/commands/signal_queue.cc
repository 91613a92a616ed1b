#include "server/commands/signal_queue.h"

#include <csignal>
#include <ctime>

namespace sluice::server {
namespace {

sigset_t WaitedSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, number);
  return set;
}

}  // namespace

void BlockSignals() {
  const sigset_t set = WaitedSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  // A client that goes away while we write must not end the process.
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, nullptr);
  // Nor may a limit on file sizes: a packed cache that does not fit is an error of its write.
  sigaction(SIGXFSZ, &ignore, nullptr);
}

std::optional<int> NextSignal(absl::Duration timeout) {
  const sigset_t set = WaitedSignals();
  const timespec wait = absl::ToTimespec(timeout);
  const int number = sigtimedwait(&set, nullptr, &wait);
  if (number < 0) return std::nullopt;
  return number;
}

}  // namespace sluice::server
