// Repeats of one layer group: which rows enter each repeat, what they start from, and what the
// group hands on. Fixed repeats; a request's own depth; input injection (Huginn, Geiping et al.
// 2025, arXiv 2502.05171); a depth chosen by a router (Mixture-of-Recursions, arXiv 2507.10524);
// stick-breaking halting (Sparse Universal Transformer, Tan et al. 2023, arXiv 2310.07096). Rows
// that have stopped are not in the rows of later repeats: they cost nothing there.
#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "engine/blocks/block.h"
#include "engine/blocks/expert_router.h"
#include "engine/blocks/norm.h"
#include "engine/model/model_spec.h"

namespace sluice {

class Recurrence {
 public:
  // `kv_width`: of the group's attention, for stick-breaking groups, which have exactly one.
  static absl::StatusOr<Recurrence> Load(const LayerGroupSpec& spec,
                                         int64_t dim,
                                         int64_t kv_width,
                                         WeightLoader& loader);

  int64_t WorkspaceBytes(int32_t max_rows) const;
  double FlopsPerRow() const;  // of one repeat
  int64_t NumParameters() const;
  int64_t WeightBytes() const;

  // The rows of one step going through the group: `rows` in, and their results in place after
  // Finish. Takes its memory from the arena; the caller's Scope frees it.
  class Pass {
   public:
    Pass(const Recurrence& recurrence, const Rows& rows, ForwardContext& context);
    // The rows that take repeat `step`, to be updated in place; then Leave merges them.
    Rows Enter(int32_t step);
    void Leave();
    void Finish();
    // Where attention takes its keys and values in this repeat; null: from the rows themselves.
    const SecondStream* second() const { return halts_ ? &second_ : nullptr; }

   private:
    bool Stays(int32_t row, int32_t step) const;
    void Inject(int32_t step, const Rows& live);
    void ChooseDepths();
    void BeginHalting();
    void Halt(int32_t step);
    void MixState();

    const Recurrence& recurrence_;
    Rows rows_;
    ForwardContext& context_;
    bool halts_ = false;
    int32_t* live_ = nullptr;  // rows of this repeat, indices into rows_, ascending
    int32_t num_live_ = 0;
    int32_t* origin_ = nullptr;   // of the live rows
    kernels::TensorView stream_;  // what the layers update, every row of it
    kernels::TensorView packed_;  // the live rows of it, when some are missing
    kernels::TensorView input_;   // of the group: injection, chosen depth
    Routing depth_;               // chosen depth
    // Stick-breaking: sum of p h so far, log of the chance of not having halted, that chance now.
    kernels::TensorView sum_;
    float* log_never_ = nullptr;
    float* remaining_ = nullptr;
    int32_t* fresh_ = nullptr;
    SecondStream second_;
  };

 private:
  explicit Recurrence(const LayerGroupSpec& spec) : spec_(spec.repeat) {}

  RepeatSpec spec_;
  int64_t dim_ = 0;
  int64_t kv_width_ = 0;
  kernels::PackedMatrix injection_, gate_hidden_, gate_out_;
  FloatVector injection_bias_, gate_hidden_bias_, gate_out_bias_;
  std::optional<ExpertRouter> depth_router_;
  std::optional<Norm> output_norm_;
};

}  // namespace sluice
