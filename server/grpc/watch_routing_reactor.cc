#include "server/grpc/watch_routing_reactor.h"

#include "engine/request_error.h"
#include "engine/status_macros.h"
#include "server/grpc/routing_window.h"
#include "server/grpc/status_conversion.h"

namespace sluice::server {
namespace {

constexpr int32_t kMinIntervalMs = 100;
constexpr int32_t kMaxIntervalMs = 60'000;

absl::Status ShuttingDown() {
  return RequestError(absl::StatusCode::kUnavailable, "shutting_down", "",
                      "the server is shutting down");
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* WatchRoutingReactor::Start(
    GrpcCore& core, grpc::CallbackServerContext& context, const grpc::ByteBuffer& request) {
  auto* reactor = new WatchRoutingReactor(core, context);  // deletes itself in OnDone
  const absl::Status accepted = reactor->Accept(request, context);
  if (accepted.ok()) {
    reactor->StartSendInitialMetadata();  // the client learns that it was accepted before the first
                                          // window
    reactor->ScheduleTick();
  } else {
    reactor->End(accepted);
  }
  return reactor;
}

WatchRoutingReactor::WatchRoutingReactor(GrpcCore& core, grpc::CallbackServerContext& context)
    : core_(core), record_(core.StartRecord(Api::kGrpcWatchRouting, context)) {}

absl::Status WatchRoutingReactor::Accept(const grpc::ByteBuffer& request,
                                         const grpc::CallbackServerContext& context) {
  ASSIGN_OR_RETURN(const Principal principal, core_.Authenticate(context));
  record_.key_id = principal.key_id;
  if (!principal.admin) {
    return RequestError(absl::StatusCode::kPermissionDenied, "admin_required", "",
                        "routing across requests needs the admin key");
  }
  ASSIGN_OR_RETURN(engine_, core_.EngineFor(principal));
  v1::WatchRoutingRequest message;
  RETURN_IF_ERROR(ParseMessage(request, message));
  if (message.has_interval_ms()) {
    if (message.interval_ms() < kMinIntervalMs || message.interval_ms() > kMaxIntervalMs) {
      return BadRequest("integer_out_of_range", "interval_ms",
                        "this field must be between 100 and 60000");
    }
    interval_ = absl::Milliseconds(message.interval_ms());
  }
  before_ = engine_->Snapshot();
  return absl::OkStatus();
}

void WatchRoutingReactor::Post(void (WatchRoutingReactor::*method)()) {
  core_.dispatcher().Post([this, method, alive = alive_] {
    if (*alive) (this->*method)();
  });
}

void WatchRoutingReactor::ScheduleTick() {
  core_.dispatcher().PostAfter(interval_, [this, alive = alive_] {
    if (*alive) Tick();
  });
}

void WatchRoutingReactor::Tick() {
  if (core_.draining()) return Stop(ShuttingDown());
  ScheduleTick();
  if (writing_) return;  // a slow reader gets longer windows
  MetricsSnapshot now = engine_->Snapshot();
  if (WindowRows(before_, now) < core_.options().limits.min_window_rows) return;
  buffer_ = SerializeMessage(MakeRoutingWindow(before_, now));
  before_ = std::move(now);
  writing_ = true;
  StartWrite(&buffer_);
}

void WatchRoutingReactor::Written() {
  writing_ = false;
  if (!ending_.ok()) End(ending_);
}

void WatchRoutingReactor::Cancelled() { Stop(absl::CancelledError("the client went away")); }

void WatchRoutingReactor::Stop(const absl::Status& status) {
  if (ending_.ok()) ending_ = status;
  if (!writing_) End(ending_);
}

void WatchRoutingReactor::End(const absl::Status& status) {
  *alive_ = false;
  core_.Finished(record_, status);
  // Last: the reactor may be gone when this returns.
  Finish(ToGrpcStatus(status));
}

void WatchRoutingReactor::OnDone() { delete this; }

}  // namespace sluice::server
