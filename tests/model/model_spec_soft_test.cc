// ValidateSpec's rules for Mixture of Tokens and soft-merged adapters.
#include "tests/model/bad_specs.h"

namespace sluice::testing {
namespace {

MixtureFfnSpec& MakeMixture(ModelSpec& spec) {
  MixtureFfnSpec mixture{.group_size = 4, .num_experts = 3, .hidden = 20};
  mixture.controller = "controller";
  mixture.up = "lin1";
  mixture.down = "lin2";
  return LayerOf(spec).sublayers[1].block.emplace<MixtureFfnSpec>(mixture);
}

SoftRouterSpec SoftRouter() { return {.num_experts = 3, .weight = "router"}; }

SoftLowRankSpec& LowRank(ProjectionSpec& projection) {
  return projection.low_rank.emplace(
      SoftLowRankSpec{.router = SoftRouter(), .rank = 2, .down = "A", .up = "B"});
}

SoftScalingSpec& Scale(std::optional<SoftScalingSpec>& scaling, int32_t heads) {
  return scaling.emplace(SoftScalingSpec{SoftRouter(), heads, "l"});
}

const BadSpec kBadSpecs[] = {
    {"GroupSizeZero", [](auto& s) { MakeMixture(s).group_size = 0; }, "block: group_size"},
    {"GroupSizeHuge", [](auto& s) { MakeMixture(s).group_size = 1 << 20; }, "group_size"},
    {"MixtureExpertsZero", [](auto& s) { MakeMixture(s).num_experts = 0; }, "num_experts"},
    {"MixtureHiddenZero", [](auto& s) { MakeMixture(s).hidden = 0; }, "hidden"},
    {"TemperatureZero", [](auto& s) { MakeMixture(s).temperature = 0.0f; }, "temperature"},
    {"TemperatureNan", [](auto& s) { MakeMixture(s).temperature = kNan; }, "temperature"},
    {"MixtureClamped", [](auto& s) { MakeMixture(s).activation = Activation::kClampedSwiglu; },
     "clamped_swiglu", kNotRun},
    {"NoController", [](auto& s) { MakeMixture(s).controller.clear(); }, "controller names no"},
    {"NoUp", [](auto& s) { MakeMixture(s).up.clear(); }, "up names no tensor"},
    {"NoDown", [](auto& s) { MakeMixture(s).down.clear(); }, "down names no tensor"},
    {"SoftExpertsZero", [](auto& s) { LowRank(AttentionOf(s).q).router.num_experts = 0; },
     "q.low_rank.router: num_experts"},
    {"SoftTopKAboveExperts", [](auto& s) { LowRank(AttentionOf(s).k).router.top_k = 4; },
     "k.low_rank.router: top_k"},
    {"SoftTopKNegative", [](auto& s) { LowRank(AttentionOf(s).v).router.top_k = -1; },
     "v.low_rank.router: top_k"},
    {"SoftRouterUnnamed", [](auto& s) { LowRank(AttentionOf(s).o).router.weight.clear(); },
     "o.low_rank.router: weight"},
    {"RankZero", [](auto& s) { LowRank(FfnOf(s).gate).rank = 0; }, "gate.low_rank: rank"},
    {"RankHuge", [](auto& s) { LowRank(FfnOf(s).up).rank = 1 << 17; }, "up.low_rank: rank"},
    {"LowRankScaleInfinite", [](auto& s) { LowRank(FfnOf(s).down).scale = kInfinity; },
     "down.low_rank: scale"},
    {"LowRankDownUnnamed", [](auto& s) { LowRank(FfnOf(s).up).down.clear(); }, "down names no"},
    {"LowRankUpUnnamed", [](auto& s) { LowRank(FfnOf(s).up).up.clear(); }, "up names no"},
    {"ScalingHeadsDisagree", [](auto& s) { Scale(AttentionOf(s).k.scaling, 4); },
     "k.scaling: heads is 4, must be 2"},
    {"ScalingUnnamed", [](auto& s) { Scale(AttentionOf(s).v.scaling, 2).weight.clear(); },
     "v.scaling: weight"},
    {"ScalingOfQueries", [](auto& s) { Scale(AttentionOf(s).q.scaling, 4); }, "q.scaling", kNotRun},
    {"ScalingOfTheOutput", [](auto& s) { Scale(AttentionOf(s).o.scaling, 0); }, "o.scaling",
     kNotRun},
    {"ScalingOfTheUpProjection", [](auto& s) { Scale(FfnOf(s).up.scaling, 0); }, "up.scaling",
     kNotRun},
    {"HiddenScalingWithHeads", [](auto& s) { Scale(FfnOf(s).hidden_scaling, 2); },
     "hidden_scaling: heads"},
    {"AdapterOfHeadExperts",
     [](auto& s) {
       GiveHeadExperts(s);
       LowRank(AttentionOf(s).v);
     },
     "adapter of an expert projection", kNotRun},
    {"AdapterOfLatentAttention", [](auto& s) { LowRank(MakeLatent(s).q); }, "adapter here",
     kNotRun},
    {"AdapterOfASharedExpert",
     [](auto& s) {
       DenseFfnSpec shared = FfnOf(s);
       LowRank(shared.up);
       MakeSparse(s).shared = shared;
     },
     "shared expert", kNotRun},
};

class BadSoftSpecTest : public ::testing::TestWithParam<BadSpec> {};

TEST_P(BadSoftSpecTest, IsRefusedNamingThePath) { ExpectRefused(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Rules,
                         BadSoftSpecTest,
                         ::testing::ValuesIn(kBadSpecs),
                         [](const auto& bad) { return std::string(bad.param.name); });

}  // namespace
}  // namespace sluice::testing
