// HTTP/1 itself: strictness, limits, time limits, keep-alive.
#include <ostream>

#include "tests/server/http_fixture.h"

namespace sluice::server {
namespace {

constexpr const char* kBody = R"({"prompt": "a"})";

std::string Chunked(const std::vector<std::string>& chunks) {
  std::string text =
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n";
  char size[32];
  for (const std::string& chunk : chunks) {
    std::snprintf(size, sizeof(size), "%zx\r\n", chunk.size());
    text += size + chunk + "\r\n";
  }
  return text + "0\r\n\r\n";
}

struct RawCase {
  const char* name;
  std::string bytes;
  int status;
  const char* code;
};

void PrintTo(const RawCase& item, std::ostream* out) { *out << item.name; }

class RefusedBytesTest : public HttpFixture, public testing::WithParamInterface<RawCase> {};

TEST_P(RefusedBytesTest, AreAnsweredAndTheConnectionEnds) {
  StartServer();
  HttpClient client(port());
  client.Send(GetParam().bytes);
  const ClientResponse response = client.ReadResponse();
  EXPECT_EQ(response.status, GetParam().status) << response.body;
  EXPECT_EQ(response.ErrorCode(), GetParam().code);
  EXPECT_EQ(response.fields.at("connection"), "close");
  EXPECT_TRUE(response.fields.count("x-request-id") > 0);
  EXPECT_TRUE(client.AtEnd());
  EXPECT_TRUE(engine_->submitted().empty());
}

std::string Head(const std::string& fields) { return "GET /health HTTP/1.1\r\n" + fields + "\r\n"; }

std::string PostHead(const std::string& fields) {
  return "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + fields +
         "\r\n";
}

INSTANTIATE_TEST_SUITE_P(
    Strict,
    RefusedBytesTest,
    testing::Values(
        RawCase{"NoHost", Head(""), 400, "bad_host"},
        RawCase{"TwoHosts", Head("Host: a\r\nHost: a\r\n"), 400, "bad_host"},
        RawCase{"LengthAndEncoding",
                Head("Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400,
                "invalid_http"},
        RawCase{"TwoLengths", Head("Host: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n"), 400,
                "invalid_http"},
        RawCase{"LengthList", Head("Host: a\r\nContent-Length: 1, 1\r\n"), 400, "invalid_http"},
        RawCase{"LengthSign", Head("Host: a\r\nContent-Length: +1\r\n"), 400, "invalid_http"},
        RawCase{"LengthHuge", Head("Host: a\r\nContent-Length: 99999999999999999999\r\n"), 400,
                "invalid_http"},
        RawCase{"OtherEncoding", Head("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n"), 400,
                "invalid_http"},
        RawCase{"Folded", Head("Host: a\r\nX: 1\r\n 2\r\n"), 400, "invalid_http"},
        RawCase{"SpaceBeforeColon", Head("Host: a\r\nX : 1\r\n"), 400, "invalid_http"},
        RawCase{"BareLf", "GET /health HTTP/1.1\nHost: a\n\n", 400, "invalid_http"},
        RawCase{"BareCr", Head("Host: a\r\nX: 1\r2\r\n"), 400, "invalid_http"},
        RawCase{"ControlByte", Head(std::string("Host: a\r\nX: \x01\r\n")), 400, "invalid_http"},
        RawCase{"Version", "GET /health HTTP/2.0\r\nHost: a\r\n\r\n", 400, "invalid_http"},
        RawCase{"NoVersion", "GET /health\r\n\r\n", 400, "invalid_http"},
        RawCase{"TlsHello", std::string("\x16\x03\x01\x02\x00\x01", 6), 400, "invalid_http"},
        RawCase{"EncodingInHttp10",
                "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
                "invalid_http"},
        RawCase{"Expect", Head("Host: a\r\nExpect: magic\r\n"), 417, "expectation_failed"},
        RawCase{"BigHead", Head("Host: a\r\nX: " + std::string(17 << 10, 'a') + "\r\n"), 431,
                "headers_too_large"},
        RawCase{"LongTarget", "GET /" + std::string(9 << 10, 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n",
                414, "uri_too_long"},
        RawCase{"BadChunk",
                "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                "Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
                400, "invalid_http"},
        RawCase{"BareLfChunk", PostHead("Transfer-Encoding: chunked\r\n") + "1\n{\r\n", 400,
                "invalid_http"},
        RawCase{"ChunkTooLong", PostHead("Transfer-Encoding: chunked\r\n") + "2\r\n{}}\r\n", 400,
                "invalid_http"},
        RawCase{"HugeChunk", PostHead("Transfer-Encoding: chunked\r\n") + "fffffffffffffffff\r\n",
                413, "content_too_large"},
        RawCase{"CutFinalChunk", PostHead("Transfer-Encoding: chunked\r\n") + "0\r\n\r1.1\r\r\n",
                400, "invalid_http"},
        RawCase{"Compressed", PostText(kCompletionsPath, kBody, "Content-Encoding: gzip\r\n"), 415,
                "unsupported_encoding"},
        RawCase{"TextBody",
                "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"
                "Content-Length: 2\r\n\r\n{}",
                415, "unsupported_media_type"}));

class ProtocolTest : public HttpFixture {};

TEST_F(ProtocolTest, HundredAndOneFieldsAreTooMany) {
  StartServer();
  std::string fields;
  for (int i = 0; i < 99; ++i) fields += "X-" + std::to_string(i) + ": 1\r\n";
  EXPECT_EQ(Get(port(), "/health", fields).status, 200);  // with Host: 100
  EXPECT_EQ(Get(port(), "/health", fields + "Y: 1\r\n").status, 431);
}

TEST_F(ProtocolTest, BodiesMayFillTheLimitAndNoMore) {
  options_.limits.max_body_bytes = 1000;
  StartServer();
  const std::string fits = std::string(kBody) + std::string(1000 - 15, ' ');
  EXPECT_EQ(Complete(fits).status, 200);
  const ClientResponse response = Complete(fits + " ");
  EXPECT_EQ(response.status, 413);
  EXPECT_EQ(response.ErrorCode(), "content_too_large");
}

TEST_F(ProtocolTest, ChunkedBodiesCountReceivedBytes) {
  options_.limits.max_body_bytes = 1000;
  StartServer();
  HttpClient client(port());
  client.Send(Chunked({std::string(500, ' '), kBody}));
  EXPECT_EQ(client.ReadResponse().status, 200);
  client.Send(Chunked({std::string(500, ' '), std::string(501, ' ')}));
  EXPECT_EQ(client.ReadResponse().status, 413);
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(ProtocolTest, TooManyChunksAreTooLarge) {
  options_.limits.max_chunks = 10;
  StartServer();
  HttpClient client(port());
  client.Send(Chunked(std::vector<std::string>(20, " ")));
  EXPECT_EQ(client.ReadResponse().status, 413);
}

// Cuts anywhere in the coding, extensions and trailers included.
TEST_F(ProtocolTest, ChunkedCodingMayBeCutAnywhere) {
  StartServer();
  const std::string head =
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n";
  const std::string coded =
      "5;name=value\r\n{\"pro\r\nA\r\nmpt\": \"a\"}\r\n0\r\nTrailer: 1\r\n\r\n";
  for (size_t cut = 0; cut <= coded.size(); ++cut) {
    HttpClient client(port());
    client.Send(head + coded.substr(0, cut));
    client.Send(coded.substr(cut));
    ASSERT_EQ(client.ReadResponse().status, 200) << cut;
  }
}

TEST_F(ProtocolTest, ARequestMayArriveByteByByte) {
  StartServer();
  HttpClient client(port());
  for (const char c : Chunked({R"({"prom)", R"(pt": "a"})"})) client.Send({&c, 1});
  EXPECT_EQ(client.ReadResponse().status, 200);
}

TEST_F(ProtocolTest, PipelinedRequestsAreAnsweredInOrder) {
  StartServer();
  HttpClient client(port());
  client.Send(PostText(kCompletionsPath, R"({"prompt": "a", "echo": true})") +
              "GET /health HTTP/1.1\r\nHost: a\r\n\r\n" +
              PostText(kCompletionsPath, R"({"prompt": "b", "echo": true})"));
  EXPECT_EQ(client.ReadResponse().Json()["choices"][0]["text"], "aHello world");
  EXPECT_EQ(client.ReadResponse().Json()["status"], "ready");
  EXPECT_EQ(client.ReadResponse().Json()["choices"][0]["text"], "bHello world");
}

TEST_F(ProtocolTest, EmptyLinesBeforeARequestAreSkipped) {
  StartServer();
  HttpClient client(port());
  for (const char c : std::string("\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n")) {
    client.Send({&c, 1});
  }
  EXPECT_EQ(client.ReadResponse().status, 200);
}

TEST_F(ProtocolTest, AProbeMayHalfCloseBeforeItsAnswer) {
  StartServer();
  HttpClient client(port());
  client.Send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
  client.ShutdownSend();
  EXPECT_EQ(client.ReadResponse().status, 200);
}

TEST_F(ProtocolTest, APostWithoutABodyIsNoJson) {
  StartServer();
  HttpClient client(port());
  client.Send("POST /v1/completions HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(client.ReadResponse().ErrorCode(), "invalid_json");
}

TEST_F(ProtocolTest, ExpectContinueAsksForTheBody) {
  StartServer();
  HttpClient client(port());
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
      "Content-Length: 15\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.ReadResponse().status, 100);
  client.Send(kBody);
  EXPECT_EQ(client.ReadResponse().status, 200);
}

TEST_F(ProtocolTest, ExpectContinueIsRefusedBeforeTheBody) {
  StartServer();
  HttpClient client(port());
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
      "Content-Length: 999999999\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.ReadResponse().status, 413);
}

TEST_F(ProtocolTest, SlowHeadsTimeOut) {
  options_.timeouts.head = absl::Milliseconds(200);
  StartServer();
  HttpClient client(port());
  client.Send("GET /health HTTP/1.1\r\nHost:");
  const ClientResponse response = client.ReadResponse();
  EXPECT_EQ(response.status, 408);
  EXPECT_EQ(response.ErrorCode(), "request_timeout");
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(ProtocolTest, StalledBodiesTimeOut) {
  options_.timeouts.body_window = absl::Milliseconds(200);
  StartServer();
  HttpClient client(port());
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
      "Content-Length: 15\r\n\r\n{");
  EXPECT_EQ(client.ReadResponse().status, 408);
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(ProtocolTest, IdleConnectionsAreClosedSilently) {
  options_.timeouts.keep_alive_idle = absl::Milliseconds(200);
  options_.timeouts.head = absl::Milliseconds(200);
  StartServer();
  HttpClient silent(port());
  HttpClient served(port());
  served.Send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(served.ReadResponse().status, 200);
  EXPECT_TRUE(served.AtEnd());
  EXPECT_TRUE(silent.AtEnd());
}

TEST_F(ProtocolTest, ConnectionsAreCapped) {
  options_.limits.max_connections = 1;
  StartServer();
  HttpClient first(port());
  first.Send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(first.ReadResponse().status, 200);
  HttpClient second(port());
  EXPECT_TRUE(second.AtEnd());
  EXPECT_EQ(Get(server_->metrics_port(), "/health/live").status, 200);  // its own budget
}

TEST_F(ProtocolTest, UnknownPathsAndMethods) {
  StartServer();
  const ClientResponse unknown = Get(port(), "/nothing");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_EQ(unknown.ErrorCode(), "unknown_url");
  EXPECT_EQ(unknown.Json()["error"]["type"], "not_found_error");
  const ClientResponse method = Get(port(), kCompletionsPath);
  EXPECT_EQ(method.status, 405);
  EXPECT_EQ(method.ErrorCode(), "method_not_allowed");
  EXPECT_EQ(method.fields.at("allow"), "POST");
  EXPECT_EQ(Get(port(), "/health", "", "DELETE").fields.at("allow"), "GET, HEAD");
  EXPECT_EQ(Get(port(), "/health?full=1").status, 200);
  EXPECT_EQ(Get(port(), "/health", "", "HEAD").status, 200);
}

TEST_F(ProtocolTest, RequestIdsComeBackUnlessTheyAreUnsafe) {
  StartServer();
  EXPECT_EQ(Get(port(), "/health", "x-request-id: abc-1\r\n").fields.at("x-request-id"), "abc-1");
  const std::string id =
      Get(port(), "/health", "x-request-id: \"><script>\r\n").fields.at("x-request-id");
  EXPECT_EQ(id.rfind("req-", 0), 0u);
}

TEST_F(ProtocolTest, CorsIsOffUntilAnOriginIsAllowed) {
  StartServer();
  const std::string preflight = "Origin: http://ui\r\nAccess-Control-Request-Method: POST\r\n";
  const ClientResponse off = Get(port(), kCompletionsPath, preflight, "OPTIONS");
  EXPECT_EQ(off.status, 405);
  EXPECT_EQ(off.fields.count("access-control-allow-origin"), 0u);
  server_.reset();
  options_.cors_allow_origin = "http://ui";
  StartServer();
  const ClientResponse on = Get(port(), kCompletionsPath, preflight, "OPTIONS");
  EXPECT_EQ(on.status, 204);
  EXPECT_EQ(on.fields.at("access-control-allow-origin"), "http://ui");
  EXPECT_EQ(on.fields.at("access-control-allow-methods"), "POST");
  const ClientResponse answer = Post(port(), kCompletionsPath, kBody, "Origin: http://ui\r\n");
  EXPECT_EQ(answer.fields.at("access-control-allow-origin"), "http://ui");
}

TEST_F(ProtocolTest, Http10ConnectionsEndAfterTheResponse) {
  StartServer();
  HttpClient client(port());
  client.Send("GET /health HTTP/1.0\r\n\r\n");
  EXPECT_EQ(client.ReadResponse().status, 200);
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(ProtocolTest, APortInUseIsNamed) {
  StartServer();
  HttpOptions taken;
  taken.port = port();
  const auto second = HttpServer::Create(taken, authenticator_.get());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_NE(std::string(second.status().message()).find(std::to_string(port())), std::string::npos);
  taken.host = "not an address";
  EXPECT_EQ(HttpServer::Create(taken, authenticator_.get()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sluice::server
