// The table of bad inputs (reliability.md section 5), the rows that reach HTTP routes with a body.
#include <ostream>

#include "engine/request_error.h"
#include "tests/server/http_fixture.h"

namespace sluice::server {
namespace {

using nlohmann::json;

struct BadInput {
  const char* name;
  const char* path;
  std::string body;
  int status;
  const char* code;
  const char* param;  // "null": no parameter
};

void PrintTo(const BadInput& input, std::ostream* out) { *out << input.name; }

std::string Completion(const std::string& fields) { return "{\"prompt\": \"a\", " + fields + "}"; }

std::string ChatWith(const std::string& fields) {
  return R"({"messages": [{"role": "user", "content": "a"}], )" + fields + "}";
}

std::string Repeat(const std::string& text, size_t count) {
  std::string all;
  for (size_t i = 0; i < count; ++i) all += (i == 0 ? "" : ", ") + text;
  return all;
}

std::string Nested(size_t depth) {
  return "{\"prompt\": \"a\", \"x\": " + std::string(depth, '[') + std::string(depth, ']') + "}";
}

std::string LogitBias(size_t entries) {
  std::string fields;
  for (size_t i = 0; i < entries; ++i) {
    fields += (i == 0 ? "\"" : ", \"") + std::to_string(i) + "\": 1";
  }
  return Completion("\"logit_bias\": {" + fields + "}");
}

class BadInputTest : public HttpFixture, public testing::WithParamInterface<BadInput> {};

TEST_P(BadInputTest, IsRefusedWithItsCode) {
  StartServer();
  const BadInput& input = GetParam();
  const ClientResponse response = Post(port(), input.path, input.body);
  EXPECT_EQ(response.status, input.status) << response.body;
  EXPECT_EQ(response.ErrorCode(), input.code);
  EXPECT_EQ(response.ErrorParam(), input.param);
  const json error = response.Json()["error"];
  ASSERT_EQ(error.size(), 4u);
  EXPECT_TRUE(error["message"].is_string());
  EXPECT_TRUE(error["type"].is_string());
  EXPECT_TRUE(engine_->submitted().empty());
  // The connection and the server are as good as before.
  EXPECT_EQ(Complete(R"({"prompt": "a"})").status, 200);
}

constexpr const char* kC = kCompletionsPath;
constexpr const char* kM = kChatPath;

INSTANTIATE_TEST_SUITE_P(
    Json,
    BadInputTest,
    testing::Values(
        BadInput{"NotJson", kC, "hello", 400, "invalid_json", "null"},
        BadInput{"Truncated", kC, "{\"prompt\": ", 400, "invalid_json", "null"},
        BadInput{"Empty", kC, "", 400, "invalid_json", "null"},
        BadInput{"Array", kC, "[]", 400, "not_an_object", "null"},
        BadInput{"String", kC, "\"x\"", 400, "not_an_object", "null"},
        BadInput{"Number", kC, "42", 400, "not_an_object", "null"},
        BadInput{"Null", kC, "null", 400, "not_an_object", "null"},
        BadInput{"Depth65", kC, Nested(64), 400, "json_too_deep", "null"},
        BadInput{"Depth1e5", kC, Nested(100'000), 400, "json_too_deep", "null"},
        BadInput{"Depth1e6", kC, Nested(1'000'000), 400, "json_too_deep", "null"},
        BadInput{"Wide", kC, "[" + Repeat("1", 200'001) + "]", 400, "json_too_large", "null"},
        BadInput{"DuplicateKey", kC, R"({"prompt": "a", "prompt": "b"})", 400, "duplicate_key",
                 "null"},
        BadInput{"InvalidUtf8", kC, "{\"prompt\": \"\xff\"}", 400, "invalid_utf8", "null"},
        BadInput{"LoneSurrogate", kC, R"({"prompt": "\ud800"})", 400, "invalid_json", "null"}));

INSTANTIATE_TEST_SUITE_P(
    Model,
    BadInputTest,
    testing::Values(
        BadInput{"WrongType", kC, Completion("\"model\": 5"), 400, "wrong_type", "model"},
        BadInput{"EmptyName", kC, Completion("\"model\": \"\""), 400, "invalid_value", "model"},
        BadInput{"EmptyNameInChat", kM, ChatWith("\"model\": \"\""), 400, "invalid_value", "model"},
        BadInput{"Unknown", kC, Completion("\"model\": \"x\""), 404, "model_not_found", "model"},
        BadInput{"Path", kC, Completion("\"model\": \"../../etc/passwd\""), 404, "model_not_found",
                 "model"}));

INSTANTIATE_TEST_SUITE_P(
    FieldsWithoutAnEffect,
    BadInputTest,
    testing::Values(
        BadInput{"User", kC, Completion("\"user\": 5"), 400, "wrong_type", "user"},
        BadInput{"UserInChat", kM, ChatWith("\"user\": [\"a\"]"), 400, "wrong_type", "user"},
        BadInput{"Store", kM, ChatWith("\"store\": \"yes\""), 400, "wrong_type", "store"},
        BadInput{"Metadata", kC, Completion("\"metadata\": []"), 400, "wrong_type", "metadata"}));

INSTANTIATE_TEST_SUITE_P(
    Messages,
    BadInputTest,
    testing::Values(
        BadInput{"Missing", kM, "{}", 400, "missing_required", "messages"},
        BadInput{"NoList", kM, R"({"messages": "a"})", 400, "wrong_type", "messages"},
        BadInput{"EmptyList", kM, R"({"messages": []})", 400, "empty_array", "messages"},
        BadInput{"EmptyMessage", kM, R"({"messages": [{}]})", 400, "missing_required", "messages"},
        BadInput{"NoRole", kM, R"({"messages": [{"content": "a"}]})", 400, "invalid_value",
                 "messages[0].role"},
        BadInput{"UnknownRole", kM, R"({"messages": [{"role": "boss", "content": "a"}]})", 400,
                 "invalid_value", "messages[0].role"},
        BadInput{"ImagePart", kM,
                 R"({"messages": [{"role": "user", "content":
                    [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]}]})",
                 400, "unsupported_content", "messages[0].content[1]"},
        BadInput{"NoContent", kM, R"({"messages": [{"role": "user"}]})", 400, "missing_required",
                 "messages[0].content"},
        BadInput{"ToolChoice", kM,
                 ChatWith(R"("tool_choice": {"type": "function", "function": {"name": "f"}})"), 400,
                 "invalid_value", "tool_choice"},
        BadInput{"ToolsNoList", kM, ChatWith("\"tools\": 5"), 400, "invalid_value", "tools"},
        BadInput{"Tools", kM, ChatWith("\"tools\": [{}]"), 400, "unsupported_parameter", "tools"},
        BadInput{"SchemaMissing", kM, ChatWith(R"("response_format": {"type": "json_schema"})"),
                 400, "missing_required", "response_format.json_schema"},
        BadInput{"Schema", kM,
                 ChatWith(R"("response_format": {"type": "json_schema", "json_schema": {}})"), 400,
                 "unsupported_parameter", "response_format"},
        BadInput{"Template", kM, ChatWith("\"chat_template\": \"x\""), 400, "unsupported_parameter",
                 "chat_template"},
        BadInput{"TopWithoutLogprobs", kM, ChatWith("\"top_logprobs\": 2"), 400, "invalid_value",
                 "top_logprobs"},
        BadInput{"TooManyTop", kM, ChatWith("\"logprobs\": true, \"top_logprobs\": 21"), 400,
                 "integer_out_of_range", "top_logprobs"},
        BadInput{"TooLong", kM,
                 R"({"messages": [{"role": "user", "content": ")" + std::string(600, 'a') + "\"}]}",
                 400, "context_length_exceeded", "messages"}));

INSTANTIATE_TEST_SUITE_P(
    Prompt,
    BadInputTest,
    testing::Values(
        BadInput{"Missing", kC, "{}", 400, "empty_prompt", "prompt"},
        BadInput{"Null", kC, R"({"prompt": null})", 400, "empty_prompt", "prompt"},
        BadInput{"EmptyString", kC, R"({"prompt": ""})", 400, "empty_prompt", "prompt"},
        BadInput{"EmptyList", kC, R"({"prompt": []})", 400, "empty_prompt", "prompt"},
        BadInput{"EmptyInner", kC, R"({"prompt": [[]]})", 400, "empty_prompt", "prompt"},
        BadInput{"NegativeToken", kC, R"({"prompt": [-1]})", 400, "token_out_of_vocab", "prompt"},
        BadInput{"VocabSize", kC, R"({"prompt": [260]})", 400, "token_out_of_vocab", "prompt"},
        BadInput{"Token2e31", kC, R"({"prompt": [2147483648]})", 400, "token_out_of_vocab",
                 "prompt"},
        BadInput{"FloatToken", kC, R"({"prompt": [1.5]})", 400, "wrong_type", "prompt"},
        BadInput{"Mixed", kC, R"({"prompt": ["a", [1]]})", 400, "wrong_type", "prompt"},
        BadInput{"Object", kC, R"({"prompt": {}})", 400, "wrong_type", "prompt"},
        BadInput{"ThirtyThree", kC, "{\"prompt\": [" + Repeat("\"a\"", 33) + "]}", 400,
                 "too_many_sequences", "prompt"},
        BadInput{"Product", kC, "{\"n\": 16, \"prompt\": [" + Repeat("\"a\"", 5) + "]}", 400,
                 "too_many_sequences", "prompt"},
        BadInput{"TooLong", kC, "{\"prompt\": \"" + std::string(600, 'a') + "\"}", 400,
                 "context_length_exceeded", "prompt"},
        BadInput{"TooLongWithOutput", kC,
                 "{\"max_tokens\": 20, \"prompt\": \"" + std::string(500, 'a') + "\"}", 400,
                 "context_length_exceeded", "max_tokens"}));

INSTANTIATE_TEST_SUITE_P(
    Integers,
    BadInputTest,
    testing::Values(
        BadInput{"Zero", kC, Completion("\"max_tokens\": 0"), 400, "integer_out_of_range",
                 "max_tokens"},
        BadInput{"Negative", kC, Completion("\"max_tokens\": -1"), 400, "integer_out_of_range",
                 "max_tokens"},
        BadInput{"TwoTo32", kC, Completion("\"max_tokens\": 4294967296"), 400,
                 "integer_out_of_range", "max_tokens"},
        BadInput{"Fraction", kC, Completion("\"max_tokens\": 1.5"), 400, "wrong_type",
                 "max_tokens"},
        BadInput{"String", kC, Completion("\"max_tokens\": \"5\""), 400, "wrong_type",
                 "max_tokens"},
        BadInput{"Bool", kC, Completion("\"max_tokens\": true"), 400, "wrong_type", "max_tokens"},
        BadInput{"Exponent", kC, Completion("\"max_tokens\": 1e10"), 400, "wrong_type",
                 "max_tokens"},
        BadInput{"MinAboveMax", kC, Completion("\"max_tokens\": 2, \"min_tokens\": 3"), 400,
                 "integer_out_of_range", "min_tokens"},
        BadInput{"N0", kC, Completion("\"n\": 0"), 400, "integer_out_of_range", "n"},
        BadInput{"N17", kC, Completion("\"n\": 17"), 400, "integer_out_of_range", "n"},
        BadInput{"BestOf", kC, Completion("\"best_of\": 1"), 400, "unsupported_parameter",
                 "best_of"},
        BadInput{"Logprobs21", kC, Completion("\"logprobs\": 21"), 400, "integer_out_of_range",
                 "logprobs"},
        BadInput{"LogprobsBool", kC, Completion("\"logprobs\": true"), 400, "wrong_type",
                 "logprobs"},
        BadInput{"TimeoutZero", kC, Completion("\"timeout_ms\": 0"), 400, "integer_out_of_range",
                 "timeout_ms"},
        BadInput{"Seed", kC, Completion("\"seed\": 18446744073709551616"), 400, "wrong_type",
                 "seed"},
        BadInput{"TopK", kC, Completion("\"top_k\": -2"), 400, "integer_out_of_range", "top_k"}));

INSTANTIATE_TEST_SUITE_P(
    Numbers,
    BadInputTest,
    testing::Values(
        BadInput{"TemperatureLow", kC, Completion("\"temperature\": -0.1"), 400,
                 "number_out_of_range", "temperature"},
        BadInput{"TemperatureHigh", kC, Completion("\"temperature\": 2.1"), 400,
                 "number_out_of_range", "temperature"},
        BadInput{"TemperatureNan", kC, Completion("\"temperature\": NaN"), 400, "invalid_json",
                 "null"},
        BadInput{"TemperatureWord", kC, Completion("\"temperature\": \"hot\""), 400, "wrong_type",
                 "temperature"},
        BadInput{"Temperature1e300", kC, Completion("\"temperature\": 1e300"), 400,
                 "number_out_of_range", "temperature"},
        BadInput{"TopP0", kC, Completion("\"top_p\": 0"), 400, "number_out_of_range", "top_p"},
        BadInput{"TopP1.1", kC, Completion("\"top_p\": 1.1"), 400, "number_out_of_range", "top_p"},
        BadInput{"MinPLow", kC, Completion("\"min_p\": -1"), 400, "number_out_of_range", "min_p"},
        BadInput{"MinP1", kC, Completion("\"min_p\": 1"), 400, "number_out_of_range", "min_p"},
        BadInput{"Presence", kC, Completion("\"presence_penalty\": 2.1"), 400,
                 "number_out_of_range", "presence_penalty"},
        BadInput{"Frequency", kC, Completion("\"frequency_penalty\": -2.1"), 400,
                 "number_out_of_range", "frequency_penalty"},
        BadInput{"Repetition", kC, Completion("\"repetition_penalty\": 0"), 400,
                 "number_out_of_range", "repetition_penalty"}));

INSTANTIATE_TEST_SUITE_P(
    Lists,
    BadInputTest,
    testing::Values(
        BadInput{"BiasEntries", kC, LogitBias(1025), 400, "too_many_entries", "logit_bias"},
        BadInput{"BiasKey", kC, Completion("\"logit_bias\": {\"abc\": 1}"), 400, "invalid_value",
                 "logit_bias"},
        BadInput{"BiasNegative", kC, Completion("\"logit_bias\": {\"-1\": 1}"), 400,
                 "token_out_of_vocab", "logit_bias"},
        BadInput{"BiasVocab", kC, Completion("\"logit_bias\": {\"260\": 1}"), 400,
                 "token_out_of_vocab", "logit_bias"},
        BadInput{"BiasValue", kC, Completion("\"logit_bias\": {\"1\": 101}"), 400,
                 "number_out_of_range", "logit_bias"},
        BadInput{"Stops", kC, Completion("\"stop\": [" + Repeat("\"a\"", 17) + "]"), 400,
                 "too_many_entries", "stop"},
        BadInput{"StopEmpty", kC, Completion("\"stop\": [\"\"]"), 400, "invalid_value", "stop"},
        BadInput{"StopLong", kC, Completion("\"stop\": \"" + std::string(257, 'a') + "\""), 400,
                 "invalid_value", "stop"},
        BadInput{"StopToken", kC, Completion("\"stop_token_ids\": [999]"), 400,
                 "token_out_of_vocab", "stop_token_ids"},
        BadInput{"AllowedEmpty", kC, Completion("\"allowed_token_ids\": []"), 400, "empty_array",
                 "allowed_token_ids"},
        BadInput{"BadWord", kC, Completion("\"bad_words\": [5]"), 400, "wrong_type", "bad_words"}));

INSTANTIATE_TEST_SUITE_P(
    Routing,
    BadInputTest,
    testing::Values(
        BadInput{"Mode", kC, Completion(R"("routing": {"mode": "topk_prompt"})"), 400,
                 "unsupported_parameter", "routing.mode"},
        BadInput{"Cohort", kC, Completion(R"("routing": {"mode": "cohort"})"), 400,
                 "unsupported_parameter", "routing.mode"},
        BadInput{"Capacity", kC, Completion(R"("routing": {"capacity": 1.5})"), 400,
                 "number_out_of_range", "routing.capacity"},
        BadInput{"NoTable", kC, Completion(R"("routing": {"capacity": 0.5})"), 400,
                 "unsupported_parameter", "routing.capacity"},
        BadInput{"Experts", kC, Completion(R"("routing": {"experts_per_token": 0})"), 400,
                 "integer_out_of_range", "routing.experts_per_token"},
        BadInput{"ExpertThreshold", kC, Completion(R"("routing": {"expert_threshold": 1.5})"), 400,
                 "number_out_of_range", "routing.expert_threshold"},
        BadInput{"ExpertThresholdType", kC, Completion(R"("routing": {"expert_threshold": "x"})"),
                 400, "wrong_type", "routing.expert_threshold"},
        BadInput{"ExpertCapacity", kC, Completion(R"("routing": {"mode": "capacity"})"), 400,
                 "unsupported_parameter", "routing.mode"},
        BadInput{"Trace", kC, Completion(R"("routing": {"trace": true})"), 400,
                 "unsupported_parameter", "routing.trace"},
        BadInput{"MaxDepth", kC, Completion(R"("routing": {"max_depth": 3})"), 400,
                 "unsupported_parameter", "routing.max_depth"},
        BadInput{"Exit", kC, Completion(R"("routing": {"exit_threshold": 0.5})"), 400,
                 "unsupported_parameter", "routing.exit_threshold"},
        BadInput{"ExitType", kC, Completion(R"("routing": {"exit_threshold": "x"})"), 400,
                 "wrong_type", "routing.exit_threshold"},
        BadInput{"Unknown", kC, Completion(R"("routing": {"x": 3})"), 400, "unknown_parameter",
                 "routing"},
        BadInput{"NoObject", kC, Completion(R"("routing": 3)"), 400, "wrong_type", "routing"}));

INSTANTIATE_TEST_SUITE_P(
    Text,
    BadInputTest,
    testing::Values(
        BadInput{"TokenizeMissing", "/tokenize", "{}", 400, "missing_required", "prompt"},
        BadInput{"TokenizeType", "/tokenize", R"({"prompt": 5})", 400, "wrong_type", "prompt"},
        BadInput{"DetokenizeMissing", "/detokenize", "{}", 400, "missing_required", "tokens"},
        BadInput{"DetokenizeRange", "/detokenize", R"({"tokens": [260]})", 400,
                 "token_out_of_vocab", "tokens"},
        BadInput{"TemplateMissing", "/apply-template", "{}", 400, "missing_required", "messages"}));

class EngineRefusalTest : public HttpFixture {};

TEST_F(EngineRefusalTest, AFullQueueIsTooManyRequests) {
  StartServer();
  engine_->FailNextSubmit(
      RequestError(absl::StatusCode::kResourceExhausted, "queue_full", "", "the queue is full"));
  const ClientResponse response = Complete(R"({"prompt": "a"})");
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.ErrorCode(), "queue_full");
  EXPECT_EQ(response.Json()["error"]["type"], "rate_limit_error");
  EXPECT_EQ(response.fields.at("retry-after"), "1");
}

}  // namespace
}  // namespace sluice::server
