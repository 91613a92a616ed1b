#include "tests/support/random_mixture.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace sluice::testing {
namespace {

float Unit(int64_t inputs) { return 1.0f / std::sqrt(static_cast<float>(inputs)); }

class Draw {
 public:
  explicit Draw(uint32_t seed) : engine_(seed) {}
  int32_t Int(int32_t lo, int32_t hi) {
    return std::uniform_int_distribution<int32_t>(lo, hi)(engine_);
  }
  bool Half() { return Int(0, 1) == 1; }

 private:
  std::mt19937 engine_;
};

}  // namespace

AttentionSpec RandomMixture(const std::string& name, int64_t dim, uint32_t seed) {
  Draw draw(seed);
  AttentionSpec attention;
  attention.num_heads = attention.num_kv_heads = draw.Int(1, 3);
  attention.head_dim = 2 * draw.Int(2, 7);
  const int64_t width = int64_t{attention.num_heads} * attention.head_dim;
  const bool transposed = draw.Half();
  attention.q = {.in = dim, .out = width, .weight = name + ".queries", .transposed = transposed};
  RouterSpec router;
  router.score = draw.Half() ? ScoreFunction::kSoftmaxOverTopK : ScoreFunction::kSoftmax;
  router.num_experts = draw.Int(2, 4);
  router.top_k = draw.Int(1, 2);
  router.weight = name + ".router";
  attention.q.experts = router;
  attention.k = {.in = dim, .out = width, .weight = name + ".keys"};
  attention.v = {.in = dim, .out = width, .weight = name + ".values"};
  if (draw.Half()) {  // one tensor, the keys first
    attention.v = attention.k;
    attention.v.row_begin = width;
  }
  attention.o = {.in = width, .out = dim, .weight = name + ".outputs", .transposed = transposed};
  if (draw.Half()) attention.o.bias = name + ".bias";
  if (draw.Int(0, 3) > 0) {
    RopeSpec rope;
    rope.style = draw.Half() ? RopeStyle::kHalf : RopeStyle::kInterleaved;
    rope.rotary_dim = draw.Half() ? attention.head_dim : 2;
    attention.rope = rope;
  }
  if (draw.Int(0, 3) == 0) attention.window = draw.Int(1, 12);
  return attention;
}

void FillMixture(const AttentionSpec& attention, int64_t dim, const AddTensor& add) {
  const int64_t width = attention.q.out;
  const int64_t experts = attention.q.experts->num_experts;
  add(attention.q.experts->weight, {experts, dim}, Unit(dim), 0.0f);
  for (const ProjectionSpec* part : {&attention.q, &attention.o}) {
    const int64_t rows = part->transposed ? part->in : part->out;
    const int64_t columns = part->transposed ? part->out : part->in;
    add(part->weight, {experts, rows, columns}, Unit(part->in), 0.0f);
  }
  add(attention.k.weight, {attention.v.row_begin + width, dim}, Unit(dim), 0.0f);
  add(attention.v.weight, {width, dim}, Unit(dim), 0.0f);
  add(attention.o.bias, {dim}, 0.2f, 0.0f);
}

void RandomPick(uint32_t seed, bool whole_prompts, RouterSpec& router) {
  Draw draw(seed);
  const int32_t kind = draw.Int(0, whole_prompts ? 3 : 1);
  if (kind != 1) {
    ExpertCapacitySpec capacity;
    const int32_t rule = draw.Int(0, 2);
    if (rule == 0) capacity.rows = draw.Int(1, 6);
    if (rule == 1) capacity.share = 0.1 * draw.Int(1, 8);
    if (rule == 2) capacity.factor = 0.5 * draw.Int(1, 4);
    capacity.min_rows = draw.Int(0, 2);
    capacity.renormalize_kept = kind == 0 && draw.Half();
    router.capacity = capacity;
  }
  if (kind == 0) return;  // rows choose, and a request may ask for the capacity
  router.num_null_experts = 0;
  router.num_groups = router.top_groups = 1;
  router.selection_bias.clear();
  router.renormalize = false;
  router.scale = 1.0f;
  if (router.score == ScoreFunction::kSoftmaxOverTopK) router.score = ScoreFunction::kSoftmax;
  router.top_k = router.num_experts;
  router.pick = kind == 1 ? ExpertPick::kThreshold : ExpertPick::kExpertTopK;
  if (kind == 2) return;
  const float fair = router.score == ScoreFunction::kSigmoid
                         ? 0.5f
                         : 1.0f / static_cast<float>(router.num_experts);
  for (int32_t e = 0; e < router.num_experts; ++e)
    router.thresholds.push_back(
        std::min(1.0f, fair * (0.6f + 0.1f * static_cast<float>(draw.Int(0, 8)))));
}

}  // namespace sluice::testing
