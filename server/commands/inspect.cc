#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/model/model_spec_json.h"
#include "engine/model_files.h"
#include "engine/status_macros.h"
#include "server/commands/commands.h"
#include "server/commands/spec_summary.h"
#include "server/commands/startup_report.h"

namespace sluice::server {
namespace {

struct Inspection {
  ModelSpec spec;
  SpecSummary summary;
  int64_t file_bytes = 0;
  std::string tokenizer;  // kind, or why it cannot be used
  std::string chat_template;
  bool can_be_served = false;
};

absl::StatusOr<Inspection> Inspect(const EngineConfig& config) {
  ASSIGN_OR_RETURN(const ModelFiles files,
                   ModelFiles::Open(config.model_directory, config.require_manifest));
  Inspection inspection;
  inspection.spec = files.spec;
  inspection.summary = SummarizeSpec(inspection.spec);
  inspection.file_bytes = files.weight_file_bytes;
  inspection.tokenizer = files.tokenizer.ok() ? (*files.tokenizer)->summary().kind
                                              : std::string(files.tokenizer.status().message());
  inspection.chat_template = files.chat_template.ok()
                                 ? std::string((*files.chat_template)->kind())
                                 : std::string(files.chat_template.status().message());
  inspection.can_be_served = files.tokenizer.ok() && files.chat_template.ok();
  return inspection;
}

void PrintLine(const char* label, const std::string& text) {
  std::printf("%-18s %s\n", label, text.c_str());
}

void PrintText(const Inspection& inspection) {
  const SpecSummary& summary = inspection.summary;
  PrintLine("family", summary.family);
  PrintLine("layers", absl::StrCat(summary.layers, ", executed ", summary.layer_instances,
                                   " times per token at most"));
  if (summary.routed_instances > 0) {
    PrintLine("depth routers",
              absl::StrFormat("%d, expected to skip %.1f %% of their rows",
                              summary.routed_instances, 100.0 * summary.expected_skip_ratio));
  }
  if (summary.loops > 0) PrintLine("loops", absl::StrCat(summary.loops, " repeated groups"));
  if (summary.moe_instances > 0) {
    PrintLine("experts",
              absl::StrCat(summary.experts_per_layer, " in each of ", summary.moe_instances,
                           " layers, ", summary.experts_per_token, " per token"));
  }
  PrintLine("parameters", absl::StrFormat("%.2f M, %.2f M active per token",
                                          static_cast<double>(summary.parameters_total) / 1e6,
                                          summary.parameters_active / 1e6));
  PrintLine("weights on disk", HumanBytes(inspection.file_bytes));
  PrintLine("dim, vocabulary", absl::StrCat(summary.dim, ", ", summary.vocab_size));
  PrintLine("context", absl::StrCat(summary.max_positions, " tokens"));
  PrintLine("KV per token",
            absl::StrFormat("%s in bf16, %s at the trained capacity",
                            HumanBytes(summary.kv_bytes_per_token_bf16),
                            HumanBytes(static_cast<int64_t>(summary.expected_kv_bytes_per_token))));
  PrintLine("tokenizer", inspection.tokenizer);
  PrintLine("chat template", inspection.chat_template);
  PrintLine("served with", inspection.can_be_served
                               ? "cpu (bf16, f32, int8, int4), reference"
                               : "nothing: the tokenizer or the chat template cannot be used");
}

void PrintJson(const Inspection& inspection) {
  nlohmann::json json = ToJson(inspection.summary);
  json["weights_bytes"] = inspection.file_bytes;
  json["tokenizer"] = inspection.tokenizer;
  json["chat_template"] = inspection.chat_template;
  json["served_with"] = nlohmann::json::array();
  if (inspection.can_be_served)
    json["served_with"] = {"cpu:bf16", "cpu:f32", "cpu:int8", "cpu:int4", "reference"};
  json["spec"] = SpecToJson(inspection.spec);
  std::printf("%s\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

}  // namespace

int RunInspect(const ServerConfig& config) {
  const absl::StatusOr<Inspection> inspection = Inspect(config.engine);
  if (!inspection.ok()) {
    std::fprintf(stderr, "sluice: %s\n", std::string(inspection.status().message()).c_str());
    return ExitCodeOfLoadError(inspection.status());
  }
  if (config.print_json) {
    PrintJson(*inspection);
  } else {
    PrintText(*inspection);
  }
  return inspection->can_be_served ? kExitOk : kExitBadModel;
}

}  // namespace sluice::server
