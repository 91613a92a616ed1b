#include "server/metrics/request_counters.h"

namespace sluice::server {

const char* Name(Api api) {
  static constexpr std::array<const char*, kNumApis> kNames = {
      "completions",        "chat",           "embeddings",      "tokenize",
      "detokenize",         "models",         "routing",         "other",
      "grpc_generate",      "grpc_tokenize",  "grpc_detokenize", "grpc_model",
      "grpc_watch_routing", "grpc_reflection"};
  return kNames[static_cast<size_t>(api)];
}

const char* StatusCodeWord(absl::StatusCode code) {
  static constexpr std::array<const char*, kNumStatusCodes> kWords = {"OK",
                                                                      "CANCELLED",
                                                                      "UNKNOWN",
                                                                      "INVALID_ARGUMENT",
                                                                      "DEADLINE_EXCEEDED",
                                                                      "NOT_FOUND",
                                                                      "ALREADY_EXISTS",
                                                                      "PERMISSION_DENIED",
                                                                      "RESOURCE_EXHAUSTED",
                                                                      "FAILED_PRECONDITION",
                                                                      "ABORTED",
                                                                      "OUT_OF_RANGE",
                                                                      "UNIMPLEMENTED",
                                                                      "INTERNAL",
                                                                      "UNAVAILABLE",
                                                                      "DATA_LOSS",
                                                                      "UNAUTHENTICATED"};
  const size_t index = static_cast<size_t>(code);
  return index < kWords.size() ? kWords[index] : "UNKNOWN";
}

}  // namespace sluice::server
