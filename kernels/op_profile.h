// Where the time of a stretch of ops went: one row per op and label, with what the op needed.
// Filled by the backend that WithProfile returns; read and reset between steps by whoever reports.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "kernels/backend.h"

namespace sluice::kernels {

struct OpCost {
  std::string_view op;     // "linear", "attention", ...; lives as long as the program
  std::string_view label;  // of its weight, which it lives as long as; empty where it has none
  WeightFormat weights = WeightFormat::kF32;  // without any: what it computes in
  int64_t calls = 0;
  double seconds = 0.0;
  // Weights read once a call, keys and values once a call and sequence; what is multiplied with
  // them is not counted, it lies in caches. Of ops on rows alone, the rows that they read and
  // write.
  double bytes = 0.0;
  // Additions, multiplications, comparisons; a function such as exp or an activation counts as one.
  double operations = 0.0;
};

class OpProfile {
 public:
  void Add(const OpCost& cost);
  void AddBookkeeping(double seconds) { bookkeeping_ += seconds; }
  void Reset();
  const std::vector<OpCost>& costs() const { return costs_; }  // in order of first use
  double seconds() const;                                      // of all ops
  // What measuring itself took, outside of the ops.
  double bookkeeping_seconds() const { return bookkeeping_; }

 private:
  std::vector<OpCost> costs_;
  double bookkeeping_ = 0.0;
};

// `backend`, whose ops are timed into `profile` (which outlives it) until it ends. Same bits; a
// step may allocate.
std::unique_ptr<Backend> WithProfile(std::unique_ptr<Backend> backend, OpProfile* profile);

}  // namespace sluice::kernels
