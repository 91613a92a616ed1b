// switches.md against the folders and against the mappings: the folders have the values that it
// says, turning a switch back changes the model or is refused, and no key that a mapping reads is
// missing.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/architectures/architectures.h"
#include "engine/architectures/config_key_log.h"
#include "engine/json_reader.h"
#include "engine/model/model_spec_json.h"
#include "engine/weights/weight_store.h"
#include "tests/golden/golden_files.h"

namespace sluice {
namespace {

using nlohmann::json;

struct Entry {
  std::string value;
  std::vector<std::string> folders;
};

struct Switch {
  std::string key;  // a path in config.json, or a tensor's name
  bool is_tensor = false;
  std::vector<Entry> entries;
  std::vector<std::string> refused;
};

struct Section {
  std::string source;  // file name in engine/architectures
  std::string title;
  std::vector<Switch> switches;
  std::set<std::string> sizes;

  // Whether a row is about `key`, which may be any part of a path.
  bool Mentions(const std::string& key) const {
    return std::any_of(switches.begin(), switches.end(), [&key](const Switch& row) {
      const std::vector<std::string> parts = absl::StrSplit(row.key, '.');
      return !row.is_tensor && std::find(parts.begin(), parts.end(), key) != parts.end();
    });
  }
};

std::string ReadText(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// "false: a, b; true: c; refused: x, y"
void ReadEntries(const std::string& cell, Switch& row) {
  const std::vector<std::string> parts = absl::StrSplit(cell, "; ");
  for (const std::string& part : parts) {
    const size_t colon = part.rfind(": ");
    ASSERT_NE(colon, std::string::npos) << row.key << ": " << part;
    const std::string value = part.substr(0, colon);
    const std::vector<std::string> names = absl::StrSplit(part.substr(colon + 2), ", ");
    if (value == "refused") {
      row.refused = names;
    } else {
      row.entries.push_back({value, names});
    }
  }
}

void ReadRow(const std::string& line, Section& section) {
  static const std::regex form(R"(\| (tensor )?`([^`]+)` \| (.+) \|)");
  std::smatch match;
  ASSERT_TRUE(std::regex_match(line, match, form)) << line;
  Switch row{match[2], match[1].matched, {}, {}};
  ReadEntries(match[3], row);
  section.switches.push_back(std::move(row));
}

std::vector<Section> ReadTable() {
  std::vector<Section> sections;
  std::istringstream lines(ReadText(SourceDirectory() + "/tests/golden/switches.md"));
  bool sizes = false;
  for (std::string line; std::getline(lines, line);) {
    if (absl::StartsWith(line, "### ")) {
      const std::vector<std::string> parts = absl::StrSplit(line.substr(4), ": ");
      sections.push_back({parts[0], parts.back(), {}, {}});
    } else if (absl::StartsWith(line, "| `") || absl::StartsWith(line, "| tensor ")) {
      ReadRow(line, sections.back());
    }
    absl::string_view rest = line;
    sizes = absl::ConsumePrefix(&rest, "Sizes and numbers: ") || (sizes && !line.empty());
    if (!sizes) continue;
    for (absl::string_view name : absl::StrSplit(rest, absl::ByAnyChar(" ,."), absl::SkipEmpty()))
      sections.back().sizes.insert(std::string(name));
  }
  return sections;
}

// A folder as the server would load it.
struct Model {
  json config;
  std::unique_ptr<WeightStore> weights;
  std::unique_ptr<ScratchDirectory> scratch;
};

bool SharedIsThere() { return std::filesystem::exists(SharedDirectory() + "/goldens"); }

// Null for a folder of ../shared where that is not there.
const Model* Open(const std::string& folder) {
  static auto& models = *new std::map<std::string, Model>();
  const auto found = models.find(folder);
  if (found != models.end()) return &found->second;
  absl::string_view name = folder;
  std::string path = absl::StrCat(SourceDirectory(), "/tests/golden/", folder);
  Model model;
  if (absl::ConsumePrefix(&name, "shared/")) {
    if (!SharedIsThere()) return nullptr;
    model.scratch = std::make_unique<ScratchDirectory>(absl::StrCat("switches-", name));
    const absl::Status written =
        WriteServedModel(absl::StrCat(SharedDirectory(), "/goldens/", name), model.scratch->path());
    EXPECT_TRUE(written.ok()) << folder << ": " << written;
    path = model.scratch->path();
  }
  auto config = ReadJsonFile(path + "/config.json", 1 << 20, JsonLimits());
  auto weights = WeightStore::Open(path);
  EXPECT_TRUE(config.ok() && weights.ok()) << "no folder " << folder;
  if (!config.ok() || !weights.ok()) return nullptr;
  model.config = *std::move(config);
  model.weights = *std::move(weights);
  return &models.emplace(folder, std::move(model)).first->second;
}

const json* Find(const json& config, const std::string& path) {
  const json* at = &config;
  const std::vector<std::string> parts = absl::StrSplit(path, '.');
  for (const std::string& part : parts) {
    at = at->is_object() ? FindMember(*at, part.c_str()) : nullptr;
    if (at == nullptr) return nullptr;
  }
  return at;
}

// Null takes the key away.
json With(json config, const std::string& path, const json& value) {
  json* at = &config;
  const std::vector<std::string> parts = absl::StrSplit(path, '.');
  for (size_t i = 0; i + 1 < parts.size(); ++i) at = &(*at)[parts[i]];
  if (value.is_null()) {
    at->erase(parts.back());
  } else {
    (*at)[parts.back()] = value;
  }
  return config;
}

json ValueOf(const std::string& text) {
  const json parsed = json::parse(text, nullptr, false);
  return parsed.is_discarded() ? json(text) : parsed;
}

void CheckHas(const Switch& row, const Entry& entry, const std::string& folder) {
  const Model* model = Open(folder);
  if (model == nullptr) return;
  const json* found = Find(model->config, row.key);
  const bool there = row.is_tensor ? model->weights->Contains(row.key) : found != nullptr;
  if (entry.value == "absent" || entry.value == "present" || row.is_tensor) {
    EXPECT_EQ(there, entry.value == "present") << folder << ": " << row.key;
    return;
  }
  ASSERT_TRUE(there) << folder << ": " << row.key;
  EXPECT_EQ(*found, ValueOf(entry.value)) << folder << ": " << row.key;
}

// The model of `folder` must not be the same with the value that `first` has.
void CheckIsRead(const Switch& row, const std::string& folder, const std::string& first) {
  const Model* model = Open(folder);
  const Model* other = Open(first);
  if (model == nullptr || other == nullptr) return;
  const auto spec = SpecFromConfig(model->config, *model->weights);
  ASSERT_TRUE(spec.ok()) << folder << ": " << spec.status();
  const json* value = Find(other->config, row.key);
  const auto turned = SpecFromConfig(
      With(model->config, row.key, value == nullptr ? json() : *value), *model->weights);
  EXPECT_TRUE(!turned.ok() || SpecToJson(*turned) != SpecToJson(*spec))
      << folder << " is the same model with " << row.key << " as in " << first;
}

TEST(GoldenSwitches, FoldersHaveTheValues) {
  for (const Section& section : ReadTable()) {
    for (const Switch& row : section.switches) {
      EXPECT_GE(row.entries.size() + (row.refused.empty() ? 0 : 1), row.is_tensor ? 1u : 2u)
          << row.key << ": a switch has two values";
      for (const Entry& entry : row.entries) {
        for (const std::string& folder : entry.folders) CheckHas(row, entry, folder);
      }
    }
  }
  if (!SharedIsThere()) GTEST_SKIP() << "without the folders of " << SharedDirectory();
}

TEST(GoldenSwitches, TurnedBackTheModelIsAnother) {
  for (const Section& section : ReadTable()) {
    for (const Switch& row : section.switches) {
      for (size_t i = 1; i < row.entries.size() && !row.is_tensor; ++i) {
        for (const std::string& folder : row.entries[i].folders)
          CheckIsRead(row, folder, row.entries[0].folders[0]);
      }
    }
  }
  if (!SharedIsThere()) GTEST_SKIP() << "without the folders of " << SharedDirectory();
}

TEST(GoldenSwitches, ValuesThatAreNotRunAreRefused) {
  for (const Section& section : ReadTable()) {
    for (const Switch& row : section.switches) {
      if (row.refused.empty()) continue;
      const Model* model = Open(row.entries.at(0).folders.at(0));
      if (model == nullptr) continue;
      for (const std::string& value : row.refused) {
        const auto spec =
            SpecFromConfig(With(model->config, row.key, ValueOf(value)), *model->weights);
        ASSERT_FALSE(spec.ok()) << row.key << ": " << value;
        const std::string leaf = row.key.substr(row.key.rfind('.') + 1);
        EXPECT_THAT(std::string(spec.status().message()), ::testing::HasSubstr(leaf));
      }
    }
  }
}

// How a mapping reads a key: with a method of ConfigReader, or with one of the functions and loops
// that take key names.
std::map<std::string, std::set<std::string>> KeysRead(const std::string& source) {
  static const std::regex call(
      R"re((?:\.(Int|Int32|Number|Bool|String|Ints|Choice|Has|Member)\(|(ReadActivation|ReadDecide)\(\w+,))re"
      R"re(\s*"([a-z_0-9]+)")re");
  static const std::regex list(
      R"((RefuseSwitches\(\w+,|RefuseOtherValues\(\w+,|const char\* key :)\s*(\{[^;)]*\})\))");
  static const std::regex first(R"re([{,]\s*"([a-z_0-9]+)")re");
  static const std::regex of_pair(R"re(\{\s*"([a-z_0-9]+)",)re");
  std::map<std::string, std::set<std::string>> keys;
  for (std::sregex_iterator it(source.begin(), source.end(), call), end; it != end; ++it)
    keys[(*it)[3]].insert((*it)[1].matched ? (*it)[1] : (*it)[2]);
  for (std::sregex_iterator it(source.begin(), source.end(), list), end; it != end; ++it) {
    const std::string names = (*it)[2];
    const bool pairs = absl::StartsWith((*it)[1].str(), "RefuseOtherValues");
    const std::regex& name = pairs ? of_pair : first;
    for (std::sregex_iterator n(names.begin(), names.end(), name); n != end; ++n)
      keys[(*n)[1]].insert("list");
  }
  return keys;
}

// The values that a Choice lists, by key.
std::map<std::string, std::set<std::string>> Choices(const std::string& source) {
  static const std::regex call(R"re(Choice\(\s*"([a-z_0-9]+)",\s*\{([^}]*)\})re");
  static const std::regex name("\"([^\"]+)\"");
  std::map<std::string, std::set<std::string>> choices;
  for (std::sregex_iterator it(source.begin(), source.end(), call), end; it != end; ++it) {
    const std::string names = (*it)[2];
    for (std::sregex_iterator n(names.begin(), names.end(), name); n != end; ++n)
      choices[(*it)[1]].insert((*n)[1]);
  }
  return choices;
}

void CheckChoices(const Section& section, const std::string& key, std::set<std::string> values) {
  bool has_default = false;
  for (const Switch& row : section.switches) {
    if (row.key.substr(row.key.rfind('.') + 1) != key) continue;
    for (const Entry& entry : row.entries) {
      values.erase(entry.value);
      has_default |= entry.value == "absent";
    }
    for (const std::string& value : row.refused) values.erase(value);
  }
  EXPECT_LE(values.size(), has_default ? 1u : 0u)
      << section.source << ": '" << key << "' has values without a folder, " << *values.begin();
}

TEST(GoldenSwitches, EveryKeyOfAMappingIsThere) {
  const std::vector<Section> sections = ReadTable();
  // Not mappings, or without keys of a config.json (gguf_model_test has those of GGUF,
  // generation_config_test those of that file).
  const std::set<std::string> without = {
      "architectures.cc", "config_reader.cc", "gguf_config.cc",       "gguf_end_tokens.cc",
      "gguf_model.cc",    "gguf_names.cc",    "generation_config.cc", "weight_check.cc"};
  for (const auto& file :
       std::filesystem::directory_iterator(SourceDirectory() + "/engine/architectures")) {
    const std::string name = file.path().filename().string();
    if (file.path().extension() != ".cc" || without.count(name) != 0) continue;
    const auto section =
        std::find_if(sections.begin(), sections.end(),
                     [&name](const Section& candidate) { return candidate.source == name; });
    ASSERT_NE(section, sections.end()) << "no table for " << name;
    const std::string source = ReadText(file.path().string());
    for (const auto& [key, how] : KeysRead(source)) {
      const bool is_size = section->sizes.count(key) != 0;
      EXPECT_TRUE(is_size || section->Mentions(key)) << name << " reads '" << key << "'";
      const bool by_type = how.count("Bool") + how.count("Choice") + how.count("ReadActivation") +
                               how.count("ReadDecide") !=
                           0;
      EXPECT_FALSE(is_size && by_type) << name << ": '" << key << "' is a switch, not a size";
    }
    for (const auto& [key, values] : Choices(source)) CheckChoices(*section, key, values);
  }
}

// The mapping of `source` and everything of engine/architectures that it includes.
void AddIncluded(const std::string& source, std::set<std::string>& sources) {
  static const std::regex include(R"re(#include "engine/architectures/([a-z_0-9]+)\.h")re");
  if (!sources.insert(source).second) return;
  const std::string stem = source.substr(0, source.rfind('.'));
  const std::string path = SourceDirectory() + "/engine/architectures/" + stem;
  const std::string text = ReadText(path + ".cc") + ReadText(path + ".h");
  for (std::sregex_iterator it(text.begin(), text.end(), include), end; it != end; ++it)
    AddIncluded((*it)[1].str() + ".cc", sources);
}

// Whether the table of a source that maps `model_type` has `key`. Every family may have routers and
// adapters of router_tuning.cc and soft_adapter.cc.
bool IsInATable(const std::vector<Section>& sections,
                const std::string& model_type,
                const std::string& key) {
  std::set<std::string> sources = {"router_tuning.cc", "soft_adapter.cc"};
  for (const Section& section : sections) {
    const std::vector<std::string> types = absl::StrSplit(section.title, ", ");
    if (std::find(types.begin(), types.end(), model_type) != types.end())
      AddIncluded(section.source, sources);
  }
  return std::any_of(sections.begin(), sections.end(), [&](const Section& section) {
    return sources.count(section.source) != 0 &&
           (section.sizes.count(key) != 0 || section.Mentions(key));
  });
}

// What a mapping asks for when it runs: also keys behind constants, composed names and lists.
TEST(GoldenSwitches, EveryKeyThatIsAskedForIsThere) {
  const std::vector<Section> sections = ReadTable();
  size_t folders = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(SourceDirectory() + "/tests/golden")) {
    if (!std::filesystem::exists(entry.path() / "config.json")) continue;
    const std::string folder = entry.path().filename().string();
    const Model* model = Open(folder);
    ASSERT_NE(model, nullptr) << folder;
    const ConfigKeyLog log;
    const auto spec = SpecFromConfig(model->config, *model->weights);
    ASSERT_TRUE(spec.ok()) << folder << ": " << spec.status();
    EXPECT_GT(log.keys().size(), 5u) << folder;
    const std::string model_type = model->config.at("model_type").get<std::string>();
    for (const std::string& key : log.keys()) {
      EXPECT_TRUE(IsInATable(sections, model_type, key))
          << folder << ": the mapping of " << model_type << " asks for '" << key << "'";
    }
    ++folders;
  }
  EXPECT_GE(folders, 20u);
}

TEST(GoldenSwitches, EveryFamilyHasATable) {
  std::string titles;
  for (const Section& section : ReadTable()) absl::StrAppend(&titles, ", ", section.title, ",");
  for (const Architecture& architecture : Architectures()) {
    EXPECT_THAT(titles, ::testing::HasSubstr(
                            absl::StrCat(", ", std::string(architecture.model_type), ",")));
  }
}

}  // namespace
}  // namespace sluice
