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
#include "tests/golden/served_recurrent.h"

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

// att_out is what attention adds; the engine shows the rows behind it.
void RenameMoeut(const json& /*golden*/, ExpectedTensors& expected) {
  std::string before = "hidden.embed";
  for (int32_t i = 0; expected.count(absl::StrCat("hidden.", i)) != 0; ++i) {
    const std::string behind = absl::StrCat("sublayer.", i);
    RenameTensor(absl::StrCat("att_out.", i), behind, expected);
    const auto added = expected.find(behind);
    const std::vector<float>& rows = expected[before].floats;
    if (added != expected.end() && added->second.floats.size() == rows.size()) {
      for (size_t v = 0; v < rows.size(); ++v) added->second.floats[v] += rows[v];
    }
    before = absl::StrCat("hidden.", i);
  }
}

// The config that the server reads, from the config of a fixture of `family`, and what else
// differs.
struct ServedForm {
  const char* family;
  absl::StatusOr<json> (*convert)(const json& golden);
  void (*rename)(const json& golden, ExpectedTensors& expected) = nullptr;
  // Of a folder that holds one layer (kind "layer").
  ExpectedTensors (*layer_weights)(const ExpectedTensors& layer, const ExpectedTensor& x) = nullptr;
};
constexpr ServedForm kServedForms[] = {
    {"moeut", MoeutConfig, RenameMoeut},
    {"mod", ServedModConfig, RenameMod},
    {"mot", ServedMotConfig},
    {"huginn", ServedHuginnConfig, RenameHuginn},
    {"mor", ServedRecursionsConfig, RenameRecursions},
    {"sut", ServedSparseUniversalConfig, RenameSparseUniversal, OriginalLayerWeights},
};

struct GoldenFolder {
  json config;
  const ServedForm* form = nullptr;
  bool layer = false;
};

absl::StatusOr<GoldenFolder> ReadFolder(const std::string& directory) {
  GoldenFolder folder;
  ASSIGN_OR_RETURN(folder.config, ReadJsonFile(directory + "/config.json", 1 << 20, JsonLimits()));
  ASSIGN_OR_RETURN(const std::string family, ReadString(folder.config, "family"));
  ASSIGN_OR_RETURN(const std::string kind, ReadString(folder.config, "kind", ""));
  folder.layer = kind == "layer";
  for (const ServedForm& form : kServedForms) {
    if (family == form.family && (!folder.layer || form.layer_weights != nullptr))
      folder.form = &form;
  }
  if (folder.form != nullptr) return folder;
  return absl::UnimplementedError(directory + "/config.json: no served form of this family");
}

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

absl::Status RenameExpected(const std::string& golden_directory, ExpectedTensors& expected) {
  ASSIGN_OR_RETURN(const GoldenFolder folder, ReadFolder(golden_directory));
  if (folder.form->rename != nullptr) folder.form->rename(folder.config, expected);
  return absl::OkStatus();
}

void RenameTensor(const std::string& from, const std::string& to, ExpectedTensors& expected) {
  auto node = expected.extract(from);
  if (node.empty()) return;
  node.key() = to;
  expected.insert(std::move(node));
}

void WriteSafetensors(const ExpectedTensors& tensors, const std::string& path) {
  json header = json::object();
  size_t end = 0;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = end;
    end += 4 * tensor.floats.size();
    header[name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
  }
  const std::string text = header.dump();
  const uint64_t size = text.size();
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&size), 8) << text;
  for (const auto& [name, tensor] : tensors) {
    out.write(reinterpret_cast<const char*>(tensor.floats.data()),
              static_cast<std::streamsize>(4 * tensor.floats.size()));
  }
}

absl::Status WriteServedModel(const std::string& golden_directory, const std::string& out) {
  ASSIGN_OR_RETURN(const GoldenFolder folder, ReadFolder(golden_directory));
  const absl::StatusOr<json> config = folder.form->convert(folder.config);
  if (!config.ok()) {
    return absl::Status(
        config.status().code(),
        absl::StrCat(golden_directory, "/config.json: ", config.status().message()));
  }
  std::ofstream(out + "/config.json") << config->dump(1);
  if (folder.layer) {
    ASSIGN_OR_RETURN(const ExpectedTensors layer,
                     ReadExpected(golden_directory, "weights.safetensors"));
    ASSIGN_OR_RETURN(const ExpectedTensors expected,
                     ReadExpected(golden_directory, "expected.safetensors"));
    const auto x = expected.find("x");
    if (x == expected.end() || x->second.shape.size() != 3)
      return absl::InvalidArgumentError(golden_directory + "/expected.safetensors: no rows x");
    WriteSafetensors(folder.form->layer_weights(layer, x->second), out + "/model.safetensors");
    return absl::OkStatus();
  }
  std::error_code error;
  std::filesystem::copy_file(golden_directory + "/weights.safetensors", out + "/model.safetensors",
                             error);
  if (!error) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat(golden_directory, "/weights.safetensors: ", error.message()));
}

}  // namespace sluice
