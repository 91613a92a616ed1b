// Compares the traces of one set of sequences with the tensors that a folder stores under one
// prefix.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "tests/golden/golden_check.h"

namespace sluice {

// What may differ from the reference, by family; the empty name is every other family.
struct FamilyTolerance {
  const char* family;
  Tolerance values;
  float experts = 0.0f;  // share of the expert choices
  float rows = 0.0f;     // share of the rows that stop elsewhere
  // Not 0: floats are held to this instead of `values`. Root of the mean square of what differs, as
  // a part of the same of what is expected: zeros would get 1.
  float rms = 0.0f;
};

// What `wanted` may be missed by, and by how much `actual` does (infinite for other sizes).
float AllowedFor(const FamilyTolerance& tolerance, const std::vector<float>& wanted);
float ErrorOf(const FamilyTolerance& tolerance,
              const std::vector<float>& actual,
              const std::vector<float>& wanted);

// The first layer instance in which a row chose otherwise than in `precise`: layers, experts, where
// to stop. Behind it rows are other rows. kNoLayer where there is none.
inline constexpr int32_t kNoLayer = 1 << 30;
int32_t FirstOtherChoice(const std::vector<SequenceTrace>& traces,
                         const std::vector<SequenceTrace>& precise,
                         size_t dim);

// A tensor of this name in front of another one's says which of its rows are compared (not 0).
inline constexpr char kRowsOf[] = "rows of ";

class Comparison {
 public:
  Comparison(const ExpectedTensors& expected,
             std::string prefix,
             const FamilyTolerance& tolerance,
             GoldenReport& report)
      : expected_(expected), prefix_(std::move(prefix)), tolerance_(tolerance), report_(report) {}

  // `end`: nothing is compared from this layer instance on.
  void Compare(const std::vector<SequenceTrace>& traces, const ModelSpec& spec, int32_t end);

  const std::set<std::string>& compared() const { return compared_; }

 private:
  const ExpectedTensor* Expected(const std::string& name);
  // Whatever the traces hold under the name that the folder has for it.
  void CompareValues(const std::vector<SequenceTrace>& traces);
  template <typename Part>
  void Floats(const std::string& name, const std::vector<SequenceTrace>& traces, Part part);
  template <typename Part>
  void Decisions(const std::string& name,
                 const std::vector<SequenceTrace>& traces,
                 Part part,
                 int32_t experts_per_head);

  const ExpectedTensors& expected_;
  std::string prefix_;
  FamilyTolerance tolerance_;
  GoldenReport& report_;
  std::set<std::string> compared_;
};

}  // namespace sluice
