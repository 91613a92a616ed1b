#include "server/grpc/grpc_core.h"

#include <grpcpp/support/proto_buffer_reader.h>

#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "engine/clock.h"
#include "engine/log.h"
#include "engine/request_error.h"
#include "engine/status_macros.h"

namespace sluice::server {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;

std::string_view MetadataValue(const grpc::CallbackServerContext& context, const char* key) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find(key);
  if (found == metadata.end()) return {};
  return {found->second.data(), found->second.size()};
}

bool IsUsableRequestId(std::string_view id) {
  if (id.empty() || id.size() > kMaxRequestIdBytes) return false;
  for (const char c : id) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c)) || c == '"' || c == '\\') return false;
  }
  return true;
}

std::string FreshRequestId() {
  std::random_device random;
  return absl::StrFormat("req-%08x%08x%08x", random(), random(), random());
}

}  // namespace

absl::StatusOr<Principal> GrpcCore::Authenticate(const grpc::CallbackServerContext& context) const {
  const std::string_view bearer = BearerToken(MetadataValue(context, "authorization"));
  return authenticator_.Authenticate(bearer.empty() ? MetadataValue(context, "x-api-key") : bearer);
}

absl::StatusOr<EngineClient*> GrpcCore::EngineFor(const Principal& principal) const {
  EngineClient* engine = engine_.load(std::memory_order_acquire);
  if (draining() || (engine != nullptr && engine->draining())) {
    return RequestError(absl::StatusCode::kUnavailable, "shutting_down", "",
                        "the server is shutting down");
  }
  if (engine == nullptr) {
    return RequestError(absl::StatusCode::kUnavailable, "model_loading", "",
                        "the model is still loading");
  }
  RETURN_IF_ERROR(Authenticator::CheckModel(principal, engine->model().id));
  return engine;
}

std::string GrpcCore::AdoptRequestId(grpc::CallbackServerContext& context) const {
  const std::string_view given = MetadataValue(context, "x-request-id");
  std::string id = IsUsableRequestId(given) ? std::string(given) : FreshRequestId();
  context.AddInitialMetadata("x-request-id", id);
  return id;
}

CallRecord GrpcCore::StartRecord(Api api, grpc::CallbackServerContext& context) const {
  CallRecord record;
  record.api = api;
  record.request_id = AdoptRequestId(context);
  record.started_at = SteadyClock().Now();
  return record;
}

void GrpcCore::Finished(const CallRecord& record, const absl::Status& status) const {
  counters_.Count(record.api, status.code());
  const double milliseconds = absl::ToDoubleMilliseconds(SteadyClock().Now() - record.started_at);
  Log(LogLevel::kInfo, "request",
      {{"api", Name(record.api)},
       {"code", StatusCodeWord(status.code())},
       {"error", ErrorCodeOf(status)},
       {"request_id", record.request_id},
       {"key_id", record.key_id},
       {"prompt_tokens", record.prompt_tokens},
       {"completion_tokens", record.completion_tokens},
       {"ms", milliseconds}});
}

absl::Status ParseMessage(const grpc::ByteBuffer& buffer, google::protobuf::Message& message) {
  // The library would answer broken bytes with UNIMPLEMENTED, so the buffer is taken raw and parsed
  // here.
  grpc::ByteBuffer copy(buffer);
  grpc::ProtoBufferReader reader(&copy);
  if (reader.status().ok() && message.ParseFromZeroCopyStream(&reader)) return absl::OkStatus();
  return BadRequest("invalid_protobuf", "",
                    "the request is no valid protobuf message, or a string in it is not UTF-8");
}

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message) {
  grpc::Slice slice(message.ByteSizeLong());
  // A fresh slice has one owner, so writing into it is safe.
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace sluice::server
