#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/int8.h"
#include "kernels/packed_storage.h"
#include "kernels/row_major_packing.h"

namespace sluice::kernels::cuda {
namespace {

absl::Status CheckFormat(WeightFormat format) {
  if (format != WeightFormat::kInt4) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "int4 weights are not supported on cuda; use --weights int8 or bf16");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CudaBackend::Create(const DeviceSpec& spec) {
  absl::StatusOr<Device> device = OpenDevice(spec.device);
  if (!device.ok()) return device.status();
  cudaStream_t stream = nullptr;
  if (const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
      error != cudaSuccess) {
    return absl::FailedPreconditionError(
        absl::StrCat("a CUDA stream: ", cudaGetErrorString(error)));
  }
  std::unique_ptr<CudaBackend> backend(new CudaBackend(spec, *device, stream));
  if (absl::Status status = backend->memory_.Init(spec.gpu_memory_fraction); !status.ok())
    return status;
  return backend;
}

CudaBackend::CudaBackend(const DeviceSpec& spec, const Device& device, cudaStream_t stream)
    : device_(device.index),
      description_(device.description),
      stream_(stream),
      synchronous_(spec.synchronous) {}

CudaBackend::~CudaBackend() {
  Synchronize();
  cudaStreamDestroy(stream_);
}

std::vector<KernelChoice> CudaBackend::Kernels() const {
  return {{"linear bf16", "mma.sync m16n8k16", description_},
          {"linear int8", "mma.sync m16n8k32", description_},
          {"linear f32", "fma", description_},
          {"attention", "online softmax, tiles of 64 slots", description_}};
}

absl::StatusOr<Buffer> CudaBackend::Allocate(size_t bytes) {
  Wait();  // the host zeroes it
  return memory_.Allocate(bytes);
}

absl::StatusOr<PackedMatrix> CudaBackend::AllocateMatrix(int64_t n,
                                                         int64_t k,
                                                         WeightFormat format) {
  if (absl::Status status = CheckFormat(format); !status.ok()) return status;
  const WeightSource shape{.n = n, .k = k};
  absl::StatusOr<PackedMatrix> matrix = AllocatePacked(*this, {&shape, 1}, format);
  if (matrix.ok()) widest_row_ = std::max(widest_row_, ValueBytes(format, matrix->k_padded));
  return matrix;
}

void CudaBackend::PackRows(const WeightSource& rows, int64_t first_row, PackedMatrix& matrix) {
  PackRowMajorRows(rows, first_row, matrix);
}

absl::StatusOr<PackedMatrix> CudaBackend::Pack(std::span<const WeightSource> parts,
                                               WeightFormat format) {
  if (absl::Status status = CheckFormat(format); !status.ok()) return status;
  absl::StatusOr<PackedMatrix> matrix = PackRowMajor(*this, parts, format);
  if (matrix.ok()) widest_row_ = std::max(widest_row_, ValueBytes(format, matrix->k_padded));
  return matrix;
}

absl::StatusOr<PackedExperts> CudaBackend::AllocateExperts(
    int32_t num_experts, int64_t dim, int64_t hidden, bool gated, WeightFormat format) {
  if (absl::Status status = CheckFormat(format); !status.ok()) return status;
  const int64_t slice = IsInteger(format) ? std::min(hidden, kInt8SliceHidden) : hidden;
  widest_row_ = std::max(widest_row_, ValueBytes(format, (std::max(dim, slice) + 63) / 64 * 64));
  return AllocatePacked(*this, {.num_experts = num_experts,
                                .dim = dim,
                                .hidden = hidden,
                                .slice_hidden = slice,
                                .gated = gated,
                                .format = format});
}

void CudaBackend::PackExpert(const ExpertSource& source, int32_t expert, PackedExperts& experts) {
  PackRowMajorExpert(source, expert, experts);
}

void CudaBackend::PackExpertRows(const WeightSource& rows,
                                 const ExpertRows& at,
                                 PackedExperts& experts) {
  PackRowMajorExpertRows(rows, at, experts);
}

void* CudaBackend::Reserve(Buffer& scratch, int64_t bytes) {
  if (static_cast<int64_t>(scratch.bytes()) >= bytes) return scratch.data();
  absl::StatusOr<Buffer> buffer = Allocate(static_cast<size_t>(bytes));
  if (!buffer.ok()) {
    status_.Check(cudaErrorMemoryAllocation, "growing the scratch of an op");
    return nullptr;
  }
  scratch = std::move(*buffer);  // Allocate has waited: nobody reads the old one
  return scratch.data();
}

void CudaBackend::ReserveScratch(int32_t max_rows) {
  Reserve(inputs_, max_rows * (widest_row_ + 4));
}

void CudaBackend::CopyToHost(const void* device, void* host, size_t bytes) {
  lists_.Fetch(device, host, bytes);
}

void CudaBackend::CopyToDevice(const void* host, void* device, size_t bytes) {
  if (bytes == 0) return;
  const char* copy = lists_.Copy(static_cast<const char*>(host), static_cast<int64_t>(bytes));
  Run("copying to the device",
      [&] { return cudaMemcpyAsync(device, copy, bytes, cudaMemcpyDefault, stream_); });
  Wait();  // at load, where the host writes weights next
}

void CudaBackend::Select() const {
  cudaSetDevice(device_);  // what fails here fails in the call that follows
}

void CudaBackend::Wait() {
  Select();
  status_.Check(cudaStreamSynchronize(stream_), "the work that was queued");
}

void CudaBackend::Synchronize() {
  Wait();
  lists_.FreeRetired();
}

const float* CudaBackend::Values(const float* values) const {
  if (!synchronous_ || values == nullptr) return values;
  cudaPointerAttributes attributes;
  SLUICE_CHECK(cudaPointerGetAttributes(&attributes, values) == cudaSuccess &&
               attributes.type == cudaMemoryTypeManaged)
      << "values of a weight in memory of the host";
  return values;
}

DeviceRows CudaBackend::Rows(const TensorView& x, const RowSet& rows) {
  Values(static_cast<const float*>(x.data));
  return {static_cast<float*>(x.data), x.row_stride, List(rows.index, rows.count)};
}

}  // namespace sluice::kernels::cuda
