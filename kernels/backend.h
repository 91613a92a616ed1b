// The op list: everything the engine asks of a device. No model words here (no layer, no sequence
// id). Rules for every op of every backend:
//
// - Activations are f32. Accumulation is f32 with one canonical order per output element, so that
//   the bits of a row never depend on the other rows of the call, on their number, or on the number
//   of threads.
//
// - Inputs and outputs are taken through RowSet index lists; a row that is not listed is not
//   touched.
//
// - Ops are enqueued in order; ops wait where they fill a list or need memory. Ops return void:
//   broken preconditions are our bugs (SLUICE_CHECK). Nothing but Pack* and Allocate allocates.
//
// - One thread calls a backend (the engine thread); the backend may use its own pool inside.
//
// - Values of a TensorView, a weight (its biases, norm weights, sinks of heads, relative logits
//   too) and a KV pool are memory of the device, from Allocate: the host may touch it after
//   Synchronize and until the next op. Lists (indices of rows, numbers by row or assignment, page
//   tables) are memory of the host, taken when the op is called; an op that fills one waits for it.
//
// The reference backend (kernels/reference) is the executable specification of each op.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/kv_span.h"
#include "kernels/op_kinds.h"
#include "kernels/packed_matrix.h"
#include "kernels/tensor_view.h"

namespace sluice::kernels {

// A row-major weight as it stands in a file: [n, k] ([k, n] when `transposed`), f32, bf16 or f16.
struct WeightSource {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t n = 0;
  int64_t k = 0;
  bool transposed = false;
};

struct ExpertSource {
  WeightSource w1, w3, w2;  // w3.n == 0 when not gated
};

// Outputs from `first_row` on of one of the matrices of an expert (PackedExperts::Slice), over all
// its slices.
enum class ExpertPart : uint8_t { kW1, kW3, kW2 };
struct ExpertRows {
  int32_t expert = 0;
  ExpertPart part = ExpertPart::kW1;
  int64_t first_row = 0;
};

// out[out_rows[i]] = act(x[x_rows[i]] W^T + bias), or += row_scale[i] * (...) when `accumulate`.
// With int8 and int4 weights x W^T has the same bits on every backend (int8.h, int4.h).
struct LinearArgs {
  TensorView x;  // [*, k]
  RowSet x_rows;
  const PackedMatrix* weight = nullptr;
  const float* bias = nullptr;  // [n]
  Activation activation = Activation::kNone;
  TensorView out;   // [*, n]
  RowSet out_rows;  // same count as x_rows
  bool accumulate = false;
  const float* row_scale = nullptr;  // [count]; null means 1. Used only with `accumulate`.
};

// One product per assignment a, summed in ascending a:
//   out[out_row[a]] += scale[a] * x[x_row[a]] W[expert[a]]^T
// The caller has zeroed or prepared `out`. Used for SwitchHead value/output experts and MoA.
struct ExpertLinearArgs {
  TensorView x;
  std::span<const PackedMatrix> weights;
  const int32_t* expert = nullptr;   // [count]
  const int32_t* x_row = nullptr;    // [count]
  const int32_t* out_row = nullptr;  // [count]
  const float* scale = nullptr;      // [count]; null means 1
  int32_t count = 0;
  TensorView out;
};

// RMS: x / sqrt(mean(x^2) + eps) * weight. Layer: (x - mean) / sqrt(var + eps) * weight + bias.
// `group` > 0: each run of `group` columns is normed by itself with weight [group] (per-head q/k
// norm). `out` may be `x` itself (in place) when both row sets are equal.
struct NormArgs {
  NormKind kind = NormKind::kRms;
  float epsilon = 1e-5f;
  const float* weight = nullptr;  // null means 1
  const float* bias = nullptr;    // null means 0
  int64_t group = 0;
  TensorView x;
  RowSet x_rows;
  TensorView out;
  RowSet out_rows;
};

// cos/sin of position * inverse_frequency, times `factor`, in double, rounded to f32.
// out: [count, 2 * num_frequencies], cosines first.
struct RopeTableArgs {
  const int32_t* positions = nullptr;  // [count]
  int32_t count = 0;
  const double* inverse_frequencies = nullptr;  // [num_frequencies]
  int32_t num_frequencies = 0;
  double factor = 1.0;
  TensorView out;
};

// Rotates the first 2 * num_frequencies dims of each head in place. Row i uses table row
// table_rows[i].
struct RopeArgs {
  TensorView x;  // [count, num_heads * head_dim]
  int32_t num_heads = 0;
  int32_t head_dim = 0;
  RopeStyle style = RopeStyle::kHalf;
  TensorView table;
  RowSet table_rows;
};

struct KvGeometry {
  int32_t num_kv_heads = 0;
  int32_t key_dim = 0;        // per head
  int32_t value_dim = 0;      // per head
  DType dtype = DType::kF32;  // kF32 or kBF16
  int32_t page_tokens = 16;
  // The value of a slot is the last value_dim numbers of its key: nothing else is stored
  // (multi-head latent attention). AppendKvArgs::value is then not read.
  bool value_in_key = false;
  bool operator==(const KvGeometry&) const = default;
};

// The pages of one KV layer. The page of block b of batch sequence s is
// page_table[s * sequence_stride + b * block_stride]; it starts at pool + page * page_bytes.
// The layout inside a page belongs to the backend.
struct KvLayerView {
  KvGeometry geometry;
  void* pool = nullptr;
  int64_t page_bytes = 0;
  const int32_t* page_table = nullptr;
  int64_t sequence_stride = 0;
  int64_t block_stride = 0;
};

// Where each row of a call lives in the cache. Row i is written at slot[i] of batch sequence
// sequence[i] and sees the slots [begin[i], end[i]) (end = slot + 1 for causal attention).
struct KvRows {
  const int32_t* sequence = nullptr;
  const int32_t* slot = nullptr;
  const int32_t* begin = nullptr;
  const int32_t* end = nullptr;
  int32_t count = 0;
};

struct AppendKvArgs {
  KvLayerView kv;
  KvRows rows;
  TensorView key;    // [count, num_kv_heads * key_dim]
  TensorView value;  // [count, num_kv_heads * value_dim]
};

// out[i, h] = softmax_s(scale * q[i, h] . K[s, h / group] + relative[i, h, d]) V[s, h / group], d =
// slot[i] - s + relative_zero, held between 0 and relative_size - 1. Slots are taken in
// tiles whose borders are multiples of the page size from slot 0, merged in ascending order (online
// softmax), so the bits do not depend on chunking. Tails are selected, never multiplied: stale
// slots may hold NaN.
struct AttentionArgs {
  KvLayerView kv;
  KvRows rows;
  TensorView query;  // [count, num_heads * key_dim]
  int32_t num_heads = 0;
  float scale = 1.0f;
  const float* sinks = nullptr;  // [num_heads] extra logits without value; may be null
  // [count] the same for every head of a row, -inf for none; may be null. Not together with sinks.
  const float* row_sinks = nullptr;
  // [count, num_heads, relative_size], or without the rows where all share it; may be null
  const float* relative = nullptr;
  int32_t relative_size = 0;
  int32_t relative_zero = 0;
  bool relative_shared = false;
  // [count, span_heads, num_spans]: instead of [begin, end) the row sees these spans, merged in
  // their order; a slot that stands in two of them counts twice. span_heads is 1, for all heads, or
  // num_heads. May be null.
  const KvSpan* spans = nullptr;
  int32_t num_spans = 0;
  int32_t span_heads = 1;
  TensorView out;  // [count, num_heads * value_dim]
};

// out = act(x) for plain, act(x[:, :h]) * x[:, h:2h] for gated. In place allowed (out =
// x.Columns(0, h)).
struct ActivateArgs {
  Activation activation = Activation::kSilu;
  bool gated = true;
  TensorView x;
  int32_t rows = 0;
  TensorView out;  // [rows, h]
  SwigluClamp clamp;
};

// Top-k of `logits` per row, ordered by (value descending, index ascending).
//   kSoftmax: scores = softmax(all); select on scores (+ selection_bias); weights = scores
//   kSigmoid: scores = sigmoid;      select on scores (+ selection_bias); weights = scores
//   kSoftmaxOverTopK: select on logits; weights = softmax over the k selected logits
// then, if renormalize, weights /= (sum + renormalize_epsilon); then weights *= scale.
// With num_groups > 1 the experts stand in that many equal groups in order, and only those of the
// top_groups best groups (of what is selected on) can be chosen (DeepSeek-V2, sec. 2.1.2).
struct RouteArgs {
  ScoreFunction score = ScoreFunction::kSoftmax;
  int32_t top_k = 1;
  bool renormalize = false;
  float renormalize_epsilon = 0.0f;
  float scale = 1.0f;
  const float* selection_bias = nullptr;  // [num_experts]
  TensorView logits;                      // [rows, num_experts]
  int32_t rows = 0;
  int32_t* experts = nullptr;  // [rows, top_k]
  float* weights = nullptr;    // [rows, top_k]
  int32_t num_groups = 1;
  int32_t top_groups = 1;
  GroupScore group_score = GroupScore::kMax;
};

// Biases of all experts; any may be null.
struct ExpertBiases {
  const float* gate = nullptr;  // [num_experts, hidden]; of the only up-projection when not gated
  const float* up = nullptr;    // [num_experts, hidden]
  const float* down = nullptr;  // [num_experts, dim]: weighted with its expert
};

// out[out_rows[i]] += sum over j ascending of weights[i, j] * FFN_{experts[i, j]}(x[x_rows[i]]).
// Expert ids >= experts->num_experts are null experts: no work, no contribution.
struct MoeFfnArgs {
  TensorView x;
  RowSet x_rows;
  const PackedExperts* experts = nullptr;
  Activation activation = Activation::kSilu;
  const int32_t* expert_ids = nullptr;  // [count, top_k]
  const float* weights = nullptr;       // [count, top_k]
  int32_t top_k = 0;
  TensorView out;
  RowSet out_rows;
  void* workspace = nullptr;  // MoeWorkspaceBytes(...)
  ExpertBiases biases;
  SwigluClamp clamp;
};

// Merges the packed result of a depth-routed layer back. r = rows[i], g = gate(score[i]):
//   kScaledUpdate x[r] += g * (y[i] - x[r]); kPlusBlock x[r] += g * y[i]; kOnlyBlock x[r] = g *
//   y[i]
struct DepthCombineArgs {
  DepthCombine combine = DepthCombine::kScaledUpdate;
  GateFunction gate = GateFunction::kSigmoid;
  TensorView y;                   // [count, dim]
  const float* scores = nullptr;  // [count] router logits of the selected rows
  TensorView x;
  RowSet rows;
};

// Writes the indices i (ascending) with scores[i] > thresholds[i] to `selected`, their number to
// *count. Rows with threshold -inf are always taken, +inf never (NaN
// scores never).
struct SelectAboveArgs {
  const float* scores = nullptr;
  const float* thresholds = nullptr;
  int32_t rows = 0;
  int32_t* selected = nullptr;
  int32_t* count = nullptr;
};

// What runs an op on this machine and why, for the start-up report.
struct KernelChoice {
  std::string op;
  std::string kernel;
  std::string reason;
};

// Memory of a device that has its own, in bytes, as this process counts it. `free` is less than
// what is left of `total` where a part of the device is not to be taken.
struct DeviceMemory {
  int64_t total = 0;
  int64_t others = 0;     // in use at the start: others', the CUDA context's
  int64_t allocated = 0;  // Buffers
  int64_t lists = 0;      // where ops keep their copies of lists
  int64_t free = 0;       // what Allocate could still give
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;
  virtual int num_threads() const = 0;
  virtual std::vector<KernelChoice> Kernels() const = 0;

  // ResourceExhausted when the device has not enough memory. 64-byte aligned (2 MiB from
  // 2 MiB up), zeroed; huge pages where they pay.
  virtual absl::StatusOr<Buffer> Allocate(size_t bytes) = 0;

  // Runs task(i) for every i in [0, count) on the threads that the backend has: for reading and
  // packing at load. The default runs them in order.
  virtual void ForEach(int64_t count, absl::FunctionRef<void(int64_t)> task);

  // A matrix whose values are filled by PackRows, or copied from one of the same shape that a
  // backend with the same Kernels() packed. Errors as of Pack.
  virtual absl::StatusOr<PackedMatrix> AllocateMatrix(int64_t n,
                                                      int64_t k,
                                                      WeightFormat format) = 0;
  // Packs `rows`, which has the k of the matrix, as its outputs [first_row, first_row + rows.n).
  // Tasks of ForEach may pack different rows of one matrix; nothing else may run beside them.
  virtual void PackRows(const WeightSource& rows, int64_t first_row, PackedMatrix& matrix) = 0;
  // Packs `parts`, which have equal k, stacked along n. Used to fuse q|k|v and gate|up.
  // InvalidArgument for int8 and int4 with more than kMaxInt8Depth inputs.
  virtual absl::StatusOr<PackedMatrix> Pack(std::span<const WeightSource> parts,
                                            WeightFormat format) = 0;
  // Allocates all experts of a layer; PackExpert then fills them one by one, so that only one
  // expert's raw weights are in memory at a time, or PackExpertRows some rows at a time.
  virtual absl::StatusOr<PackedExperts> AllocateExperts(
      int32_t num_experts, int64_t dim, int64_t hidden, bool gated, WeightFormat format) = 0;
  virtual void PackExpert(const ExpertSource& source, int32_t expert, PackedExperts& experts) = 0;
  // Packs `rows`, not transposed and with all inputs of the part, from at.first_row on. Tasks of
  // ForEach may pack different rows; nothing else may run beside them.
  virtual void PackExpertRows(const WeightSource& rows,
                              const ExpertRows& at,
                              PackedExperts& experts) = 0;

  // out[i] = scale * row ids[i] of the packed [n, k] table, as f32.
  virtual void Embed(const PackedMatrix& table,
                     std::span<const int32_t> ids,
                     float scale,
                     TensorView out) = 0;
  virtual void Linear(const LinearArgs& args) = 0;
  virtual void ExpertLinear(const ExpertLinearArgs& args) = 0;
  virtual void Norm(const NormArgs& args) = 0;
  virtual void RopeTable(const RopeTableArgs& args) = 0;
  virtual void Rope(const RopeArgs& args) = 0;
  virtual int64_t KvPageBytes(const KvGeometry& geometry) const = 0;
  virtual void AppendKv(const AppendKvArgs& args) = 0;
  virtual void PagedAttention(const AttentionArgs& args) = 0;
  virtual void Activate(const ActivateArgs& args) = 0;
  virtual void Route(const RouteArgs& args) = 0;
  // out[i] = x[rows[i]].
  virtual void Gather(TensorView x, const RowSet& rows, TensorView out) = 0;
  // x[rows[i]] += scale * y[i].
  virtual void AddRows(TensorView y, float scale, TensorView x, const RowSet& rows) = 0;
  virtual void CombineDepth(const DepthCombineArgs& args) = 0;
  virtual void SelectAbove(const SelectAboveArgs& args) = 0;

  // Every element of x becomes `value`.
  virtual void Fill(TensorView x, float value) = 0;

  // Fused methods: the default bodies (backend.cc) call the plain ops; a backend overrides what it
  // can fuse.
  virtual int64_t MoeWorkspaceBytes(const PackedExperts& experts,
                                    int32_t max_rows,
                                    int32_t top_k) const;
  virtual void MoeFfn(const MoeFfnArgs& args);

  // Sizes the scratch of the ops for calls of up to `max_rows` rows, so that no op allocates
  // afterwards. Call once after all weights are packed (which tells the backend the widths). A
  // larger call still works; it grows the scratch once.
  virtual void ReserveScratch(int32_t /*max_rows*/) {}

  // Whether products with weights of `format` ask for them ahead (DeviceSpec::prefetch_bytes).
  virtual bool Prefetches(WeightFormat /*format*/) const { return false; }
  // Chooses by measuring, for about `seconds` at most, what changes no bit. `weights` are matrices
  // that steps multiply with, the more of them the better. Call after ReserveScratch.
  virtual void Tune(std::span<const PackedMatrix* const> /*weights*/, double /*seconds*/) {}

  // Whether memory of the device is memory of the host, so that lists may lie in it.
  virtual bool memory_is_host() const { return true; }
  // None where memory is the host's to count.
  virtual std::optional<DeviceMemory> device_memory() const { return std::nullopt; }
  // Not OK once the device has failed in a way that it does not recover from (Unavailable, the
  // device's own words); results since then mean nothing. Asked behind a step's Synchronize.
  virtual absl::Status status() const { return absl::OkStatus(); }

  virtual void CopyToHost(const void* device, void* host, size_t bytes) = 0;
  virtual void CopyToDevice(const void* host, void* device, size_t bytes) = 0;
  virtual void Synchronize() = 0;
};

}  // namespace sluice::kernels
