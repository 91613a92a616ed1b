// One WatchRouting call: looks at the engine's counters every interval and sends the window once it
// holds enough rows. Deletes itself when the call is done.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "engine/metrics.h"
#include "server/grpc/grpc_core.h"

namespace sluice::server {

class WatchRoutingReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  // Unauthenticated; PermissionDenied `admin_required` where keys exist and this one is no admin
  // key.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(GrpcCore& core,
                                                           grpc::CallbackServerContext& context,
                                                           const grpc::ByteBuffer& request);

 private:
  WatchRoutingReactor(GrpcCore& core, grpc::CallbackServerContext& context);

  absl::Status Accept(const grpc::ByteBuffer& request, const grpc::CallbackServerContext& context);
  void ScheduleTick();
  void Tick();
  void End(const absl::Status& status);
  // Runs `method` on the dispatcher's thread unless the reactor is gone by then.
  void Post(void (WatchRoutingReactor::*method)());
  void Written();
  void Cancelled();
  void Stop(const absl::Status& status);

  void OnWriteDone(bool /*ok*/) override { Post(&WatchRoutingReactor::Written); }
  void OnCancel() override { Post(&WatchRoutingReactor::Cancelled); }
  void OnDone() override;

  GrpcCore& core_;
  CallRecord record_;
  const EngineClient* engine_ = nullptr;
  absl::Duration interval_ = absl::Seconds(1);
  MetricsSnapshot before_;
  grpc::ByteBuffer buffer_;

  // Dispatcher thread only. `*alive_` is false once Finish was called: later tasks must not touch
  // the reactor.
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  bool writing_ = false;
  absl::Status ending_;
};

}  // namespace sluice::server
