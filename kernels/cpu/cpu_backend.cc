#include "kernels/cpu/cpu_backend.h"

#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cpu/packed_layout.h"
#include "kernels/cpu/processors.h"
#include "kernels/host_memory.h"

namespace sluice::kernels::cpu {
namespace {

// Covers attention and routing; MoE grows it when the experts are allocated.
constexpr int64_t kWorkerScratchBytes = 64 << 10;
constexpr int kMaxThreads = 1024;

const VectorKernels& SelectVector(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) return kVectorAvx512;
  if (isa >= Isa::kAvx2) return kVectorAvx2;
#endif
  static_cast<void>(isa);
  return kVectorScalar;
}

}  // namespace

void* Scratch::Grow(size_t bytes) {
  if (bytes <= buffer_.bytes()) return buffer_.data();
  absl::StatusOr<Buffer> larger = AllocateHost(bytes);
  SLUICE_CHECK(larger.ok()) << larger.status().ToString();
  buffer_ = std::move(*larger);
  return buffer_.data();
}

absl::StatusOr<std::unique_ptr<Backend>> CpuBackend::Create(const DeviceSpec& spec) {
  if (spec.threads < 0 || spec.threads > kMaxThreads) {
    return absl::InvalidArgumentError(absl::StrCat("threads: ", spec.threads));
  }
  if (spec.prefetch_bytes.has_value() && !IsPrefetchDistance(*spec.prefetch_bytes)) {
    return absl::InvalidArgumentError(absl::StrCat("prefetch bytes: ", *spec.prefetch_bytes));
  }
  absl::StatusOr<CpuFeatures> features = DetectCpuFeatures(spec.isa);
  if (!features.ok()) return features.status();
  Selection selection;
  selection.vector = &SelectVector(features->isa);
  absl::StatusOr<GemmChoice> f32 = SelectGemm(WeightFormat::kF32, *features, spec.gemm);
  if (!f32.ok()) return f32.status();
  selection.f32 = *f32;
  absl::StatusOr<GemmChoice> bf16 = SelectGemm(WeightFormat::kBF16, *features, spec.gemm);
  if (!bf16.ok()) return bf16.status();
  selection.bf16 = *bf16;
  absl::StatusOr<GemmChoice> int8 = SelectGemm(WeightFormat::kInt8, *features, spec.gemm);
  if (!int8.ok()) return int8.status();
  selection.int8 = *int8;
  absl::StatusOr<GemmChoice> int4 = SelectGemm(WeightFormat::kInt4, *features, spec.gemm);
  if (!int4.ok()) return int4.status();
  selection.int4 = *int4;
  const int threads = spec.threads == 0 ? AvailableProcessors() : spec.threads;
  return std::unique_ptr<Backend>(
      new CpuBackend(threads, *features, selection, spec.prefetch_bytes));
}

CpuBackend::CpuBackend(int threads,
                       const CpuFeatures& features,
                       const Selection& selection,
                       std::optional<int64_t> prefetch_bytes)
    : features_(features),
      selection_(selection),
      asked_for_prefetch_(prefetch_bytes.has_value()),
      pool_(threads) {
  for (const WeightFormat format :
       {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    if (!asked_for_prefetch_ || !Prefetches(format)) continue;
    prefetch_[static_cast<size_t>(format)] = {
        *prefetch_bytes, absl::StrCat(PrefetchText(*prefetch_bytes), ": asked for")};
  }
  worker_.resize(static_cast<size_t>(threads));
  expanded_.resize(static_cast<size_t>(threads));
  for (Scratch& scratch : worker_) scratch.Get<char>(kWorkerScratchBytes);
}

std::vector<KernelChoice> CpuBackend::Kernels() const {
  const GemmFamily& few = selection_.int4.family;
  std::string int4 = selection_.int8.family.name;
  if (few.tile != nullptr && few.name != int4)
    int4 = absl::StrCat(few.name, " up to ", few.max_rows, " rows, then ", int4);
  std::vector<KernelChoice> out = {
      {"linear f32", selection_.f32.family.name, selection_.f32.reason},
      {"linear bf16", selection_.bf16.family.name, selection_.bf16.reason},
      {"linear int8", selection_.int8.family.name, selection_.int8.reason},
      {"linear int4", int4, few.tile == nullptr ? selection_.int4.reason : selection_.int8.reason},
      {"attention, norm, activation", selection_.vector->name, features_.reason}};
  for (size_t format = 0; format < prefetch_.size(); ++format) {
    const std::string& text = prefetch_[format].text;
    if (!text.empty()) absl::StrAppend(&out[format].reason, "; ", text);
  }
  return out;
}

absl::StatusOr<Buffer> CpuBackend::Allocate(size_t bytes) { return AllocateHost(bytes); }

void CpuBackend::ForEach(int64_t count, absl::FunctionRef<void(int64_t)> task) {
  pool_.ParallelFor(count, [&](int64_t index, int) { task(index); });
}

void CpuBackend::ReserveScratch(int32_t max_rows) {
  input_.Get<float>(std::max(max_rows, kExpertChunk) * max_k_);
  const int64_t few = kExpertBlocksPerThread * num_threads() * kBlockColumns;
  partial_.Get<float>(kExpertChunk * std::min(max_n_, few));
  for (Scratch& scratch : worker_) scratch.Get<float>(kExpertProducts);
  for (int worker = 0; worker < num_threads(); ++worker) Expanded(worker);
}

void CpuBackend::CopyToHost(const void* device, void* host, size_t bytes) {
  std::memcpy(host, device, bytes);
}

void CpuBackend::CopyToDevice(const void* host, void* device, size_t bytes) {
  std::memcpy(device, host, bytes);
}

}  // namespace sluice::kernels::cpu
