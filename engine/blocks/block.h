// The arithmetic of one sublayer on dense rows. Blocks never know that rows can be missing, and
// never see the model, the scheduler or a file format.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/blocks/forward_context.h"

namespace sluice {

// The KV layer that one execution of an attention writes: numbered when the model is built, so that
// weights are shared between repeats while caches are not.
struct KvLayer {
  int32_t kv_class = -1;
  int32_t layer_in_class = 0;
};

// Keys and values of another stream than the queries', of all rows of the step: those of a halted
// row stay what they were. `kept` carries them from one execution of the attention to the next.
struct SecondStream {
  Rows rows;
  kernels::RowSet fresh;     // rows (indices into `rows`) that have changed since the last one
  kernels::TensorView kept;  // [rows, 2 * kv_width], keys | values
};

// Keys and values of more rows of the step than those that run.
struct StoredRows {
  kernels::RowSet origin;   // the rows that the KV layer has after this execution
  kernels::RowSet running;  // those of them that run: indices into `origin`, ascending
  // What each row of the step last computed, [rows, 2 * kv_width], keys | values, and the rows of
  // it that `origin` and `running` stand for. Empty: nothing is stored, the KV layer has it all.
  kernels::TensorView kept;
  kernels::RowSet kept_origin, kept_running;
};

// Rows whose keys and values are stored where they are more than those that run: a depth-routed
// layer that skips no key, the last layer for rows whose logits nobody wants.
struct KeyRows {
  Rows rows;  // the residual stream of all of them
  kernels::TensorView normed;
  kernels::RowSet running;  // those that run: indices into `rows`, ascending
};

struct BlockInput {
  const Rows* encoded = nullptr;  // the encoder's last rows of this step; none: count 0
  const Rows& rows;               // the residual stream (un-normed)
  kernels::TensorView normed;     // [count, dim]; rows.x itself without an input norm
  KvLayer kv;
  int32_t layer_instance = 0;
  // Where the result goes: out[i] += result when `accumulate`, else out[i] = result. The residual
  // stream itself is a legal target of an accumulating block: it reads its input before it writes.
  kernels::TensorView out;
  bool accumulate = true;
  const SecondStream* second = nullptr;
  const StoredRows* stored = nullptr;  // null: the rows that run are stored
  const KeyRows* keys = nullptr;       // null: the same; never beside `stored` or `second`
  kernels::TensorView second_normed;   // [second->fresh.count, dim]
};

class Block {
 public:
  virtual ~Block() = default;
  virtual void Forward(const BlockInput& input, ForwardContext& context) = 0;
  // Upper bound of what Forward takes from the arena.
  virtual int64_t WorkspaceBytes(int32_t max_rows) const = 0;
  // FLOPs of one row, attention to the cache left out; `dense`: with every expert computed.
  virtual double FlopsPerRow(bool dense) const = 0;
  // FLOPs of one row per visible cache slot (attention only).
  virtual double FlopsPerSlot() const { return 0.0; }
  // The part of FlopsPerRow that rows cost of which only keys and values are wanted (KeyRows); 0 of
  // blocks that do not take them.
  virtual double KeyFlopsPerRow(bool /*dense*/) const { return 0.0; }
  // Bytes of the weights every execution reads.
  virtual int64_t WeightBytes() const = 0;
  // Adds the matrices that hold most of those bytes, for Backend::Tune; a block whose weights are
  // few beside an FFN's adds none.
  virtual void AddMatrices(std::vector<const kernels::PackedMatrix*>& /*to*/) const {}
};

}  // namespace sluice
