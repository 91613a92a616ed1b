// Who may call the gRPC front end and when: keys, TLS, health, reflection, the port.
#include <cstdlib>

#include "gmock/gmock.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "gtest/gtest.h"
#include "tests/server_grpc/grpc_fixture.h"

namespace sluice::server {
namespace {

TEST_F(GrpcServerTest, EverythingButHealthNeedsAKey) {
  UseKeys();
  Start();
  EXPECT_EQ(Generate(TextRequest(), nullptr).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  for (const char* method :
       {"/sluice.v1.GenerationService/Tokenize", "/sluice.v1.GenerationService/Detokenize",
        "/sluice.v1.GenerationService/GetModel", "/sluice.v1.GenerationService/WatchRouting",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"}) {
    EXPECT_EQ(SendRaw(method, "").error_code(), grpc::StatusCode::UNAUTHENTICATED) << method;
  }
  EXPECT_EQ(Health(), 1);
  for (const auto& [name, value] : {std::pair("authorization", std::string("Bearer ") + kKey),
                                    std::pair("x-api-key", std::string(kKey))}) {
    grpc::ClientContext context;
    context.AddMetadata(name, value);
    EXPECT_TRUE(Generate(TextRequest(), nullptr, &context).ok()) << name;
  }
  grpc::ClientContext wrong;
  wrong.AddMetadata("authorization", std::string("Bearer ") + kKey + "x");
  const grpc::Status status = Generate(TextRequest(), nullptr, &wrong);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Reason(status), "invalid_api_key");
}

TEST_F(GrpcServerTest, WatchRoutingNeedsTheAdminKeyAndHoldsSmallWindowsBack) {
  UseKeys();
  Start();
  v1::WatchRoutingRequest request;
  request.set_interval_ms(100);
  grpc::ClientContext tenant;
  SetDeadline(tenant);
  tenant.AddMetadata("x-api-key", kKey);
  v1::RoutingWindow window;
  EXPECT_EQ(stub_->WatchRouting(&tenant, request)->Finish().error_code(),
            grpc::StatusCode::PERMISSION_DENIED);

  grpc::ClientContext admin;
  SetDeadline(admin);
  admin.AddMetadata("x-api-key", kAdminKey);
  const auto reader = stub_->WatchRouting(&admin, request);
  reader->WaitForInitialMetadata();  // the window begins here
  MetricsSnapshot snapshot;
  snapshot.depth_layers.push_back({.layer = "1", .capacity = 0.5, .executed = 400, .skipped = 599});
  engine_->set_snapshot(snapshot);
  // 999 rows are held back; with these the window has 2,000.
  snapshot.depth_layers[0].skipped = 1600;
  engine_->set_snapshot(snapshot);
  ASSERT_TRUE(reader->Read(&window));
  const auto& layer = window.depth_layers(0);
  EXPECT_GE(layer.executed_rows() + layer.skipped_rows(), 1000);
  server_->StartDraining();
  EXPECT_FALSE(reader->Read(&window));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GrpcServerTest, IsNotServingWhileLoadingAndDraining) {
  sets_engine_ = false;
  Start();
  EXPECT_EQ(Health(), 2);
  const grpc::Status loading = Generate(TextRequest(), nullptr);
  EXPECT_EQ(loading.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Reason(loading), "model_loading");
  EXPECT_TRUE(HasRetryInfo(loading));
  server_->SetEngine(engine_.get());
  EXPECT_EQ(Health(), 1);
  server_->StartDraining();
  EXPECT_EQ(Health(), 2);
  const grpc::Status draining = Generate(TextRequest(), nullptr);
  EXPECT_EQ(draining.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Reason(draining), "shutting_down");
}

TEST_F(GrpcServerTest, ReflectionDescribesTheService) {
  Start();
  using grpc::reflection::v1alpha::ServerReflection;
  const auto reflection = ServerReflection::NewStub(channel_);
  grpc::ClientContext context;
  SetDeadline(context);
  const auto stream = reflection->ServerReflectionInfo(&context);
  grpc::reflection::v1alpha::ServerReflectionRequest request;
  grpc::reflection::v1alpha::ServerReflectionResponse response;
  request.set_list_services("");
  ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
  EXPECT_EQ(response.list_services_response().service_size(), 3);
  request.set_file_containing_symbol("sluice.v1.GenerationService");
  ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
  EXPECT_EQ(response.file_descriptor_response().file_descriptor_proto_size(), 1);
  request.set_file_containing_symbol("no.such.Thing");
  ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
  EXPECT_EQ(response.error_response().error_code(), grpc::StatusCode::NOT_FOUND);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

// A key pair for 127.0.0.1 made by the openssl tool; the certificate is its own authority.
struct KeyPair {
  KeyPair() {
    const std::string stem = testing::TempDir() + "sluice_grpc_tls_" + std::to_string(getpid());
    certificate = stem + ".pem";
    key = stem + ".key";
    const std::string command =
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 "
        "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1,DNS:localhost -keyout " +
        key + " -out " + certificate + " >/dev/null 2>&1";
    is_made = std::system(command.c_str()) == 0;
  }
  ~KeyPair() {
    unlink(certificate.c_str());
    unlink(key.c_str());
  }
  static std::string Read(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  std::string certificate, key;
  bool is_made = false;
};

TEST_F(GrpcServerTest, TlsAsksForAClientCertificateWhenAnAuthorityIsGiven) {
  const KeyPair pair;
  if (!pair.is_made) GTEST_SKIP() << "no openssl tool";
  GrpcOptions options;
  options.tls_certificate_file = pair.certificate;
  options.tls_key_file = pair.key;
  options.tls_client_ca_file = pair.certificate;
  Start({}, options);
  const std::string address = "127.0.0.1:" + std::to_string(server_->port());
  grpc::SslCredentialsOptions anonymous;
  anonymous.pem_root_certs = KeyPair::Read(pair.certificate);
  grpc::SslCredentialsOptions known = anonymous;
  known.pem_cert_chain = KeyPair::Read(pair.certificate);
  known.pem_private_key = KeyPair::Read(pair.key);
  EXPECT_EQ(Generate(TextRequest(), nullptr).error_code(), grpc::StatusCode::UNAVAILABLE);
  stub_ = GenerationService::NewStub(grpc::CreateChannel(address, grpc::SslCredentials(anonymous)));
  EXPECT_EQ(Generate(TextRequest(), nullptr).error_code(), grpc::StatusCode::UNAVAILABLE);
  stub_ = GenerationService::NewStub(grpc::CreateChannel(address, grpc::SslCredentials(known)));
  const grpc::Status status = Generate(TextRequest(), nullptr);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(GrpcServerTest, UnreadableTlsFilesAreRefused) {
  Start();
  GrpcOptions options;
  options.port = 0;
  options.tls_certificate_file = "/nonexistent.pem";
  options.tls_key_file = "/nonexistent.key";
  const auto server = GrpcServer::Create(options, *authenticator_, counters_);
  EXPECT_TRUE(absl::IsInvalidArgument(server.status())) << server.status();
}

TEST_F(GrpcServerTest, APortInUseIsAlreadyExists) {
  Start();
  GrpcOptions options;
  options.port = server_->port();
  const auto second = GrpcServer::Create(options, *authenticator_, counters_);
  EXPECT_TRUE(absl::IsAlreadyExists(second.status())) << second.status();
}

}  // namespace
}  // namespace sluice::server
