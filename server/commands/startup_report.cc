#include "server/commands/startup_report.h"

#include <array>
#include <cstdio>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sluice::server {
namespace {

constexpr int kBarWidth = 40;

}  // namespace

StartupReport::StartupReport(LogFormat format, bool is_terminal, const Clock& clock)
    : format_(format), is_terminal_(is_terminal), clock_(clock), started_at_(clock.Now()) {}

void StartupReport::Line(std::string_view label, const std::string& text) const {
  if (format_ == LogFormat::kJson) {
    Log(LogLevel::kInfo, "startup", {{label, text}});
    return;
  }
  std::fprintf(stderr, "  %-9.*s %s\n", static_cast<int>(label.size()), label.data(), text.c_str());
  std::fflush(stderr);
}

void StartupReport::Engine(const EngineReport& report) const {
  Line("spec", report.spec_line);
  if (!report.sampling_line.empty()) Line("sampling", report.sampling_line);
  // One line per kernel with the ops it runs: most ops share one.
  std::map<std::string, std::string> ops_of;
  for (const kernels::KernelChoice& choice : report.kernels) {
    std::string& ops = ops_of[absl::StrCat(choice.kernel, " (", choice.reason, ")")];
    absl::StrAppend(&ops, ops.empty() ? "" : ", ", choice.op);
  }
  for (const auto& [kernel, ops] : ops_of) Line("kernel", absl::StrCat(kernel, ": ", ops));
  Line("weights",
       absl::StrCat(
           report.weights, report.weights == "int4" ? ", the head int8" : "",
           report.weights.starts_with("int") ? "; routers, gates, norms and biases in f32" : ""));
  if (!report.packed_cache.empty()) Line("packed", report.packed_cache);
  Line("threads", absl::StrCat(report.threads));
  Line("memory", absl::StrCat("weights ", HumanBytes(report.weight_bytes), ", keys and values ",
                              HumanBytes(report.kv_bytes), " = ", report.kv_tokens,
                              " tokens, arena ", HumanBytes(report.arena_bytes)));
}

void StartupReport::Progress(int64_t done_bytes, int64_t total_bytes) {
  if (total_bytes <= 0) return;
  const int percent = static_cast<int>(100 * done_bytes / total_bytes);
  if (is_terminal_ && format_ == LogFormat::kText) {
    if (percent <= shown_percent_) return;  // loading begins again after a damaged packed cache
    shown_percent_ = percent;
    const int filled = percent * kBarWidth / 100;
    std::fprintf(stderr, "\r  loading   [%s%s] %3d %%%s", std::string(filled, '#').c_str(),
                 std::string(kBarWidth - filled, '.').c_str(), percent, percent >= 100 ? "\n" : "");
    std::fflush(stderr);
    return;
  }
  if (percent / 10 <= shown_percent_ / 10 && shown_percent_ >= 0) return;
  shown_percent_ = percent;
  Line("loading", absl::StrCat(percent, " % of ", HumanBytes(total_bytes)));
}

void StartupReport::Ready() const {
  const double seconds = absl::ToDoubleSeconds(clock_.Now() - started_at_);
  if (format_ == LogFormat::kJson) {
    Log(LogLevel::kInfo, "ready", {{"seconds", seconds}});
    return;
  }
  std::fprintf(stderr, "ready in %.1f s\n", seconds);
  std::fflush(stderr);
}

std::string HumanBytes(int64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < kUnits.size()) {
    value /= 1024.0;
    ++unit;
  }
  return unit == 0 ? absl::StrCat(bytes, " B") : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

}  // namespace sluice::server
