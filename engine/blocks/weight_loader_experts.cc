// Experts of a mixture: some rows at a time where their tensors hold them as they are packed, else
// one expert at a time.
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/blocks/weight_loader.h"
#include "engine/status_macros.h"
#include "engine/weights/mxfp4.h"

namespace sluice {

using kernels::ExpertPart;
using kernels::ExpertRows;
using kernels::ExpertSource;
using kernels::PackedExperts;
using kernels::WeightSource;

namespace {

// Blocks of 2 * rows rows, of which one half is the gate's and the other the up-projection's: one
// behind the other, or taking turns.
struct FusedHalves {
  int64_t blocks = 1;
  int64_t rows = 0;  // of a half
  int64_t row_bytes = 0;
  bool interleaved = false;

  RawBytes Take(const RawBytes& fused, int64_t half) const {
    RawBytes out(fused.size() / 2);
    for (int64_t i = 0; i < blocks * rows; ++i) {
      const int64_t row = interleaved ? 2 * (i % rows) + half : i % rows + half * rows;
      const int64_t from = i / rows * 2 * rows + row;
      std::memcpy(out.data() + i * row_bytes, fused.data() + from * row_bytes,
                  static_cast<size_t>(row_bytes));
    }
    return out;
  }
};

// An expert's elements: all of a tensor of its own, or some of one that holds every expert's.
struct ExpertElements {
  std::string name;
  int64_t total = 0;
  int64_t first = 0;
};

ExpertElements Locate(const std::string& pattern,
                      int32_t num_experts,
                      int32_t expert,
                      int64_t elements) {
  std::string name = absl::StrReplaceAll(pattern, {{"{e}", absl::StrCat(expert)}});
  if (name != pattern) return {std::move(name), elements, 0};
  return {std::move(name), elements * num_experts, expert * elements};
}

}  // namespace

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
  const auto [name, total, first] = Locate(pattern, experts, matrix.expert, elements);
  return ReadRaw(name, total, first, elements);
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

absl::Status WeightLoader::FillFromStored(const MoeFfnSpec& spec, PackedExperts& experts) {
  struct Tensor {
    ExpertPart part;
    const std::string& pattern;
    int64_t rows, cols;
  };
  const ExpertWeightsSpec& names = spec.experts;
  std::vector<Tensor> tensors = {{ExpertPart::kW2, names.down, experts.dim, spec.hidden}};
  // Without a gate the only up-projection stands in its place.
  tensors.push_back(
      {spec.gated ? ExpertPart::kW3 : ExpertPart::kW1, names.up, spec.hidden, experts.dim});
  if (spec.gated) tensors.push_back({ExpertPart::kW1, names.gate, spec.hidden, experts.dim});
  const int32_t num_experts = spec.router.num_experts;
  std::vector<StoredRows> stored;
  std::vector<ExpertRows> places;
  for (int32_t expert = 0; expert < num_experts; ++expert) {
    for (const Tensor& tensor : tensors) {
      const int64_t elements = tensor.rows * tensor.cols;
      auto [name, total, first] = Locate(tensor.pattern, num_experts, expert, elements);
      ASSIGN_OR_RETURN(const TensorRange range, CheckedRange(name, total, /*allow_bytes=*/false));
      stored.push_back({std::move(name), range.dtype, first, tensor.rows, tensor.cols});
      places.push_back({expert, tensor.part});
    }
  }
  return ForStoredRows(stored, [&](size_t i, int64_t first_row, const WeightSource& rows) {
    backend_.PackExpertRows(rows, {places[i].expert, places[i].part, first_row}, experts);
  });
}

absl::StatusOr<PackedExperts> WeightLoader::Experts(const MoeFfnSpec& spec, int64_t dim) {
  const int32_t num_experts = spec.router.num_experts;
  ASSIGN_OR_RETURN(PackedExperts experts,
                   backend_.AllocateExperts(num_experts, dim, spec.hidden, spec.gated, format_));
  experts.label = "experts";
  const ExpertWeightsSpec& names = spec.experts;
  const std::string key =
      absl::StrCat(names.gate, " ", names.up, " ", names.down, names.transposed ? " t" : "",
                   names.fused_gate_up ? " fused" : "", names.interleaved ? " interleaved" : "",
                   spec.gated ? " gated " : " ", static_cast<int>(names.encoding));
  const bool plain =
      names.encoding == ExpertEncoding::kPlain && !names.transposed && !names.fused_gate_up;
  const auto fill = [&]() -> absl::Status {
    if (plain) return FillFromStored(spec, experts);
    for (int32_t expert = 0; expert < num_experts; ++expert)
      RETURN_IF_ERROR(FillExpert(spec, expert, experts));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(packed_.Fill(key, experts, fill));
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
    const RawBytes half = halves.Take(raw.bytes, second ? 1 : 0);
    FloatVector& target = second ? vectors.up : vectors.gate;
    ASSIGN_OR_RETURN(target, ToDevice(ToFloats(half.data(), raw.dtype, total / 2)));
  }
  return vectors;
}

}  // namespace sluice
