// sluice.v1.GenerationService: takes raw buffers, so that broken protobuf is answered by us, and
// hands each method to its reactor or conversion. No policy.
#pragma once

#include <grpcpp/grpcpp.h>

#include "server/grpc/grpc_core.h"
#include "sluice/v1/generation.grpc.pb.h"

namespace sluice::server {

namespace internal {
template <class Base>
using RawTokenize = v1::GenerationService::WithRawCallbackMethod_Tokenize<Base>;
template <class Base>
using RawDetokenize = v1::GenerationService::WithRawCallbackMethod_Detokenize<Base>;
template <class Base>
using RawGetModel = v1::GenerationService::WithRawCallbackMethod_GetModel<Base>;
template <class Base>
using RawGenerate = v1::GenerationService::WithRawCallbackMethod_Generate<Base>;
template <class Base>
using RawWatchRouting = v1::GenerationService::WithRawCallbackMethod_WatchRouting<Base>;
using RawGenerationService = RawWatchRouting<
    RawGenerate<RawGetModel<RawDetokenize<RawTokenize<v1::GenerationService::Service>>>>>;
}  // namespace internal

class GenerationService final : public internal::RawGenerationService {
 public:
  explicit GenerationService(GrpcCore& core) : core_(core) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* WatchRouting(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) override;

 private:
  GrpcCore& core_;
};

}  // namespace sluice::server
