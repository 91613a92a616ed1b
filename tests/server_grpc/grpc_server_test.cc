// The gRPC front end over a real socket, against an engine without a model.
#include "server/grpc/grpc_server.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/client_unary_call.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "gtest/gtest.h"
#include "sluice/v1/generation.grpc.pb.h"
#include "tests/support/fake_engine.h"

namespace sluice::server {
namespace {

using v1::GenerationService;

constexpr const char* kKey = "secret-key";
constexpr const char* kAdminKey = "admin-secret";

std::string DigestHex(const char* key) {
  const KeyDigest digest = DigestOf(key);
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

// What the details of a failed call say: "code param".
std::string Reason(const grpc::Status& status) {
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

bool HasRetryInfo(const grpc::Status& status) {
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
                             << ":*:0\nadmin:" << DigestHex(kAdminKey) << ":*:0\n";
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

TEST_F(GrpcServerTest, StreamsTextUsageAndTrailingMetadata) {
  Start();
  std::vector<v1::GenerateResponse> responses;
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "my-id");
  const grpc::Status status = Generate(TextRequest(), &responses, &context);
  ASSERT_TRUE(status.ok()) << status.error_message();
  std::string text;
  for (const v1::GenerateResponse& response : responses) text += response.text();
  EXPECT_EQ(text, "Hello world");
  EXPECT_EQ(responses.back().finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(responses.back().usage().prompt_tokens(), 3);
  EXPECT_EQ(responses.back().usage().completion_tokens(), 4);
  EXPECT_EQ(responses.back().usage().compute().skipped_ratio(), 0.5);
  EXPECT_EQ(responses.front().id(), "my-id");
  EXPECT_EQ(context.GetServerInitialMetadata().find("x-request-id")->second, "my-id");
  const auto& trailing = context.GetServerTrailingMetadata();
  ASSERT_NE(trailing.find("sluice-skipped-ratio"), trailing.end());
  EXPECT_EQ(trailing.find("sluice-skipped-ratio")->second, "0.5");
  EXPECT_EQ(counters_.requests(Api::kGrpcGenerate, 0), 1u);
}

TEST_F(GrpcServerTest, CancelStopsTheWork) {
  Start({.reply = {"x"}, .endless = true});
  grpc::ClientContext context;
  v1::GenerateRequest request = TextRequest();
  request.set_max_tokens(400);
  request.set_n(2);
  const auto reader = stub_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(engine_->WaitForIdle());
}

TEST_F(GrpcServerTest, ADeadlineReachesTheEngineAndEndsTheWork) {
  Start({.manual = true});
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  const auto reader = stub_->Generate(&context, TextRequest());
  v1::GenerateResponse response;
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  ASSERT_TRUE(engine_->WaitForCancels(1));
  const std::vector<Request> submitted = engine_->submitted();
  ASSERT_EQ(submitted.size(), 1u);
  ASSERT_TRUE(submitted[0].timeout.has_value());
  EXPECT_GT(*submitted[0].timeout, absl::ZeroDuration());
  EXPECT_LE(*submitted[0].timeout, absl::Seconds(1));  // the wire rounds deadlines up
}

TEST_F(GrpcServerTest, BrokenProtobufAndInvalidUtf8AreInvalidArgument) {
  Start();
  for (const char* method :
       {"/sluice.v1.GenerationService/Generate", "/sluice.v1.GenerationService/Tokenize",
        "/sluice.v1.GenerationService/Detokenize", "/sluice.v1.GenerationService/GetModel",
        "/sluice.v1.GenerationService/WatchRouting"}) {
    const grpc::Status lying_length = SendRaw(method, "\x0a\x7fshort");
    EXPECT_EQ(lying_length.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
    EXPECT_EQ(Reason(lying_length), "invalid_protobuf") << method;
  }
  const grpc::Status bad_text =
      SendRaw("/sluice.v1.GenerationService/Generate", "\x12\x02\xff\xfe");
  EXPECT_EQ(bad_text.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Reason(bad_text), "invalid_protobuf");
  EXPECT_THAT(engine_->submitted(), testing::IsEmpty());
}

TEST_F(GrpcServerTest, AnEmptyMessageNamesWhatIsMissing) {
  Start();
  const grpc::Status status = Generate({}, nullptr);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Reason(status), "empty_prompt prompt");
}

TEST_F(GrpcServerTest, AMessageBeyondTheLimitIsResourceExhausted) {
  Start({}, {.limits = {.max_receive_bytes = 10'000}});
  const grpc::Status status =
      SendRaw("/sluice.v1.GenerationService/Tokenize", std::string(20'000, 'x'));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

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
  MetricsSnapshot snapshot;
  snapshot.depth_layers.push_back({.layer = "1", .capacity = 0.5, .executed = 400, .skipped = 599});
  engine_->set_snapshot(snapshot);
  // 999 rows are held back; with these the window has 2,000.
  std::thread later([&] {
    snapshot.depth_layers[0].skipped = 1600;
    engine_->set_snapshot(snapshot);
  });
  later.join();
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

TEST_F(GrpcServerTest, ARunningStreamSurvivesTheDrain) {
  Start({.manual = true});
  grpc::ClientContext context;
  SetDeadline(context);
  const auto reader = stub_->Generate(&context, TextRequest());
  ASSERT_TRUE(engine_->WaitForSubmits(1));
  server_->StartDraining();
  EXPECT_EQ(server_->num_active_streams(), 1);
  TokenEvent event;
  event.text = "still here";
  event.finish = FinishReason::kStop;
  engine_->Emit(0, event);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.text(), "still here");
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GrpcServerTest, AFullQueueIsResourceExhaustedWithRetryInfo) {
  Start();
  absl::Status full(absl::StatusCode::kResourceExhausted, "the queue is full");
  full.SetPayload("sluice/code", absl::Cord("queue_full"));
  engine_->FailNextSubmit(full);
  const grpc::Status status = Generate(TextRequest(), nullptr);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Reason(status), "queue_full");
  EXPECT_TRUE(HasRetryInfo(status));
}

TEST_F(GrpcServerTest, AReaderThatNeverReadsPausesTheRequest) {
  Start({.reply = {std::string(8000, 'x')}, .endless = true},
        {.limits = {.stream_buffer_bytes = 64 << 10}});
  grpc::ClientContext context;
  v1::GenerateRequest request = TextRequest();
  request.set_max_tokens(500);  // 4 MB of text
  const auto reader = stub_->Generate(&context, request);
  ASSERT_TRUE(engine_->WaitForPause(true));
  v1::GenerateResponse response;
  size_t bytes = 0;
  while (reader->Read(&response)) bytes += response.text().size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(bytes, 500u * 8000);
  EXPECT_TRUE(engine_->WaitForPause(false));
}

TEST_F(GrpcServerTest, TokenizesDetokenizesAndDescribesTheModel) {
  Start();
  v1::TokenizeRequest tokenize;
  tokenize.set_text("ab");
  v1::TokenizeResponse tokens;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->Tokenize(&first, tokenize, &tokens).ok());
  EXPECT_THAT(tokens.ids(), testing::ElementsAre(kFakeBos, 'a', 'b'));
  EXPECT_EQ(tokens.tokens(1), "a");
  EXPECT_EQ(tokens.max_model_len(), 512);

  v1::DetokenizeRequest detokenize;
  detokenize.add_ids('a');
  v1::DetokenizeResponse text;
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->Detokenize(&second, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "a");
  detokenize.add_ids(kFakeVocabulary);
  grpc::ClientContext third;
  EXPECT_EQ(Reason(stub_->Detokenize(&third, detokenize, &text)), "token_out_of_vocab ids");

  v1::Model model;
  grpc::ClientContext fourth;
  ASSERT_TRUE(stub_->GetModel(&fourth, {}, &model).ok());
  EXPECT_EQ(model.id(), "fake-model");
  EXPECT_THAT(model.routing_modes(), testing::ElementsAre("threshold", "predictor"));
  v1::GetModelRequest other;
  other.set_model("other");
  grpc::ClientContext fifth;
  EXPECT_EQ(stub_->GetModel(&fifth, other, &model).error_code(), grpc::StatusCode::NOT_FOUND);
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
