#include "tests/support/random_draw.h"

namespace sluice::testing {
namespace {

void ScaleRope(RopeSpec& rope, Draw& draw) {
  if (draw.Chance(0.2)) rope.linear_factor = 2.0;
  if (!draw.Chance(0.3)) return;
  RopeScalingSpec scaling;
  scaling.mix = draw.Pick({RopeMix::kByRotations, RopeMix::kByIndex});
  scaling.factor = 4.0;
  scaling.original_positions = 32;
  scaling.high_rotations = 4.0;
  scaling.whole_indices = draw.Chance(0.5);
  rope.scaling = scaling;
  rope.amplitude = 1.2;
}

}  // namespace

LatentAttentionSpec RandomLatentAttention(const std::string& name, int64_t dim, Draw& draw) {
  LatentAttentionSpec attention;
  attention.num_heads = draw.Int(1, 4);
  attention.nope_dim = draw.Int(1, 9);
  attention.rope_dim = 2 * draw.Int(1, 4);
  attention.value_dim = draw.Int(1, 20);
  attention.latent_dim = draw.Int(1, 40);
  const int64_t heads = attention.num_heads;
  const int64_t q_width = heads * (attention.nope_dim + attention.rope_dim);
  const bool bias = draw.Chance(0.3);
  int64_t q_in = dim;
  if (draw.Chance(0.5)) {
    q_in = draw.Int(3, 12);  // a norm of one value is its sign: no tolerance covers that
    attention.q_down = MakeProjection(name + ".q_down", dim, q_in, bias, false);
    attention.q_norm = MakeNorm(name + ".q_norm", false);
  }
  attention.q = MakeProjection(name + ".q", q_in, q_width, false, draw.Chance(0.2));
  attention.kv_down = MakeProjection(name + ".kv_down", dim,
                                     attention.latent_dim + attention.rope_dim, bias, false);
  attention.kv_norm = MakeNorm(name + ".kv_norm", false);
  attention.kv_up =
      MakeProjection(name + ".kv_up", attention.latent_dim,
                     heads * (attention.nope_dim + attention.value_dim), false, false);
  attention.o = MakeProjection(name + ".o", heads * attention.value_dim, dim, bias, false);
  attention.rope.style = draw.Pick({RopeStyle::kHalf, RopeStyle::kInterleaved});
  attention.rope.rotary_dim = attention.rope_dim;
  ScaleRope(attention.rope, draw);
  return attention;
}

AttentionSpec RandomAttention(const std::string& name, int64_t dim, Draw& draw, bool experts) {
  AttentionSpec attention;
  attention.num_kv_heads = draw.Int(1, 2);
  attention.num_heads = attention.num_kv_heads * draw.Int(1, 3);
  attention.head_dim = 2 * draw.Int(2, 9);
  const bool bias = draw.Chance(0.3);
  const bool transposed = draw.Chance(0.2);
  const bool switch_head = experts && draw.Chance(0.3);
  if (switch_head) attention.num_kv_heads = attention.num_heads;
  const int64_t q_width = int64_t{attention.num_heads} * attention.head_dim;
  const int64_t kv_width = int64_t{attention.num_kv_heads} * attention.head_dim;
  attention.q = MakeProjection(name + ".q", dim, q_width, bias, transposed);
  attention.k = MakeProjection(name + ".k", dim, kv_width, bias, transposed);
  attention.v = MakeProjection(name + ".v", dim, kv_width, bias && !switch_head, transposed);
  attention.o = MakeProjection(name + ".o", q_width, dim, bias && !switch_head, transposed);
  if (switch_head) {
    for (ProjectionSpec* projection : {&attention.v, &attention.o}) {
      RouterSpec router;
      router.score = ScoreFunction::kSigmoid;
      router.num_experts = draw.Int(2, 4);
      router.top_k = draw.Int(1, 2);
      router.weight = projection->weight + ".router";
      projection->experts = router;
      projection->transposed = true;
    }
  }
  const bool plain = !bias && !transposed && !switch_head;
  if (plain && attention.num_kv_heads == attention.num_heads && draw.Chance(0.5)) {
    int64_t begin = 0;  // one tensor, q, k and v of each head side by side
    for (ProjectionSpec* projection : {&attention.q, &attention.k, &attention.v}) {
      projection->weight = name + ".qkv";
      projection->row_begin = begin;
      projection->row_run = attention.head_dim;
      projection->row_stride = 3 * int64_t{attention.head_dim};
      begin += attention.head_dim;
    }
  }
  if (draw.Chance(0.3)) {
    attention.q_norm = MakeNorm(name + ".q_norm", false);
    attention.k_norm = MakeNorm(name + ".k_norm", false);
    attention.norm_per_head = draw.Chance(0.5);
  }
  if (draw.Chance(0.8)) {
    RopeSpec rope;
    rope.style = draw.Pick({RopeStyle::kHalf, RopeStyle::kInterleaved});
    rope.rotary_dim = draw.Chance(0.5) ? attention.head_dim : 2;
    attention.rope = rope;
  }
  if (attention.rope.has_value()) ScaleRope(*attention.rope, draw);
  if (draw.Chance(0.3)) attention.window = draw.Int(1, 12);
  if (draw.Chance(0.2)) attention.sinks = name + ".sinks";
  attention.value_from_residual = draw.Chance(0.2);
  return attention;
}

}  // namespace sluice::testing
