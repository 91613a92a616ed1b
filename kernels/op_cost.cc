#include "kernels/op_cost.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace sluice::kernels {
namespace {

// An op on `rows` rows of `columns` numbers: `moved` of them are read or written for each, with so
// many operations.
OpCost RowsCost(
    std::string_view op, int64_t rows, int64_t columns, double moved, double operations) {
  const auto numbers = static_cast<double>(rows * columns);
  return {.op = op, .bytes = moved * sizeof(float) * numbers, .operations = operations * numbers};
}

// The slots that a row sees: between which, and how many.
struct Visible {
  int32_t begin = 0, end = 0;
  int64_t slots = 0;
};

Visible VisibleTo(const AttentionArgs& args, int32_t row) {
  Visible out{args.rows.begin[row], args.rows.end[row], 0};
  out.slots = std::max(0, out.end - out.begin);
  if (args.spans == nullptr) return out;
  const KvSpan* spans = args.spans + int64_t{row} * args.span_heads * args.num_spans;
  out = {std::numeric_limits<int32_t>::max(), 0, 0};
  for (int32_t s = 0; s < args.num_spans; ++s) {  // of the first head: the others see as many
    if (spans[s].begin >= spans[s].end) continue;
    out.begin = std::min(out.begin, spans[s].begin);
    out.end = std::max(out.end, spans[s].end);
    out.slots += spans[s].end - spans[s].begin;
  }
  return out;
}

double SlotBytes(const KvGeometry& shape) {
  const int32_t value_dim = shape.value_in_key ? 0 : shape.value_dim;
  return static_cast<double>(shape.num_kv_heads) * (shape.key_dim + value_dim) *
         static_cast<double>(SizeOf(shape.dtype));
}

}  // namespace

OpCost LinearCost(const LinearArgs& args) {
  const PackedMatrix& weight = *args.weight;
  OpCost cost{.op = "linear", .label = weight.label, .weights = weight.format};
  if (args.x_rows.count == 0) return cost;
  cost.bytes = static_cast<double>(weight.bytes());
  cost.operations = 2.0 * args.x_rows.count * static_cast<double>(weight.n * weight.k);
  return cost;
}

OpCost ExpertLinearCost(const ExpertLinearArgs& args) {
  OpCost cost{.op = "expert_linear"};
  if (args.weights.empty()) return cost;
  cost.label = args.weights[0].label;
  cost.weights = args.weights[0].format;
  std::vector<bool> touched(args.weights.size(), false);
  for (int32_t a = 0; a < args.count; ++a) {
    const auto expert = static_cast<size_t>(args.expert[a]);
    const PackedMatrix& weight = args.weights[expert];
    if (!touched[expert]) cost.bytes += static_cast<double>(weight.bytes());
    touched[expert] = true;
    cost.operations += 2.0 * static_cast<double>(weight.n * weight.k);
  }
  return cost;
}

OpCost MoeCost(const MoeFfnArgs& args) {
  const PackedExperts& experts = *args.experts;
  OpCost cost{.op = "moe_ffn", .label = experts.label, .weights = experts.format};
  std::vector<bool> touched(static_cast<size_t>(experts.num_experts), false);
  const double products = experts.gated ? 3.0 : 2.0;
  for (int64_t a = 0; a < int64_t{args.x_rows.count} * args.top_k; ++a) {
    if (args.expert_ids[a] >= experts.num_experts) continue;  // a null expert
    const auto expert = static_cast<size_t>(args.expert_ids[a]);
    if (!touched[expert]) cost.bytes += static_cast<double>(experts.bytes_per_expert());
    touched[expert] = true;
    cost.operations += 2.0 * products * static_cast<double>(experts.dim * experts.hidden);
  }
  return cost;
}

OpCost AppendKvCost(const AppendKvArgs& args) {
  return {.op = "append_kv", .bytes = SlotBytes(args.kv.geometry) * args.rows.count};
}

// Rows of one sequence stand together.
OpCost AttentionCost(const AttentionArgs& args) {
  OpCost cost{.op = "attention"};
  const KvGeometry& shape = args.kv.geometry;
  const double slot_bytes = SlotBytes(shape);
  const double slot_operations = 2.0 * args.num_heads * (shape.key_dim + shape.value_dim);
  for (int32_t i = 0; i < args.rows.count;) {
    const int32_t sequence = args.rows.sequence[i];
    Visible all = VisibleTo(args, i);
    for (int64_t slots = 0; i < args.rows.count && args.rows.sequence[i] == sequence; ++i) {
      const Visible row = VisibleTo(args, i);
      all.begin = std::min(all.begin, row.begin);
      all.end = std::max(all.end, row.end);
      all.slots = slots += row.slots;
    }
    cost.operations += slot_operations * static_cast<double>(all.slots);
    const int64_t read = std::min<int64_t>(all.slots, std::max(0, all.end - all.begin));
    cost.bytes += slot_bytes * static_cast<double>(read);
  }
  return cost;
}

OpCost EmbedCost(const PackedMatrix& table, int64_t rows) {
  OpCost cost = RowsCost("embed", rows, table.k, 1.0, 1.0);  // times the scale
  cost.weights = table.format;
  cost.bytes += static_cast<double>(rows * ValueBytes(table.format, table.k));
  return cost;
}

// Root mean square: square and add, times the inverse. With a mean: its sum, and it is taken off
// twice.
OpCost NormCost(const NormArgs& args) {
  const double operations = (args.kind == NormKind::kLayer ? 6.0 : 3.0) +
                            (args.weight != nullptr ? 1.0 : 0.0) +
                            (args.bias != nullptr ? 1.0 : 0.0);
  return RowsCost("norm", args.x_rows.count, args.x.cols, 2.0, operations);
}

// The angle, its cosine and sine, both times the factor.
OpCost RopeTableCost(const RopeTableArgs& args) {
  return RowsCost("rope_table", args.count, args.num_frequencies, 2.0, 5.0);
}

OpCost RopeCost(const RopeArgs& args) {
  const int64_t rotated = args.num_heads * args.table.cols;  // of the row; two of them are a pair
  return RowsCost("rope", args.table_rows.count, rotated, 2.0, 3.0);
}

OpCost ActivateCost(const ActivateArgs& args) {
  const int64_t columns = args.gated ? args.x.cols / 2 : args.x.cols;
  return RowsCost("activate", args.rows, columns, args.gated ? 3.0 : 2.0, args.gated ? 2.0 : 1.0);
}

// A score is a function of its logit; every choice compares all of them.
OpCost RouteCost(const RouteArgs& args) {
  OpCost cost = RowsCost("route", args.rows, args.logits.cols, 1.0, 1.0 + args.top_k);
  cost.bytes += 8.0 * args.rows * args.top_k;  // an id and a weight
  return cost;
}

OpCost GatherCost(const RowSet& rows, int64_t columns) {
  return RowsCost("gather", rows.count, columns, 2.0, 0.0);
}

OpCost AddRowsCost(const RowSet& rows, int64_t columns) {
  return RowsCost("add_rows", rows.count, columns, 3.0, 2.0);
}

OpCost CombineDepthCost(const DepthCombineArgs& args) {
  const bool reads = args.combine != DepthCombine::kOnlyBlock;
  const double operations = args.combine == DepthCombine::kScaledUpdate ? 3.0 : reads ? 2.0 : 1.0;
  return RowsCost("combine_depth", args.rows.count, args.x.cols, reads ? 3.0 : 2.0, operations);
}

// A score, a threshold, at most an index.
OpCost SelectAboveCost(const SelectAboveArgs& args) {
  return RowsCost("select_above", args.rows, 1, 3.0, 1.0);
}

OpCost FillCost(TensorView x) { return RowsCost("fill", x.rows, x.cols, 1.0, 0.0); }

OpCost CopyCost(size_t bytes) { return {.op = "copy", .bytes = static_cast<double>(bytes)}; }

}  // namespace sluice::kernels
