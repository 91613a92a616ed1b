// Random damage to valid request bodies: whatever a client sends, no answer is a 5xx and the server
// goes on.
#include <array>
#include <random>

#include "tests/server/http_fixture.h"

namespace sluice::server {
namespace {

using nlohmann::json;

constexpr std::array<const char*, 22> kValues = {"null",
                                                 "true",
                                                 "false",
                                                 "0",
                                                 "-1",
                                                 "1",
                                                 "2147483648",
                                                 "-9223372036854775808",
                                                 "18446744073709551615",
                                                 "1e308",
                                                 "-1e-308",
                                                 "0.5",
                                                 "\"\"",
                                                 "\"a\"",
                                                 "\"\\u0000\"",
                                                 "[]",
                                                 "{}",
                                                 "[null]",
                                                 "[[]]",
                                                 "[1]",
                                                 "{\"a\": 1}",
                                                 "[\"a\", [1], {}]"};

constexpr const char* kCompletion = R"({"model": "fake-model", "prompt": [[1, 2], [3]],
  "max_tokens": 3, "n": 2, "logprobs": 2, "echo": true, "stop": ["x"], "logit_bias": {"5": 1},
  "routing": {"mode": "threshold", "capacity": 1, "trace": {"layers": [1]}}, "stream": false,
  "stream_options": {"include_usage": true}, "temperature": 0.5, "seed": 3, "bad_words": ["b"]})";

constexpr const char* kChat = R"({"messages": [{"role": "system", "content": "a"},
  {"role": "user", "content": [{"type": "text", "text": "b"}]}], "max_completion_tokens": 3,
  "logprobs": true, "top_logprobs": 2, "stream": true, "tools": [], "tool_choice": "auto",
  "response_format": {"type": "text"}, "user": "u", "timeout_ms": 60000})";

class MutationTest : public HttpFixture {
 protected:
  // Replaces, drops or renames one member somewhere below `value`.
  void Mutate(json& value) {
    if (!value.is_structured() || value.empty()) {
      value = json::parse(kValues[Draw(kValues.size())]);
      return;
    }
    auto it = value.begin();
    std::advance(it, static_cast<std::ptrdiff_t>(Draw(value.size())));
    switch (Draw(4)) {
      case 0:
        value.erase(it);
        return;
      case 1:
        *it = json::parse(kValues[Draw(kValues.size())]);
        return;
      default:
        Mutate(*it);
        return;
    }
  }
  std::string DamageBytes(std::string text) {
    for (size_t i = 0; i <= Draw(3); ++i) text[Draw(text.size())] = static_cast<char>(Draw(256));
    return text.substr(0, 1 + Draw(text.size()));
  }
  size_t Draw(size_t limit) { return static_cast<size_t>(random_() % limit); }

  std::mt19937_64 random_{20260101};
};

TEST_F(MutationTest, NoBodyMakesAServerError) {
  options_.allow_routing_trace = true;
  StartServer();
  HttpClient client(port());
  std::map<int, int> statuses;
  for (int round = 0; round < 600; ++round) {
    const bool chat = round % 2 == 0;
    json body = json::parse(chat ? kChat : kCompletion);
    for (size_t i = 0; i <= Draw(2); ++i) Mutate(body);
    const std::string text = round % 5 == 0 ? DamageBytes(body.dump()) : body.dump();
    client.Send(PostText(chat ? kChatPath : kCompletionsPath, text));
    const ClientResponse response = client.ReadResponse();
    ASSERT_GE(response.status, 200) << "round " << round << ": " << text;
    ASSERT_LT(response.status, 500) << "round " << round << ": " << text << response.body;
    if (response.status != 200) {
      const json error = response.Json()["error"];
      ASSERT_EQ(error.size(), 4u) << text << response.body;
      ASSERT_TRUE(error["code"].is_string()) << text << response.body;
    }
    ++statuses[response.status];
  }
  EXPECT_GT(statuses[200], 50);
  EXPECT_GT(statuses[400], 50);
  EXPECT_TRUE(engine_->WaitForIdle());
}

}  // namespace
}  // namespace sluice::server
