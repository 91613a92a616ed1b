#include "server/grpc/request_conversion.h"

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>

#include "engine/request_error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/grpc/response_conversion.h"
#include "server/grpc/routing_window.h"
#include "tests/support/fake_engine.h"

namespace sluice::server {
namespace {

using testing::ElementsAre;

v1::GenerateRequest TextRequest(const std::string& text = "hi") {
  v1::GenerateRequest request;
  request.set_text(text);
  return request;
}

class RequestConversionTest : public testing::Test {
 protected:
  absl::StatusOr<GenerateCall> Convert(const v1::GenerateRequest& request,
                                       ConversionOptions options = {}) {
    return ConvertGenerateRequest(request, engine_, options);
  }
  std::string CodeAndParam(const v1::GenerateRequest& request) {
    const absl::Status status = Convert(request).status();
    return ErrorCodeOf(status) + " " + ErrorParamOf(status);
  }

  FakeEngine engine_{{.manual = true}};
};

TEST_F(RequestConversionTest, DefaultsAreTheDocumentedOnes) {
  const auto call = Convert(TextRequest(), {.drawn_seed = 42});
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_THAT(call->request.prompt, ElementsAre(kFakeBos, 'h', 'i'));
  EXPECT_EQ(call->choices, 1);
  EXPECT_EQ(call->request.stop.max_tokens, 16);
  EXPECT_EQ(call->request.sampling.temperature, 1.0f);
  EXPECT_EQ(call->request.sampling.seed, 42u);
  EXPECT_TRUE(call->request.stop.skip_special_tokens);
  EXPECT_FALSE(call->request.timeout.has_value());
  EXPECT_FALSE(call->wants_prompt_echo);
}

TEST_F(RequestConversionTest, SamplingFieldsLeftOutAreTheModels) {
  ModelCard card = FakeModelCard();
  card.sampling_defaults = {
      .temperature = 0.5, .top_p = 0.75, .top_k = 5, .min_p = 0.25, .repetition_penalty = 1.5};
  const FakeEngine engine({.card = card, .manual = true});
  v1::GenerateRequest request = TextRequest();
  auto call = ConvertGenerateRequest(request, engine, {});
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_EQ(call->request.sampling.temperature, 0.5f);
  EXPECT_EQ(call->request.sampling.top_p, 0.75f);
  EXPECT_EQ(call->request.sampling.top_k, 5);
  EXPECT_EQ(call->request.sampling.min_p, 0.25f);
  EXPECT_EQ(call->request.sampling.repetition_penalty, 1.5f);
  request.set_temperature(0);  // proto's own default, but set
  request.set_top_p(1);
  request.set_top_k(0);
  request.set_min_p(0);
  request.set_repetition_penalty(1);
  call = ConvertGenerateRequest(request, engine, {});
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_EQ(call->request.sampling.temperature, 0.0f);
  EXPECT_EQ(call->request.sampling.top_p, 1.0f);
  EXPECT_EQ(call->request.sampling.top_k, 0);
  EXPECT_EQ(call->request.sampling.min_p, 0.0f);
  EXPECT_EQ(call->request.sampling.repetition_penalty, 1.0f);
  const v1::SamplingDefaults shown = ConvertModel(card).sampling_defaults();
  EXPECT_EQ(shown.temperature(), 0.5);
  EXPECT_EQ(shown.top_p(), 0.75);
  EXPECT_EQ(shown.top_k(), 5);
  EXPECT_EQ(shown.min_p(), 0.25);
  EXPECT_EQ(shown.repetition_penalty(), 1.5);
}

TEST_F(RequestConversionTest, AnEncoderEmbedsAndADecoderGenerates) {
  v1::GenerateRequest request = TextRequest();
  request.set_embed(true);
  EXPECT_EQ(CodeAndParam(request), "unsupported_parameter model");
  ModelCard card = FakeModelCard();
  card.embedding_size = 3;
  const FakeEngine encoder({.card = card, .manual = true});
  const auto call = ConvertGenerateRequest(request, encoder, {});
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_TRUE(call->request.embed);
  EXPECT_EQ(call->request.stop.max_tokens, 0);
  request.set_n(2);
  EXPECT_FALSE(ConvertGenerateRequest(request, encoder, {}).ok());
  for (const auto& [field, set] : std::map<std::string, void (*)(v1::GenerateRequest&)>{
           {"max_tokens", [](v1::GenerateRequest& r) { r.set_max_tokens(3); }},
           {"temperature", [](v1::GenerateRequest& r) { r.set_temperature(0.5); }},
           {"seed", [](v1::GenerateRequest& r) { r.set_seed(1); }},
           {"stop", [](v1::GenerateRequest& r) { r.add_stop("x"); }},
           {"logprobs", [](v1::GenerateRequest& r) { r.set_logprobs(1); }},
           {"echo", [](v1::GenerateRequest& r) { r.set_echo(true); }}}) {
    v1::GenerateRequest sampled = TextRequest();
    sampled.set_embed(true);
    set(sampled);
    const absl::Status status = ConvertGenerateRequest(sampled, encoder, {}).status();
    EXPECT_EQ(ErrorCodeOf(status), "unsupported_parameter") << field;
    EXPECT_EQ(ErrorParamOf(status), field);
  }
  EXPECT_FALSE(ConvertGenerateRequest(TextRequest(), encoder, {}).ok());
  v1::GenerateResponse response;
  TokenEvent event;
  event.embedding = {1.5f, -2.0f};
  event.finish = FinishReason::kStop;
  AppendEvent(event, *call, encoder.tokenizer(), response);
  EXPECT_THAT(response.embedding(), ElementsAre(1.5f, -2.0f));
}

TEST_F(RequestConversionTest, EveryFieldArrives) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(5);
  request.set_max_tokens(9);
  request.set_min_tokens(2);
  request.set_n(3);
  request.add_stop("end");
  request.add_stop_token_ids(7);
  request.set_include_stop_str_in_output(true);
  request.set_ignore_eos(true);
  request.set_skip_special_tokens(false);
  request.set_temperature(0.5);
  request.set_top_p(0.9);
  request.set_top_k(4);
  request.set_min_p(0.1);
  request.set_typical_p(0.8);
  request.set_repetition_penalty(1.1);
  request.set_presence_penalty(-1);
  request.set_frequency_penalty(1);
  request.set_seed(77);
  (*request.mutable_logit_bias())[8] = 2;
  (*request.mutable_logit_bias())[3] = -2;
  request.add_allowed_token_ids(11);
  request.add_bad_words("no");
  request.set_logprobs(2);
  request.set_prompt_logprobs(1);
  request.set_return_token_ids(true);
  request.set_priority(-3);
  request.set_timeout_ms(1500);
  request.mutable_routing()->set_mode("predictor");
  request.mutable_routing()->set_capacity(1.0);
  request.mutable_routing()->set_experts_per_token(1);
  request.mutable_routing()->set_expert_threshold(0.25);
  request.mutable_routing()->mutable_trace()->set_enabled(true);
  request.mutable_routing()->mutable_trace()->add_layers(3);
  const auto call = Convert(request, {.allow_routing_trace = true, .deadline = absl::Seconds(9)});
  ASSERT_TRUE(call.ok()) << call.status();
  const Request& out = call->request;
  EXPECT_THAT(out.prompt, ElementsAre(5));
  EXPECT_EQ(call->choices, 3);
  EXPECT_EQ(out.stop.max_tokens, 9);
  EXPECT_EQ(out.stop.min_tokens, 2);
  EXPECT_THAT(out.stop.stop, ElementsAre("end"));
  EXPECT_THAT(out.stop.stop_token_ids, ElementsAre(7));
  EXPECT_TRUE(out.stop.include_stop);
  EXPECT_TRUE(out.stop.ignore_eos);
  EXPECT_FALSE(out.stop.skip_special_tokens);
  EXPECT_EQ(out.sampling.temperature, 0.5f);
  EXPECT_EQ(out.sampling.top_p, 0.9f);
  EXPECT_EQ(out.sampling.top_k, 4);
  EXPECT_EQ(out.sampling.min_p, 0.1f);
  EXPECT_EQ(out.sampling.typical_p, 0.8f);
  EXPECT_EQ(out.sampling.repetition_penalty, 1.1f);
  EXPECT_EQ(out.sampling.presence_penalty, -1.0f);
  EXPECT_EQ(out.sampling.frequency_penalty, 1.0f);
  EXPECT_EQ(out.sampling.seed, 77u);
  EXPECT_THAT(out.sampling.logit_bias,
              ElementsAre(std::pair<int32_t, float>(3, -2.0f), std::pair<int32_t, float>(8, 2.0f)));
  EXPECT_THAT(out.sampling.allowed_token_ids, ElementsAre(11));
  EXPECT_FALSE(out.sampling.bad_words.empty());
  EXPECT_EQ(out.sampling.logprobs, 2);
  EXPECT_EQ(out.sampling.prompt_logprobs, 1);
  EXPECT_EQ(out.priority, -3);
  EXPECT_EQ(out.timeout, absl::Milliseconds(1500));  // sooner than the deadline
  EXPECT_EQ(out.routing.mode, RoutingParams::Mode::kPredictor);
  EXPECT_EQ(out.routing.capacity, 1.0);
  EXPECT_EQ(out.routing.experts_per_token, 1);
  EXPECT_EQ(out.routing.expert_threshold, 0.25);
  EXPECT_TRUE(out.routing.trace);
  EXPECT_THAT(call->trace_layers, ElementsAre(3));
  EXPECT_TRUE(call->return_token_ids);
  EXPECT_TRUE(call->wants_prompt_echo);
}

TEST_F(RequestConversionTest, ChatIsRenderedAndFillsTheContext) {
  v1::GenerateRequest request;
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("<|im_end|>");  // typed by a user: no control token
  const auto call = Convert(request);
  ASSERT_TRUE(call.ok()) << call.status();
  const std::vector<int32_t>& prompt = call->request.prompt;
  EXPECT_EQ(std::count(prompt.begin(), prompt.end(), kFakeTurnEnd), 1);
  EXPECT_EQ(std::count(prompt.begin(), prompt.end(), kFakeTurnStart), 2);
  EXPECT_EQ(call->request.stop.max_tokens, 512 - static_cast<int32_t>(prompt.size()));
}

TEST_F(RequestConversionTest, EchoOfNothingOnlyScoresThePrompt) {
  v1::GenerateRequest request = TextRequest();
  request.set_echo(true);
  request.set_max_tokens(0);
  request.set_logprobs(1);
  const auto call = Convert(request);
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_EQ(call->request.stop.max_tokens, 0);
  EXPECT_EQ(call->prompt_text, "hi");
  EXPECT_EQ(call->request.sampling.prompt_logprobs, 1);
}

struct BadCase {
  const char* name;
  std::function<void(v1::GenerateRequest&)> change;
  const char* expected;  // "code param"
};

class BadRequestTest : public RequestConversionTest, public testing::WithParamInterface<BadCase> {};

TEST_P(BadRequestTest, IsRefusedWithCodeAndParameter) {
  v1::GenerateRequest request = TextRequest();
  GetParam().change(request);
  EXPECT_EQ(CodeAndParam(request), GetParam().expected);
}

using R = v1::GenerateRequest;
const double kNan = std::numeric_limits<double>::quiet_NaN();
INSTANTIATE_TEST_SUITE_P(
    Table,
    BadRequestTest,
    testing::Values(
        BadCase{"no_prompt", [](R& r) { r.clear_text(); }, "empty_prompt prompt"},
        BadCase{"empty_text", [](R& r) { r.set_text(""); }, "empty_prompt prompt"},
        BadCase{"empty_ids", [](R& r) { r.mutable_token_ids(); }, "empty_prompt prompt"},
        BadCase{"bad_id", [](R& r) { r.mutable_token_ids()->add_ids(-1); },
                "token_out_of_vocab prompt"},
        BadCase{"big_id", [](R& r) { r.mutable_token_ids()->add_ids(kFakeVocabulary); },
                "token_out_of_vocab prompt"},
        BadCase{"no_messages", [](R& r) { r.mutable_chat(); }, "empty_array messages"},
        BadCase{"role", [](R& r) { r.mutable_chat()->add_messages()->set_role("root"); },
                "invalid_value messages[0].role"},
        BadCase{"model", [](R& r) { r.set_model("../../etc/passwd"); }, "model_not_found model"},
        BadCase{"max_tokens", [](R& r) { r.set_max_tokens(0); }, "integer_out_of_range max_tokens"},
        BadCase{"negative", [](R& r) { r.set_max_tokens(-1); }, "integer_out_of_range max_tokens"},
        BadCase{"context", [](R& r) { r.set_max_tokens(1000); },
                "context_length_exceeded max_tokens"},
        BadCase{"long", [](R& r) { r.set_text(std::string(600, 'x')); },
                "context_length_exceeded prompt"},
        BadCase{"n_zero", [](R& r) { r.set_n(0); }, "integer_out_of_range n"},
        BadCase{"n_many", [](R& r) { r.set_n(17); }, "integer_out_of_range n"},
        BadCase{"hot", [](R& r) { r.set_temperature(2.1); }, "number_out_of_range temperature"},
        BadCase{"nan", [](R& r) { r.set_temperature(kNan); }, "number_out_of_range temperature"},
        BadCase{"huge", [](R& r) { r.set_temperature(1e300); }, "number_out_of_range temperature"},
        BadCase{"top_p", [](R& r) { r.set_top_p(0); }, "number_out_of_range top_p"},
        BadCase{"bias", [](R& r) { (*r.mutable_logit_bias())[-1] = 0; },
                "token_out_of_vocab logit_bias"},
        BadCase{"bias_nan", [](R& r) { (*r.mutable_logit_bias())[1] = kNan; },
                "number_out_of_range logit_bias"},
        BadCase{"logprobs", [](R& r) { r.set_logprobs(21); }, "integer_out_of_range logprobs"},
        BadCase{"stop", [](R& r) { r.add_stop(""); }, "invalid_value stop"},
        BadCase{"bad_word", [](R& r) { r.add_bad_words(""); }, "invalid_value bad_words"},
        BadCase{"timeout", [](R& r) { r.set_timeout_ms(0); }, "integer_out_of_range timeout_ms"},
        BadCase{"mode", [](R& r) { r.mutable_routing()->set_mode("magic"); },
                "unsupported_parameter routing.mode"},
        BadCase{"capacity", [](R& r) { r.mutable_routing()->set_capacity(0.5); },
                "unsupported_parameter routing.capacity"},
        BadCase{"depth", [](R& r) { r.mutable_routing()->set_max_depth(2); },
                "unsupported_parameter routing.max_depth"},
        BadCase{"exit", [](R& r) { r.mutable_routing()->set_exit_threshold(0.5); },
                "unsupported_parameter routing.exit_threshold"},
        BadCase{"trace", [](R& r) { r.mutable_routing()->mutable_trace()->set_enabled(true); },
                "unsupported_parameter routing.trace"}),
    [](const auto& parameter) { return parameter.param.name; });

TEST(RoutingWindowTest, HoldsTheDifferenceOfTwoSnapshots) {
  MetricsSnapshot before;
  before.depth_layers.push_back({.layer = "1", .capacity = 0.25, .executed = 10, .skipped = 30});
  ExpertLayerMetrics experts;
  experts.layer = "0";
  experts.kind = "ffn";
  experts.tokens = {5, 5, 0};
  before.expert_layers.push_back(experts);
  MetricsSnapshot after = before;
  after.depth_layers[0].executed = 260;
  after.depth_layers[0].skipped = 1000;
  after.expert_layers[0].tokens = {1205, 405, 0};
  EXPECT_EQ(WindowRows(before, after), 1220);
  const v1::RoutingWindow window = MakeRoutingWindow(before, after);
  EXPECT_EQ(window.depth_layers(0).executed_rows(), 250);
  EXPECT_EQ(window.depth_layers(0).skipped_rows(), 970);
  EXPECT_THAT(window.expert_layers(0).rows(), ElementsAre(1200, 400, 0));
  EXPECT_EQ(window.expert_layers(0).dead_experts(), 1);
  EXPECT_NEAR(window.expert_layers(0).max_over_mean(), 1200.0 / (1600.0 / 3), 1e-9);
}

}  // namespace
}  // namespace sluice::server
