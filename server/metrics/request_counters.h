// Counts of what the two front ends answered, shared by HTTP, gRPC and the metrics exporter. Lock
// free; both labels come from closed sets, so clients cannot create series. Not for latencies: the
// engine has those.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace sluice::server {

// The `api` label of sluice_requests_total.
enum class Api : uint8_t {
  kCompletions,
  kChat,
  kEmbeddings,
  kTokenize,
  kDetokenize,
  kModels,
  kRouting,
  kOther,  // the rest of HTTP: pages, probes, unknown paths
  kGrpcGenerate,
  kGrpcTokenize,
  kGrpcDetokenize,
  kGrpcModel,
  kGrpcWatchRouting,
  kGrpcReflection,
};
inline constexpr size_t kNumApis = 14;
inline constexpr size_t kNumStatusCodes = 17;

// "completions", "grpc_generate".
const char* Name(Api api);
// The gRPC-style word: "OK", "INVALID_ARGUMENT".
const char* StatusCodeWord(absl::StatusCode code);

class RequestCounters {
 public:
  // One finished request. HTTP counts its status by the gRPC code of the same meaning.
  void Count(Api api, absl::StatusCode code) {
    const size_t index = static_cast<size_t>(code);
    Cell(static_cast<size_t>(api), index < kNumStatusCodes ? index : 2).fetch_add(1, kRelaxed);
  }
  // One request field nobody knows, ignored because --strict is off.
  void CountUnknownField() { unknown_fields_.fetch_add(1, kRelaxed); }
  // One response that ran below the capacity the client asked for (brown-out).
  void CountDegraded() { degraded_.fetch_add(1, kRelaxed); }

  uint64_t requests(Api api, size_t code) const {
    return counts_[static_cast<size_t>(api) * kNumStatusCodes + code].load(kRelaxed);
  }
  uint64_t unknown_fields() const { return unknown_fields_.load(kRelaxed); }
  uint64_t degraded() const { return degraded_.load(kRelaxed); }

 private:
  static constexpr auto kRelaxed = std::memory_order_relaxed;
  std::atomic<uint64_t>& Cell(size_t api, size_t code) {
    return counts_[api * kNumStatusCodes + code];
  }

  std::array<std::atomic<uint64_t>, kNumApis * kNumStatusCodes> counts_{};
  std::atomic<uint64_t> unknown_fields_{0};
  std::atomic<uint64_t> degraded_{0};
};

}  // namespace sluice::server
