// What every gRPC call shares: options, keys, counters, the engine once it is loaded, the
// dispatcher. And the steps every call begins and ends with: who is calling, is there a model,
// count and log the end.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine_client.h"
#include "server/auth/authenticator.h"
#include "server/grpc/dispatcher.h"
#include "server/grpc/grpc_options.h"
#include "server/metrics/request_counters.h"

namespace sluice::server {

// What the log line of a call says. Never text of the request.
struct CallRecord {
  Api api = Api::kGrpcGenerate;
  std::string request_id;
  std::string key_id;
  absl::Duration started_at;
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
};

class GrpcCore {
 public:
  GrpcCore(GrpcOptions options, Authenticator& authenticator, RequestCounters& counters)
      : options_(std::move(options)), authenticator_(authenticator), counters_(counters) {}

  // Takes the key from `authorization: Bearer` or `x-api-key`. Unauthenticated `invalid_api_key`.
  absl::StatusOr<Principal> Authenticate(const grpc::CallbackServerContext& context) const;
  // Unavailable `model_loading` or `shutting_down`; PermissionDenied `model_not_allowed`.
  absl::StatusOr<EngineClient*> EngineFor(const Principal& principal) const;

  // The client's `x-request-id` when it is short and printable, else a fresh one; also sent back.
  std::string AdoptRequestId(grpc::CallbackServerContext& context) const;
  CallRecord StartRecord(Api api, grpc::CallbackServerContext& context) const;
  // Counts and logs one finished call.
  void Finished(const CallRecord& record, const absl::Status& status) const;

  void set_engine(EngineClient* engine) { engine_.store(engine, std::memory_order_release); }
  void StartDraining() { draining_.store(true, std::memory_order_release); }
  bool draining() const { return draining_.load(std::memory_order_acquire); }

  const GrpcOptions& options() const { return options_; }
  Authenticator& authenticator() { return authenticator_; }
  Dispatcher& dispatcher() { return dispatcher_; }

  void StreamStarted() { active_streams_.fetch_add(1, std::memory_order_relaxed); }
  void StreamEnded() { active_streams_.fetch_sub(1, std::memory_order_relaxed); }
  int64_t active_streams() const { return active_streams_.load(std::memory_order_relaxed); }

 private:
  const GrpcOptions options_;
  Authenticator& authenticator_;
  RequestCounters& counters_;
  std::atomic<EngineClient*> engine_{nullptr};
  std::atomic<bool> draining_{false};
  std::atomic<int64_t> active_streams_{0};
  Dispatcher dispatcher_;  // last: its thread ends before anything its tasks use
};

// Parses a request. InvalidArgument `invalid_protobuf` for broken bytes and for strings that are
// not UTF-8.
absl::Status ParseMessage(const grpc::ByteBuffer& buffer, google::protobuf::Message& message);
grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message);

}  // namespace sluice::server
