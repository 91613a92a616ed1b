// What POST /v1/embeddings answers and asks of the engine; who refuses what.
#include <cstring>

#include "absl/strings/escaping.h"
#include "engine/request_error.h"
#include "gmock/gmock.h"
#include "tests/server/http_fixture.h"

namespace sluice::server {
namespace {

using nlohmann::json;
using testing::ElementsAre;

class EmbeddingsTest : public HttpFixture {
 protected:
  void StartEncoder() {
    engine_options_.card.embedding_size = 3;
    StartServer();
  }
  ClientResponse Embed(std::string_view body) { return Post(port(), "/v1/embeddings", body); }
  void ExpectRefused(std::string_view body, const std::string& code, const std::string& param) {
    const ClientResponse response = Embed(body);
    EXPECT_EQ(response.status, 400) << body << response.body;
    const json error = response.Json()["error"];
    EXPECT_EQ(error["code"], code) << body;
    EXPECT_EQ(error["param"], param.empty() ? json() : json(param)) << body;
  }
};

TEST_F(EmbeddingsTest, AnswersTheOpenAiShape) {
  StartEncoder();
  const ClientResponse response = Embed(R"({"model": "fake-model", "input": "Hi"})");
  ASSERT_EQ(response.status, 200) << response.body;
  const json body = response.Json();
  EXPECT_EQ(body["object"], "list");
  EXPECT_EQ(body["model"], "fake-model");
  ASSERT_EQ(body["data"].size(), 1u);
  EXPECT_EQ(body["data"][0], json::parse(R"({"object": "embedding", "index": 0,
                                             "embedding": [3.0, 256.0, -0.5]})"));
  EXPECT_EQ(body["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(body["usage"]["total_tokens"], 3);
  const std::vector<Request> requests = engine_->submitted();
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_TRUE(requests[0].embed);
  EXPECT_EQ(requests[0].stop.max_tokens, 0);
  EXPECT_THAT(requests[0].prompt, ElementsAre(kFakeBos, 'H', 'i'));
  WaitForRecords(1);
  EXPECT_EQ(counters_.requests(Api::kEmbeddings, 0), 1u);
}

TEST_F(EmbeddingsTest, TakesManyInputsOfEitherKind) {
  StartEncoder();
  const json texts = Embed(R"({"input": ["a", "bcd"], "add_special_tokens": false})").Json();
  ASSERT_EQ(texts["data"].size(), 2u) << texts;
  EXPECT_EQ(texts["data"][1]["index"], 1);
  EXPECT_EQ(texts["data"][1]["embedding"][0], 3.0);
  EXPECT_EQ(texts["usage"]["prompt_tokens"], 4);
  const json one = Embed(R"({"input": [7, 8], "priority": 2, "timeout_ms": 5000})").Json();
  EXPECT_EQ(one["data"][0]["embedding"], json::parse("[2.0, 7.0, -0.5]"));
  EXPECT_EQ(engine_->submitted().back().priority, 2);
  EXPECT_EQ(Embed(R"({"input": [[7], [8, 9]]})").Json()["data"].size(), 2u);
}

TEST_F(EmbeddingsTest, Base64IsLittleEndianFloats) {
  StartEncoder();
  const json body = Embed(R"({"input": [5], "encoding_format": "base64"})").Json();
  std::string bytes;
  ASSERT_TRUE(absl::Base64Unescape(std::string(body["data"][0]["embedding"]), &bytes));
  float values[3] = {};
  ASSERT_EQ(bytes.size(), sizeof(values));
  std::memcpy(values, bytes.data(), sizeof(values));
  EXPECT_THAT(values, ElementsAre(1.0f, 5.0f, -0.5f));
}

TEST_F(EmbeddingsTest, RefusesWrongRequests) {
  StartEncoder();
  ExpectRefused("{}", "empty_prompt", "input");
  ExpectRefused(R"({"input": ""})", "empty_prompt", "input");
  ExpectRefused(R"({"input": []})", "empty_prompt", "input");
  ExpectRefused(R"({"input": [[]]})", "empty_prompt", "input");
  ExpectRefused(R"({"input": 3})", "wrong_type", "input");
  ExpectRefused(R"({"input": ["a", 1]})", "wrong_type", "input");
  ExpectRefused(R"({"input": [260]})", "token_out_of_vocab", "input");
  ExpectRefused(R"({"input": [-1]})", "token_out_of_vocab", "input");
  ExpectRefused(R"({"input": "a", "encoding_format": "hex"})", "invalid_value", "encoding_format");
  ExpectRefused(R"({"input": "a", "encoding_format": 3})", "wrong_type", "encoding_format");
  ExpectRefused(R"({"input": "a", "dimensions": 2})", "unsupported_parameter", "dimensions");
  ExpectRefused(R"({"input": "a", "timeout_ms": 0})", "integer_out_of_range", "timeout_ms");
  json many = {{"input", json::array()}};
  for (int i = 0; i < 33; ++i) many["input"].push_back("x");
  ExpectRefused(many.dump(), "too_many_sequences", "input");
  const json long_input = {{"input", std::string(100'000, 'x')}};
  ExpectRefused(long_input.dump(), "context_length_exceeded", "input");
  EXPECT_EQ(Embed(R"({"input": "a", "model": "other"})").status, 404);
  EXPECT_TRUE(engine_->submitted().empty());
}

TEST_F(EmbeddingsTest, RefusalsOfTheEngineNameTheClientsField) {
  StartEncoder();
  engine_->FailNextSubmit(BadRequest("kv_capacity", "prompt", "too long"));
  ExpectRefused(R"({"input": "a"})", "kv_capacity", "input");
}

TEST_F(EmbeddingsTest, EncodersGenerateNothing) {
  StartEncoder();
  for (const ClientResponse& response :
       {Complete(R"({"prompt": "Hi"})"),
        Chat(R"({"messages": [{"role": "user", "content": "Hi"}]})")}) {
    EXPECT_EQ(response.status, 400) << response.body;
    EXPECT_EQ(response.Json()["error"]["code"], "unsupported_parameter");
    EXPECT_EQ(response.Json()["error"]["param"], "model");
    EXPECT_THAT(std::string(response.Json()["error"]["message"]), testing::HasSubstr("an encoder"));
  }
  EXPECT_TRUE(engine_->submitted().empty());
}

TEST_F(EmbeddingsTest, DecodersGiveNoEmbeddings) {
  StartServer();
  ExpectRefused(R"({"input": "Hi"})", "unsupported_parameter", "model");
}

}  // namespace
}  // namespace sluice::server
