// What only the gRPC front end can send: values that JSON has no text for. The rest of the rules is
// covered through HTTP in http_bad_input_test.
#include "server/request_validation.h"

#include <cmath>
#include <limits>

#include "engine/request_error.h"
#include "gtest/gtest.h"
#include "tests/support/fake_engine.h"

namespace sluice::server {
namespace {

Request Valid() {
  Request request;
  request.prompt = {1, 2, 3};
  return request;
}

std::string CodeAndParam(const Request& request, const ValidationOptions& options = {}) {
  const absl::Status status = ValidateRequest(request, FakeModelCard(), options);
  return ErrorCodeOf(status) + "/" + ErrorParamOf(status);
}

TEST(RequestValidationTest, TheDefaultsAreValid) { EXPECT_EQ(CodeAndParam(Valid()), "/"); }

TEST(RequestValidationTest, NotANumberIsOutOfRange) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::pair<const char*, float SamplingParams::*> fields[] = {
      {"temperature", &SamplingParams::temperature},
      {"top_p", &SamplingParams::top_p},
      {"min_p", &SamplingParams::min_p},
      {"typical_p", &SamplingParams::typical_p},
      {"repetition_penalty", &SamplingParams::repetition_penalty},
      {"presence_penalty", &SamplingParams::presence_penalty},
      {"frequency_penalty", &SamplingParams::frequency_penalty}};
  for (const auto& [name, field] : fields) {
    for (const float value : {nan, std::numeric_limits<float>::infinity(), -100.0f}) {
      Request request = Valid();
      request.sampling.*field = value;
      EXPECT_EQ(CodeAndParam(request), std::string("number_out_of_range/") + name);
    }
  }
  Request request = Valid();
  request.sampling.logit_bias = {{1, nan}};
  EXPECT_EQ(CodeAndParam(request), "number_out_of_range/logit_bias");
  request = Valid();
  request.routing.capacity = std::nan("");
  EXPECT_EQ(CodeAndParam(request), "number_out_of_range/routing.capacity");
}

TEST(RequestValidationTest, TheContextMayBeFilledExactly) {
  Request request = Valid();
  request.prompt.assign(500, 1);
  request.stop.max_tokens = 12;
  EXPECT_EQ(CodeAndParam(request), "/");
  request.stop.max_tokens = 13;
  EXPECT_EQ(CodeAndParam(request), "context_length_exceeded/max_tokens");
  request.prompt.assign(513, 1);
  EXPECT_EQ(CodeAndParam(request, {.prompt_param = "messages"}),
            "context_length_exceeded/messages");
}

TEST(RequestValidationTest, EmptyBadWordsAreRefused) {
  Request request = Valid();
  request.sampling.bad_words = {{}};
  EXPECT_EQ(CodeAndParam(request), "invalid_value/bad_words");
}

TEST(RequestValidationTest, CapacityBetweenTheEndsNeedsATable) {
  Request request = Valid();
  ModelCard card = FakeModelCard();
  request.routing.capacity = 0.5;
  EXPECT_FALSE(ValidateRequest(request, card).ok());
  card.has_capacity_table = true;
  EXPECT_TRUE(ValidateRequest(request, card).ok());
  card.routed_layers.clear();
  EXPECT_EQ(ErrorCodeOf(ValidateRequest(request, card)), "unsupported_parameter");
}

TEST(RequestValidationTest, DepthIsChosenOnlyInLoopedModels) {
  Request request = Valid();
  ModelCard card = FakeModelCard();
  request.routing.max_depth = 3;
  EXPECT_EQ(ErrorCodeOf(ValidateRequest(request, card)), "unsupported_parameter");
  card.max_depth = 4;
  EXPECT_TRUE(ValidateRequest(request, card).ok());
  for (const int32_t wrong : {-1, 0, 5}) {
    request.routing.max_depth = wrong;
    EXPECT_EQ(ErrorCodeOf(ValidateRequest(request, card)), "integer_out_of_range") << wrong;
  }
}

TEST(RequestValidationTest, ExitThresholdIsChosenOnlyWhereRowsStopByOne) {
  Request request = Valid();
  ModelCard card = FakeModelCard();
  request.routing.exit_threshold = 0.5;
  EXPECT_EQ(ErrorCodeOf(ValidateRequest(request, card)), "unsupported_parameter");
  card.has_exit_threshold = true;
  EXPECT_TRUE(ValidateRequest(request, card).ok());
  for (const double wrong : {-0.5, 1.01, std::numeric_limits<double>::infinity()}) {
    request.routing.exit_threshold = wrong;
    EXPECT_EQ(ErrorCodeOf(ValidateRequest(request, card)), "number_out_of_range") << wrong;
  }
}

TEST(RequestValidationTest, ExpertsAreLimitedOnlyWhereTokensChooseThem) {
  Request request = Valid();
  ModelCard card = FakeModelCard();
  request.routing.experts_per_token = 2;
  request.routing.expert_threshold = 0.5;
  EXPECT_TRUE(ValidateRequest(request, card).ok());
  request.routing.expert_threshold = 1.5;
  EXPECT_EQ(ErrorCodeOf(ValidateRequest(request, card)), "number_out_of_range");
  request.routing.expert_threshold = 0.0;
  card.experts_per_token = 0;
  EXPECT_EQ(ErrorCodeOf(ValidateRequest(request, card)), "unsupported_parameter");
  request.routing.experts_per_token.reset();
  EXPECT_TRUE(ValidateRequest(request, card).ok());
  card.has_experts = false;
  EXPECT_EQ(ErrorCodeOf(ValidateRequest(request, card)), "unsupported_parameter");
}

TEST(RequestValidationTest, CapacityIsAModeOfModelsThatHaveOne) {
  ModelCard card = FakeModelCard();
  EXPECT_FALSE(ParseRoutingMode("capacity", card).ok());
  card.routing_modes = {"no_drop", "capacity"};
  EXPECT_EQ(ParseRoutingMode("capacity", card).value(), RoutingParams::Mode::kCapacity);
  EXPECT_EQ(ParseRoutingMode("no_drop", card).value(), RoutingParams::Mode::kNoDrop);
}

TEST(RequestValidationTest, AModelThatOnlyScoresGeneratesOneTokenUnlessAsked) {
  ModelCard card = FakeModelCard();
  EXPECT_EQ(ResolveMaxTokens(std::nullopt, 16, 3, card), 16);
  card.scores_only = true;
  EXPECT_EQ(ResolveMaxTokens(std::nullopt, 16, 3, card), 1);
  EXPECT_EQ(ResolveMaxTokens(7, 16, 3, card), 7);
}

TEST(RequestValidationTest, SequenceCounts) {
  ModelCard card;
  EXPECT_TRUE(ValidateSequenceCount(32, 2, card).ok());
  EXPECT_EQ(ErrorCodeOf(ValidateSequenceCount(33, 1, card)), "too_many_sequences");
  EXPECT_EQ(ErrorCodeOf(ValidateSequenceCount(32, 3, card)), "too_many_sequences");
  EXPECT_EQ(ErrorCodeOf(ValidateSequenceCount(1, 17, card)), "integer_out_of_range");
  EXPECT_TRUE(ValidateSequenceCount(1, 16, card).ok());
  card.max_queued_requests = 3;
  EXPECT_TRUE(ValidateSequenceCount(3, 1, card).ok());
  EXPECT_EQ(ErrorCodeOf(ValidateSequenceCount(1, 4, card)), "too_many_sequences");
}

TEST(RequestValidationTest, MaxTokensDefaults) {
  const ModelCard card = FakeModelCard();
  EXPECT_EQ(ResolveMaxTokens(7, 16, 10, card), 7);
  EXPECT_EQ(ResolveMaxTokens(std::nullopt, 16, 10, card), 16);
  EXPECT_EQ(ResolveMaxTokens(std::nullopt, 16, 510, card), 2);
  EXPECT_EQ(ResolveMaxTokens(std::nullopt, std::nullopt, 12, card), 500);
  EXPECT_EQ(ResolveMaxTokens(std::nullopt, std::nullopt, 600, card), 1);
}

}  // namespace
}  // namespace sluice::server
