// ValidateSpec's rules for attention and experts: every one has a case that breaks only it.
#include "tests/model/bad_specs.h"

namespace sluice::testing {
namespace {

const BadSpec kBadSpecs[] = {
    {"KvHeadsAboveHeads", [](auto& s) { AttentionOf(s).num_kv_heads = 8; }, "num_kv_heads"},
    {"HeadDimZero", [](auto& s) { AttentionOf(s).head_dim = 0; }, "head_dim"},
    {"QueryTooWide", [](auto& s) { AttentionOf(s).q.out += 1; }, "q: out is"},
    {"KeyTooNarrow", [](auto& s) { AttentionOf(s).k.out -= 1; }, "k: out is"},
    {"OutputTooWide", [](auto& s) { AttentionOf(s).o.out += 1; }, "o: out is"},
    {"NoKeyWeight", [](auto& s) { AttentionOf(s).k.weight.clear(); }, "k: weight names no tensor"},
    {"RowBeginNegative", [](auto& s) { AttentionOf(s).k.row_begin = -1; }, "row_begin"},
    {"RunsNoDivisor",
     [](auto& s) {
       AttentionOf(s).q.row_run = 7;
       AttentionOf(s).q.row_stride = 21;
     },
     "row_run must divide out"},
    {"RunNegative", [](auto& s) { AttentionOf(s).q.row_run = -1; }, "row_run is -1"},
    {"RunsOverlap",
     [](auto& s) {
       AttentionOf(s).q.row_run = 12;
       AttentionOf(s).q.row_stride = 11;
     },
     "row_stride is 11"},
    {"RunBeginsBehindItsStride",
     [](auto& s) {
       AttentionOf(s).q.row_run = 12;
       AttentionOf(s).q.row_stride = 24;
       AttentionOf(s).q.row_begin = 13;
     },
     "row_begin is 13"},
    {"StrideWithoutRuns", [](auto& s) { AttentionOf(s).q.row_stride = 3; }, "row_stride is 3"},
    {"RunsWithBias",
     [](auto& s) {
       AttentionOf(s).q.row_run = AttentionOf(s).q.row_stride = 12;
       AttentionOf(s).q.bias = "b";
     },
     "row_run beside a bias", kNotRun},
    {"RotaryOdd", [](auto& s) { AttentionOf(s).rope->rotary_dim = 7; }, "must be even"},
    {"RotaryAboveHead", [](auto& s) { AttentionOf(s).rope->rotary_dim = 14; }, "rotary_dim"},
    {"RotaryZero", [](auto& s) { AttentionOf(s).rope->rotary_dim = 0; }, "rotary_dim"},
    {"ThetaNan", [](auto& s) { AttentionOf(s).rope->theta = std::nan(""); }, "theta"},
    {"ThetaZero", [](auto& s) { AttentionOf(s).rope->theta = 0.0; }, "theta"},
    {"FactorZero", [](auto& s) { AttentionOf(s).rope->linear_factor = 0.0; }, "linear_factor"},
    {"AmplitudeZero", [](auto& s) { AttentionOf(s).rope->amplitude = 0.0; }, "amplitude"},
    {"ScalingFactorZero", [](auto& s) { ScaleRope(s).factor = 0.0; }, "rope.scaling: factor"},
    {"ScalingPositionsZero", [](auto& s) { ScaleRope(s).original_positions = 0; },
     "original_positions"},
    {"ScalingRotationsEqual", [](auto& s) { ScaleRope(s).high_rotations = 1.0; },
     "must be above low_rotations"},
    {"ScalingLowRotationsNan", [](auto& s) { ScaleRope(s).low_rotations = std::nan(""); },
     "low_rotations"},
    {"ScalingOfNothing",
     [](auto& s) {
       ScaleRope(s);
       AttentionOf(s).rope->theta = 1.0;
     },
     "theta must be above 1"},
    {"LatentHeadsZero", [](auto& s) { MakeLatent(s).num_heads = 0; }, "num_heads"},
    {"LatentRopeOdd", [](auto& s) { MakeLatent(s).rope.rotary_dim = 3; }, "must be even"},
    {"LatentRopeAboveItsPart", [](auto& s) { MakeLatent(s).rope.rotary_dim = 6; }, "rotary_dim"},
    {"LatentWidthZero", [](auto& s) { MakeLatent(s).latent_dim = 0; }, "latent_dim"},
    {"LatentKeysTooWide", [](auto& s) { MakeLatent(s).kv_up.out += 1; }, "kv_up: out is"},
    {"LatentDownTooNarrow", [](auto& s) { MakeLatent(s).kv_down.out -= 1; }, "kv_down: out is"},
    {"LatentQueryRankDisagrees", [](auto& s) { MakeLatent(s).q_down->out += 1; }, "q: in is"},
    {"LatentQueryBias", [](auto& s) { MakeLatent(s).q.bias = "b"; }, "q: a bias", kNotRun},
    {"LatentUpBias", [](auto& s) { MakeLatent(s).kv_up.bias = "b"; }, "kv_up: a bias", kNotRun},
    {"LatentUpTransposed", [](auto& s) { MakeLatent(s).kv_up.transposed = true; }, "transposed",
     kNotRun},
    {"LatentScaleNegative", [](auto& s) { MakeLatent(s).scale = -1.0f; }, "scale"},
    {"GroupsZero", [](auto& s) { MakeSparse(s).router.num_groups = 0; }, "num_groups"},
    {"GroupsNotADivisor", [](auto& s) { MakeSparse(s).router.num_groups = 3; },
     "multiple of num_groups"},
    {"TopGroupsAboveGroups",
     [](auto& s) {
       MakeSparse(s).router.num_groups = 2;
       std::get<MoeFfnSpec>(LayerOf(s).sublayers[1].block).router.top_groups = 3;
     },
     "top_groups"},
    {"GroupsOfferTooFew", [](auto& s) { MakeSparse(s).router.num_groups = 4; }, "top_k"},
    {"GroupsBesideNullExperts",
     [](auto& s) {
       RouterSpec& router = MakeSparse(s).router;
       router.num_groups = 2;
       router.num_null_experts = 1;
     },
     "null expert beside groups", kNotRun},
    {"InterleavedAlone", [](auto& s) { MakeSparse(s).experts.interleaved = true; },
     "interleaved needs fused_gate_up"},
    {"GateBiasWithoutGate",
     [](auto& s) {
       MoeFfnSpec& ffn = MakeSparse(s);
       ffn.experts.gate.clear();
       ffn.experts.fused_gate_up = true;
       ffn.experts.gate_bias = "b";
     },
     "gate_bias needs a gate"},
    {"Mxfp4OddSize", [](auto& s) { MakeSparse(s).experts.encoding = ExpertEncoding::kMxfp4; },
     "multiples of 32"},
    {"Mxfp4Transposed",
     [](auto& s) {
       MoeFfnSpec& ffn = MakeSparse(s);
       ffn.experts.encoding = ExpertEncoding::kMxfp4;
       ffn.experts.transposed = true;
     },
     "transposed mxfp4", kNotRun},
    {"ClampWithoutGate",
     [](auto& s) {
       MoeFfnSpec& ffn = MakeSparse(s);
       ffn.activation = Activation::kClampedSwiglu;
       ffn.gated = false;
       ffn.experts.gate.clear();
     },
     "clamped_swiglu needs a gate"},
    {"ClampLimitZero",
     [](auto& s) {
       MoeFfnSpec& ffn = MakeSparse(s);
       ffn.activation = Activation::kClampedSwiglu;
       ffn.clamp.limit = 0.0f;
     },
     "clamp.limit"},
    {"ClampOutsideOfExperts", [](auto& s) { FfnOf(s).activation = Activation::kClampedSwiglu; },
     "clamped_swiglu outside", kNotRun},
    {"ScaleInfinite", [](auto& s) { AttentionOf(s).scale = kInfinity; }, "scale"},
    {"ClipNegative", [](auto& s) { AttentionOf(s).clip_qkv = -1.0f; }, "clip_qkv"},
    {"WindowNegative", [](auto& s) { AttentionOf(s).window = -1; }, "window"},
    {"FullMaskOfADecoder", [](auto& s) { AttentionOf(s).mask = MaskKind::kFull; },
     "block.mask: a decoder's must be causal"},
    {"SparseBesideAWindow",
     [](auto& s) {
       AttentionOf(s).window = 3;
       Sparse(s);
     },
     "block.sparse: a window"},
    {"SparseBlockZero", [](auto& s) { Sparse(s).block = 0; }, "sparse: block"},
    {"SparseBlockHuge", [](auto& s) { Sparse(s).block = (1 << 24) + 1; }, "sparse: block"},
    {"SparseFirstNegative", [](auto& s) { Sparse(s).first_blocks = -1; }, "sparse: first_blocks"},
    {"SparseBehindNegative", [](auto& s) { Sparse(s).behind = -1; }, "sparse: behind"},
    {"SparseRandomMany", [](auto& s) { Sparse(s).random_blocks = 65; }, "sparse: random_blocks"},
    {"SparseSeedNegative", [](auto& s) { Sparse(s).seed = -1; }, "sparse: seed"},
    {"SparseAheadOfCausal", [](auto& s) { Sparse(s).ahead = 1; }, "are causal"},
    {"SparseLastOfCausal", [](auto& s) { Sparse(s).last_blocks = 1; }, "are causal"},
    {"SparseGlobalOfCausal", [](auto& s) { Sparse(s).global_queries = true; }, "are causal"},
    {"SparseRepeatsOfCausal", [](auto& s) { Sparse(s).first_repeats = 1; }, "are causal"},
    {"SparseFullOfCausal", [](auto& s) { Sparse(s).full_up_to = 1; }, "are causal"},
    {"SparseRepeatsMany",
     [](auto& s) {
       Encode(s);
       Sparse(s).first_repeats = 65;
     },
     "sparse: first_repeats"},
    {"SparseZeroRows",
     [](auto& s) {
       Sparse(s);
       Route(s).kv = DepthKv::kZeroRows;
     },
     "zero_rows of sparse", kNotRun},
    {"SparseMixture", [](auto& s) { MixtureOf(s).sparse.emplace(); }, "with query experts",
     kNotRun},
    {"CrossWithoutAnEncoder",
     [](auto& s) {
       AttentionOf(s).kv_source = KvSource::kEncoder;
       AttentionOf(s).rope.reset();
     },
     "block.kv_source: there is no encoder"},
    {"CrossWithRope", [](auto& s) { CrossOf(s).rope.emplace(RopeSpec{.rotary_dim = 4}); },
     "kv_source: attention to an encoder", kNotRun},
    {"CrossWithSinks", [](auto& s) { CrossOf(s).sinks = "sinks"; }, "kv_source", kNotRun},
    {"TwoDecoders", [](auto& s) { s.stacks.push_back(s.stacks[0]); },
     "stacks: two of them are an encoder and a decoder"},
    {"OtherEncoderEmbedding",
     [](auto& s) {
       AddStack(s);
       s.stacks[0].embedding.weight = "other";
     },
     "stacks[1].embedding", kNotRun},
    {"DecoderStartOutside",
     [](auto& s) {
       AddStack(s);
       s.decoder_start_token_id = 61;
     },
     "decoder_start_token_id"},
    {"RoutedBehindAnEncoder",
     [](auto& s) {
       AddStack(s);
       s.stacks[1].groups[0].layers[0].depth.emplace(DepthRouterSpec{.weight = "router"});
     },
     "stacks[1].groups[0].layers[0].depth", kNotRun},
    {"BiasUnnamed", [](auto& s) { Bias(s).weight.clear(); }, "position_bias: weight"},
    {"BiasBuckets", [](auto& s) { Bias(s).num_buckets = 1; }, "position_bias: num_buckets"},
    {"BiasDistance", [](auto& s) { Bias(s).max_distance = 4; }, "position_bias: max_distance"},
    {"BiasOddBothWays",
     [](auto& s) {
       Encode(s);
       Bias(s).num_buckets = 7;
     },
     "num_buckets must be even"},
    {"BiasMixture", [](auto& s) { MixtureOf(s).position_bias.emplace(); }, "with query experts",
     kNotRun},
    {"EncoderWithoutPooling", [](auto& s) { s.stacks[0].role = StackRole::kEncoder; },
     "head.pooling"},
    {"PoolingOfADecoder", [](auto& s) { s.head.pooling = Pooling::kMean; }, "head.pooling"},
    {"EncoderWithAHead",
     [](auto& s) {
       Encode(s);
       s.head.weight = "head.weight";
     },
     "head: an encoder's"},
    {"EncoderCausal",
     [](auto& s) {
       Encode(s);
       AttentionOf(s).mask = MaskKind::kCausal;
     },
     "block.mask: an encoder's must be full"},
    {"EncoderWindow",
     [](auto& s) {
       Encode(s);
       AttentionOf(s).window = 4;
     },
     "block.window", kNotRun},
    {"EncoderRouted",
     [](auto& s) {
       Encode(s);
       Route(s);
     },
     "layers[0].depth", kNotRun},
    {"EncoderRepeats",
     [](auto& s) {
       Encode(s);
       RepeatOf(s).times = 2;
       RepeatOf(s).adjustable = true;
     },
     "whose rows stop", kNotRun},
    {"EncoderLatent",
     [](auto& s) {
       Encode(s);
       MakeLatent(s);
     },
     "latent attention in an encoder", kNotRun},
    {"TokenTypesZero", [](auto& s) { s.stacks[0].embedding.token_type_weight = "token_types"; },
     "num_token_types"},
    {"SecondStream", [](auto& s) { AttentionOf(s).kv_source = KvSource::kSecondStream; },
     "kv_source", kNotRun},
    {"QueryExperts",
     [](auto& s) {
       GiveHeadExperts(s);
       AttentionOf(s).q.experts = AttentionOf(s).v.experts;
     },
     "v: an expert projection", kNotRun},
    {"ValueExpertsWithGroups",
     [](auto& s) {
       GiveHeadExperts(s);
       AttentionOf(s).num_kv_heads = 2;
       AttentionOf(s).k.out /= 2;
       AttentionOf(s).v.out /= 2;
     },
     "value experts with grouped", kNotRun},
    {"HeadExpertsTopK",
     [](auto& s) {
       GiveHeadExperts(s);
       AttentionOf(s).o.experts->top_k = 4;
     },
     "o.experts: top_k"},
    {"HeadExpertsBias",
     [](auto& s) {
       GiveHeadExperts(s);
       AttentionOf(s).v.bias = "b";
     },
     "bias", kNotRun},
    {"SplitWithoutExperts", [](auto& s) { AttentionOf(s).o.split_by_head = true; },
     "split_by_head"},
    {"SplitOfManyExperts",
     [](auto& s) {
       GiveHeadExperts(s);
       AttentionOf(s).o.split_by_head = true;
     },
     "exactly one"},
    {"HiddenZero", [](auto& s) { FfnOf(s).hidden = 0; }, "hidden"},
    {"MixtureQueryBias", [](auto& s) { MixAttention(s).q.bias = "b"; }, "q: a bias", kNotRun},
    {"MixtureFusedQuery", [](auto& s) { MixAttention(s).q.row_begin = 4; }, "a fused", kNotRun},
    {"MixtureRotaryOdd", [](auto& s) { MixAttention(s).rope->rotary_dim = 5; }, "must be even"},
    {"MixtureRotatesASecondStream", [](auto& s) { MixtureOf(s).rope = RopeSpec{.rotary_dim = 2}; },
     "rope with keys of a second", kNotRun},
    {"MixtureSinks", [](auto& s) { MixAttention(s).sinks = "s"; }, "sinks", kNotRun},
    {"ThresholdsOfRows", [](auto& s) { MakeSparse(s).router.thresholds = {0.5f}; },
     "thresholds need another pick"},
    {"ExpertsChooseWithoutCapacity", [](auto& s) { LetExpertsChoose(s).capacity.reset(); },
     "need a capacity"},
    {"ExpertsChooseForSome", [](auto& s) { LetExpertsChoose(s).top_k = 2; }, "top_k is 2"},
    {"ThresholdsMissing", [](auto& s) { LetExpertsChoose(s).pick = ExpertPick::kThreshold; },
     "number of thresholds is 0"},
    {"ThresholdsTooFew", [](auto& s) { LetExpertsChoose(s).thresholds = {0.5f}; },
     "number of thresholds is 1"},
    {"ThresholdNan",
     [](auto& s) {
       LetExpertsChoose(s).thresholds = {0.5f, 0.5f, kNan, 0.5f};
     },
     "thresholds is nan"},
    {"CapacityOfTwoKinds", [](auto& s) { LetExpertsChoose(s).capacity->rows = 3; },
     "exactly one of rows, share and factor"},
    {"CapacityOfNoKind", [](auto& s) { MakeSparse(s).router.capacity.emplace(); }, "exactly one"},
    {"CapacityShareAboveOne",
     [](auto& s) { MakeSparse(s).router.capacity = ExpertCapacitySpec{.share = 1.5}; },
     "capacity: share"},
    {"CapacityRowsNegative",
     [](auto& s) { MakeSparse(s).router.capacity = ExpertCapacitySpec{.rows = -1}; },
     "capacity: rows"},
    {"CapacityFactorInfinite",
     [](auto& s) {
       LetExpertsChoose(s).capacity->factor = std::numeric_limits<double>::infinity();
     },
     "capacity: factor"},
    {"CapacityLeastNegative", [](auto& s) { LetExpertsChoose(s).capacity->min_rows = -1; },
     "capacity: min_rows"},
    {"ExpertsChooseAndKeepSums",
     [](auto& s) { LetExpertsChoose(s).capacity->renormalize_kept = true; }, "renormalize_kept",
     kNotRun},
    {"ExpertsChooseRenormalized", [](auto& s) { LetExpertsChoose(s).renormalize = true; },
     "pick: renormalisation", kNotRun},
    {"ExpertsChooseScaled", [](auto& s) { LetExpertsChoose(s).scale = 2.0f; },
     "pick: renormalisation", kNotRun},
    {"ExpertsChooseBesideDepth",
     [](auto& s) {
       LetExpertsChoose(s);
       Route(s);
     },
     "beside rows that skip layers", kNotRun},
    {"CapacityBesideHalting",
     [](auto& s) {
       MakeSparse(s).router.capacity = ExpertCapacitySpec{.rows = 3};
       ChooseDepth(s);
     },
     "beside rows that skip layers", kNotRun},
    {"HeadExpertsWithCapacity",
     [](auto& s) {
       GiveHeadExperts(s);
       AttentionOf(s).v.experts->capacity = ExpertCapacitySpec{.rows = 3};
     },
     "outside of FFN experts", kNotRun},
};

class BadBlockSpecTest : public ::testing::TestWithParam<BadSpec> {};

TEST_P(BadBlockSpecTest, IsRefusedNamingThePath) { ExpectRefused(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Rules,
                         BadBlockSpecTest,
                         ::testing::ValuesIn(kBadSpecs),
                         [](const auto& bad) { return std::string(bad.param.name); });

}  // namespace
}  // namespace sluice::testing
