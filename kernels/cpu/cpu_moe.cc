// The fused MoE FFN of the CPU backend. Canonical order of every output element: the slices of an
// expert in ascending order, then the k slots of the row in slot order, then the residual. Who
// computes what (a task per (expert, slice) when there are few assignments, per (expert, rows) when
// there are many) never changes it.
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/packed_layout.h"

namespace sluice::kernels::cpu {

// Rows of one expert that a task computes together.
constexpr int64_t kMoeRows = 128;
// Slices whose second products are added up in a block that stays in the cache. One slice is a
// short product: its outputs, stored far apart, would cost as much as itself.
constexpr int32_t kMoeSlices = 4;
// With fewer rows weights are what costs, and those of one slice lie in one piece.
constexpr int32_t kMinRowsOfSums = 24;
// Up to this many (assignment, slice) pairs every slice is a task with its own partial result.
constexpr int64_t kMaxSlicePartials = 512;

// The assignments of one call sorted by expert, and where partial results lie. All memory is the
// workspace.
struct MoePlan {
  int32_t* order = nullptr;   // [assignments], sorted by expert, stable
  int32_t* first = nullptr;   // [num_experts + 1], into order
  int32_t* expert = nullptr;  // [tasks]
  int32_t* part = nullptr;    // [tasks]: slice, or run of kMoeRows rows
  float* partial = nullptr;   // [assignments * partials, dim]
  int64_t tasks = 0;
  int64_t partials = 1;  // per assignment: 1, or slices_per_expert
};

// The rows of one task, and the slice that is computed.
struct MoeRows {
  int32_t expert = 0;
  int64_t first_hidden = 0;  // of the slice
  GemmInput input;           // [rows, dim]
  // [kMoeSlices, kMoeRows, slice_hidden padded], as the second product reads them: all of them, or
  // from the slice on.
  char* hidden = nullptr;
  // int8, int4: those of the slice before rounding, whose scale needs the whole slice, and the
  // scales [kMoeSlices, kMoeRows].
  float* values = nullptr;
  float* hidden_scales = nullptr;
  float* sums = nullptr;  // [kMoeRows, 64]
  int8_t* expanded = nullptr;
  const void* next = nullptr;  // what is read behind the first products of the slice
  TensorView partial;          // rows by assignment
  RowSet assignments;
};

namespace {

int64_t PartialsPerAssignment(const PackedExperts& experts, int64_t assignments) {
  return assignments * experts.slices_per_expert <= kMaxSlicePartials ? experts.slices_per_expert
                                                                      : 1;
}

int64_t PartialRows(const PackedExperts& experts, int64_t assignments) {
  return assignments * PartialsPerAssignment(experts, assignments);
}

// Most tasks a call can have.
int64_t MaxTasks(const PackedExperts& experts, int64_t assignments) {
  return assignments * PartialsPerAssignment(experts, assignments);
}

void SortByExpert(const MoeFfnArgs& args, MoePlan& plan) {
  const int32_t num_experts = args.experts->num_experts;
  const int32_t assignments = args.x_rows.count * args.top_k;
  std::memset(plan.first, 0, static_cast<size_t>(num_experts + 1) * sizeof(int32_t));
  for (int32_t a = 0; a < assignments; ++a) {
    SLUICE_CHECK(args.expert_ids[a] >= 0) << args.expert_ids[a];
    if (args.expert_ids[a] < num_experts) ++plan.first[args.expert_ids[a] + 1];
  }
  for (int32_t e = 0; e < num_experts; ++e) plan.first[e + 1] += plan.first[e];
  for (int32_t a = 0; a < assignments; ++a) {
    if (args.expert_ids[a] < num_experts) plan.order[plan.first[args.expert_ids[a]]++] = a;
  }
  for (int32_t e = num_experts; e > 0; --e) plan.first[e] = plan.first[e - 1];
  plan.first[0] = 0;
}

void ListTasks(const PackedExperts& experts, MoePlan& plan) {
  plan.tasks = 0;
  for (int32_t e = 0; e < experts.num_experts; ++e) {
    const int64_t rows = plan.first[e + 1] - plan.first[e];
    if (rows == 0) continue;
    const int64_t parts = plan.partials > 1 ? plan.partials : (rows + kMoeRows - 1) / kMoeRows;
    for (int64_t part = 0; part < parts; ++part) {
      plan.expert[plan.tasks] = e;
      plan.part[plan.tasks++] = static_cast<int32_t>(part);
    }
  }
}

MoePlan PlanMoe(const MoeFfnArgs& args) {
  const PackedExperts& experts = *args.experts;
  const int64_t assignments = static_cast<int64_t>(args.x_rows.count) * args.top_k;
  MoePlan plan;
  plan.partials = PartialsPerAssignment(experts, assignments);
  plan.partial = static_cast<float*>(args.workspace);
  void* end = plan.partial + PartialRows(experts, assignments) * experts.dim;
  plan.order = static_cast<int32_t*>(end);
  plan.first = plan.order + assignments;
  plan.expert = plan.first + experts.num_experts + 1;
  plan.part = plan.expert + MaxTasks(experts, assignments);
  SortByExpert(args, plan);
  ListTasks(experts, plan);
  return plan;
}

int64_t InputElements(const PackedExperts& experts) {
  return kMoeRows * RoundUp(experts.dim, kBlockColumns);
}

int64_t HiddenStride(const PackedExperts& experts) {
  return RoundUp(experts.slice_hidden, kBlockColumns);
}

// Of one slice.
int64_t HiddenElements(const PackedExperts& experts) { return kMoeRows * HiddenStride(experts); }

// Per worker: sums, the gathered input rows, the hidden rows, of at most four bytes an element;
// then what integers need beside them: hidden values and the scales of both.
int64_t WorkerBytes(const PackedExperts& experts) {
  const int64_t hidden = HiddenElements(experts);
  const bool scaled = IsInteger(experts.format);
  return 4 * (kMoeRows * kBlockColumns + InputElements(experts) + kMoeSlices * hidden +
              (scaled ? hidden + (kMoeSlices + 1) * kMoeRows : 0));
}

}  // namespace

void CpuBackend::ReserveExperts(const PackedExperts& experts) {
  for (Scratch& scratch : worker_) scratch.Get<char>(WorkerBytes(experts));
}

int64_t CpuBackend::MoeWorkspaceBytes(const PackedExperts& experts,
                                      int32_t max_rows,
                                      int32_t top_k) const {
  const int64_t assignments = static_cast<int64_t>(max_rows) * top_k;
  // Fewer rows may need more partials: kMaxSlicePartials bounds those.
  const int64_t slices = std::min(assignments * experts.slices_per_expert, kMaxSlicePartials);
  const int64_t partial_rows = std::max(assignments, slices);
  const int64_t integers = assignments + experts.num_experts + 1 + 2 * partial_rows;
  return partial_rows * experts.dim * 4 + integers * 4;
}

// Hidden values of the block of 64 that starts at `column` of the slice, activated and gated, into
// the input rows of the second product.
void CpuBackend::RunMoeUp(const MoeFfnArgs& args,
                          const MoeRows& rows,
                          const PackedExperts::Slice& slice,
                          int64_t column) const {
  const int64_t stride = HiddenStride(*args.experts);
  const GemmFamily& family = *rows.input.family;
  const int64_t input_bytes = InputBytes(family.input);
  alignas(64) float gate[kMaxTileRows * kBlockColumns];
  alignas(64) float up[kMaxTileRows * kBlockColumns];
  const int64_t columns = std::min(kBlockColumns, slice.w1.n - column);
  const int64_t unit = rows.expert * args.experts->hidden + rows.first_hidden + column;
  const float* gate_bias = args.biases.gate == nullptr ? nullptr : args.biases.gate + unit;
  const float* up_bias = args.biases.up == nullptr ? nullptr : args.biases.up + unit;
  const void* w1 = BlockAt(rows.input, slice.w1, column, rows.expanded);
  const void* w3 = nullptr;
  if (args.experts->gated) {
    int8_t* second =
        rows.expanded == nullptr ? nullptr : rows.expanded + kBlockColumns * slice.w1.k_padded;
    w3 = BlockAt(rows.input, slice.w3, column, second);
  }
  for (int32_t begin = 0; begin < rows.assignments.count; begin += family.max_rows) {
    const int32_t count = std::min(family.max_rows, rows.assignments.count - begin);
    const bool last = begin + count == rows.assignments.count;
    const void* next = column + kBlockColumns < slice.w1.n
                           ? ValuesAt(slice.w1, column / kBlockColumns + 1)
                           : rows.next;
    GemmTile tile = TileAt(rows.input, begin, slice.w1, column);
    tile.b = w1;
    tile.next = args.experts->gated ? w3 : last ? next : w1;
    tile.rows = count;
    tile.c = gate;
    family.tile(tile);
    if (args.experts->gated) {
      tile = TileAt(rows.input, begin, slice.w3, column);
      tile.b = w3;
      tile.next = last ? next : w1;
      tile.rows = count;
      tile.c = up;
      family.tile(tile);
    }
    for (int32_t r = 0; r < count; ++r) {
      float* values = gate + r * kBlockColumns;
      float* factor = args.experts->gated ? up + r * kBlockColumns : nullptr;
      if (gate_bias != nullptr) selection_.vector->add_scaled(gate_bias, 1.0f, columns, values);
      if (up_bias != nullptr) selection_.vector->add_scaled(up_bias, 1.0f, columns, factor);
      selection_.vector->activate({static_cast<VectorActivation>(args.activation), values, factor,
                                   values, kBlockColumns, args.clamp.alpha, args.clamp.limit});
      const int64_t at = (begin + r) * stride + column;
      if (rows.values != nullptr) {
        std::memcpy(rows.values + at, values, kBlockColumns * sizeof(float));
      } else {
        PrepareRow(values, family, kBlockColumns, rows.hidden + at * input_bytes, nullptr);
      }
    }
  }
}

// The hidden values of one slice.
void CpuBackend::RunMoeHidden(const MoeFfnArgs& args,
                              const MoeRows& rows,
                              const PackedExperts::Slice& slice) const {
  for (int64_t column = 0; column < slice.w1.n; column += kBlockColumns) {
    RunMoeUp(args, rows, slice, column);
  }
  const int64_t stride = HiddenStride(*args.experts);
  for (int32_t r = 0; r < rows.assignments.count && rows.values != nullptr; ++r) {
    PrepareRow(rows.values + r * stride, *rows.input.family, slice.w2.k, rows.hidden + r * stride,
               rows.hidden_scales + r);
  }
}

// Second products of the slices, a block of outputs at a time: those of the first slice, then the
// others in order added to it.
void CpuBackend::RunMoeDown(const PackedExperts& experts,
                            const MoeRows& rows,
                            const MoeSlices& slices) const {
  const int64_t stride = HiddenStride(experts);
  const int64_t slice_bytes = HiddenElements(experts) * InputBytes(rows.input.family->input);
  const int32_t count = rows.assignments.count;
  const int64_t blocks = experts.At(rows.expert, slices.first).w2.n_padded / kBlockColumns;
  const bool one = slices.last == slices.first + 1;
  GemmOutput output;
  output.out = one ? rows.partial : MatrixView(rows.sums, count, kBlockColumns);
  output.rows = one ? rows.assignments : AllRows(count);
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t column = block * kBlockColumns;
    const auto bytes =
        static_cast<size_t>(std::min(kBlockColumns, experts.dim - column)) * sizeof(float);
    for (int32_t r = 0; r < count && !one && slices.accumulate; ++r) {
      std::memcpy(output.out.Row(r), rows.partial.Row(rows.assignments[r]) + column, bytes);
    }
    output.first_column = one ? 0 : column;
    for (int32_t s = slices.first; s < slices.last; ++s) {
      const PackedMatrix& weight = experts.At(rows.expert, s).w2;
      const int64_t at = s - slices.first;
      float* scales = rows.hidden_scales == nullptr ? nullptr : rows.hidden_scales + at * kMoeRows;
      const GemmInput hidden{rows.hidden + at * slice_bytes, stride, scales, rows.input.family};
      const bool last = s + 1 == slices.last;
      const int64_t next_block = block + (last ? 1 : 0);
      const PackedMatrix& next_weight = experts.At(rows.expert, last ? slices.first : s + 1).w2;
      const void* next = next_block == blocks ? nullptr : ValuesAt(next_weight, next_block);
      output.accumulate = slices.accumulate || s > slices.first;
      RunBlock(hidden, weight, output, {block, 0, count, rows.expanded, next});
    }
    for (int32_t r = 0; r < count && !one; ++r) {
      std::memcpy(rows.partial.Row(rows.assignments[r]) + column, output.out.Row(r), bytes);
    }
  }
}

void CpuBackend::RunMoeSlices(const MoeFfnArgs& args,
                              const MoeRows& all_rows,
                              const MoeSlices& slices) const {
  const PackedExperts& experts = *args.experts;
  MoeRows rows = all_rows;
  for (int32_t s = slices.first; s < slices.last; ++s) {
    rows.first_hidden = s * experts.slice_hidden;
    rows.next = s + 1 < slices.last ? ValuesAt(experts.At(rows.expert, s + 1).w1, 0)
                                    : ValuesAt(experts.At(rows.expert, slices.first).w2, 0);
    RunMoeHidden(args, rows, experts.At(rows.expert, s));
    rows.hidden += HiddenElements(experts) * InputBytes(rows.input.family->input);
    if (rows.hidden_scales != nullptr) rows.hidden_scales += kMoeRows;
  }
  RunMoeDown(experts, all_rows, slices);
}

void CpuBackend::RunMoeTask(const MoeFfnArgs& args, const MoePlan& plan, int64_t task, int worker) {
  const PackedExperts& experts = *args.experts;
  MoeRows rows;
  rows.expert = plan.expert[task];
  const int32_t part = plan.part[task];
  const bool by_slice = plan.partials > 1;
  const auto run = static_cast<int32_t>(kMoeRows);
  int32_t begin = plan.first[rows.expert] + (by_slice ? 0 : part * run);
  const int32_t end = plan.first[rows.expert + 1];
  const int32_t last = by_slice ? end : std::min(end, begin + run);
  char* memory = worker_[static_cast<size_t>(worker)].Get<char>(WorkerBytes(experts));
  rows.sums = static_cast<float*>(static_cast<void*>(memory));
  memory += kMoeRows * kBlockColumns * sizeof(float);
  rows.hidden = memory + 4 * InputElements(experts);
  const PackedMatrix& shape = experts.At(rows.expert, 0).w1;
  const GemmFamily& family = Family(experts.format, last - begin);
  const int64_t row_bytes = shape.k_padded * InputBytes(family.input);
  float* input_scales = nullptr;
  if (IsInteger(experts.format)) {
    const int64_t hidden = HiddenElements(experts);
    rows.values = static_cast<float*>(static_cast<void*>(rows.hidden + 4 * kMoeSlices * hidden));
    rows.hidden_scales = rows.values + hidden;
    input_scales = rows.hidden_scales + kMoeSlices * kMoeRows;
  }
  rows.expanded = Expanded(worker);
  rows.input = {memory, shape.k_padded, input_scales, &family};
  // A slice task takes all rows of its expert, in runs that fit the scratch.
  for (; begin < last; begin += run) {
    const int32_t count = std::min(run, last - begin);
    rows.assignments = {plan.order + begin, count, nullptr};
    for (int32_t r = 0; r < count; ++r) {
      const int32_t row = args.x_rows[plan.order[begin + r] / args.top_k];
      PrepareRow(args.x.Row(row), family, shape.k, memory + r * row_bytes, input_scales + r);
    }
    const int64_t assignments = static_cast<int64_t>(args.x_rows.count) * args.top_k;
    float* partial = plan.partial + (by_slice ? part * experts.dim : 0);
    rows.partial = {partial, DType::kF32, assignments, experts.dim, plan.partials * experts.dim};
    const int32_t first_slice = by_slice ? part : 0;
    const int32_t last_slice = by_slice ? part + 1 : experts.slices_per_expert;
    const int32_t together = count < kMinRowsOfSums ? 1 : kMoeSlices;
    for (int32_t s = first_slice; s < last_slice; s += together) {
      RunMoeSlices(args, rows, {s, std::min(s + together, last_slice), s > first_slice});
    }
  }
  if (family.end != nullptr) family.end();
}

// Adds up one row for the columns [column, column + columns).
void CpuBackend::SumExperts(const MoeFfnArgs& args,
                            const MoePlan& plan,
                            const RowColumns& at) const {
  const PackedExperts& experts = *args.experts;
  alignas(64) float sum[kSumColumns] = {};
  for (int64_t a = at.row * args.top_k; a < (at.row + 1) * args.top_k; ++a) {
    if (args.expert_ids[a] >= experts.num_experts) continue;
    float* partial = plan.partial + a * plan.partials * experts.dim + at.column;
    for (int64_t s = 1; s < plan.partials; ++s) {
      selection_.vector->add_scaled(partial + s * experts.dim, 1.0f, at.columns, partial);
    }
    if (args.biases.down != nullptr) {
      const float* bias = args.biases.down + args.expert_ids[a] * experts.dim + at.column;
      selection_.vector->add_scaled(bias, 1.0f, at.columns, partial);
    }
    selection_.vector->add_scaled(partial, args.weights[a], at.columns, sum);
  }
  float* out = args.out.Row(args.out_rows[static_cast<int32_t>(at.row)]) + at.column;
  selection_.vector->add_scaled(sum, 1.0f, at.columns, out);
}

void CpuBackend::MoeFfn(const MoeFfnArgs& args) {
  const PackedExperts& experts = *args.experts;
  SLUICE_CHECK(args.x_rows.count == args.out_rows.count);
  if (args.x_rows.count == 0) return;
  const MoePlan plan = PlanMoe(args);
  const int64_t weights = plan.tasks * 3 * experts.slice_hidden * experts.dim;
  For(plan.tasks, weights, [&](int64_t task, int worker) { RunMoeTask(args, plan, task, worker); });
  const int64_t runs = (experts.dim + kSumColumns - 1) / kSumColumns;
  const int64_t rows = args.x_rows.count;
  For(rows * runs, rows * experts.dim * args.top_k, [&](int64_t task, int) {
    const int64_t column = task % runs * kSumColumns;
    const int64_t columns = std::min(kSumColumns, experts.dim - column);
    SumExperts(args, plan, {task / runs, column, columns});
  });
}

}  // namespace sluice::kernels::cpu
