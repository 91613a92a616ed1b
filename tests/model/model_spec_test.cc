// ValidateSpec and the JSON form. Every rule has a case that breaks only it; those of attention and
// experts are in model_spec_blocks_test.cc.
#include "engine/model/model_spec.h"

#include <cmath>

#include "engine/model/model_spec_json.h"
#include "gmock/gmock.h"
#include "tests/model/bad_specs.h"

namespace sluice::testing {
namespace {

using ::testing::HasSubstr;

TEST(ModelSpec, ValidSpecsPass) {
  ModelSpec spec = PlainSpec(2);
  EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
  MakeSparse(spec);
  EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
  Route(spec);
  EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
  GiveHeadExperts(spec);
  EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
  MakeLatent(spec);
  EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
  spec = PlainSpec(2);
  LetExpertsChoose(spec);
  MixAttention(spec).o.bias = "bias";
  EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
}

TEST(ModelSpec, RandomSpecsPassAndSurviveJson) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const ModelSpec spec =
        seed % 4 == 0   ? RandomSpec(seed, {.depth = false, .repeats = false, .encoder = true})
        : seed % 4 == 1 ? RandomSpec(seed, {.depth = false, .repeats = false, .two_stacks = true})
                        : RandomSpec(seed);
    ASSERT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
    const auto back = SpecFromJson(nlohmann::json::parse(SpecToJson(spec).dump()));
    ASSERT_TRUE(back.ok()) << back.status();
    ASSERT_TRUE(*back == spec);
  }
}

const BadSpec kBadSpecs[] = {
    {"NoStack", [](auto& s) { s.stacks.clear(); }, "stacks"},
    {"ThreeStacks", [](auto& s) { s.stacks.assign(3, StackSpec(s.stacks[0])); }, "stacks", kNotRun},
    {"VocabZero", [](auto& s) { s.stacks[0].embedding.vocab_size = 0; }, "vocab_size"},
    {"VocabHuge", [](auto& s) { s.stacks[0].embedding.vocab_size = (1 << 21) + 1; }, "vocab_size"},
    {"DimZero", [](auto& s) { s.stacks[0].embedding.dim = 0; }, "dim"},
    {"DimHuge", [](auto& s) { s.stacks[0].embedding.dim = 65'537; }, "dim"},
    {"DimDisagrees", [](auto& s) { s.stacks[0].embedding.dim += 1; }, "q: in is"},
    {"NoEmbedding", [](auto& s) { s.stacks[0].embedding.weight.clear(); }, "names no tensor"},
    {"EmbeddingScaleNan", [](auto& s) { s.stacks[0].embedding.scale = kNan; }, "scale"},
    {"NoLayers", [](auto& s) { s.stacks[0].groups[0].layers.clear(); }, "groups[0]: has no layers"},
    {"NoSublayers", [](auto& s) { LayerOf(s).sublayers.clear(); },
     "layers[0]: needs 1 to 128 sublayers"},
    {"TwoGroupsOfOneName", [](auto& s) { s.stacks[0].groups.push_back(s.stacks[0].groups[0]); },
     "groups[1]: name is that of another group"},
    {"RepeatZero", [](auto& s) { s.stacks[0].groups[0].repeat.times = 0; }, "repeat.times"},
    {"TooManyExecutions", [](auto& s) { s.stacks[0].groups[0].repeat.times = 4'096; },
     "layers executed"},
    {"InjectionTooNarrow",
     [](auto& s) { RepeatOf(s).injection = ProjectionSpec{.in = 48, .out = 48, .weight = "a"}; },
     "repeat.injection: in is 48, must be 96"},
    {"InjectionWithChosenDepth",
     [](auto& s) {
       ChooseDepth(s);
       RepeatOf(s).injection = ProjectionSpec{.in = 96, .out = 48, .weight = "a"};
     },
     "repeat.injection", kNotRun},
    {"ChosenDepthWithoutRouter", [](auto& s) { RepeatOf(s).halting = HaltingKind::kChosenDepth; },
     "depth_router"},
    {"DepthRouterWithoutHalting",
     [](auto& s) {
       ChooseDepth(s);
       RepeatOf(s).halting = HaltingKind::kNone;
     },
     "depth_router"},
    {"DepthRouterOfOtherTimes",
     [](auto& s) {
       ChooseDepth(s);
       RepeatOf(s).times = 2;
     },
     "depth_router: num_experts is 3, must be 2"},
    {"DepthRouterTopTwo",
     [](auto& s) {
       ChooseDepth(s);
       RepeatOf(s).depth_router->top_k = 2;
     },
     "depth_router: top_k"},
    {"AdjustableStickBreaking", [](auto& s) { Halting(s).repeat.adjustable = true; },
     "repeat.adjustable", kNotRun},
    {"RoutedLayerWhereRowsMayStop",
     [](auto& s) {
       RepeatOf(s).adjustable = true;
       Route(s);
     },
     "a depth-routed layer", kNotRun},
    {"HaltingWithoutGate", [](auto& s) { Halting(s).repeat.gate.reset(); }, "repeat.gate: must be"},
    {"GateWithoutHalting", [](auto& s) { Halting(s).repeat.halting = HaltingKind::kNone; },
     "repeat.gate: must be"},
    {"GateOfThree", [](auto& s) { Halting(s).repeat.gate->out.out = 3; }, "gate.out: out is 3"},
    {"GateHiddenZero", [](auto& s) { Halting(s).repeat.gate->hidden.out = 0; }, "gate.hidden: out"},
    {"GateThreshold", [](auto& s) { Halting(s).repeat.gate->threshold = 1.5f; }, "threshold"},
    {"HaltingOfTwoLayers",
     [](auto& s) {
       LayerGroupSpec& group = Halting(s);
       group.layers.push_back(group.layers[0]);
     },
     "other than one layer", kNotRun},
    {"HaltingOnTheFirstStream", [](auto& s) { MixtureOf(s).kv_source = KvSource::kSelf; },
     "other than one layer", kNotRun},
    {"SecondStreamWithoutHalting",
     [](auto& s) {
       Halting(s).repeat.gate.reset();
       Halting(s).repeat.halting = HaltingKind::kNone;
     },
     "a second stream needs"},
    {"MixtureWithGroupedHeads",
     [](auto& s) {
       AttentionSpec& attention = MixtureOf(s);
       attention.head_dim = 6;
       attention.num_heads = attention.num_kv_heads = 2;
       attention.q.out = attention.k.out = attention.v.out = attention.o.in = 12;
       attention.num_kv_heads = 1;
     },
     "grouped heads", kNotRun},
    {"MixtureWithRope", [](auto& s) { MixtureOf(s).rope = RopeSpec{.rotary_dim = 2}; }, "rope",
     kNotRun},
    {"MixtureBias", [](auto& s) { MixtureOf(s).q.bias = "b"; }, "a bias", kNotRun},
    {"MixtureOutputTooWide", [](auto& s) { MixtureOf(s).o.out += 1; }, "o: out is"},
    {"MixtureTopK", [](auto& s) { MixtureOf(s).q.experts->top_k = 9; }, "q.experts: top_k"},
    {"RelativeDistanceZero",
     [](auto& s) {
       MixtureOf(s).relative = RelativePositionSpec{.weight = "r", .max_distance = 0};
     },
     "relative: max_distance"},
    {"RelativeWithoutMixture",
     [](auto& s) {
       AttentionOf(s).relative = RelativePositionSpec{.weight = "r", .max_distance = 4};
     },
     "block.relative", kNotRun},
    {"MlpRouterWithoutWeight", [](auto& s) { MakeSparse(s).router.hidden = 8; }, "hidden_weight"},
    {"MlpRouterHuge", [](auto& s) { MakeSparse(s).router.hidden = int64_t{1} << 21; },
     "router: hidden is"},
    {"GateScaleNan", [](auto& s) { Route(s).gate_scale = kNan; }, "depth: gate_scale"},
    {"OutputNormEpsilon",
     [](auto& s) { s.stacks[0].groups[0].output_norm = NormSpec{.epsilon = -1.0f}; },
     "output_norm: epsilon"},
    {"EmbeddingNormEpsilon",
     [](auto& s) { s.stacks[0].embedding.norm = NormSpec{.epsilon = kNan}; },
     "embedding.norm: epsilon"},
    {"HeadsZero", [](auto& s) { AttentionOf(s).num_heads = 0; }, "num_heads"},
    {"HeadsNegative", [](auto& s) { AttentionOf(s).num_heads = -4; }, "num_heads"},
    {"KvHeadsNotADivisor", [](auto& s) { AttentionOf(s).num_kv_heads = 3; },
     "multiple of num_kv_heads"},
    {"HiddenDisagrees", [](auto& s) { FfnOf(s).hidden += 1; }, "gate: out is"},
    {"NormEpsilonNan", [](auto& s) { LayerOf(s).sublayers[0].input_norm->epsilon = kNan; },
     "input_norm: epsilon"},
    {"NormEpsilonNegative", [](auto& s) { s.stacks[0].final_norm->epsilon = -1.0f; },
     "final_norm: epsilon"},
    {"RmsWithBias", [](auto& s) { s.stacks[0].final_norm->bias = "b"; }, "RMS norm with a bias",
     kNotRun},
    {"ResidualScaleNan", [](auto& s) { LayerOf(s).sublayers[1].residual_scale = kNan; },
     "residual_scale"},
    {"TopKAboveExperts", [](auto& s) { MakeSparse(s).router.top_k = 5; }, "router: top_k is 5"},
    {"TopKZero", [](auto& s) { MakeSparse(s).router.top_k = 0; }, "router: top_k"},
    {"NoExperts", [](auto& s) { MakeSparse(s).router.num_experts = 0; }, "num_experts"},
    {"TooManyExperts", [](auto& s) { MakeSparse(s).router.num_experts = 4'097; }, "num_experts"},
    {"NullExpertsNegative", [](auto& s) { MakeSparse(s).router.num_null_experts = -1; },
     "num_null_experts"},
    {"RouterScaleNan", [](auto& s) { MakeSparse(s).router.scale = kNan; }, "scale"},
    {"NoRouter", [](auto& s) { MakeSparse(s).router.weight.clear(); },
     "router: weight names no tensor"},
    {"GateWithoutName", [](auto& s) { MakeSparse(s).experts.gate.clear(); }, "gate must be named"},
    {"GateOfUngated", [](auto& s) { MakeSparse(s).gated = false; }, "gate must be named"},
    {"FusedUngated",
     [](auto& s) {
       MoeFfnSpec& f = MakeSparse(s);
       f.gated = false;
       f.experts.fused_gate_up = true;
     },
     "fused_gate_up needs a gate"},
    {"SharedGateAlone", [](auto& s) { MakeSparse(s).shared_gate = "g"; }, "needs shared experts"},
    {"SharedDisagrees", [](auto& s) { MakeSparse(s).shared = DenseFfnSpec{.hidden = 8}; },
     "shared.gate"},
    {"DepthWithoutRouter", [](auto& s) { Route(s).weight.clear(); },
     "depth: weight names no tensor"},
    {"ThresholdAboveOne", [](auto& s) { Route(s).threshold = 1.5f; }, "threshold"},
    {"ThresholdNan", [](auto& s) { Route(s).threshold = kNan; }, "threshold"},
    {"CapacityNegative", [](auto& s) { Route(s).capacity = -0.1; }, "capacity"},
    {"CapacityNan", [](auto& s) { Route(s).capacity = std::nan(""); }, "capacity"},
    {"QuantilesTooFew", [](auto& s) { Route(s).score_quantiles = {1.0f}; }, "101 values"},
    {"QuantilesDecrease",
     [](auto& s) {
       Route(s).score_quantiles.assign(101, 0.0f);
       Route(s).score_quantiles.assign(101, 0.0f);
       LayerOf(s).depth->score_quantiles[50] = 1.0f;
     },
     "must not decrease"},
    {"QuantilesNan", [](auto& s) { Route(s).score_quantiles.assign(101, kNan); }, "not finite"},
    {"PredictorMissing", [](auto& s) { Route(s).decide = DepthDecide::kPredictorThreshold; },
     "needs a predictor"},
    {"PredictorWide", [](auto& s) { Route(s).predictor = {{.in = 48, .out = 2, .weight = "p"}}; },
     "predictor[0]: out"},
    {"PredictorBroken",
     [](auto& s) {
       Route(s).predictor = {{.in = 48, .out = 4, .weight = "p"},
                             {.in = 5, .out = 1, .weight = "q"}};
     },
     "predictor[1]: in"},
    {"TopKWithoutCapacity", [](auto& s) { Route(s).prefill_decide = DepthDecide::kRouterTopK; },
     "capacity above 0"},
    {"TopKWhileGenerating", [](auto& s) { Route(s).decide = DepthDecide::kRouterTopK; }, "decide",
     kNotRun},
    {"AllTokensAtCompactPositions",
     [](auto& s) {
       Route(s).kv = DepthKv::kAllTokens;
       LayerOf(s).depth->position = DepthPosition::kCompact;
     },
     "depth.kv", kNotRun},
    {"AllTokensOfAnFfn",
     [](auto& s) {
       Route(s).kv = DepthKv::kAllTokens;
       LayerOf(s).depth->first_sublayer = 1;
     },
     "depth.kv: all_tokens where the first routed sublayer is no plain attention", kNotRun},
    {"AllTokensOfQueryExperts",
     [](auto& s) {
       Route(s).kv = DepthKv::kAllTokens;
       MixAttention(s);
     },
     "depth.kv: all_tokens of query experts", kNotRun},
    {"AllTokensOfLatentAttention",
     [](auto& s) {
       Route(s).kv = DepthKv::kAllTokens;
       MakeLatent(s);
     },
     "depth.kv: all_tokens where", kNotRun},
    {"AllTokensOfTwoAttentions",
     [](auto& s) {
       Route(s).kv = DepthKv::kAllTokens;
       LayerOf(s).sublayers.push_back(LayerOf(s).sublayers[0]);
     },
     "depth.kv: all_tokens of a second attention", kNotRun},
    {"FirstSublayerNegative", [](auto& s) { Route(s).first_sublayer = -1; }, "first_sublayer"},
    {"FirstSublayerBehindTheLast", [](auto& s) { Route(s).first_sublayer = 2; }, "first_sublayer"},
    {"PromptMeanWhileGenerating", [](auto& s) { Route(s).decide = DepthDecide::kPromptMean; },
     "depth.decide", kNotRun},
    {"PromptMeanOfAnMlp",
     [](auto& s) {
       Route(s).prefill_decide = DepthDecide::kPromptMean;
       LayerOf(s).depth->hidden = ProjectionSpec{.in = 48, .out = 4, .weight = "h"};
     },
     "depth.hidden", kNotRun},
    {"PromptMeanForcesNoRow",
     [](auto& s) {
       Route(s).prefill_decide = DepthDecide::kPromptMean;
       LayerOf(s).depth->force_first = true;
     },
     "depth.force_first", kNotRun},
    {"PromptMeanHasNoQuantiles",
     [](auto& s) {
       Route(s).prefill_decide = DepthDecide::kPromptMean;
       LayerOf(s).depth->score_quantiles.assign(101, 0.0f);
     },
     "depth.score_quantiles"},
    {"ZeroRowsAtCompactPositions",
     [](auto& s) {
       Route(s).kv = DepthKv::kZeroRows;
       LayerOf(s).depth->position = DepthPosition::kCompact;
     },
     "depth.kv", kNotRun},
    {"ZeroRowsBesideSinks",
     [](auto& s) {
       Route(s).kv = DepthKv::kZeroRows;
       AttentionOf(s).sinks = "sinks";
     },
     "layers[0].depth.kv", kNotRun},
    {"GatedSublayerWithScale",
     [](auto& s) {
       Route(s).gate_place = DepthGatePlace::kLastSublayer;
       LayerOf(s).sublayers[1].residual_scale = 0.5f;
     },
     "depth.gate_place", kNotRun},
    {"CapacityRowsNegative", [](auto& s) { Route(s).capacity_rows = -1; }, "capacity_rows is -1"},
    {"CapacityRowsHuge", [](auto& s) { Route(s).capacity_rows = (1 << 24) + 1; }, "capacity_rows"},
    {"MinRowsNegative", [](auto& s) { Route(s).min_rows = -1; }, "min_rows is -1"},
    {"ForcedFirstUnderTopK",
     [](auto& s) {
       Route(s).prefill_decide = DepthDecide::kRouterTopK;
       LayerOf(s).depth->capacity_rows = 4;
       LayerOf(s).depth->force_first = true;
     },
     "depth.force_first", kNotRun},
    {"SoftmaxWithoutTopK",
     [](auto& s) {
       Route(s).gate = GateFunction::kIdentity;
       LayerOf(s).depth->softmax_over_selected = true;
     },
     "softmax_over_selected needs router_topk"},
    {"SoftmaxUnderAnotherGate",
     [](auto& s) {
       Route(s).prefill_decide = DepthDecide::kRouterTopK;
       LayerOf(s).depth->capacity = 0.5;
       LayerOf(s).depth->softmax_over_selected = true;
     },
     "needs the identity"},
    {"LogitScaleNan", [](auto& s) { s.head.logit_scale = kNan; }, "logit_scale"},
    {"PositionsZero", [](auto& s) { s.max_positions = 0; }, "max_positions"},
    {"PositionsHuge", [](auto& s) { s.max_positions = (1 << 24) + 1; }, "max_positions"},
    {"EosAboveVocab", [](auto& s) { s.eos_token_ids = {61}; }, "eos_token_ids"},
    {"EosNegative", [](auto& s) { s.eos_token_ids = {-1}; }, "eos_token_ids"},
};

class BadSpecTest : public ::testing::TestWithParam<BadSpec> {};

TEST_P(BadSpecTest, IsRefusedNamingThePath) { ExpectRefused(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Rules, BadSpecTest, ::testing::ValuesIn(kBadSpecs), [](const auto& bad) {
  return std::string(bad.param.name);
});

TEST(ModelSpecJson, FloatsAreShortAndExact) {
  ModelSpec spec = PlainSpec(1);
  spec.head.logit_scale = 0.1f;
  EXPECT_EQ(SpecToJson(spec)["head"]["logit_scale"].dump(), "0.1");
  spec.head.logit_scale = std::nextafter(0.1f, 1.0f);
  EXPECT_TRUE(*SpecFromJson(SpecToJson(spec)) == spec);
}

TEST(ModelSpecJson, RefusesWhatItDoesNotKnow) {
  const auto message = [](const char* text) {
    return std::string(SpecFromJson(nlohmann::json::parse(text)).status().message());
  };
  EXPECT_THAT(message("[]"), HasSubstr("object"));
  EXPECT_THAT(message(R"({"colour":1})"), HasSubstr("unknown key"));
  EXPECT_THAT(message(R"({"head":{"colour":1}})"), HasSubstr("'head' has an unknown key"));
  EXPECT_THAT(message(R"({"family":1})"), HasSubstr("'family' must be a string"));
  EXPECT_THAT(message(R"({"max_positions":1.5})"), HasSubstr("'max_positions' must be an integer"));
  EXPECT_THAT(message(R"({"max_positions":4294967296})"), HasSubstr("'max_positions'"));
  EXPECT_THAT(message(R"({"head":{"logit_scale":1e39}})"), HasSubstr("'head.logit_scale'"));
  EXPECT_THAT(message(R"({"stacks":{}})"), HasSubstr("'stacks' must be a list"));
  EXPECT_THAT(message(R"({"stacks":[{"role":"judge"}]})"), HasSubstr("'stacks[0].role'"));
  EXPECT_THAT(
      message(R"({"stacks":[{"groups":[{"layers":[{"sublayers":[{"block":{"magic":{}}}]}]}]}]})"),
      HasSubstr("sublayers[0].block' must be attention"));
}

}  // namespace
}  // namespace sluice::testing
