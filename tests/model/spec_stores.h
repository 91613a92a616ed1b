// Weight stores without values, for tests of specs and mappings: names and shapes only, or another
// store with one tensor hidden or bent.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/weights/weight_store.h"

namespace sluice::testing {

class ShapeStore : public WeightStore {
 public:
  void Add(const std::string& name, std::vector<int64_t> shape) {
    shapes_[name].shape = std::move(shape);
  }
  void Erase(const std::string& name) { shapes_.erase(name); }

  bool Contains(std::string_view name) const override {
    return shapes_.find(name) != shapes_.end();
  }
  absl::StatusOr<TensorRange> Find(std::string_view name) const override {
    const auto it = shapes_.find(name);
    if (it == shapes_.end())
      return absl::NotFoundError("tensor '" + std::string(name) + "' is missing");
    return it->second;
  }
  absl::Status Read(std::string_view, int64_t, std::span<std::byte>) override {
    return absl::UnimplementedError("no values");
  }
  std::vector<std::string> Unused() const override {
    std::vector<std::string> names;
    for (const auto& [name, range] : shapes_) names.push_back(name);
    return names;
  }
  int64_t total_bytes() const override { return 0; }

 private:
  std::map<std::string, TensorRange, std::less<>> shapes_;
};

// Shows `base` except that `name` is missing, or has another shape or type.
class BentStore : public WeightStore {
 public:
  BentStore(const WeightStore& base, std::string name, std::optional<TensorRange> instead)
      : base_(base), name_(std::move(name)), instead_(std::move(instead)) {}

  bool Contains(std::string_view name) const override {
    return name == name_ ? instead_.has_value() : base_.Contains(name);
  }
  absl::StatusOr<TensorRange> Find(std::string_view name) const override {
    if (name != name_) return base_.Find(name);
    if (!instead_.has_value()) return absl::NotFoundError("tensor '" + name_ + "' is missing");
    return *instead_;
  }
  absl::Status Read(std::string_view, int64_t, std::span<std::byte>) override {
    return absl::UnimplementedError("no values");
  }
  std::vector<std::string> Unused() const override { return base_.Unused(); }
  int64_t total_bytes() const override { return base_.total_bytes(); }

 private:
  const WeightStore& base_;
  std::string name_;
  std::optional<TensorRange> instead_;
};

}  // namespace sluice::testing
