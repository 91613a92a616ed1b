#include "server/grpc/generate_reactor.h"

#include <random>
#include <utility>

#include "engine/status_macros.h"
#include "server/grpc/response_conversion.h"
#include "server/grpc/status_conversion.h"

namespace sluice::server {
namespace {

uint64_t DrawSeed() {
  std::random_device random;
  return (static_cast<uint64_t>(random()) << 32) | random();
}

// Time left until the client's deadline; none without one.
std::optional<absl::Duration> TimeLeft(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return std::nullopt;
  return absl::FromChrono(deadline - std::chrono::system_clock::now());
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateReactor::Start(
    GrpcCore& core, grpc::CallbackServerContext& context, const grpc::ByteBuffer& request) {
  auto* reactor = new GenerateReactor(core, context);  // deletes itself in OnDone
  const absl::Status accepted = reactor->Accept(request);
  if (accepted.ok()) {
    reactor->stream_->Attach(reactor);
  } else {
    reactor->stream_.reset();
    reactor->Finish(accepted, nullptr);
  }
  return reactor;
}

GenerateReactor::GenerateReactor(GrpcCore& core, grpc::CallbackServerContext& context)
    : core_(core), context_(context), record_(core.StartRecord(Api::kGrpcGenerate, context)) {
  core_.StreamStarted();
}

absl::Status GenerateReactor::Accept(const grpc::ByteBuffer& request) {
  ASSIGN_OR_RETURN(Principal principal, core_.Authenticate(context_));
  record_.key_id = principal.key_id;
  ASSIGN_OR_RETURN(EngineClient * engine, core_.EngineFor(principal));
  v1::GenerateRequest message;
  RETURN_IF_ERROR(ParseMessage(request, message));
  const std::optional<absl::Duration> time_left = TimeLeft(context_);
  if (time_left.has_value() && *time_left <= absl::ZeroDuration()) {
    return absl::DeadlineExceededError("the deadline has passed");
  }
  ASSIGN_OR_RETURN(
      GenerateCall call,
      ConvertGenerateRequest(message, *engine,
                             {.allow_routing_trace = core_.options().allow_routing_trace,
                              .deadline = time_left,
                              .drawn_seed = DrawSeed()}));
  record_.prompt_tokens = static_cast<int64_t>(call.request.prompt.size());
  RETURN_IF_ERROR(core_.authenticator().Admit(principal, record_.prompt_tokens));
  const GrpcLimits& limits = core_.options().limits;
  stream_ = std::make_shared<GenerateStream>(GenerateStream::Parts{
      .engine = *engine,
      .dispatcher = core_.dispatcher(),
      .authenticator = core_.authenticator(),
      .principal = principal,
      .call = std::move(call),
      .request_id = record_.request_id,
      .options = {.buffer_bytes = limits.stream_buffer_bytes, .slow_reader = limits.slow_reader}});
  const absl::Status submitted = stream_->Submit();
  if (!submitted.ok()) core_.authenticator().Charge(principal, -record_.prompt_tokens);
  return submitted;
}

void GenerateReactor::Write(const v1::GenerateResponse& response) {
  buffer_ = SerializeMessage(response);
  StartWrite(&buffer_);
}

void GenerateReactor::Finish(const absl::Status& status, const v1::Usage* usage) {
  if (usage != nullptr) {
    for (const auto& [key, value] : ComputeMetadata(usage->compute())) {
      context_.AddTrailingMetadata(key, value);
    }
    record_.completion_tokens = usage->completion_tokens();
  }
  core_.Finished(record_, status);
  core_.StreamEnded();
  // Last: the reactor may be gone when this returns.
  grpc::ServerWriteReactor<grpc::ByteBuffer>::Finish(ToGrpcStatus(status));
}

void GenerateReactor::OnCancel() {
  if (stream_ == nullptr) return;
  const std::optional<absl::Duration> time_left = TimeLeft(context_);
  stream_->OnClientGone(time_left.has_value() && *time_left <= absl::ZeroDuration());
}

void GenerateReactor::OnDone() { delete this; }

}  // namespace sluice::server
