// Checked reading of a foreign config.json. The first error sticks and later reads return harmless
// values, so a mapping reads all its keys in straight lines and asks status() once, before it loops
// over anything. Not for keys that no mapping knows: those are ignored, as the published loaders
// do.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace sluice {

// The JSON object in a file of the model's directory. NotFound without the file, InvalidArgument
// when it holds something else; messages name the file.
absl::StatusOr<nlohmann::json> ReadConfigFile(const std::string& directory, const char* name);

// The same error, with the file in front.
absl::Status WithPath(const std::string& path, const absl::Status& status);

class ConfigReader {
 public:
  // `prefix` names the object inside the file in messages, "mod." for config["mod"].
  explicit ConfigReader(const nlohmann::json& object, std::string prefix = "")
      : object_(object), prefix_(std::move(prefix)) {}

  // The value of `key`, which must be in [lo, hi]. JSON null counts as absent; without a fallback
  // that is an error. After an error the result is lo.
  int64_t Int(const char* key,
              int64_t lo,
              int64_t hi,
              std::optional<int64_t> fallback = std::nullopt);
  int32_t Int32(const char* key,
                int32_t lo,
                int32_t hi,
                std::optional<int64_t> fallback = std::nullopt) {
    return static_cast<int32_t>(Int(key, lo, hi, fallback));
  }
  double Number(const char* key,
                double lo,
                double hi,
                std::optional<double> fallback = std::nullopt);
  bool Bool(const char* key, bool fallback);
  std::string String(const char* key, std::optional<std::string> fallback = std::nullopt);
  // An integer or a list of them; absent: empty.
  std::vector<int64_t> Ints(const char* key, int64_t lo, int64_t hi, size_t max_size);
  // The position of the value among `names`; after an error 0.
  size_t Choice(const char* key,
                const std::vector<const char*>& names,
                std::optional<size_t> fallback);

  bool Has(const char* key) const { return Member(key) != nullptr; }
  // Null when absent.
  const nlohmann::json* Member(const char* key) const;
  const nlohmann::json& object() const { return object_; }

  // Records an error about `key`, unless there is one already.
  void Invalid(const char* key, const std::string& what);
  void Unimplemented(const char* key, const std::string& what);
  void Merge(const absl::Status& status);
  const absl::Status& status() const { return status_; }

 private:
  const nlohmann::json& object_;
  std::string prefix_;
  absl::Status status_;
};

}  // namespace sluice
