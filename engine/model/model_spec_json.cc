#include "engine/model/model_spec_json.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/model/model_spec_fields.h"

namespace sluice {
namespace {

using nlohmann::json;
using spec_fields::EnumNames;
using spec_fields::Fields;

constexpr std::array<const char*, 5> kBlockNames = {"attention", "dense_ffn", "moe_ffn",
                                                    "latent_attention", "mixture_ffn"};

// The shortest decimal that reads back as the same float.
double ShortestDecimal(float value) {
  char text[32];
  for (int digits = 6; digits < 9; ++digits) {
    std::snprintf(text, sizeof(text), "%.*g", digits, static_cast<double>(value));
    if (std::strtof(text, nullptr) == value) return std::strtod(text, nullptr);
  }
  return static_cast<double>(value);
}

class Writer {
 public:
  json Take() { return std::move(object_); }

  // Absent optionals, empty names and empty lists are their defaults and are left out.
  template <typename T>
  void operator()(const char* key, T& field) {
    json value = ToValue(field);
    if (!value.is_null()) object_[key] = std::move(value);
  }

 private:
  static json ToValue(bool& value) { return value; }
  static json ToValue(int32_t& value) { return value; }
  static json ToValue(int64_t& value) { return value; }
  static json ToValue(float& value) { return ShortestDecimal(value); }
  static json ToValue(double& value) { return value; }
  static json ToValue(std::string& value) { return value.empty() ? json() : json(value); }
  static json ToValue(BlockSpec& block) {
    json value = json::object();
    value[kBlockNames[block.index()]] = std::visit([](auto& spec) { return ToValue(spec); }, block);
    return value;
  }
  template <typename T>
  static json ToValue(std::optional<T>& value) {
    return value.has_value() ? ToValue(*value) : json();
  }
  template <typename T>
  static json ToValue(std::vector<T>& list) {
    if (list.empty()) return {};
    json value = json::array();
    for (T& item : list) value.push_back(ToValue(item));
    return value;
  }
  template <typename T>
  static json ToValue(T& value) {
    if constexpr (std::is_enum_v<T>) {
      return std::string(EnumNames<T>::kNames.at(static_cast<size_t>(value)));
    } else {
      Writer writer;
      writer.object_ = json::object();
      Fields(writer, value);
      return writer.Take();
    }
  }

  friend json WriteModel(ModelSpec& spec);
  json object_ = json::object();
};

json WriteModel(ModelSpec& spec) { return Writer::ToValue(spec); }

// Reads one object; the first error wins and names the path of its key.
class Reader {
 public:
  Reader(const json& object, std::string path, absl::Status& status)
      : object_(object), path_(std::move(path)), status_(status) {}

  template <typename T>
  void operator()(const char* key, T& field) {
    const json* value = FindMember(object_, key);
    if (object_.contains(key)) ++known_;
    if (value != nullptr && status_.ok()) Read(*value, PathOf(key), field);
  }

  void CheckNothingLeft() {
    if (known_ != object_.size()) Fail(path_, "has an unknown key");
  }

 private:
  std::string PathOf(const char* key) const {
    return path_.empty() ? key : absl::StrCat(path_, ".", key);
  }

  void Fail(const std::string& path, const char* what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat("'", path, "' ", what));
  }

  void Read(const json& value, const std::string& path, bool& field) {
    const auto* found = value.get_ptr<const json::boolean_t*>();
    if (found == nullptr) return Fail(path, "must be true or false");
    field = *found;
  }
  void Read(const json& value, const std::string& path, std::string& field) {
    const auto* found = value.get_ptr<const json::string_t*>();
    if (found == nullptr) return Fail(path, "must be a string");
    field = *found;
  }
  void Read(const json& value, const std::string& path, int32_t& field) {
    field = static_cast<int32_t>(ReadInteger(value, path, std::numeric_limits<int32_t>::max()));
  }
  void Read(const json& value, const std::string& path, int64_t& field) {
    field = ReadInteger(value, path, int64_t{1} << 48);
  }
  void Read(const json& value, const std::string& path, double& field) {
    field = ReadFloat(value, path, std::numeric_limits<double>::max());
  }
  void Read(const json& value, const std::string& path, float& field) {
    field = static_cast<float>(
        ReadFloat(value, path, static_cast<double>(std::numeric_limits<float>::max())));
  }
  void Read(const json& value, const std::string& path, BlockSpec& field) {
    if (!value.is_object() || value.size() != 1) return Fail(path, "must name one kind of block");
    const std::string& kind = value.begin().key();
    if (kind == kBlockNames[0]) return Read(*value.begin(), path, field.emplace<AttentionSpec>());
    if (kind == kBlockNames[1]) return Read(*value.begin(), path, field.emplace<DenseFfnSpec>());
    if (kind == kBlockNames[2]) return Read(*value.begin(), path, field.emplace<MoeFfnSpec>());
    if (kind == kBlockNames[3])
      return Read(*value.begin(), path, field.emplace<LatentAttentionSpec>());
    if (kind == kBlockNames[4]) return Read(*value.begin(), path, field.emplace<MixtureFfnSpec>());
    Fail(path, "must be attention, dense_ffn, moe_ffn, latent_attention or mixture_ffn");
  }
  template <typename T>
  void Read(const json& value, const std::string& path, std::optional<T>& field) {
    Read(value, path, field.emplace());
  }
  template <typename T>
  void Read(const json& value, const std::string& path, std::vector<T>& field) {
    if (!value.is_array()) return Fail(path, "must be a list");
    field.resize(value.size());
    for (size_t i = 0; i < field.size() && status_.ok(); ++i) {
      Read(value[i], absl::StrCat(path, "[", i, "]"), field[i]);
    }
  }
  template <typename T>
  void Read(const json& value, const std::string& path, T& field) {
    if constexpr (std::is_enum_v<T>) {
      const auto* name = value.get_ptr<const json::string_t*>();
      for (size_t i = 0; name != nullptr && i < EnumNames<T>::kNames.size(); ++i) {
        if (*name != EnumNames<T>::kNames[i]) continue;
        field = static_cast<T>(i);
        return;
      }
      Fail(path, "is not one of the known names");
    } else {
      if (!value.is_object()) return Fail(path, "must be an object");
      Reader reader(value, path, status_);
      Fields(reader, field);
      reader.CheckNothingLeft();
    }
  }

  int64_t ReadInteger(const json& value, const std::string& path, int64_t largest) {
    const json wrapped = {{"value", value}};
    const absl::StatusOr<int64_t> number = ReadInt(wrapped, "value", -largest, largest);
    if (!number.ok()) Fail(path, "must be an integer in range");
    return number.value_or(0);
  }
  double ReadFloat(const json& value, const std::string& path, double largest) {
    const json wrapped = {{"value", value}};
    const absl::StatusOr<double> number = ReadNumber(wrapped, "value", -largest, largest);
    if (!number.ok()) Fail(path, "must be a number in range");
    return number.value_or(0.0);
  }

  const json& object_;
  std::string path_;
  absl::Status& status_;
  size_t known_ = 0;
};

}  // namespace

json SpecToJson(const ModelSpec& spec) {
  ModelSpec copy = spec;  // the field lists take what they visit by reference, for the reader
  return WriteModel(copy);
}

absl::StatusOr<ModelSpec> SpecFromJson(const json& json) {
  if (!json.is_object()) return absl::InvalidArgumentError("a model spec must be a JSON object");
  absl::Status status;
  ModelSpec spec;
  Reader reader(json, "", status);
  Fields(reader, spec);
  reader.CheckNothingLeft();
  if (!status.ok()) return status;
  return spec;
}

}  // namespace sluice
