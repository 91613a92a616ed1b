// What POST /v1/completions answers and what it asks of the engine.
#include "gmock/gmock.h"
#include "tests/server/http_fixture.h"

namespace sluice::server {
namespace {

using nlohmann::json;
using testing::ElementsAre;

class CompletionsTest : public HttpFixture {};

TEST_F(CompletionsTest, AnswersTheOpenAiShapeWithComputeUsage) {
  StartServer();
  const ClientResponse response = Complete(R"({"prompt": "Hi", "max_tokens": 8})");
  ASSERT_EQ(response.status, 200) << response.body;
  const json body = response.Json();
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["model"], "fake-model");
  EXPECT_EQ(body["system_fingerprint"], "fp_fake");
  ASSERT_EQ(body["choices"].size(), 1u);
  const json& choice = body["choices"][0];
  EXPECT_EQ(choice["text"], "Hello world");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_TRUE(choice["logprobs"].is_null());
  const json& usage = body["usage"];
  EXPECT_EQ(usage["prompt_tokens"], 3);  // start token, 'H', 'i'
  EXPECT_EQ(usage["completion_tokens"], 4);
  EXPECT_EQ(usage["total_tokens"], 7);
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], 0);
  const json& compute = usage["compute"];
  EXPECT_EQ(compute["executed_token_layers"], 7);
  EXPECT_EQ(compute["skipped_token_layers"], 7);
  EXPECT_EQ(compute["skipped_ratio"], 0.5);
  EXPECT_EQ(compute["skipped_ratio_all_layers"], 0.25);
  EXPECT_EQ(compute["mean_depth"], 3.0);
  EXPECT_EQ(compute["distinct_experts"], 3);
  EXPECT_EQ(compute["dropped_experts"], 2);
  EXPECT_EQ(compute["flops"], 5250.0);
  EXPECT_EQ(compute["dense_flops"], 7000.0);
}

TEST_F(CompletionsTest, EveryFieldReachesTheEngine) {
  StartServer();
  const ClientResponse response = Complete(R"({
    "model": "fake-model", "prompt": [1, 2, 3], "max_tokens": 9, "min_tokens": 2, "n": 2,
    "stop": ["x", "yy"], "stop_token_ids": [7], "include_stop_str_in_output": true,
    "ignore_eos": true, "skip_special_tokens": false, "temperature": 0.5, "top_p": 0.75,
    "top_k": 5, "min_p": 0.25, "typical_p": 0.5, "repetition_penalty": 1.5,
    "presence_penalty": -1, "frequency_penalty": 2, "seed": 10, "logit_bias": {"4": -100},
    "allowed_token_ids": [1, 2], "bad_words": ["ab"], "logprobs": 3, "prompt_logprobs": 2,
    "priority": -5, "timeout_ms": 60000, "user": "u", "best_of": null,
    "routing": {"mode": "predictor", "capacity": 1, "experts_per_token": 1,
                "expert_threshold": 0.25}})");
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.Json()["routing"],
            json::parse(R"({"mode": "predictor", "capacity": 1.0, "experts_per_token": 1,
                            "expert_threshold": 0.25})"));
  const std::vector<Request> requests = engine_->submitted();
  ASSERT_EQ(requests.size(), 2u);
  const Request& request = requests[0];
  EXPECT_THAT(request.prompt, ElementsAre(1, 2, 3));
  EXPECT_EQ(request.stop.max_tokens, 9);
  EXPECT_EQ(request.stop.min_tokens, 2);
  EXPECT_THAT(request.stop.stop, ElementsAre("x", "yy"));
  EXPECT_THAT(request.stop.stop_token_ids, ElementsAre(7));
  EXPECT_TRUE(request.stop.include_stop);
  EXPECT_TRUE(request.stop.ignore_eos);
  EXPECT_FALSE(request.stop.skip_special_tokens);
  const SamplingParams& sampling = request.sampling;
  EXPECT_EQ(sampling.temperature, 0.5f);
  EXPECT_EQ(sampling.top_p, 0.75f);
  EXPECT_EQ(sampling.top_k, 5);
  EXPECT_EQ(sampling.min_p, 0.25f);
  EXPECT_EQ(sampling.typical_p, 0.5f);
  EXPECT_EQ(sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(sampling.presence_penalty, -1.0f);
  EXPECT_EQ(sampling.frequency_penalty, 2.0f);
  EXPECT_EQ(sampling.seed, 10u);
  EXPECT_EQ(requests[1].sampling.seed, 11u);
  EXPECT_THAT(sampling.logit_bias, ElementsAre(std::pair<int32_t, float>(4, -100.0f)));
  EXPECT_THAT(sampling.allowed_token_ids, ElementsAre(1, 2));
  EXPECT_THAT(sampling.bad_words, ElementsAre(ElementsAre('a', 'b'), ElementsAre(' ', 'a', 'b')));
  EXPECT_EQ(sampling.logprobs, 3);
  EXPECT_EQ(sampling.prompt_logprobs, 2);
  EXPECT_EQ(request.priority, -5);
  EXPECT_EQ(request.timeout, absl::Minutes(1));
  EXPECT_EQ(request.routing.mode, RoutingParams::Mode::kPredictor);
  EXPECT_EQ(request.routing.capacity, 1.0);
  EXPECT_EQ(request.routing.experts_per_token, 1);
  EXPECT_EQ(request.routing.expert_threshold, 0.25);
}

TEST_F(CompletionsTest, SamplingFieldsLeftOutAreTheModels) {
  engine_options_.card.sampling_defaults = {.temperature = 0.5,
                                            .top_p = 0.75,
                                            .top_k = 5,
                                            .min_p = 0.25,
                                            .repetition_penalty = 1.5,
                                            .gives_temperature = true};
  StartServer();
  const auto sampling_of = [this](const std::string& fields) {
    const ClientResponse response = Complete(R"({"prompt": "Hi")" + fields + "}");
    EXPECT_EQ(response.status, 200) << response.body;
    return engine_->submitted().back().sampling;
  };
  for (const char* absent : {"", R"(, "temperature": null, "top_p": null, "top_k": null,
                                     "min_p": null, "repetition_penalty": null)"}) {
    const SamplingParams sampling = sampling_of(absent);
    EXPECT_EQ(sampling.temperature, 0.5f) << absent;
    EXPECT_EQ(sampling.top_p, 0.75f) << absent;
    EXPECT_EQ(sampling.top_k, 5) << absent;
    EXPECT_EQ(sampling.min_p, 0.25f) << absent;
    EXPECT_EQ(sampling.repetition_penalty, 1.5f) << absent;
  }
  const SamplingParams own = sampling_of(
      R"(, "temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1)");
  EXPECT_EQ(own.temperature, 1.0f);
  EXPECT_EQ(own.top_p, 1.0f);
  EXPECT_EQ(own.top_k, 0);
  EXPECT_EQ(own.min_p, 0.0f);
  EXPECT_EQ(own.repetition_penalty, 1.0f);
  const SamplingParams greedy = sampling_of(R"(, "temperature": 0)");
  EXPECT_EQ(greedy.temperature, 0.0f);
  EXPECT_EQ(greedy.top_p, 0.75f);
}

TEST_F(CompletionsTest, PromptsTakeAllFourForms) {
  StartServer();
  EXPECT_EQ(Complete(R"({"prompt": "a"})").status, 200);
  EXPECT_EQ(Complete(R"({"prompt": ["a", "b"]})").status, 200);
  EXPECT_EQ(Complete(R"({"prompt": [5, 6]})").status, 200);
  EXPECT_EQ(Complete(R"({"prompt": [[7], [8, 9]], "add_special_tokens": true})").status, 200);
  std::vector<std::vector<int32_t>> prompts;
  for (const Request& request : engine_->submitted()) prompts.push_back(request.prompt);
  EXPECT_THAT(prompts, ElementsAre(ElementsAre(kFakeBos, 'a'), ElementsAre(kFakeBos, 'a'),
                                   ElementsAre(kFakeBos, 'b'), ElementsAre(5, 6), ElementsAre(7),
                                   ElementsAre(8, 9)));
}

TEST_F(CompletionsTest, ChoicesAreNumberedPromptByPrompt) {
  StartServer();
  const json body = Complete(R"({"prompt": [[7], [8, 9]], "n": 2, "echo": true})").Json();
  ASSERT_EQ(body["choices"].size(), 4u) << body;
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(body["choices"][i]["index"], i);
  EXPECT_EQ(body["choices"][3]["text"], "\b\tHello world");
  EXPECT_EQ(body["usage"]["prompt_tokens"], 3);  // once per prompt
  EXPECT_EQ(body["usage"]["completion_tokens"], 16);
}

// lm-evaluation-harness: unequal id lists, one generated token, which comes last.
TEST_F(CompletionsTest, EvaluationHarnessGetsAlignedLists) {
  StartServer();
  const ClientResponse response = Complete(
      R"({"model": "fake-model", "prompt": [[97, 98, 99], [100, 101]], "max_tokens": 1,
          "logprobs": 1, "echo": true, "seed": 1234, "temperature": 0})");
  ASSERT_EQ(response.status, 200) << response.body;
  const json body = response.Json();
  const json& logprobs = body["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"], json::parse(R"(["a", "b", "c", "H"])"));
  EXPECT_EQ(logprobs["text_offset"], json::parse("[0, 1, 2, 3]"));
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  ASSERT_EQ(logprobs["top_logprobs"].size(), 4u);
  for (size_t i = 1; i < 4; ++i) {
    double best = -1e9;
    for (const auto& [token, value] : logprobs["top_logprobs"][i].items()) {
      best = std::max(best, value.get<double>());
    }
    EXPECT_EQ(logprobs["token_logprobs"][i].get<double>(), best);  // the same float, exactly
  }
  EXPECT_EQ(body["choices"][1]["logprobs"]["tokens"].size(), 3u);
  EXPECT_EQ(body["choices"][0]["text"], "abcHel");
}

TEST_F(CompletionsTest, ZeroTokensWithEchoScoresThePromptOnly) {
  StartServer();
  const json body =
      Complete(R"({"prompt": "ab", "max_tokens": 0, "echo": true, "logprobs": 0})").Json();
  const json& choice = body["choices"][0];
  EXPECT_EQ(choice["text"], "ab");
  EXPECT_EQ(choice["logprobs"]["tokens"].size(), 3u);  // start token, 'a', 'b'
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(body["usage"]["completion_tokens"], 0);
}

TEST_F(CompletionsTest, TokenIdsAndPromptLogprobsOnRequest) {
  StartServer();
  const json body =
      Complete(
          R"({"prompt": [65, 66], "max_tokens": 2, "return_token_ids": true, "prompt_logprobs": 1})")
          .Json();
  const json& choice = body["choices"][0];
  EXPECT_EQ(choice["prompt_token_ids"], json::parse("[65, 66]"));
  EXPECT_EQ(choice["token_ids"], json::parse("[72, 108]"));
  EXPECT_TRUE(choice["prompt_logprobs"][0].is_null());
  EXPECT_EQ(choice["prompt_logprobs"][1]["66"]["rank"], 1);
  EXPECT_EQ(choice["prompt_logprobs"][1]["66"]["decoded_token"], "B");
}

TEST_F(CompletionsTest, TraceOnlyWhereAllowed) {
  options_.allow_routing_trace = true;
  StartServer();
  const json body =
      Complete(R"({"prompt": "a", "max_tokens": 2, "routing": {"trace": {"layers": [1]}}})").Json();
  const json& trace = body["routing"]["trace"][0];
  EXPECT_EQ(trace["index"], 0);
  ASSERT_EQ(trace["tokens"].size(), 2u) << body;
  EXPECT_EQ(trace["tokens"][0],
            json::parse(R"({"depth": 3, "executed_layers": [1], "experts": [[1, 0]]})"));
}

TEST_F(CompletionsTest, DefaultsAreSixteenTokensWithinTheContext) {
  StartServer();
  EXPECT_EQ(Complete(R"({"prompt": "a"})").status, 200);
  EXPECT_EQ(Complete("{\"prompt\": \"" + std::string(505, 'a') + "\"}").status, 200);
  EXPECT_EQ(engine_->submitted()[0].stop.max_tokens, 16);
  EXPECT_EQ(engine_->submitted()[1].stop.max_tokens, 6);
}

TEST_F(CompletionsTest, NulCharacterIsACharacter) {
  StartServer();
  EXPECT_EQ(Complete(R"({"prompt": "a\u0000b"})").status, 200);
  EXPECT_THAT(engine_->submitted()[0].prompt, ElementsAre(kFakeBos, 'a', 0, 'b'));
}

TEST_F(CompletionsTest, UnknownFieldsAreCounted) {
  StartServer();
  EXPECT_EQ(Complete(R"({"prompt": "a", "no_such_field": 1, "other": 2})").status, 200);
  EXPECT_EQ(counters_.unknown_fields(), 2u);
  WaitForRecords(1);
  EXPECT_EQ(counters_.requests(Api::kCompletions, 0), 1u);
}

TEST_F(CompletionsTest, StrictModeRefusesUnknownFields) {
  options_.strict_fields = true;
  StartServer();
  const ClientResponse response = Complete(R"({"prompt": "a", "no_such_field": 1})");
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(response.ErrorCode(), "unknown_parameter");
  EXPECT_EQ(response.body.find("no_such_field"), std::string::npos);
}

TEST_F(CompletionsTest, ACohortIsSubmittedAsOne) {
  engine_options_.card.routing_modes = {"isolated", "cohort"};
  engine_options_.card.cohort_size = 4;
  StartServer();
  const ClientResponse cohort =
      Complete(R"({"prompt": ["a", "b"], "n": 2, "seed": 5, "routing": {"mode": "cohort"}})");
  ASSERT_EQ(cohort.status, 200) << cohort.body;
  EXPECT_EQ(cohort.Json()["choices"].size(), 4u);
  EXPECT_EQ(cohort.Json()["routing"], (json{{"mode", "cohort"}}));
  EXPECT_THAT(engine_->cohort_sizes(), ElementsAre(4u));
  EXPECT_EQ(engine_->submitted().at(3).sampling.seed, 6u);
  EXPECT_EQ(engine_->submitted().at(3).prompt, (std::vector<int32_t>{kFakeBos, 'b'}));

  const ClientResponse apart =
      Complete(R"({"prompt": ["a", "b"], "routing": {"mode": "isolated"}})");
  EXPECT_EQ(apart.Json()["routing"], (json{{"mode", "isolated"}}));
  EXPECT_EQ(engine_->cohort_sizes().size(), 1u);

  const ClientResponse large =
      Complete(R"({"prompt": ["a", "b", "c", "d", "e"], "routing": {"mode": "cohort"}})");
  EXPECT_EQ(large.status, 400);
  EXPECT_EQ(large.ErrorCode(), "too_many_sequences");
}

TEST_F(CompletionsTest, EngineErrorsKeepTheirCodes) {
  StartServer();
  engine_->FailNextSubmit(absl::InternalError("secret detail"));
  const ClientResponse response = Complete(R"({"prompt": "a"})");
  EXPECT_EQ(response.status, 500);
  EXPECT_EQ(response.ErrorCode(), "null");
  EXPECT_EQ(response.body.find("secret"), std::string::npos);
}

TEST_F(CompletionsTest, AFailedChoiceFailsTheRequestAndCancelsItsSiblings) {
  engine_options_.manual = true;
  StartServer();
  HttpClient client(port());
  client.Send(PostText(kCompletionsPath, R"({"prompt": ["a", "b"]})"));
  ASSERT_TRUE(engine_->WaitForSubmits(2));
  TokenEvent event;
  event.finish = FinishReason::kError;
  event.error = absl::DeadlineExceededError("timeout");
  engine_->Emit(0, event);
  EXPECT_EQ(client.ReadResponse().status, 504);
  EXPECT_TRUE(engine_->WaitForCancels(1));
  EXPECT_THAT(engine_->cancel_reasons(), ElementsAre("sibling_failed"));
}

}  // namespace
}  // namespace sluice::server
