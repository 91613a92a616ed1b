// What one render may spend: evaluation steps, bytes of text and lists made, and nesting. Every
// loop of the interpreter charges it before it runs, so that no template can hang or exhaust the
// server.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace sluice {

class JinjaBudget {
 public:
  struct Limits {
    int64_t steps = 1'000'000;
    int64_t bytes = 16 << 20;
    int max_depth = 256;  // of expressions, statements and macro calls together
  };
  explicit JinjaBudget(const Limits& limits) : limits_(limits) {}

  absl::Status Step(int64_t count = 1) {
    limits_.steps -= count;
    if (limits_.steps >= 0) return absl::OkStatus();
    return absl::InvalidArgumentError("chat template: step limit exceeded");
  }

  // Charges text or list storage that is about to be made or read as a whole.
  absl::Status Bytes(size_t count) {
    limits_.bytes -= static_cast<int64_t>(count);
    if (limits_.bytes < 0) return absl::InvalidArgumentError("chat template: text limit exceeded");
    return Step(1 + static_cast<int64_t>(count / 256));
  }

  // Charges `count` bytes that are looked at one character at a time.
  absl::Status Characters(size_t count) { return Step(1 + static_cast<int64_t>(count / 8)); }

  absl::Status Enter() {
    if (++depth_ <= limits_.max_depth) return Step();
    return absl::InvalidArgumentError("chat template: nesting limit exceeded");
  }
  void Leave() { --depth_; }

 private:
  Limits limits_;
  int depth_ = 0;
};

// Calls Leave at the end of a scope in which Enter was called.
class JinjaDepthScope {
 public:
  explicit JinjaDepthScope(JinjaBudget& budget) : budget_(budget) {}
  ~JinjaDepthScope() { budget_.Leave(); }
  JinjaDepthScope(const JinjaDepthScope&) = delete;
  JinjaDepthScope& operator=(const JinjaDepthScope&) = delete;

 private:
  JinjaBudget& budget_;
};

}  // namespace sluice
