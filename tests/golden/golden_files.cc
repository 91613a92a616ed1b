#include "tests/golden/golden_files.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/weights/model_file.h"
#include "engine/weights/safetensors.h"
#include "tests/golden/served_mod.h"
#include "tests/golden/served_mot.h"

namespace sluice {
namespace {

using nlohmann::json;

// Ours <- theirs, models.md 3.4.
constexpr std::pair<const char*, const char*> kMoeutKeys[] = {
    {"vocab_size", "vocab"},
    {"hidden_size", "d_model"},
    {"num_hidden_layers", "n_layers"},
    {"group_size", "group_size"},
    {"num_attention_heads", "n_heads"},
    {"head_dim", "d_head"},
    {"rotary_dim", "n_rotate"},
    {"num_experts", "ff_n_experts"},
    {"moe_intermediate_size", "ff_expert_size"},
    {"num_experts_per_tok", "ff_k"},
    {"num_attention_experts", "att_n_experts"},
    {"num_attention_experts_per_tok", "att_k"},
};

absl::StatusOr<json> MoeutConfig(const json& golden) {
  json config = {{"model_type", "moeut"}, {"max_position_embeddings", 256}};
  for (const auto& [ours, theirs] : kMoeutKeys) {
    ASSIGN_OR_RETURN(const int64_t value, ReadInt(golden, theirs, 1, 1 << 20));
    config[ours] = value;
  }
  // The clean code ignores att_k when there is one expert.
  if (config["num_attention_experts"] == 1) config["num_attention_experts_per_tok"] = 1;
  ASSIGN_OR_RETURN(config["layer_norm_eps"], ReadNumber(golden, "ln_eps", 0.0, 1.0));
  ASSIGN_OR_RETURN(config["rope_theta"], ReadNumber(golden, "rope_base", 1.0, 1e9, 10'000.0));
  ASSIGN_OR_RETURN(config["layer_order"], ReadString(golden, "group_type", "abab"));
  return config;
}

// The config that the server reads, from the config of a fixture of `family`.
struct ServedForm {
  const char* family;
  absl::StatusOr<json> (*convert)(const json& golden);
};
constexpr ServedForm kServedForms[] = {
    {"moeut", MoeutConfig}, {"mod", ServedModConfig}, {"mot", ServedMotConfig}};

absl::Status ReadLongs(const ModelFile& file,
                       int64_t offset,
                       const SafetensorsEntry& entry,
                       ExpectedTensor& into) {
  std::vector<int64_t> values(static_cast<size_t>(entry.bytes / 8));
  RETURN_IF_ERROR(file.ReadAt(offset, std::as_writable_bytes(std::span(values))));
  into.shape = entry.shape;
  for (const int64_t value : values) into.integers.push_back(static_cast<int32_t>(value));
  return absl::OkStatus();
}

std::string FromEnvironment(const char* variable, const char* fallback) {
  const char* value = std::getenv(variable);
  return value == nullptr ? fallback : value;
}

}  // namespace

std::string SourceDirectory() { return FromEnvironment("SLUICE_SOURCE_DIR", "."); }
std::string SharedDirectory() { return SourceDirectory() + "/../shared"; }

absl::StatusOr<ExpectedTensors> ReadExpected(const std::string& directory,
                                             const std::string& name) {
  ASSIGN_OR_RETURN(const ModelFile file, ModelFile::Open(directory, name));
  ASSIGN_OR_RETURN(const SafetensorsContents contents, ReadSafetensorsHeader(file));
  ExpectedTensors tensors;
  for (const SafetensorsEntry& entry : contents.entries) {
    if (!entry.dtype.has_value()) {  // 64-bit token ids and masks, as PyTorch keeps them
      RETURN_IF_ERROR(
          ReadLongs(file, contents.values_begin + entry.offset, entry, tensors[entry.name]));
      continue;
    }
    ExpectedTensor& tensor = tensors[entry.name];
    tensor.shape = entry.shape;
    const auto count = static_cast<size_t>(entry.bytes / 4);
    const int64_t offset = contents.values_begin + entry.offset;
    if (*entry.dtype == kernels::DType::kI32) {
      tensor.integers.resize(count);
      RETURN_IF_ERROR(file.ReadAt(offset, std::as_writable_bytes(std::span(tensor.integers))));
    } else {
      tensor.floats.resize(count);
      RETURN_IF_ERROR(file.ReadAt(offset, std::as_writable_bytes(std::span(tensor.floats))));
    }
  }
  return tensors;
}

ScratchDirectory::ScratchDirectory(const std::string& name)
    : path_(absl::StrCat(
          FromEnvironment("SLUICE_BUILD_DIR", "/tmp"), "/scratch-", name, "-", ::getpid())) {
  std::filesystem::remove_all(path_);
  std::filesystem::create_directories(path_);
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

absl::Status WriteServedModel(const std::string& golden_directory, const std::string& out) {
  ASSIGN_OR_RETURN(const json golden,
                   ReadJsonFile(golden_directory + "/config.json", 1 << 20, JsonLimits()));
  ASSIGN_OR_RETURN(const std::string family, ReadString(golden, "family"));
  const auto form =
      std::find_if(std::begin(kServedForms), std::end(kServedForms),
                   [&family](const ServedForm& candidate) { return family == candidate.family; });
  if (form == std::end(kServedForms)) {
    return absl::UnimplementedError(golden_directory +
                                    "/config.json: no served form of this family");
  }
  const absl::StatusOr<json> config = form->convert(golden);
  if (!config.ok()) {
    return absl::Status(
        config.status().code(),
        absl::StrCat(golden_directory, "/config.json: ", config.status().message()));
  }
  std::ofstream(out + "/config.json") << config->dump(1);
  std::error_code error;
  std::filesystem::copy_file(golden_directory + "/weights.safetensors", out + "/model.safetensors",
                             error);
  if (!error) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat(golden_directory, "/weights.safetensors: ", error.message()));
}

}  // namespace sluice
