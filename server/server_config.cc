#include "server/server_config.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "engine/status_macros.h"
#include "server/flag_table.h"

namespace sluice::server {
namespace {

constexpr int64_t kMaxFlagFileBytes = 1 << 20;

struct CommandRow {
  Command command;
  std::string_view name;
  uint8_t bit;
  std::string_view help;
};
constexpr CommandRow kCommands[] = {
    {Command::kServe, "serve", kOnServe, "serve a model over HTTP and gRPC"},
    {Command::kGenerate, "generate", kOnGenerate, "run one prompt, print text and routing summary"},
    {Command::kBench, "bench", kOnBench, "measure speed, sparse against dense"},
    {Command::kBenchMachine, "bench machine", kOnBenchMachine,
     "measure what this machine or its GPU can do: reading, arithmetic, hand-over"},
    {Command::kBenchProfile, "bench profile", kOnBenchProfile,
     "account one decode step and one prefill chunk by op"},
    {Command::kBenchQuality, "bench quality", kOnBenchQuality,
     "compare what rounded weights predict with what bf16 weights do"},
    {Command::kBenchServe, "bench serve", kOnBenchServe,
     "put a load on any OpenAI-compatible server and measure it"},
    {Command::kInspect, "inspect", kOnInspect, "print what a model directory holds"},
    {Command::kVersion, "version", 0, "print the version"},
};

const CommandRow* RowOf(Command command) {
  for (const CommandRow& row : kCommands) {
    if (row.command == command) return &row;
  }
  return nullptr;
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

// Levenshtein distance; names are short.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

// " Did you mean --port?" when some name is near enough to be a slip.
std::string Suggestion(std::string_view wrong,
                       const std::vector<std::string_view>& names,
                       const char* prefix) {
  std::string_view best;
  size_t best_distance = wrong.size() / 3 + 2;
  for (const std::string_view name : names) {
    const bool starts_with = wrong.size() >= 3 && name.starts_with(wrong);
    const size_t distance = starts_with ? 1 : EditDistance(wrong.substr(0, 64), name);
    if (distance < best_distance) {
      best = name;
      best_distance = distance;
    }
  }
  return best.empty() ? "" : absl::StrCat("; did you mean ", prefix, View(best), "?");
}

absl::Status UnknownFlag(std::string_view name, uint8_t command_bit) {
  std::vector<std::string_view> names = {"flagfile", "help"};
  for (const FlagRow& row : FlagTable()) {
    if ((row.commands & command_bit) != 0) names.push_back(row.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown flag --", View(name), Suggestion(name, names, "--")));
}

const FlagRow* FindFlag(std::string_view name) {
  for (const FlagRow& row : FlagTable()) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

using FlagValues = std::map<std::string, std::string, std::less<>>;  // name -> text

// `--name=value`, `--name value`, `--switch`, `--no-switch`. Later ones win.
absl::Status CollectArguments(const std::vector<std::string>& arguments,
                              uint8_t command_bit,
                              FlagValues& values,
                              bool& help) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string_view argument = arguments[i];
    if (argument == "--help" || argument == "-h") {
      help = true;
      continue;
    }
    if (!argument.starts_with("--") || argument.size() < 3) {
      return absl::InvalidArgumentError(
          absl::StrCat("unexpected argument \"", arguments[i], "\"; flags look like --name=value"));
    }
    argument.remove_prefix(2);
    const size_t equals = argument.find('=');
    const std::string name(argument.substr(0, equals));
    const FlagRow* row = FindFlag(name);
    const bool is_negated = name.starts_with("no-") && row == nullptr;
    if (is_negated) row = FindFlag(name.substr(3));
    const bool is_switch = row != nullptr && row->kind == FlagKind::kSwitch;
    if (name != "flagfile" && (row == nullptr || (row->commands & command_bit) == 0 ||
                               (is_negated && (!is_switch || equals != std::string_view::npos)))) {
      return UnknownFlag(name, command_bit);
    }
    const std::string key = name == "flagfile" ? name : std::string(row->name);
    if (equals != std::string_view::npos) {
      values[key] = std::string(argument.substr(equals + 1));
    } else if (is_switch) {
      values[key] = is_negated ? "false" : "true";
    } else if (i + 1 < arguments.size()) {
      values[key] = arguments[++i];
    } else {
      return absl::InvalidArgumentError(absl::StrCat("--", name, ": a value is missing"));
    }
  }
  return absl::OkStatus();
}

// Lines `[--]name=value` or a switch's name; `#` starts a comment line. One file may serve several
// commands, so a flag of another command is skipped, but a flag of no command is an error.
absl::Status CollectFile(const std::string& path, uint8_t command_bit, FlagValues& values) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::InvalidArgumentError(absl::StrCat("--flagfile: cannot read ", path));
  std::string line;
  int64_t bytes = 0;
  for (int number = 1; std::getline(file, line); ++number) {
    bytes += static_cast<int64_t>(line.size()) + 1;
    if (bytes > kMaxFlagFileBytes)
      return absl::InvalidArgumentError("--flagfile: larger than 1 MiB");
    absl::string_view text = absl::StripAsciiWhitespace(line);
    if (text.empty() || text[0] == '#') continue;
    absl::ConsumePrefix(&text, "--");
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(text, absl::MaxSplits('=', 1));
    const std::string name(absl::StripAsciiWhitespace(parts.first));
    const FlagRow* row = FindFlag(name);
    if (row == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", number, ": ", UnknownFlag(name, command_bit).message()));
    }
    if ((row->commands & command_bit) == 0) continue;
    const bool has_value = absl::StrContains(text, "=");
    if (!has_value && row->kind != FlagKind::kSwitch) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", number, ": --", name, ": a value is missing"));
    }
    values[name] = has_value ? std::string(absl::StripAsciiWhitespace(parts.second)) : "true";
  }
  return absl::OkStatus();
}

// Values of the environment are added only where nothing stands yet.
void CollectEnvironment(const Environment& environment, uint8_t command_bit, FlagValues& values) {
  for (const FlagRow& row : FlagTable()) {
    if ((row.commands & command_bit) == 0) continue;
    if (const auto value = environment(EnvironmentName(row.name))) {
      values.emplace(std::string(row.name), *value);
    }
  }
}

absl::Status CheckLoad(const LoadConfig& load) {
  if (load.url.empty()) {
    return absl::InvalidArgumentError("--url is required, such as --url=http://127.0.0.1:8080");
  }
  if ((load.rate > 0.0) == (load.concurrency > 0)) {
    return absl::InvalidArgumentError(
        "one of --rate (open loop) and --concurrency (closed loop) is required");
  }
  return absl::OkStatus();
}

absl::Status CheckDevice(const std::string& device) {
  std::string_view name = device;
  int number = 0;
  if (name == "cpu" || name == "reference" || name == "cuda") return absl::OkStatus();
  if (name.starts_with("cuda:") && absl::SimpleAtoi(View(name.substr(5)), &number) && number >= 0)
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--device is \"", device, "\"; it takes cpu, cuda, cuda:N or reference"));
}

// None for auto.
absl::StatusOr<std::optional<int64_t>> PrefetchBytesOf(const std::string& text) {
  if (text == "auto") return std::nullopt;
  int64_t bytes = 0;
  if (absl::SimpleAtoi(text, &bytes) && kernels::IsPrefetchDistance(bytes)) return bytes;
  return absl::InvalidArgumentError(
      absl::StrCat("--prefetch-bytes: expected auto, or a multiple of ", kernels::kPrefetchUnit,
                   " from 0 to ", kernels::kMaxPrefetchBytes));
}

absl::Status CheckCombinations(ServerConfig& config) {
  if (config.command == Command::kBenchServe) return CheckLoad(config.load);
  if (config.command == Command::kVersion) return absl::OkStatus();
  if (config.command == Command::kBenchMachine) return CheckDevice(config.engine.device);
  if (config.engine.model_directory.empty()) {
    return absl::InvalidArgumentError("--model is required (or SLUICE_MODEL)");
  }
  if (absl::Status status = CheckDevice(config.engine.device); !status.ok()) return status;
  config.engine.weights = WeightFormatOf(config.weights);
  ASSIGN_OR_RETURN(config.engine.prefetch_bytes, PrefetchBytesOf(config.prefetch_bytes));
  if (config.engine.require_manifest && !config.engine.packed_cache.empty()) {
    return absl::InvalidArgumentError(
        "--packed-cache: manifest.json says nothing about that file; leave it out with "
        "--require-manifest");
  }
  if (config.command == Command::kGenerate && config.generate.prompt.empty()) {
    return absl::InvalidArgumentError("--prompt is required; use --prompt=- for standard input");
  }
  if (config.generate.temperature < 0.0 && config.generate.temperature != -1.0) {
    return absl::InvalidArgumentError("--temperature: expected a number from 0 to 2, or -1");
  }
  // The measuring commands sample as their own flags say.
  const bool measures = config.command == Command::kBench ||
                        config.command == Command::kBenchProfile ||
                        config.command == Command::kBenchQuality;
  if (measures) config.engine.generation_config = "none";
  if (config.command != Command::kServe) return absl::OkStatus();
  const SecurityConfig& security = config.security;
  if (security.tls_cert.empty() != security.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key belong together");
  }
  if (!security.tls_client_ca.empty() && security.tls_cert.empty()) {
    return absl::InvalidArgumentError("--tls-client-ca needs --tls-cert and --tls-key");
  }
  const ListenerConfig& listeners = config.listeners;
  const bool is_open = security.api_key_file.empty() && !security.allow_no_auth;
  if (is_open && !IsLoopbackHost(listeners.host)) {
    return absl::InvalidArgumentError(
        "--host is not loopback and there is no --api-key-file; add one, or --allow-no-auth");
  }
  if (is_open && listeners.grpc_port >= 0 && !IsLoopbackHost(listeners.grpc_host)) {
    return absl::InvalidArgumentError(
        "--grpc-host is not loopback and there is no --api-key-file; add one, or --allow-no-auth");
  }
  return absl::OkStatus();
}

// What holds without a flag. A program that makes an engine itself says how many rows it wants.
ServerConfig Defaults(Command command) {
  ServerConfig config;
  config.engine.max_batch_tokens = 0;
  // There nobody waits for a token while prompts come in, so that as many as can start together.
  if (command == Command::kBench) config.engine.max_step_ms = 60'000.0;
  return config;
}

absl::StatusOr<const CommandRow*> FindCommand(const std::string& name) {
  std::vector<std::string_view> names;
  for (const CommandRow& row : kCommands) {
    if (row.name == name) return &row;
    names.push_back(row.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown command \"", name, "\"", Suggestion(name, names, "")));
}

}  // namespace

absl::StatusOr<ServerConfig> ParseServerConfig(const std::vector<std::string>& arguments,
                                               const Environment& environment) {
  ServerConfig config;
  if (arguments.empty()) return absl::InvalidArgumentError("a command is missing");
  if (arguments[0] == "--help" || arguments[0] == "-h" || arguments[0] == "help") {
    config.help = true;
    return config;
  }
  std::string command_name = arguments[0] == "--version" ? "version" : arguments[0];
  size_t words = 1;
  if (command_name == "bench" && arguments.size() > 1 && !arguments[1].starts_with("-")) {
    absl::StrAppend(&command_name, " ", arguments[1]);
    words = 2;
  }
  ASSIGN_OR_RETURN(const CommandRow* command, FindCommand(command_name));
  config = Defaults(command->command);
  config.command = command->command;
  FlagValues values;
  RETURN_IF_ERROR(
      CollectArguments({arguments.begin() + static_cast<std::ptrdiff_t>(words), arguments.end()},
                       command->bit, values, config.help));
  if (config.help) return config;
  CollectEnvironment(environment, command->bit, values);

  std::optional<std::string> flag_file = environment(EnvironmentName("flagfile"));
  if (const auto given = values.find("flagfile"); given != values.end()) {
    flag_file = given->second;
    values.erase(given);
  }
  if (flag_file.has_value() && !flag_file->empty()) {
    FlagValues file_values;
    RETURN_IF_ERROR(CollectFile(*flag_file, command->bit, file_values));
    values.merge(file_values);  // keeps what is there
  }
  for (const auto& [name, value] : values) RETURN_IF_ERROR(SetFlag(*FindFlag(name), value, config));
  if (values.contains("draft-tokens") && config.engine.draft_exit_layer == 0)
    return absl::InvalidArgumentError("--draft-tokens needs --draft-exit-layer above 0");
  RETURN_IF_ERROR(CheckCombinations(config));
  return config;
}

std::optional<kernels::WeightFormat> WeightFormatOf(const std::string& choice) {
  using kernels::WeightFormat;
  for (const auto format :
       {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    if (choice == kernels::Name(format)) return format;
  }
  return std::nullopt;
}

std::string HelpText(Command command) {
  const CommandRow* row = RowOf(command);
  std::string text;
  if (row == nullptr) {
    text = "usage: sluice COMMAND [--flag=value ...]\n\n";
    for (const CommandRow& each : kCommands) {
      absl::StrAppendFormat(&text, "  %-13s %s\n", View(each.name), View(each.help));
    }
    return text + "\n`sluice COMMAND --help` lists its flags.\n";
  }
  absl::StrAppend(&text, "usage: sluice ", View(row->name), " [--flag=value ...]\n",
                  View(row->help),
                  ". Every flag can also be set as SLUICE_<NAME>\nor in --flagfile=FILE; ",
                  "precedence: flag, environment, file.\n");
  ServerConfig defaults = Defaults(command);
  for (int group = 0; group < kNumFlagGroups; ++group) {
    bool has_title = false;
    for (const FlagRow& flag : FlagTable()) {
      if (flag.group != static_cast<FlagGroup>(group) || (flag.commands & row->bit) == 0) continue;
      if (!has_title) absl::StrAppend(&text, "\n", Name(flag.group), ":\n");
      has_title = true;
      const std::string left = flag.hint.empty()
                                   ? absl::StrCat("--", View(flag.name))
                                   : absl::StrCat("--", View(flag.name), "=", View(flag.hint));
      const std::string value = FlagValue(flag, defaults);
      const bool shows_value = !value.empty() && flag.kind != FlagKind::kSwitch;
      absl::StrAppendFormat(&text, "  %-34s %s%s\n", left, View(flag.help),
                            shows_value ? absl::StrCat(" [", value, "]") : "");
    }
  }
  return text;
}

std::optional<std::string> ReadEnvironment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return std::nullopt;
  return std::string(value);
}

bool IsLoopbackHost(const std::string& host) {
  if (host == "localhost" || host == "::1" || host == "[::1]") return true;
  const std::vector<absl::string_view> parts = absl::StrSplit(host, '.');
  if (parts.size() != 4 || parts[0] != "127") return false;
  for (const absl::string_view part : parts) {
    if (part.empty() || part.size() > 3) return false;
    for (const char c : part) {
      if (!absl::ascii_isdigit(static_cast<unsigned char>(c))) return false;
    }
  }
  return true;
}

}  // namespace sluice::server
