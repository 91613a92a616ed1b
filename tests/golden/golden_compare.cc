#include "tests/golden/golden_compare.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace sluice {
namespace {

int32_t AttentionExperts(const ModelSpec& spec) {
  for (const SublayerSpec& sublayer : spec.decoder().groups.at(0).layers.at(0).sublayers) {
    const auto* attention = std::get_if<AttentionSpec>(&sublayer.block);
    if (attention != nullptr && attention->o.experts.has_value())
      return attention->o.experts->num_experts;
  }
  return 0;
}

template <typename Map, typename Key>
const typename Map::mapped_type* Find(const Map& map, const Key& key) {
  const auto it = map.find(key);
  return it == map.end() ? nullptr : &it->second;
}

// Zeroes what is not compared on both sides: the rows that `chosen` leaves out and, where rows may
// stop elsewhere, those that did not run here.
void LeaveOut(const ExpectedTensor& chosen,
              bool may_stop_elsewhere,
              std::vector<float>& actual,
              std::vector<float>& expected) {
  const size_t rows = chosen.integers.size();
  const size_t width = rows == 0 ? 0 : expected.size() / rows;
  if (width == 0 || actual.size() != expected.size()) return;
  for (size_t row = 0; row < rows; ++row) {
    const auto ours = actual.begin() + static_cast<int64_t>(row * width);
    const auto end = ours + static_cast<int64_t>(width);
    const bool absent = std::all_of(ours, end, [](float value) { return value == 0.0f; });
    if (chosen.integers[row] != 0 && !(may_stop_elsewhere && absent)) continue;
    std::fill(ours, end, 0.0f);
    std::fill_n(expected.begin() + static_cast<int64_t>(row * width), width, 0.0f);
  }
}

// Which rows a layer did not run: zeros, or missing at the end.
std::vector<bool> RowsRun(const std::vector<float>* hidden, size_t rows, size_t width) {
  std::vector<bool> run(rows, false);
  for (size_t i = 0; hidden != nullptr && i < hidden->size(); ++i) {
    if ((*hidden)[i] != 0.0f) run[i / width] = true;
  }
  return run;
}

// Infinite for vectors of different sizes.
float RelativeRms(const std::vector<float>& actual, const std::vector<float>& wanted) {
  if (actual.size() != wanted.size()) return INFINITY;
  double off = 0.0, all = 0.0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    off += std::pow(double{actual[i]} - double{wanted[i]}, 2.0);
    all += std::pow(double{wanted[i]}, 2.0);
  }
  return off == 0.0 ? 0.0f : static_cast<float>(std::sqrt(off / all));
}

}  // namespace

float AllowedFor(const FamilyTolerance& tolerance, const std::vector<float>& wanted) {
  return tolerance.rms > 0.0f ? tolerance.rms : Allowed(wanted, tolerance.values);
}

float ErrorOf(const FamilyTolerance& tolerance,
              const std::vector<float>& actual,
              const std::vector<float>& wanted) {
  if (tolerance.rms > 0.0f) return RelativeRms(actual, wanted);
  return actual.size() == wanted.size() ? FindWorst(actual, wanted).error : INFINITY;
}

int32_t FirstOtherChoice(const std::vector<SequenceTrace>& traces,
                         const std::vector<SequenceTrace>& precise,
                         size_t dim) {
  int32_t first = kNoLayer;
  for (size_t s = 0; s < traces.size(); ++s) {
    const SequenceTrace& ours = traces[s];
    const SequenceTrace& theirs = precise[s];
    for (const auto& [layer, taken] : theirs.taken) {
      const auto* found = Find(ours.taken, layer);
      if (found == nullptr || *found != taken) first = std::min(first, layer);
    }
    for (const auto& [key, experts] : theirs.experts) {
      const auto* found = Find(ours.experts, key);
      if (found == nullptr || *found != experts) first = std::min(first, std::atoi(key.c_str()));
    }
    for (const auto& [layer, hidden] : theirs.hidden) {
      const size_t rows = theirs.embed.size() / dim;
      if (RowsRun(Find(ours.hidden, layer), rows, dim) != RowsRun(&hidden, rows, dim))
        first = std::min(first, layer);
    }
  }
  return first;
}

void Comparison::Compare(const std::vector<SequenceTrace>& traces,
                         const ModelSpec& spec,
                         int32_t end) {
  Floats("hidden.embed", traces, [](const SequenceTrace& t) { return &t.embed; });
  for (const auto& entry : traces.front().hidden) {
    const int32_t layer = entry.first;
    if (layer >= end) return;
    for (const std::string& name :
         {absl::StrCat("mask.", layer), absl::StrCat("route.", layer, ".mask")}) {
      Decisions(
          name, traces, [layer](const SequenceTrace& t) { return Find(t.taken, layer); }, 0);
    }
    // Who was there to be chosen: who was taken before.
    Decisions(
        absl::StrCat("candidates.", layer), traces,
        [layer](const SequenceTrace& t) { return Find(t.taken, layer - 1); }, 0);
    for (const char* kind : {"att_v", "att_o", "att_q", "ffn"}) {
      const std::string key = absl::StrCat(layer, ".", kind);
      Decisions(
          absl::StrCat("route.", key, ".idx"), traces,
          [key](const SequenceTrace& t) { return Find(t.experts, key); }, AttentionExperts(spec));
    }
    Floats(absl::StrCat("hidden.", layer), traces,
           [layer](const SequenceTrace& t) { return Find(t.hidden, layer); });
  }
  if (end != kNoLayer) return;
  CompareValues(traces);
  for (const char* name : {"logits", "prefix_logits"})
    Floats(name, traces, [](const SequenceTrace& t) { return &t.logits; });
}

void Comparison::CompareValues(const std::vector<SequenceTrace>& traces) {
  for (const auto& [key, values] : traces.front().values) {
    const auto part = [&key = key](const SequenceTrace& t) { return Find(t.values, key); };
    Floats(key, traces, part);
    // What the folder has behind a sigmoid.
    std::vector<SequenceTrace> squashed(traces.size());
    const std::string name = absl::StrCat("sigmoid ", key);
    if (expected_.count(prefix_ + name) == 0) continue;
    for (size_t s = 0; s < traces.size(); ++s) {
      std::vector<float>& into = squashed[s].values[key];
      if (part(traces[s]) != nullptr) into = *part(traces[s]);
      for (float& value : into) value = 1.0f / (1.0f + std::exp(-value));
    }
    Floats(name, squashed, part);
  }
}

const ExpectedTensor* Comparison::Expected(const std::string& name) {
  const auto it = expected_.find(prefix_ + name);
  if (it == expected_.end()) return nullptr;
  compared_.insert(prefix_ + name);
  return &it->second;
}

template <typename Part>
void Comparison::Floats(const std::string& name,
                        const std::vector<SequenceTrace>& traces,
                        Part part) {
  const ExpectedTensor* expected = Expected(name);
  if (expected == nullptr) return;
  std::vector<float> wanted = expected->floats;
  std::vector<float> actual;
  const size_t share = wanted.size() / traces.size();
  for (const SequenceTrace& trace : traces) {
    const std::vector<float>* values = part(trace);
    const size_t before = actual.size();
    if (values != nullptr) actual.insert(actual.end(), values->begin(), values->end());
    // The last rows may not have run the layer: zeros, as for those before.
    if (actual.size() < before + share) actual.resize(before + share);
  }
  TensorResult result{prefix_ + name, INFINITY, AllowedFor(tolerance_, wanted)};
  if (const ExpectedTensor* chosen = Expected(kRowsOf + name); chosen != nullptr)
    LeaveOut(*chosen, tolerance_.rows > 0.0f, actual, wanted);
  result.worst = ErrorOf(tolerance_, actual, wanted);
  report_.tensors.push_back(std::move(result));
}

// How many decisions differ. Expected expert ids of heads count inside each head.
template <typename Part>
void Comparison::Decisions(const std::string& name,
                           const std::vector<SequenceTrace>& traces,
                           Part part,
                           int32_t experts_per_head) {
  const ExpectedTensor* expected = Expected(name);
  if (expected == nullptr) return;
  std::vector<int32_t> actual;
  const size_t share = expected->integers.size() / traces.size();
  for (const SequenceTrace& trace : traces) {
    const std::vector<int32_t>* values = part(trace);
    if (values == nullptr) continue;
    actual.insert(actual.end(), values->begin(), values->end());
    if (values->size() < share) actual.resize(actual.size() + share - values->size());
  }
  TensorResult result{prefix_ + name, INFINITY, 0.0f};
  if (actual.size() == expected->integers.size() && !actual.empty()) {
    const float part_off = absl::EndsWith(name, ".idx") ? tolerance_.experts : tolerance_.rows;
    result.allowed = std::floor(part_off * static_cast<float>(actual.size()));
    const bool heads = expected->shape.size() == 4;
    const auto choices = static_cast<size_t>(expected->shape.back());
    result.worst = 0.0f;
    for (size_t i = 0; i < actual.size(); ++i) {
      if (expected->integers[i] < 0) continue;  // a row that halted chooses nothing
      const auto head =
          heads ? static_cast<int32_t>(i / choices % static_cast<size_t>(expected->shape[2])) : 0;
      result.worst += actual[i] == head * experts_per_head + expected->integers[i] ? 0.0f : 1.0f;
    }
  }
  report_.tensors.push_back(std::move(result));
}

}  // namespace sluice
