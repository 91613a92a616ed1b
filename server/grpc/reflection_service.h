// grpc.reflection.v1alpha for our own services, with the same key check as every other call, which
// the library's plug-in does not offer. Only what tools ask: list services, file by name, file by
// symbol.
#pragma once

#include <grpcpp/grpcpp.h>

#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "server/grpc/grpc_core.h"

namespace sluice::server {

class ReflectionService final
    : public grpc::reflection::v1alpha::ServerReflection::CallbackService {
 public:
  explicit ReflectionService(GrpcCore& core) : core_(core) {}

  grpc::ServerBidiReactor<grpc::reflection::v1alpha::ServerReflectionRequest,
                          grpc::reflection::v1alpha::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext* context) override;

 private:
  GrpcCore& core_;
};

}  // namespace sluice::server
