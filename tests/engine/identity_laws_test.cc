// Degenerate settings of random models equal their plain form: a layer that routes every row is the
// plain layer, a group that runs twice is two groups with the same tensors, one expert is a dense
// FFN. House rules 7.6.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <variant>

#include "absl/strings/str_cat.h"
#include "tests/support/model_harness.h"
#include "tests/support/random_spec.h"

namespace sluice::testing {
namespace {

using Logits = std::vector<std::vector<float>>;

// Largest difference in parts of the largest number; infinite where the shapes differ.
double Difference(const Logits& a, const Logits& b) {
  if (a.size() != b.size()) return INFINITY;
  double largest = 1e-9, difference = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].size() != b[i].size()) return INFINITY;
    for (size_t j = 0; j < a[i].size(); ++j) {
      const double one = a[i][j], other = b[i][j];
      if (!std::isfinite(one) || !std::isfinite(other)) return INFINITY;
      largest = std::max(largest, std::abs(one));
      difference = std::max(difference, std::abs(one - other));
    }
  }
  return difference / largest;
}

// Two forms of a model over the same tensors: both specs name those of `wider`.
struct Forms {
  ModelSpec plain, wider;
  RowRouting routing;  // of the wider one
};

struct Case {
  const char* device;
  kernels::WeightFormat format;
};

class IdentityLaws : public ::testing::TestWithParam<Case> {
 protected:
  // Runs `make` on random specs; it returns false where a spec has no such form. The results may
  // differ by `tolerance`; at least a tenth of the specs must have had one.
  void Hold(const SpecDraw& draw,
            double tolerance,
            const std::function<bool(uint32_t seed, Forms&)>& make) {
    uint32_t held = 0;
    for (uint32_t seed = 0; seed < kNumRandomSpecs; ++seed) {
      SCOPED_TRACE(::testing::Message() << "seed " << seed);
      Forms forms;
      forms.plain = forms.wider = RandomSpec(seed, draw);
      if (!make(seed, forms) || !ValidateSpec(forms.wider).ok() || !ValidateSpec(forms.plain).ok())
        continue;
      MemoryWeightStore weights;
      FillWeights(forms.wider, seed + 1, weights);
      const HarnessOptions options = {.device = {.device = GetParam().device, .threads = 2},
                                      .format = GetParam().format};
      auto plain = ModelHarness::Create(forms.plain, weights, options);
      auto wider = ModelHarness::Create(forms.wider, weights, options);
      ASSERT_TRUE(plain.ok() && wider.ok()) << plain.status() << wider.status();
      const auto tokens = RandomTokens(seed, 23, forms.plain.decoder().embedding.vocab_size);
      ASSERT_LE(Difference((*plain)->Run(tokens, 9), (*wider)->Run(tokens, 9, forms.routing)),
                tolerance);
      ++held;
    }
    EXPECT_GE(held, kNumRandomSpecs / 10);
  }
};

TEST_P(IdentityLaws, RoutingEveryRowIsThePlainLayer) {
  Hold({.depth = false}, 0.0, [](uint32_t seed, Forms& forms) {
    int routed = 0;
    for (LayerGroupSpec& group : forms.wider.stacks[0].groups) {
      if (!(group.repeat == RepeatSpec{})) continue;
      for (size_t l = 0; l < group.layers.size(); ++l) {
        if ((l + seed) % 2 != 0) continue;
        group.layers[l].depth =
            DepthRouterSpec{.weight = absl::StrCat("router.", group.name, ".", l),
                            .gate = GateFunction::kOne,
                            .combine = DepthCombine::kOnlyBlock,
                            .capacity = 0.5};
        ++routed;
      }
    }
    forms.routing.capacity = 1.0f;
    return routed > 0;
  });
}

TEST_P(IdentityLaws, RepeatingAGroupIsUnrollingIt) {
  Hold({.depth = false, .repeats = false}, 0.0, [](uint32_t, Forms& forms) {
    LayerGroupSpec& group = forms.wider.stacks[0].groups[0];
    group.repeat.times = 2;
    std::vector<LayerSpec>& all = forms.plain.stacks[0].groups[0].layers;
    all.insert(all.end(), group.layers.begin(), group.layers.end());
    return true;
  });
}

TEST_P(IdentityLaws, OneExpertIsTheDenseFfn) {
  // The slices of an expert add up in another order than a dense row's products.
  const double tolerance = GetParam().format == kernels::WeightFormat::kF32 ? 1e-4 : 5e-2;
  Hold({.depth = false, .experts = false, .repeats = false}, tolerance, [](uint32_t, Forms& forms) {
    int dense = 0;
    for (LayerSpec& layer : forms.wider.stacks[0].groups[0].layers) {
      for (SublayerSpec& sublayer : layer.sublayers) {
        const auto* ffn = std::get_if<DenseFfnSpec>(&sublayer.block);
        if (ffn == nullptr || !ffn->gated || ffn->input_from_residual ||
            ffn->hidden_scaling.has_value())
          continue;
        const ProjectionSpec* parts[] = {&ffn->gate, &ffn->up, &ffn->down};
        if (std::any_of(std::begin(parts), std::end(parts), [](const ProjectionSpec* part) {
              return !part->bias.empty() || part->transposed || part->row_begin != 0 ||
                     part->row_run != 0 || part->low_rank.has_value() || part->scaling.has_value();
            }))
          continue;
        MoeFfnSpec moe;
        moe.router = {.num_experts = 1,
                      .top_k = 1,
                      .renormalize = true,
                      .weight = absl::StrCat("router.", dense++)};
        moe.hidden = ffn->hidden;
        moe.activation = ffn->activation;
        moe.experts = {.gate = ffn->gate.weight, .up = ffn->up.weight, .down = ffn->down.weight};
        sublayer.block = moe;
      }
    }
    return dense > 0;
  });
}

INSTANTIATE_TEST_SUITE_P(Backends,
                         IdentityLaws,
                         ::testing::Values(Case{"reference", kernels::WeightFormat::kF32},
                                           Case{"cpu", kernels::WeightFormat::kF32},
                                           Case{"cpu", kernels::WeightFormat::kBF16}),
                         [](const auto& one) {
                           return absl::StrCat(one.param.device, "_",
                                               kernels::Name(one.param.format));
                         });

}  // namespace
}  // namespace sluice::testing
