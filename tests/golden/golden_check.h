// Holds one golden folder against our numbers: what golden_test asserts and sluice-golden prints.
// Folders of tests/golden (served as they are) and of ../shared/goldens (served in the form of
// WriteServedModel).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/packed_matrix.h"
#include "tests/golden/golden_files.h"
#include "tests/golden/golden_run.h"
#include "tests/support/tolerance.h"

namespace sluice {

struct CheckOptions {
  std::string device = "cpu";
  kernels::WeightFormat weights = kernels::WeightFormat::kF32;
};

struct TensorResult {
  std::string name;
  float worst = 0.0f;  // max |d|; of decisions: how many differ; of rounded weights: relative rms
  float allowed = 0.0f;
  bool ok() const { return worst <= allowed; }  // false for NaN
};

struct NotCompared {
  std::string name;
  std::string why;  // empty: nobody has said, which golden_test does not let pass
};

struct GoldenReport {
  std::string family;
  bool layer_alone = false;             // no sequences, so no ways of running them
  bool whole_prompt = false;            // routed by top-k over the prompt: only one shot is defined
  bool chooses_otherwise = false;       // rounded weights: some tensors are not compared
  std::vector<TensorResult> tensors;    // in the order of the forward pass
  std::vector<std::string> wrong_ways;  // ways of running that did not give the bits of one shot
  std::vector<NotCompared> not_compared;    // stored tensors that the forward pass does not show
  std::vector<std::string> unused_weights;  // tensors of the file that the model does not read

  bool ok() const;
  // The name of the first wrong tensor, or "".
  std::string first_wrong() const;
};

// InvalidArgument or NotFound for a broken folder, Unimplemented for a format without a served
// form.
absl::StatusOr<GoldenReport> CheckGolden(const std::string& folder, const CheckOptions& options);

// The model of a folder and what to run; `scratch` holds the served form where it is another one.
struct OpenGolden {
  std::unique_ptr<ScratchDirectory> scratch;
  ExpectedTensors expected;
  std::optional<GoldenRun> run;
};
absl::StatusOr<OpenGolden> OpenGoldenFolder(const std::string& folder, const CheckOptions& options);

// The cases of a folder, by the prefix of their tensors. "", "short.", "single." and "isolated#."
// are sequences by themselves, and so are those of "capacity."; "cohort." and "partial#." are one
// cohort.
struct GoldenCase {
  std::string prefix;
  size_t first = 0;  // of the stored sequences
  bool cohort = false;
  RowRouting routing;  // "capacity.": full experts refuse rows
};
std::vector<GoldenCase> GoldenCases(const ExpectedTensors& expected);

// The sequences that a case runs: the stored ids, cut to the length of its logits.
std::vector<std::vector<int32_t>> GoldenTokens(const ExpectedTensors& expected,
                                               const GoldenCase& which);
inline std::vector<std::vector<int32_t>> GoldenTokens(const ExpectedTensors& expected,
                                                      const std::string& prefix) {
  return GoldenTokens(expected, GoldenCase{prefix});
}

}  // namespace sluice
