#include "server/grpc/reflection_service.h"

#include <set>
#include <string>
#include <vector>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "server/grpc/status_conversion.h"

namespace sluice::server {
namespace {

using google::protobuf::FileDescriptor;
using grpc::reflection::v1alpha::ServerReflectionRequest;
using grpc::reflection::v1alpha::ServerReflectionResponse;

constexpr const char* kServices[] = {"grpc.health.v1.Health",
                                     "grpc.reflection.v1alpha.ServerReflection",
                                     "sluice.v1.GenerationService"};

void AddFile(const FileDescriptor& file,
             std::set<std::string>& seen,
             grpc::reflection::v1alpha::FileDescriptorResponse& response) {
  if (!seen.insert(file.name()).second) return;
  google::protobuf::FileDescriptorProto proto;
  file.CopyTo(&proto);
  response.add_file_descriptor_proto(proto.SerializeAsString());
  for (int i = 0; i < file.dependency_count(); ++i) AddFile(*file.dependency(i), seen, response);
}

void Answer(const ServerReflectionRequest& request, ServerReflectionResponse& response) {
  response.Clear();
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  const auto* pool = google::protobuf::DescriptorPool::generated_pool();
  const FileDescriptor* file = nullptr;
  switch (request.message_request_case()) {
    case ServerReflectionRequest::kListServices:
      for (const char* service : kServices) {
        response.mutable_list_services_response()->add_service()->set_name(service);
      }
      return;
    case ServerReflectionRequest::kFileByFilename:
      file = pool->FindFileByName(request.file_by_filename());
      break;
    case ServerReflectionRequest::kFileContainingSymbol:
      file = pool->FindFileContainingSymbol(request.file_containing_symbol());
      break;
    default:
      break;
  }
  if (file == nullptr) {
    response.mutable_error_response()->set_error_code(grpc::StatusCode::NOT_FOUND);
    response.mutable_error_response()->set_error_message("not found");
    return;
  }
  std::set<std::string> seen;
  AddFile(*file, seen, *response.mutable_file_descriptor_response());
}

// One question, one answer, in turn: reads and writes never overlap.
class ReflectionReactor final
    : public grpc::ServerBidiReactor<ServerReflectionRequest, ServerReflectionResponse> {
 public:
  ReflectionReactor(GrpcCore& core, grpc::CallbackServerContext& context)
      : core_(core), record_(core.StartRecord(Api::kGrpcReflection, context)) {
    const absl::StatusOr<Principal> principal = core.Authenticate(context);
    if (principal.ok()) {
      StartRead(&request_);
    } else {
      End(principal.status());
    }
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return End(absl::OkStatus());
    Answer(request_, response_);
    StartWrite(&response_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the client went away"));
    StartRead(&request_);
  }
  void OnDone() override { delete this; }

  void End(const absl::Status& status) {
    core_.Finished(record_, status);
    Finish(ToGrpcStatus(status));
  }

  GrpcCore& core_;
  CallRecord record_;
  ServerReflectionRequest request_;
  ServerReflectionResponse response_;
};

}  // namespace

grpc::ServerBidiReactor<ServerReflectionRequest, ServerReflectionResponse>*
ReflectionService::ServerReflectionInfo(grpc::CallbackServerContext* context) {
  return new ReflectionReactor(core_, *context);  // deletes itself in OnDone
}

}  // namespace sluice::server
