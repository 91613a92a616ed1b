// KV pages, attention and routing of the reference backend. Page: [page_tokens][kv_heads][key_dim +
// value_dim], or without the values when they are the end of the key.
#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/reference/reference_backend.h"
#include "kernels/reference/reference_math.h"

namespace sluice::kernels {
namespace {

constexpr double kLowest = -std::numeric_limits<double>::infinity();

// Numbers stored per slot and head.
int64_t SlotElements(const KvGeometry& shape) {
  return shape.key_dim + (shape.value_in_key ? 0 : shape.value_dim);
}

// Element offset of (slot, head) inside the pool of one KV layer.
struct SlotAddress {
  const void* page = nullptr;
  int64_t first = 0;
};

SlotAddress Find(const KvLayerView& kv, int32_t sequence, int32_t slot, int32_t head) {
  const KvGeometry& shape = kv.geometry;
  const int64_t block = slot / shape.page_tokens;
  const int32_t page = kv.page_table[sequence * kv.sequence_stride + block * kv.block_stride];
  const int64_t entry = static_cast<int64_t>(slot % shape.page_tokens) * shape.num_kv_heads + head;
  return {static_cast<const char*>(kv.pool) + page * kv.page_bytes, entry * SlotElements(shape)};
}

// One query head over the visible slots of its row.
struct HeadQuery {
  const float* query = nullptr;
  int32_t row = 0;
  int32_t kv_head = 0;
  double sink = kLowest;
  const float* relative = nullptr;  // by distance
  std::vector<int32_t> slots;       // what it sees, in order
};

std::vector<int32_t> VisibleSlots(const AttentionArgs& args, int32_t row, int32_t head) {
  std::vector<int32_t> slots;
  const KvSpan whole{args.rows.begin[row], args.rows.end[row]};
  const int64_t first =
      (int64_t{row} * args.span_heads + (args.span_heads == 1 ? 0 : head)) * args.num_spans;
  const bool spans = args.spans != nullptr;
  for (int32_t i = 0; i < (spans ? args.num_spans : 1); ++i) {
    const KvSpan span = spans ? args.spans[first + i] : whole;
    for (int32_t slot = span.begin; slot < span.end; ++slot) slots.push_back(slot);
  }
  return slots;
}

void Attend(const AttentionArgs& args, const HeadQuery& head, float* out) {
  const KvGeometry& shape = args.kv.geometry;
  const int32_t sequence = args.rows.sequence[head.row];
  std::vector<double> scores;
  double maximum = head.sink;
  for (const int32_t slot : head.slots) {
    const SlotAddress at = Find(args.kv, sequence, slot, head.kv_head);
    double dot = 0.0;
    for (int32_t d = 0; d < shape.key_dim; ++d) {
      dot += static_cast<double>(head.query[d]) *
             static_cast<double>(reference::ReadElement(at.page, shape.dtype, at.first + d));
    }
    dot *= static_cast<double>(args.scale);
    if (head.relative != nullptr) {
      const int32_t distance = args.rows.slot[head.row] - slot + args.relative_zero;
      dot += static_cast<double>(head.relative[std::clamp(distance, 0, args.relative_size - 1)]);
    }
    scores.push_back(dot);
    maximum = std::max(maximum, scores.back());
  }
  std::vector<double> sum(static_cast<size_t>(shape.value_dim), 0.0);
  double total = head.sink == kLowest ? 0.0 : std::exp(head.sink - maximum);
  for (size_t i = 0; i < scores.size(); ++i) {
    const double weight = std::exp(scores[i] - maximum);
    total += weight;
    const SlotAddress at = Find(args.kv, sequence, head.slots[i], head.kv_head);
    for (int32_t d = 0; d < shape.value_dim; ++d) {
      const int64_t index = at.first + SlotElements(shape) - shape.value_dim + d;
      sum[static_cast<size_t>(d)] +=
          weight * static_cast<double>(reference::ReadElement(at.page, shape.dtype, index));
    }
  }
  for (size_t d = 0; d < sum.size(); ++d) {
    out[d] = total > 0.0 ? static_cast<float>(sum[d] / total) : 0.0f;
  }
}

// NaN logits rank below everything, so that a broken row still selects deterministically.
double Rankable(double value) { return std::isnan(value) ? kLowest : value; }

std::vector<double> Softmax(const std::vector<double>& logits) {
  double maximum = kLowest;
  for (double logit : logits) maximum = std::max(maximum, Rankable(logit));
  std::vector<double> out(logits.size());
  double sum = 0.0;
  for (size_t i = 0; i < logits.size(); ++i) sum += out[i] = std::exp(logits[i] - maximum);
  for (double& value : out) value /= sum;
  return out;
}

// Which experts stand in one of the best groups.
std::vector<bool> OfferedExperts(const RouteArgs& args, const std::vector<double>& keys) {
  const auto groups = static_cast<size_t>(args.num_groups);
  const size_t size = keys.size() / groups;
  std::vector<std::pair<double, size_t>> ranked;  // (-score, group)
  for (size_t g = 0; g < groups; ++g) {
    std::vector<double> own(keys.begin() + static_cast<std::ptrdiff_t>(g * size),
                            keys.begin() + static_cast<std::ptrdiff_t>((g + 1) * size));
    std::sort(own.rbegin(), own.rend());
    const bool two = args.group_score == GroupScore::kTopTwoSum && size > 1;
    ranked.emplace_back(-(two ? own[0] + own[1] : own[0]), g);
  }
  std::sort(ranked.begin(), ranked.end());
  std::vector<bool> offered(keys.size(), groups == 1);
  for (size_t i = 0; groups > 1 && i < static_cast<size_t>(args.top_groups); ++i) {
    for (size_t e = 0; e < size; ++e) offered[ranked[i].second * size + e] = true;
  }
  return offered;
}

void RouteRow(const RouteArgs& args, int32_t row) {
  const float* begin = args.logits.Row(row);
  const std::vector<double> logits(begin, begin + args.logits.cols);
  std::vector<double> scores = logits;
  if (args.score == ScoreFunction::kSoftmax) scores = Softmax(logits);
  if (args.score == ScoreFunction::kSigmoid) {
    for (double& score : scores) score = reference::Sigmoid(score);
  }
  std::vector<double> keys;
  for (size_t e = 0; e < scores.size(); ++e) {
    const bool biased = args.selection_bias != nullptr;
    keys.push_back(
        Rankable(scores[e] + (biased ? static_cast<double>(args.selection_bias[e]) : 0.0)));
  }
  const std::vector<bool> offered = OfferedExperts(args, keys);
  std::vector<int32_t> order;
  for (size_t e = 0; e < keys.size(); ++e) {
    if (offered[e]) order.push_back(static_cast<int32_t>(e));
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return keys[static_cast<size_t>(a)] > keys[static_cast<size_t>(b)];
  });
  std::vector<double> weights;
  for (int32_t j = 0; j < args.top_k; ++j) {
    const int32_t expert = order[static_cast<size_t>(j)];
    args.experts[row * args.top_k + j] = expert;
    weights.push_back(scores[static_cast<size_t>(expert)]);
  }
  if (args.score == ScoreFunction::kSoftmaxOverTopK) weights = Softmax(weights);
  double sum = static_cast<double>(args.renormalize_epsilon);
  for (double weight : weights) sum += weight;
  for (int32_t j = 0; j < args.top_k; ++j) {
    double weight = weights[static_cast<size_t>(j)];
    if (args.renormalize) weight /= sum;
    args.weights[row * args.top_k + j] =
        static_cast<float>(weight * static_cast<double>(args.scale));
  }
}

}  // namespace

int64_t ReferenceBackend::KvPageBytes(const KvGeometry& geometry) const {
  const int64_t per_token = static_cast<int64_t>(geometry.num_kv_heads) * SlotElements(geometry);
  return per_token * geometry.page_tokens * SizeOf(geometry.dtype);
}

void ReferenceBackend::AppendKv(const AppendKvArgs& args) {
  const KvGeometry& shape = args.kv.geometry;
  for (int32_t i = 0; i < args.rows.count; ++i) {
    for (int32_t h = 0; h < shape.num_kv_heads; ++h) {
      const SlotAddress at = Find(args.kv, args.rows.sequence[i], args.rows.slot[i], h);
      void* page = const_cast<void*>(at.page);
      const float* key = args.key.Row(i) + static_cast<int64_t>(h) * shape.key_dim;
      for (int32_t d = 0; d < shape.key_dim; ++d) {
        reference::WriteElement(page, shape.dtype, at.first + d, key[d]);
      }
      if (shape.value_in_key) continue;
      const float* value = args.value.Row(i) + static_cast<int64_t>(h) * shape.value_dim;
      for (int32_t d = 0; d < shape.value_dim; ++d) {
        reference::WriteElement(page, shape.dtype, at.first + shape.key_dim + d, value[d]);
      }
    }
  }
}

void ReferenceBackend::PagedAttention(const AttentionArgs& args) {
  const KvGeometry& shape = args.kv.geometry;
  SLUICE_CHECK(args.num_heads % shape.num_kv_heads == 0) << args.num_heads;
  SLUICE_CHECK(args.sinks == nullptr || args.row_sinks == nullptr);
  SLUICE_CHECK(args.span_heads == 1 || args.span_heads == args.num_heads) << args.span_heads;
  const int32_t group = args.num_heads / shape.num_kv_heads;
  for (int32_t i = 0; i < args.rows.count; ++i) {
    for (int32_t h = 0; h < args.num_heads; ++h) {
      HeadQuery head{args.query.Row(i) + static_cast<int64_t>(h) * shape.key_dim, i, h / group};
      head.slots = VisibleSlots(args, i, h);
      if (args.sinks != nullptr) head.sink = static_cast<double>(args.sinks[h]);
      if (args.relative != nullptr) {
        head.relative =
            args.relative + (args.relative_shared ? h : int64_t{i} * args.num_heads + h) *
                                int64_t{args.relative_size};
      }
      if (args.row_sinks != nullptr) head.sink = static_cast<double>(args.row_sinks[i]);
      Attend(args, head, args.out.Row(i) + static_cast<int64_t>(h) * shape.value_dim);
    }
  }
}

void ReferenceBackend::Route(const RouteArgs& args) {
  SLUICE_CHECK(args.top_k <= args.logits.cols) << args.top_k;
  SLUICE_CHECK(args.num_groups >= 1 && args.logits.cols % args.num_groups == 0) << args.num_groups;
  SLUICE_CHECK(args.num_groups == 1 ||
               args.top_k <= args.top_groups * (args.logits.cols / args.num_groups))
      << args.top_k;
  for (int32_t row = 0; row < args.rows; ++row) RouteRow(args, row);
}

}  // namespace sluice::kernels
