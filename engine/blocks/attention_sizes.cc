// What an attention takes, holds and costs: memory, parameters, FLOPs.
#include <algorithm>

#include "engine/blocks/attention.h"

namespace sluice {

int64_t Attention::WorkspaceBytes(int32_t max_rows) const {
  const int64_t q_width = int64_t{spec_.num_heads} * spec_.head_dim;
  const int64_t kv_width = int64_t{spec_.num_kv_heads} * spec_.head_dim;
  int64_t bytes = Workspace::BytesFor(max_rows * qkv_.n) + Workspace::BytesFor(max_rows * q_.n) +
                  Workspace::BytesFor(max_rows * q_width) +
                  Workspace::BytesFor(max_rows * kv_width);
  if (q_.n > 0) bytes += 4 * Workspace::BytesFor(max_rows);  // the places of the rows that run
  if (spec_.rope.has_value())
    bytes += Workspace::BytesFor(int64_t{max_rows} * spec_.rope->rotary_dim);
  if (pattern_.has_value()) {
    const int64_t heads = pattern_->by_head() ? spec_.num_heads : 1;
    bytes += Workspace::BytesFor(max_rows * heads * pattern_->num_spans(), sizeof(kernels::KvSpan));
  }
  for (const auto* experts : {&value_experts_, &output_experts_}) {
    if (!experts->has_value()) continue;
    const int64_t total = int64_t{max_rows} * spec_.num_heads * (*experts)->router.spec().top_k;
    bytes += (*experts)->router.WorkspaceBytes(max_rows) + 2 * Workspace::BytesFor(total);
  }
  return bytes + adapters_.WorkspaceBytes(max_rows);
}

double Attention::Adapters::FlopsPerRow(bool stores) const {
  if (!stores) return q.FlopsPerRow() + o.FlopsPerRow();
  double flops = 0.0;
  for (const SoftLowRank* part : low_ranks()) flops += part->FlopsPerRow();
  for (const SoftScaling* part : scalings()) flops += part->FlopsPerRow();
  return flops;
}

int64_t Attention::Adapters::WeightBytes(bool stores) const {
  if (!stores) return q.WeightBytes() + o.WeightBytes();
  int64_t bytes = 0;
  for (const SoftLowRank* part : low_ranks()) bytes += part->WeightBytes();
  for (const SoftScaling* part : scalings()) bytes += part->WeightBytes();
  return bytes;
}

int64_t Attention::Adapters::WorkspaceBytes(int32_t max_rows) const {
  int64_t bytes = 0;  // one after the other
  for (const SoftLowRank* part : low_ranks())
    bytes = std::max(bytes, part->WorkspaceBytes(max_rows));
  for (const SoftScaling* part : scalings())
    bytes = std::max(bytes, part->WorkspaceBytes(max_rows));
  return bytes;
}

double Attention::DenseProjectionFlops(bool stores) const {
  const int64_t stored = stores ? qkv_.n * qkv_.k + v_.n * v_.k : 0;
  return 2.0 * static_cast<double>(q_.n * q_.k + stored + o_.n * o_.k);
}

double Attention::KeyFlops() const {
  return DenseProjectionFlops(true) - DenseProjectionFlops(false) + adapters_.FlopsPerRow(true) -
         adapters_.FlopsPerRow(false);
}

int64_t Attention::KeyBytes() const {
  return qkv_.bytes() + v_.bytes() + adapters_.WeightBytes(true) - adapters_.WeightBytes(false);
}

double Attention::ExpertFlops(const std::optional<ExpertProjection>& experts, bool dense) const {
  if (!experts.has_value()) return 0.0;
  const RouterSpec& router = experts->router.spec();
  const kernels::PackedMatrix& one = experts->matrices.front();
  return experts->router.FlopsPerRow() + 2.0 * static_cast<double>(one.n * one.k) *
                                             spec_.num_heads *
                                             (dense ? router.num_experts : router.top_k);
}

double Attention::FlopsPerRow(bool dense) const {
  return DenseProjectionFlops(true) + ExpertFlops(value_experts_, dense) +
         ExpertFlops(output_experts_, dense) + adapters_.FlopsPerRow();
}

double Attention::KeyFlopsPerRow(bool dense) const {
  return KeyFlops() + ExpertFlops(value_experts_, dense);
}

double Attention::FlopsPerSlot() const {
  return 4.0 * spec_.num_heads * spec_.head_dim;  // q.k and p.v
}

int64_t Attention::WeightBytes() const {
  int64_t bytes = q_.bytes() + qkv_.bytes() + v_.bytes() + o_.bytes() + adapters_.WeightBytes();
  for (const auto* experts : {&value_experts_, &output_experts_}) {
    if (!experts->has_value()) continue;
    bytes += (*experts)->router.weight_bytes();
    for (const auto& matrix : (*experts)->matrices) bytes += matrix.bytes();
  }
  return bytes;
}

}  // namespace sluice
