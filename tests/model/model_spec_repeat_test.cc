// Rules for groups whose rows stop by a gate or by convergence, for the keys and values that their
// repeats see, and for what is done to the state between repeats.
#include "tests/model/bad_specs.h"

namespace sluice::testing {
namespace {

ExitSpec& Exit(ModelSpec& spec, HaltingKind kind) {
  RepeatOf(spec).times = 3;
  RepeatOf(spec).halting = kind;
  RepeatOf(spec).exit = ExitSpec{.threshold = 0.5f};
  if (kind != HaltingKind::kConvergence) RepeatOf(spec).exit->weight = "exit.weight";
  return *RepeatOf(spec).exit;
}

StepSignalSpec& Signal(ModelSpec& spec) { return RepeatOf(spec).signal.emplace(); }

const BadSpec kBadSpecs[] = {
    {"ActWithoutGate", [](auto& s) { RepeatOf(s).halting = HaltingKind::kAct; },
     "repeat.exit: must be there"},
    {"ConvergenceWithoutThreshold",
     [](auto& s) { RepeatOf(s).halting = HaltingKind::kConvergence; },
     "repeat.exit: must be there"},
    {"ExitWithoutHalting", [](auto& s) { RepeatOf(s).exit = ExitSpec{.weight = "w"}; },
     "repeat.exit: must be there"},
    {"GateWithoutWeight", [](auto& s) { Exit(s, HaltingKind::kExitGate).weight.clear(); },
     "exit: weight must be named"},
    {"ConvergenceWithWeight", [](auto& s) { Exit(s, HaltingKind::kConvergence).weight = "w"; },
     "exit: weight must be named"},
    {"ConvergenceWithBias", [](auto& s) { Exit(s, HaltingKind::kConvergence).bias = "b"; },
     "exit: weight must be named"},
    {"ThresholdAboveOne", [](auto& s) { Exit(s, HaltingKind::kAct).threshold = 1.5f; },
     "exit: threshold"},
    {"ThresholdNan", [](auto& s) { Exit(s, HaltingKind::kConvergence).threshold = kNan; },
     "exit: threshold"},
    {"LatestWithoutExits", [](auto& s) { RepeatOf(s).kv = RepeatKv::kLatest; },
     "repeat.kv: latest and compute_all need"},
    {"ComputeAllOfChosenDepth",
     [](auto& s) {
       ChooseDepth(s);
       RepeatOf(s).kv = RepeatKv::kComputeAll;
     },
     "repeat.kv: latest and compute_all need"},
    {"FirstWithStickBreaking", [](auto& s) { Halting(s).repeat.kv = RepeatKv::kFirst; },
     "repeat.kv", kNotRun},
    {"LatestWithLatentAttention",
     [](auto& s) {
       Exit(s, HaltingKind::kExitGate);
       RepeatOf(s).kv = RepeatKv::kLatest;
       MakeLatent(s);
     },
     "repeat.kv", kNotRun},
    {"FirstWithLatentAttention",
     [](auto& s) {
       RepeatOf(s).kv = RepeatKv::kFirst;
       MakeLatent(s);
     },
     "repeat.kv", kNotRun},
    {"FirstWithARoutedLayer",
     [](auto& s) {
       RepeatOf(s).kv = RepeatKv::kFirst;
       Route(s);
     },
     "repeat.kv: first with a depth-routed layer", kNotRun},
    {"ExitWithARoutedLayer",
     [](auto& s) {
       Exit(s, HaltingKind::kExitGate);
       RepeatOf(s).kv = RepeatKv::kComputeAll;
       Route(s);
     },
     "a depth-routed layer", kNotRun},
    {"ActWithInjection",
     [](auto& s) {
       Exit(s, HaltingKind::kAct);
       RepeatOf(s).injection = ProjectionSpec{.in = 96, .out = 48, .weight = "a"};
     },
     "repeat.injection", kNotRun},
    {"SignalOfNothing",
     [](auto& s) {
       Signal(s).positions = false;
       Signal(s) = {.positions = false, .steps = false};
     },
     "signal: must be of positions or of steps"},
    {"StepWeightWithoutSteps", [](auto& s) { Signal(s) = {.steps = false, .step_weight = "w"}; },
     "signal: step_weight"},
    {"SignalWithStickBreaking", [](auto& s) { Halting(s).repeat.signal.emplace(); },
     "a norm or a signal", kNotRun},
    {"NormWithStickBreaking", [](auto& s) { Halting(s).repeat.norm.emplace(); },
     "a norm or a signal", kNotRun},
    {"RepeatNormEpsilon", [](auto& s) { RepeatOf(s).norm = NormSpec{.epsilon = -1.0f}; },
     "repeat.norm: epsilon"},
    {"RouterInputScale",
     [](auto& s) {
       ChooseDepth(s);
       RepeatOf(s).depth_router->input_scale = kInfinity;
     },
     "depth_router: input_scale"},
    {"RouterHiddenActivation",
     [](auto& s) {
       ChooseDepth(s);
       RepeatOf(s).depth_router->hidden_activation = Activation::kClampedSwiglu;
     },
     "depth_router.hidden_activation", kNotRun},
    {"DepthHiddenZero",
     [](auto& s) { Route(s).hidden = ProjectionSpec{.in = 48, .out = 0, .weight = "h"}; },
     "depth.hidden: out"},
    {"DepthHiddenTooNarrow",
     [](auto& s) { Route(s).hidden = ProjectionSpec{.in = 40, .out = 8, .weight = "h"}; },
     "depth.hidden: in is 40, must be 48"},
    {"DepthInputScale", [](auto& s) { Route(s).input_scale = kNan; }, "depth: input_scale"},
};

class BadRepeatSpecTest : public ::testing::TestWithParam<BadSpec> {};

TEST_P(BadRepeatSpecTest, IsRefusedNamingItsPath) { ExpectRefused(GetParam()); }

INSTANTIATE_TEST_SUITE_P(HandMade,
                         BadRepeatSpecTest,
                         ::testing::ValuesIn(kBadSpecs),
                         [](const auto& bad) { return std::string(bad.param.name); });

TEST(RepeatSpecTest, ExitsOfEveryKindAreValid) {
  for (const HaltingKind kind :
       {HaltingKind::kAct, HaltingKind::kExitGate, HaltingKind::kConvergence}) {
    for (const RepeatKv kv :
         {RepeatKv::kOwn, RepeatKv::kLatest, RepeatKv::kComputeAll, RepeatKv::kFirst}) {
      ModelSpec spec = PlainSpec(2);
      Exit(spec, kind);
      RepeatOf(spec).kv = kv;
      RepeatOf(spec).adjustable = true;
      Signal(spec);
      EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
    }
  }
}

}  // namespace
}  // namespace sluice::testing
