// Checks of our own invariants. Always on; the message names the file, the condition and the
// values. Not for the outside world's mistakes: those are absl::Status.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

namespace sluice::internal {

[[noreturn]] inline void CheckFailed(const char* file,
                                     int line,
                                     const char* condition,
                                     const std::string& detail) {
  std::fprintf(stderr, "%s:%d: check failed: %s %s\n", file, line, condition, detail.c_str());
  std::abort();
}

// Collects the optional `<< value` details of a failing check, then aborts in its destructor.
class CheckMessage {
 public:
  CheckMessage(const char* file, int line, const char* condition)
      : file_(file), line_(line), condition_(condition) {}
  CheckMessage(const CheckMessage&) = delete;
  CheckMessage& operator=(const CheckMessage&) = delete;
  [[noreturn]] ~CheckMessage() { CheckFailed(file_, line_, condition_, stream_.str()); }
  std::ostream& stream() { return stream_; }

 private:
  const char* file_;
  int line_;
  const char* condition_;
  std::ostringstream stream_;
};

struct CheckVoidify {
  void operator&(std::ostream& /*stream*/) const {}
};

}  // namespace sluice::internal

#define SLUICE_CHECK(condition)                      \
  (condition) ? static_cast<void>(0)                 \
              : ::sluice::internal::CheckVoidify() & \
                    ::sluice::internal::CheckMessage(__FILE__, __LINE__, #condition).stream()

#ifdef NDEBUG
#define SLUICE_DCHECK(condition) SLUICE_CHECK(true || (condition))
#else
#define SLUICE_DCHECK(condition) SLUICE_CHECK(condition)
#endif
