#include "engine/blocks/weight_loader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "engine/status_macros.h"
#include "engine/weights/mxfp4.h"

namespace sluice {
namespace {

using kernels::DType;
using kernels::ExpertSource;
using kernels::PackedExperts;
using kernels::PackedMatrix;
using kernels::WeightFormat;
using kernels::WeightSource;

absl::Status WrongShape(const std::string& name,
                        const TensorRange& range,
                        const std::string& expected) {
  return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' has shape [",
                                                 absl::StrJoin(range.shape, ", "), "], expected ",
                                                 expected));
}

// Blocks of 2 * rows rows, of which one half is the gate's and the other the up-projection's: one
// behind the other, or taking turns.
struct FusedHalves {
  int64_t blocks = 1;
  int64_t rows = 0;  // of a half
  int64_t row_bytes = 0;
  bool interleaved = false;

  std::vector<std::byte> Take(const std::vector<std::byte>& fused, int64_t half) const {
    std::vector<std::byte> out(fused.size() / 2);
    for (int64_t i = 0; i < blocks * rows; ++i) {
      const int64_t row = interleaved ? 2 * (i % rows) + half : i % rows + half * rows;
      const int64_t from = i / rows * 2 * rows + row;
      std::memcpy(out.data() + i * row_bytes, fused.data() + from * row_bytes,
                  static_cast<size_t>(row_bytes));
    }
    return out;
  }
};

// What a tensor is, without its place: "model.layers.3.self_attn.q_proj.weight" is "q_proj".
std::string LabelOf(absl::string_view name) {
  absl::ConsumeSuffix(&name, ".weight");
  return std::string(name.substr(name.rfind('.') + 1));
}

absl::StatusOr<PackedMatrix> Labelled(absl::StatusOr<PackedMatrix> matrix, absl::string_view name) {
  if (matrix.ok()) matrix->label = LabelOf(name);
  return matrix;
}

}  // namespace

std::vector<float> ToFloats(const std::byte* data, DType dtype, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  if (dtype == DType::kF32) {
    std::memcpy(values.data(), data, values.size() * sizeof(float));
    return values;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, data + 2 * i, 2);
    values[i] =
        dtype == DType::kBF16 ? kernels::ToFloat(kernels::BF16{bits}) : kernels::HalfToFloat(bits);
  }
  return values;
}

WeightLoader::WeightLoader(WeightStore& store,
                           kernels::Backend& backend,
                           WeightFormat format,
                           LoadProgress progress)
    : store_(store), backend_(backend), format_(format), progress_(std::move(progress)) {}

absl::StatusOr<WeightLoader::Raw> WeightLoader::ReadRaw(
    const std::string& name, int64_t total, int64_t first, int64_t count, bool allow_bytes) {
  ASSIGN_OR_RETURN(const TensorRange range, store_.Find(name));
  if (range.num_elements() != total) {
    return WrongShape(name, range, absl::StrCat(total, " elements"));
  }
  if (!kernels::IsFloat(range.dtype) && !(allow_bytes && range.dtype == DType::kU8)) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' must be F32, BF16 or F16"));
  }
  Raw raw;
  raw.dtype = range.dtype;
  raw.bytes.resize(static_cast<size_t>(count * kernels::SizeOf(range.dtype)));
  RETURN_IF_ERROR(store_.Read(name, first, raw.bytes));
  done_bytes_ += static_cast<int64_t>(raw.bytes.size());
  const int64_t step = std::max<int64_t>(store_.total_bytes() / 100, 1);
  if (progress_ && done_bytes_ - last_reported_ >= step) {
    last_reported_ = done_bytes_;
    progress_(std::min(done_bytes_, store_.total_bytes()), store_.total_bytes());
  }
  return raw;
}

absl::Status WeightLoader::CheckMatrixShape(const std::string& name,
                                            int64_t rows,
                                            int64_t cols,
                                            bool exact_rows) {
  ASSIGN_OR_RETURN(const TensorRange range, store_.Find(name));
  // Leading dimensions may be split ([heads * experts, d, p]); the product and the last one must
  // fit.
  const bool fits =
      !range.shape.empty() && range.shape.back() == cols &&
      (exact_rows ? range.num_elements() == rows * cols : range.num_elements() >= rows * cols);
  if (fits) return absl::OkStatus();
  return WrongShape(name, range, absl::StrCat("[", rows, ", ", cols, "]"));
}

absl::StatusOr<WeightLoader::Raw> WeightLoader::ReadRuns(const ProjectionSpec& part) {
  const int64_t runs = part.out / part.row_run;
  const int64_t total = runs * part.row_stride * part.in;
  ASSIGN_OR_RETURN(const Raw whole, ReadRaw(part.weight, total, 0, total));
  Raw raw;
  raw.dtype = whole.dtype;
  const int64_t row_bytes = part.in * kernels::SizeOf(raw.dtype);
  const int64_t run_bytes = part.row_run * row_bytes;
  raw.bytes.resize(static_cast<size_t>(runs * run_bytes));
  for (int64_t run = 0; run < runs; ++run) {
    std::memcpy(raw.bytes.data() + run * run_bytes,
                whole.bytes.data() + (part.row_begin + run * part.row_stride) * row_bytes,
                static_cast<size_t>(run_bytes));
  }
  return raw;
}

absl::StatusOr<WeightLoader::Raw> WeightLoader::ReadProjection(const ProjectionSpec& part) {
  if (part.row_run > 0) return ReadRuns(part);
  ASSIGN_OR_RETURN(const TensorRange range, store_.Find(part.weight));
  const int64_t total = range.num_elements();
  if (!part.transposed) {
    RETURN_IF_ERROR(CheckMatrixShape(part.weight, part.row_begin + part.out, part.in, false));
    return ReadRaw(part.weight, total, part.row_begin * part.in, part.out * part.in);
  }
  const int64_t columns = range.shape.empty() ? 0 : range.shape.back();
  if (columns < part.row_begin + part.out || total != part.in * columns) {
    return WrongShape(part.weight, range, absl::StrCat("[", part.in, ", ", part.out, "]"));
  }
  ASSIGN_OR_RETURN(Raw whole, ReadRaw(part.weight, total, 0, total));
  if (columns == part.out) return whole;
  Raw raw;  // a column range of a fused [in, out] tensor (GPT-2 c_attn)
  raw.dtype = whole.dtype;
  const int64_t element = kernels::SizeOf(raw.dtype);
  raw.bytes.resize(static_cast<size_t>(part.in * part.out * element));
  for (int64_t row = 0; row < part.in; ++row) {
    std::memcpy(raw.bytes.data() + row * part.out * element,
                whole.bytes.data() + (row * columns + part.row_begin) * element,
                static_cast<size_t>(part.out * element));
  }
  return raw;
}

absl::StatusOr<PackedMatrix> WeightLoader::Matrix(const std::vector<ProjectionSpec>& parts,
                                                  WeightFormat format) {
  std::vector<Raw> raws;
  std::vector<WeightSource> sources;
  for (const ProjectionSpec& part : parts) {
    ASSIGN_OR_RETURN(Raw raw, ReadProjection(part));
    raws.push_back(std::move(raw));
    sources.push_back(
        {raws.back().bytes.data(), raws.back().dtype, part.out, part.in, part.transposed});
  }
  ASSIGN_OR_RETURN(PackedMatrix matrix, backend_.Pack(sources, format));
  for (const ProjectionSpec& part : parts) {
    absl::StrAppend(&matrix.label, matrix.label.empty() ? "" : "+", LabelOf(part.weight));
  }
  return matrix;
}

absl::StatusOr<FloatVector> WeightLoader::ToDevice(const std::vector<float>& values) {
  FloatVector vector;
  vector.size = static_cast<int64_t>(values.size());
  if (values.empty()) return vector;
  ASSIGN_OR_RETURN(vector.storage, backend_.Allocate(values.size() * sizeof(float)));
  backend_.CopyToDevice(values.data(), vector.storage.data(), values.size() * sizeof(float));
  return vector;
}

absl::StatusOr<FloatVector> WeightLoader::Vector(const std::string& name,
                                                 int64_t size,
                                                 float offset) {
  if (name.empty()) return FloatVector();
  ASSIGN_OR_RETURN(const Raw raw, ReadRaw(name, size, 0, size));
  std::vector<float> values = ToFloats(raw.bytes.data(), raw.dtype, size);
  for (float& value : values) value += offset;
  return ToDevice(values);
}

absl::StatusOr<FloatVector> WeightLoader::Biases(const std::vector<ProjectionSpec>& parts) {
  std::vector<float> all;
  bool any = false;
  for (const ProjectionSpec& part : parts) {
    std::vector<float> values(static_cast<size_t>(part.out), 0.0f);
    if (!part.bias.empty()) {
      any = true;
      ASSIGN_OR_RETURN(const TensorRange range, store_.Find(part.bias));
      if (range.num_elements() < part.row_begin + part.out) {
        return WrongShape(part.bias, range, absl::StrCat("[", part.row_begin + part.out, "]"));
      }
      ASSIGN_OR_RETURN(const Raw raw,
                       ReadRaw(part.bias, range.num_elements(), part.row_begin, part.out));
      values = ToFloats(raw.bytes.data(), raw.dtype, part.out);
    }
    all.insert(all.end(), values.begin(), values.end());
  }
  if (!any) return FloatVector();
  return ToDevice(all);
}

absl::StatusOr<std::vector<PackedMatrix>> WeightLoader::Stacked(const ProjectionSpec& part,
                                                                int32_t count,
                                                                WeightFormat format) {
  if (part.split_by_head) return SplitColumns(part, count);
  std::vector<PackedMatrix> matrices;
  const int64_t elements = part.in * part.out;
  RETURN_IF_ERROR(CheckMatrixShape(part.weight, count * (part.transposed ? part.in : part.out),
                                   part.transposed ? part.out : part.in, true));
  for (int32_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(const Raw raw, ReadRaw(part.weight, count * elements, i * elements, elements));
    const WeightSource source{raw.bytes.data(), raw.dtype, part.out, part.in, part.transposed};
    ASSIGN_OR_RETURN(PackedMatrix matrix,
                     Labelled(backend_.Pack({&source, 1}, format), part.weight));
    matrices.push_back(std::move(matrix));
  }
  return matrices;
}

absl::StatusOr<PackedMatrix> WeightLoader::Joined(const ProjectionSpec& part,
                                                  int32_t count,
                                                  WeightFormat format) {
  const int64_t elements = part.in * part.out;
  RETURN_IF_ERROR(CheckMatrixShape(part.weight, count * (part.transposed ? part.in : part.out),
                                   part.transposed ? part.out : part.in, true));
  ASSIGN_OR_RETURN(const Raw raw, ReadRaw(part.weight, count * elements, 0, count * elements));
  std::vector<WeightSource> sources;
  for (int32_t i = 0; i < count; ++i) {
    const std::byte* first = raw.bytes.data() + i * elements * kernels::SizeOf(raw.dtype);
    sources.push_back({first, raw.dtype, part.out, part.in, part.transposed});
  }
  return Labelled(backend_.Pack(sources, format), part.weight);
}

absl::StatusOr<std::vector<PackedMatrix>> WeightLoader::SplitColumns(const ProjectionSpec& part,
                                                                     int32_t count) {
  const int64_t columns = count * part.in;
  RETURN_IF_ERROR(CheckMatrixShape(part.weight, part.out, columns, true));
  const int64_t total = part.out * columns;
  ASSIGN_OR_RETURN(const Raw whole, ReadRaw(part.weight, total, 0, total));
  const auto row_bytes = static_cast<size_t>(part.in * kernels::SizeOf(whole.dtype));
  std::vector<std::byte> slice(static_cast<size_t>(part.out) * row_bytes);
  std::vector<PackedMatrix> matrices;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    for (size_t row = 0; row < static_cast<size_t>(part.out); ++row) {
      const size_t from = (row * static_cast<size_t>(count) + i) * row_bytes;
      std::memcpy(slice.data() + row * row_bytes, whole.bytes.data() + from, row_bytes);
    }
    const WeightSource source{slice.data(), whole.dtype, part.out, part.in, false};
    ASSIGN_OR_RETURN(PackedMatrix matrix,
                     Labelled(backend_.Pack({&source, 1}, format_), part.weight));
    matrices.push_back(std::move(matrix));
  }
  return matrices;
}

absl::StatusOr<PackedMatrix> WeightLoader::Turned(const ProjectionSpec& part) {
  ASSIGN_OR_RETURN(const Raw raw, ReadProjection(part));
  const WeightSource source{raw.bytes.data(), raw.dtype, part.in, part.out, /*transposed=*/true};
  return Labelled(backend_.Pack({&source, 1}, format_), part.weight);
}

absl::StatusOr<WeightLoader::Raw> WeightLoader::ReadMxfp4(const std::string& name,
                                                          int32_t num_experts,
                                                          const ExpertMatrix& matrix) {
  const int64_t scales = matrix.rows * matrix.cols / kMxfp4BlockElements;
  const int64_t bytes = scales * kMxfp4BlockBytes;
  ASSIGN_OR_RETURN(const Raw blocks, ReadRaw(name + "_blocks", bytes * num_experts,
                                             matrix.expert * bytes, bytes, true));
  ASSIGN_OR_RETURN(const Raw powers, ReadRaw(name + "_scales", scales * num_experts,
                                             matrix.expert * scales, scales, true));
  std::vector<float> values(static_cast<size_t>(matrix.rows * matrix.cols));
  DecodeMxfp4(blocks.bytes, powers.bytes, values);
  Raw raw;
  raw.bytes.resize(values.size() * sizeof(float));
  std::memcpy(raw.bytes.data(), values.data(), raw.bytes.size());
  return raw;
}

absl::StatusOr<WeightLoader::Raw> WeightLoader::ReadExpertMatrix(const std::string& pattern,
                                                                 const MoeFfnSpec& spec,
                                                                 const ExpertMatrix& matrix) {
  const int32_t experts = spec.router.num_experts;
  if (spec.experts.encoding == ExpertEncoding::kMxfp4) return ReadMxfp4(pattern, experts, matrix);
  const int64_t elements = matrix.rows * matrix.cols;
  const std::string name = absl::StrReplaceAll(pattern, {{"{e}", absl::StrCat(matrix.expert)}});
  if (name != pattern) return ReadRaw(name, elements, 0, elements);
  return ReadRaw(name, elements * experts, matrix.expert * elements, elements);
}

absl::Status WeightLoader::FillExpert(const MoeFfnSpec& spec,
                                      int32_t expert,
                                      PackedExperts& experts) {
  const int64_t dim = experts.dim;
  const int64_t hidden = spec.hidden;
  const bool transposed = spec.experts.transposed;
  ExpertSource source;
  Raw gate, up, down;
  ASSIGN_OR_RETURN(down, ReadExpertMatrix(spec.experts.down, spec, {expert, dim, hidden}));
  source.w2 = {down.bytes.data(), down.dtype, dim, hidden, transposed};
  if (spec.experts.fused_gate_up) {
    ASSIGN_OR_RETURN(const Raw fused,
                     ReadExpertMatrix(spec.experts.up, spec, {expert, 2 * hidden, dim}));
    const int64_t element = kernels::SizeOf(fused.dtype);
    const FusedHalves halves{.blocks = transposed ? dim : 1,
                             .rows = hidden,
                             .row_bytes = transposed ? element : dim * element,
                             .interleaved = spec.experts.interleaved};
    gate.bytes = halves.Take(fused.bytes, 0);
    up.bytes = halves.Take(fused.bytes, 1);
    source.w1 = {gate.bytes.data(), fused.dtype, hidden, dim, transposed};
    source.w3 = {up.bytes.data(), fused.dtype, hidden, dim, transposed};
  } else {
    ASSIGN_OR_RETURN(up, ReadExpertMatrix(spec.experts.up, spec, {expert, hidden, dim}));
    const WeightSource up_source{up.bytes.data(), up.dtype, hidden, dim, transposed};
    source.w1 = up_source;
    if (spec.gated) {
      ASSIGN_OR_RETURN(gate, ReadExpertMatrix(spec.experts.gate, spec, {expert, hidden, dim}));
      source.w1 = {gate.bytes.data(), gate.dtype, hidden, dim, transposed};
      source.w3 = up_source;
    }
  }
  backend_.PackExpert(source, expert, experts);
  return absl::OkStatus();
}

absl::StatusOr<PackedExperts> WeightLoader::Experts(const MoeFfnSpec& spec, int64_t dim) {
  const int32_t num_experts = spec.router.num_experts;
  ASSIGN_OR_RETURN(PackedExperts experts,
                   backend_.AllocateExperts(num_experts, dim, spec.hidden, spec.gated, format_));
  experts.label = "experts";
  for (int32_t expert = 0; expert < num_experts; ++expert) {
    RETURN_IF_ERROR(FillExpert(spec, expert, experts));
  }
  return experts;
}

absl::StatusOr<WeightLoader::ExpertVectors> WeightLoader::ExpertBiases(const MoeFfnSpec& spec,
                                                                       int64_t dim) {
  const int64_t experts = spec.router.num_experts;
  const ExpertWeightsSpec& names = spec.experts;
  ExpertVectors vectors;
  ASSIGN_OR_RETURN(vectors.down, Vector(names.down_bias, experts * dim));
  if (!names.fused_gate_up || names.up_bias.empty()) {
    // Without a gate the only up-projection stands in its place (kernels::ExpertBiases).
    FloatVector& up = spec.gated ? vectors.up : vectors.gate;
    ASSIGN_OR_RETURN(up, Vector(names.up_bias, experts * spec.hidden));
    if (names.gate_bias.empty()) return vectors;
    ASSIGN_OR_RETURN(vectors.gate, Vector(names.gate_bias, experts * spec.hidden));
    return vectors;
  }
  const int64_t total = 2 * experts * spec.hidden;
  ASSIGN_OR_RETURN(const Raw raw, ReadRaw(names.up_bias, total, 0, total));
  const int64_t element = kernels::SizeOf(raw.dtype);
  const FusedHalves halves{.blocks = experts,
                           .rows = spec.hidden,
                           .row_bytes = element,
                           .interleaved = names.interleaved};
  for (const bool second : {false, true}) {
    const std::vector<std::byte> half = halves.Take(raw.bytes, second ? 1 : 0);
    FloatVector& target = second ? vectors.up : vectors.gate;
    ASSIGN_OR_RETURN(target, ToDevice(ToFloats(half.data(), raw.dtype, total / 2)));
  }
  return vectors;
}

}  // namespace sluice
