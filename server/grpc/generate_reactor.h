// One Generate call in gRPC's callback API: turns StreamWriter calls into writes of raw buffers and
// gRPC's reactions into GenerateStream calls. Deletes itself when the call is done. No policy: that
// is the stream's.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "server/grpc/generate_stream.h"
#include "server/grpc/grpc_core.h"

namespace sluice::server {

class GenerateReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                              private StreamWriter {
 public:
  // Parses, checks and submits; a refused call is finished at once. Returns a reactor that owns
  // itself.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(GrpcCore& core,
                                                           grpc::CallbackServerContext& context,
                                                           const grpc::ByteBuffer& request);

 private:
  GenerateReactor(GrpcCore& core, grpc::CallbackServerContext& context);

  absl::Status Accept(const grpc::ByteBuffer& request);

  // StreamWriter, on the dispatcher's thread.
  void Write(const v1::GenerateResponse& response) override;
  void Finish(const absl::Status& status, const v1::Usage* usage) override;
  void Abort() override { context_.TryCancel(); }

  // gRPC's threads.
  void OnWriteDone(bool ok) override { stream_->OnWritten(ok); }
  void OnCancel() override;
  void OnDone() override;

  GrpcCore& core_;
  grpc::CallbackServerContext& context_;
  CallRecord record_;
  std::shared_ptr<GenerateStream>
      stream_;               // shared with the engine's sinks, which may outlive the call
  grpc::ByteBuffer buffer_;  // of the write in flight
};

}  // namespace sluice::server
