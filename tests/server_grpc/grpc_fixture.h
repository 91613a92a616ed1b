// A gRPC front end on a free loopback port with a client and an engine without a model. For the
// tests beside it.
#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/client_unary_call.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "server/grpc/grpc_server.h"
#include "sluice/v1/generation.grpc.pb.h"
#include "tests/support/fake_engine.h"

namespace sluice::server {

using v1::GenerationService;

inline constexpr const char* kKey = "secret-key";
inline constexpr const char* kAdminKey = "admin-secret";

inline std::string DigestHex(const char* key) {
  const KeyDigest digest = DigestOf(key);
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

// What the details of a failed call say: "code param".
inline std::string Reason(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return "";
  for (const google::protobuf::Any& any : details.details()) {
    google::rpc::ErrorInfo error;
    if (!any.UnpackTo(&error)) continue;
    const auto param = error.metadata().find("param");
    return error.reason() + (param == error.metadata().end() ? "" : " " + param->second);
  }
  return "";
}

inline bool HasRetryInfo(const grpc::Status& status) {
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  for (const google::protobuf::Any& any : details.details()) {
    if (any.Is<google::rpc::RetryInfo>()) return true;
  }
  return false;
}

class GrpcServerTest : public testing::Test {
 protected:
  void Start(FakeEngineOptions engine_options = {}, GrpcOptions options = {}) {
    engine_ = std::make_unique<FakeEngine>(std::move(engine_options));
    authenticator_ = *Authenticator::Create(key_file_, &clock_);
    options.port = 0;
    auto server = GrpcServer::Create(options, *authenticator_, counters_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    if (sets_engine_) server_->SetEngine(engine_.get());
    channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->port()),
                                   grpc::InsecureChannelCredentials());
    stub_ = GenerationService::NewStub(channel_);
  }
  void UseKeys() {
    key_file_ = testing::TempDir() + "sluice_grpc_keys_" + std::to_string(getpid());
    std::ofstream(key_file_) << "tenant:" << DigestHex(kKey)
                             << ":*:*\nadmin:" << DigestHex(kAdminKey) << ":*:*\n";
  }
  void TearDown() override {
    stub_.reset();
    channel_.reset();
    if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
    server_.reset();
    if (!key_file_.empty()) unlink(key_file_.c_str());
  }

  static v1::GenerateRequest TextRequest() {
    v1::GenerateRequest request;
    request.set_text("hi");
    return request;
  }
  static void SetDeadline(grpc::ClientContext& context, int seconds = 20) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
  }
  // Reads a whole call.
  grpc::Status Generate(const v1::GenerateRequest& request,
                        std::vector<v1::GenerateResponse>* responses,
                        grpc::ClientContext* context = nullptr) {
    grpc::ClientContext own;
    if (context == nullptr) context = &own;
    SetDeadline(*context);
    const auto reader = stub_->Generate(context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
      if (responses != nullptr) responses->push_back(response);
    }
    return reader->Finish();
  }
  // Sends bytes that need not be a message.
  grpc::Status SendRaw(const char* method_name, const std::string& bytes) {
    grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    grpc::ClientContext context;
    SetDeadline(context);
    const grpc::internal::RpcMethod method(method_name, grpc::internal::RpcMethod::NORMAL_RPC);
    return grpc::internal::BlockingUnaryCall<grpc::ByteBuffer, grpc::ByteBuffer>(
        channel_.get(), method, &context, request, &response);
  }
  // grpc.health.v1.Health/Check for the whole server: 1 SERVING, 2 NOT_SERVING.
  int Health() {
    grpc::ByteBuffer request;
    grpc::ByteBuffer response;
    grpc::ClientContext context;
    SetDeadline(context);
    const grpc::Slice empty(std::string{});
    request = grpc::ByteBuffer(&empty, 1);
    const grpc::internal::RpcMethod method("/grpc.health.v1.Health/Check",
                                           grpc::internal::RpcMethod::NORMAL_RPC);
    const grpc::Status status =
        grpc::internal::BlockingUnaryCall<grpc::ByteBuffer, grpc::ByteBuffer>(
            channel_.get(), method, &context, request, &response);
    if (!status.ok()) return -1;
    grpc::Slice slice;
    if (!response.TrySingleSlice(&slice).ok() || slice.size() != 2) return -2;
    return slice.begin()[1];  // field 1, varint
  }

  SteadyClock clock_;
  RequestCounters counters_;
  std::string key_file_;
  bool sets_engine_ = true;
  std::unique_ptr<Authenticator> authenticator_;
  std::unique_ptr<FakeEngine> engine_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<GenerationService::Stub> stub_;
};

}  // namespace sluice::server
