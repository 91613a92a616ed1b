// Repeats of one layer group: which rows enter each repeat, what they start from, and what the
// group hands on. Fixed repeats; a request's own depth; input injection (Huginn, Geiping et al.
// 2025, arXiv 2502.05171); a depth chosen by a router (Mixture-of-Recursions, arXiv 2507.10524);
// stick-breaking halting (Sparse Universal Transformer, Tan et al. 2023, arXiv 2310.07096); exits
// decided from the state (ExitSpec, recurrence_exit.cc). Rows that have stopped are not in the rows
// of later repeats: they cost nothing there, but for the copies that RepeatKv::kLatest stores and
// the work that kComputeAll asks for.
#pragma once

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/blocks/block.h"
#include "engine/blocks/expert_router.h"
#include "engine/blocks/norm.h"
#include "engine/model/model_spec.h"

namespace sluice {

class Recurrence {
 public:
  // `kept_width`: of the keys and values of all attentions of the group, where some are stored
  // again in later repeats; else 0.
  static absl::StatusOr<Recurrence> Load(const LayerGroupSpec& spec,
                                         int64_t dim,
                                         int64_t kept_width,
                                         WeightLoader& loader);

  int64_t WorkspaceBytes(int32_t max_rows) const;
  double FlopsPerRow() const;  // of all repeats
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
    // Whose keys and values this repeat has; null: those of the rows that take it.
    const StoredRows* stored() const { return stores_ ? &stored_ : nullptr; }
    // The rows of the step that have not stopped. Allocates: for observers.
    std::vector<int32_t> Running() const;

   private:
    bool Asked(int32_t row, int32_t step) const;
    bool Stays(int32_t row, int32_t step) const;
    kernels::TensorView SelectLive(int32_t step);
    void SelectStored(int32_t step);
    void Inject(int32_t step, const Rows& live);
    void ChooseDepths();
    void BeginHalting();
    void Halt(int32_t step);
    void MixState();
    // recurrence_exit.cc
    void BeginSignal();
    void AddSignal(int32_t step, const Rows& live);
    void BeginExits();
    float ThresholdOf(int32_t row, float own) const;
    const float* Probabilities(const Rows& live);
    void RememberState(int32_t step, const Rows& live);
    void Ponder(const Rows& live);
    void MixResult(const Rows& live);
    void PassGate(const Rows& live);
    void CompareStates(const Rows& live);
    void Exit(int32_t row, const float* state);
    void TakeResults();

    const Recurrence& recurrence_;
    Rows rows_;
    ForwardContext& context_;
    bool halts_ = false;
    int32_t* live_ = nullptr;  // rows of this repeat, indices into rows_, ascending
    int32_t num_live_ = 0;
    int32_t step_ = 0;
    int32_t* origin_ = nullptr;   // of the live rows
    Rows taken_;                  // what Enter returned
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
    // kLatest: rows whose keys and values this repeat has, their origins, and the live ones there.
    bool stores_ = false;
    int32_t* present_ = nullptr;
    int32_t num_present_ = 0;
    int32_t* present_origin_ = nullptr;
    int32_t* running_ = nullptr;
    StoredRows stored_;
    // Exits. `mass_`: the chance of going on after the gates so far, or the sum of ACT's chances;
    // `share_`: what this repeat adds to an ACT result.
    bool exits_ = false;  // some row of the step may exit
    uint8_t* exited_ = nullptr;
    float* mass_ = nullptr;
    float* share_ = nullptr;
    kernels::TensorView before_;  // the states that the live rows had
    kernels::TensorView result_;  // where it is not the state itself
    kernels::TensorView signal_;  // of the positions: cosines | sines
  };

 private:
  explicit Recurrence(const LayerGroupSpec& spec) : spec_(spec.repeat) {}

  absl::Status LoadExits(WeightLoader& loader);
  absl::Status LoadSignal(WeightLoader& loader);
  bool keeps_result() const;
  double GateFlopsPerRow() const;  // of the halting gate, which every repeat but the first asks
  int64_t ExitBytes(int32_t max_rows) const;

  RepeatSpec spec_;
  int64_t dim_ = 0;
  int64_t kept_width_ = 0;
  kernels::PackedMatrix injection_, gate_hidden_, gate_out_, exit_;
  FloatVector injection_bias_, gate_hidden_bias_, gate_out_bias_, exit_bias_;
  std::optional<ExpertRouter> depth_router_;
  std::optional<Norm> norm_, output_norm_;
  std::vector<double> inverse_frequencies_;  // of the signal's sinusoids
  std::vector<float> step_signal_;           // [times, dim]; empty: none
};

}  // namespace sluice
