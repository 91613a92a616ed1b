#include "engine/blocks/weight_loader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "engine/status_macros.h"
#include "kernels/check.h"

namespace sluice {
namespace {

using kernels::DType;
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

// What a tensor is, without its place: "model.layers.3.self_attn.q_proj.weight" is "q_proj".
std::string LabelOf(absl::string_view name) {
  absl::ConsumeSuffix(&name, ".weight");
  return std::string(name.substr(name.rfind('.') + 1));
}

// All that decides which values of which tensor a projection is.
std::string KeyOf(const ProjectionSpec& part) {
  return absl::StrCat("'", part.weight, "' ", part.row_begin, " ", part.row_run, " ",
                      part.row_stride, " ", part.out, "x", part.in, part.transposed ? " t" : "",
                      part.split_by_head ? " split" : "");
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
                           LoadProgress progress,
                           PackedCacheFiles packed)
    : store_(store),
      backend_(backend),
      format_(format),
      progress_(std::move(progress)),
      total_bytes_(packed.reader != nullptr ? packed.reader->file_bytes() : store.total_bytes()),
      packed_(backend, packed, [this](int64_t bytes) { Report(bytes); }) {}

absl::StatusOr<WeightLoader::Raw> WeightLoader::ReadRaw(
    const std::string& name, int64_t total, int64_t first, int64_t count, bool allow_bytes) {
  ASSIGN_OR_RETURN(const TensorRange range, CheckedRange(name, total, allow_bytes));
  Raw raw;
  raw.dtype = range.dtype;
  raw.bytes.resize(static_cast<size_t>(count * kernels::SizeOf(range.dtype)));
  RETURN_IF_ERROR(ReadElements(name, first, raw));
  return raw;
}

absl::StatusOr<TensorRange> WeightLoader::CheckedRange(const std::string& name,
                                                       int64_t total,
                                                       bool allow_bytes) const {
  ASSIGN_OR_RETURN(TensorRange range, store_.Find(name));
  if (range.num_elements() != total) {
    return WrongShape(name, range, absl::StrCat(total, " elements"));
  }
  if (!kernels::IsFloat(range.dtype) && !(allow_bytes && range.dtype == DType::kU8)) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' must be F32, BF16 or F16"));
  }
  return range;
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
  SLUICE_CHECK(!parts.empty());
  MatrixShape shape{0, parts[0].in, format};
  std::string key;
  for (const ProjectionSpec& part : parts) {
    SLUICE_CHECK(part.in == shape.k) << part.in << " " << shape.k;
    shape.n += part.out;
    absl::StrAppend(&key, KeyOf(part), " ");
  }
  ASSIGN_OR_RETURN(PackedMatrix matrix,
                   packed_.Matrix(key, shape, [&] { return PackParts(parts, shape); }));
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
    const auto make = [&]() -> absl::StatusOr<PackedMatrix> {
      ASSIGN_OR_RETURN(const Raw raw,
                       ReadRaw(part.weight, count * elements, i * elements, elements));
      const WeightSource source{raw.bytes.data(), raw.dtype, part.out, part.in, part.transposed};
      return backend_.Pack({&source, 1}, format);
    };
    const std::string key = absl::StrCat(KeyOf(part), " of ", count, " number ", i);
    ASSIGN_OR_RETURN(PackedMatrix matrix,
                     Labelled(packed_.Matrix(key, {part.out, part.in, format}, make), part.weight));
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
  const auto make = [&]() -> absl::StatusOr<PackedMatrix> {
    ASSIGN_OR_RETURN(const Raw raw, ReadRaw(part.weight, count * elements, 0, count * elements));
    std::vector<WeightSource> sources;
    for (int32_t i = 0; i < count; ++i) {
      const std::byte* first = raw.bytes.data() + i * elements * kernels::SizeOf(raw.dtype);
      sources.push_back({first, raw.dtype, part.out, part.in, part.transposed});
    }
    return backend_.Pack(sources, format);
  };
  const std::string key = absl::StrCat(KeyOf(part), " joined ", count);
  return Labelled(packed_.Matrix(key, {count * part.out, part.in, format}, make), part.weight);
}

absl::StatusOr<std::vector<PackedMatrix>> WeightLoader::SplitColumns(const ProjectionSpec& part,
                                                                     int32_t count) {
  const int64_t columns = count * part.in;
  RETURN_IF_ERROR(CheckMatrixShape(part.weight, part.out, columns, true));
  const int64_t total = part.out * columns;
  Raw whole;  // read when the first of them is packed
  std::vector<PackedMatrix> matrices;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    const auto make = [&]() -> absl::StatusOr<PackedMatrix> {
      if (whole.bytes.empty()) {
        ASSIGN_OR_RETURN(whole, ReadRaw(part.weight, total, 0, total));
      }
      const auto row_bytes = static_cast<size_t>(part.in * kernels::SizeOf(whole.dtype));
      RawBytes slice(static_cast<size_t>(part.out) * row_bytes);
      for (size_t row = 0; row < static_cast<size_t>(part.out); ++row) {
        const size_t from = (row * static_cast<size_t>(count) + i) * row_bytes;
        std::memcpy(slice.data() + row * row_bytes, whole.bytes.data() + from, row_bytes);
      }
      const WeightSource source{slice.data(), whole.dtype, part.out, part.in, false};
      return backend_.Pack({&source, 1}, format_);
    };
    const std::string key = absl::StrCat(KeyOf(part), " of ", count, " number ", i);
    ASSIGN_OR_RETURN(
        PackedMatrix matrix,
        Labelled(packed_.Matrix(key, {part.out, part.in, format_}, make), part.weight));
    matrices.push_back(std::move(matrix));
  }
  return matrices;
}

absl::StatusOr<PackedMatrix> WeightLoader::Turned(const ProjectionSpec& part) {
  const auto make = [&]() -> absl::StatusOr<PackedMatrix> {
    ASSIGN_OR_RETURN(const Raw raw, ReadProjection(part));
    const WeightSource source{raw.bytes.data(), raw.dtype, part.in, part.out, /*transposed=*/true};
    return backend_.Pack({&source, 1}, format_);
  };
  return Labelled(packed_.Matrix(KeyOf(part) + " turned", {part.in, part.out, format_}, make),
                  part.weight);
}

}  // namespace sluice
