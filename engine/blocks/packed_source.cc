#include "engine/blocks/packed_source.h"

#include <cstddef>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/status_macros.h"
#include "kernels/check.h"

namespace sluice {
namespace {

using kernels::PackedExperts;
using kernels::PackedMatrix;

std::string KeyOf(const char* kind, const std::string& key, const MatrixShape& shape) {
  return absl::StrCat(kind, " ", kernels::Name(shape.format), " ", shape.n, "x", shape.k, " ", key);
}

// Slices stand behind one another; the storage may be longer.
int64_t BytesOf(const PackedExperts& experts) {
  int64_t bytes = 0;
  for (const PackedExperts::Slice& slice : experts.slices)
    bytes += slice.w1.bytes() + slice.w3.bytes() + slice.w2.bytes();
  SLUICE_CHECK(bytes <= static_cast<int64_t>(experts.storage.bytes())) << bytes;
  return bytes;
}

}  // namespace

PackedSource::PackedSource(kernels::Backend& backend,
                           PackedCacheFiles files,
                           std::function<void(int64_t)> on_read)
    : backend_(backend), files_(files), on_read_(std::move(on_read)) {
  SLUICE_CHECK(files.reader == nullptr || files.writer == nullptr);
}

absl::Status PackedSource::Read(const std::string& key, const void* data, int64_t bytes) {
  const std::span into(static_cast<std::byte*>(const_cast<void*>(data)),
                       static_cast<size_t>(bytes));
  RETURN_IF_ERROR(files_.reader->Read(
      key, into, [this](int64_t count, auto task) { backend_.ForEach(count, task); }));
  on_read_(bytes);
  return absl::OkStatus();
}

void PackedSource::Write(const std::string& key, const void* data, int64_t bytes) {
  if (files_.writer == nullptr) return;
  const std::span from(static_cast<const std::byte*>(data), static_cast<size_t>(bytes));
  files_.writer->Write(key, from,
                       [this](int64_t count, auto task) { backend_.ForEach(count, task); });
}

absl::StatusOr<PackedMatrix> PackedSource::Matrix(
    const std::string& key,
    const MatrixShape& shape,
    absl::FunctionRef<absl::StatusOr<PackedMatrix>()> make) {
  const std::string full_key = KeyOf("matrix", key, shape);
  if (files_.reader != nullptr) {
    ASSIGN_OR_RETURN(PackedMatrix matrix, backend_.AllocateMatrix(shape.n, shape.k, shape.format));
    RETURN_IF_ERROR(Read(full_key, matrix.data, matrix.bytes()));
    return matrix;
  }
  ASSIGN_OR_RETURN(PackedMatrix matrix, make());
  SLUICE_CHECK(matrix.n == shape.n && matrix.k == shape.k && matrix.format == shape.format) << key;
  Write(full_key, matrix.data, matrix.bytes());
  return matrix;
}

absl::Status PackedSource::Fill(const std::string& key,
                                PackedExperts& experts,
                                absl::FunctionRef<absl::Status()> fill) {
  const std::string full_key =
      KeyOf("experts", absl::StrCat(experts.num_experts, " ", experts.slice_hidden, " ", key),
            {experts.hidden, experts.dim, experts.format});
  if (files_.reader != nullptr) return Read(full_key, experts.storage.data(), BytesOf(experts));
  RETURN_IF_ERROR(fill());
  Write(full_key, experts.storage.data(), BytesOf(experts));
  return absl::OkStatus();
}

}  // namespace sluice
