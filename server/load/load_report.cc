#include "server/load/load_report.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sluice::server {
namespace {

using absl::ToDoubleMilliseconds;

bool IsGood(const RequestRecord& record, const LatencyObjective& objective) {
  if (record.chunks == 0 ||
      ToDoubleMilliseconds(record.first_token - record.due) > objective.ttft_ms)
    return false;
  const auto late = std::count_if(record.gaps_ms.begin(), record.gaps_ms.end(), [&](auto gap) {
    return static_cast<double>(gap) > objective.itl_ms;
  });
  return 100 * late <= static_cast<int64_t>(record.gaps_ms.size());
}

// The latencies of all requests, before they are summed up.
struct Latencies {
  std::vector<double> ttft_ms, itl_ms, per_token_ms, end_to_end_ms, lateness_ms;

  void Add(const RequestRecord& record) {
    end_to_end_ms.push_back(ToDoubleMilliseconds(record.ended - record.due));
    if (record.chunks == 0) return;
    ttft_ms.push_back(ToDoubleMilliseconds(record.first_token - record.due));
    itl_ms.insert(itl_ms.end(), record.gaps_ms.begin(), record.gaps_ms.end());
    if (record.output_tokens() < 2) return;
    per_token_ms.push_back(ToDoubleMilliseconds(record.last_token - record.first_token) /
                           static_cast<double>(record.output_tokens() - 1));
  }
};

nlohmann::json ToJson(const LatencySummary& summary) {
  if (summary.count == 0) return nullptr;
  return {{"count", summary.count}, {"mean", summary.mean}, {"p50", summary.p50},
          {"p90", summary.p90},     {"p99", summary.p99},   {"max", summary.max}};
}

void AppendRow(std::string& text, std::string_view name, const LatencySummary& summary) {
  const absl::string_view label(name.data(), name.size());
  if (summary.count == 0) {
    absl::StrAppendFormat(&text, "  %-26s %10s\n", label, "-");
    return;
  }
  absl::StrAppendFormat(&text, "  %-26s %10.2f %10.2f %10.2f %10.2f %10.2f\n", label, summary.p50,
                        summary.p90, summary.p99, summary.max, summary.mean);
}

// What a reader must know to compare.
std::vector<std::string> Notes(const LoadReport& report, const ServerTraits& traits) {
  std::vector<std::string> notes;
  if (report.interrupted) notes.push_back("interrupted: this is the part until then");
  if (!traits.takes_ignore_eos) notes.push_back("the server refuses ignore_eos");
  if (report.short_answers > 0) {
    notes.push_back(absl::StrCat(
        report.short_answers, " answers ended before --output-tokens: ignore_eos is not honoured"));
  }
  if (!traits.counts_tokens) {
    notes.push_back("the server does not count tokens: each chunk is taken for one");
  } else if (report.tokens_per_chunk > 1.01) {
    notes.push_back(
        absl::StrFormat("a chunk holds %.2f tokens on average", report.tokens_per_chunk));
  }
  return notes;
}

std::string LoopText(const LoadPlan& plan) {
  if (plan.rate > 0.0)
    return absl::StrFormat("Poisson arrivals, %g/s, seed %d", plan.rate, plan.seed);
  return absl::StrFormat("%d clients", plan.concurrency);
}

std::string GoodputText(const LoadReport& report, const LatencyObjective& objective) {
  return absl::StrFormat(
      "goodput %.2f requests/s: %d of %d within %g ms to the first token and %g ms for 99 %% of "
      "gaps",
      report.PerSecond(report.good), report.good, report.sent, objective.ttft_ms, objective.itl_ms);
}

}  // namespace

double LoadReport::PerSecond(int64_t count) const {
  return elapsed_seconds > 0.0 ? static_cast<double>(count) / elapsed_seconds : 0.0;
}

LoadReport MakeLoadReport(const LoadMeasurement& measurement,
                          const LoadPlan& plan,
                          const LatencyObjective& objective) {
  LoadReport report;
  report.sent = static_cast<int64_t>(measurement.records.size());
  report.elapsed_seconds = absl::ToDoubleSeconds(measurement.elapsed);
  report.generator_cpu_seconds = absl::ToDoubleSeconds(measurement.generator_cpu);
  report.most_in_flight = measurement.most_in_flight;
  report.interrupted = measurement.interrupted;
  Latencies latencies;
  int64_t chunks = 0, counted_prompts = 0, prompt_tokens = 0;
  for (const RequestRecord& record : measurement.records) {
    const auto end = static_cast<size_t>(record.end);
    if (report.by_end[end]++ == 0) report.first_message[end] = record.message;
    latencies.lateness_ms.push_back(ToDoubleMilliseconds(record.sent - record.due));
    if (record.end != RequestEnd::kAnswered) {
      if (record.end != RequestEnd::kInterrupted) ++report.failed;
      continue;
    }
    ++report.answered;
    latencies.Add(record);
    report.output_tokens += record.output_tokens();
    chunks += record.chunks;
    if (record.completion_tokens.has_value() && record.output_tokens() < plan.output_tokens)
      ++report.short_answers;
    if (IsGood(record, objective)) ++report.good;
    if (!record.prompt_tokens.has_value()) continue;
    ++counted_prompts;
    prompt_tokens += *record.prompt_tokens;
  }
  if (counted_prompts > 0) {
    report.prompt_tokens_per_request =
        static_cast<double>(prompt_tokens) / static_cast<double>(counted_prompts);
  }
  if (chunks > 0) {
    report.tokens_per_chunk =
        static_cast<double>(report.output_tokens) / static_cast<double>(chunks);
  }
  report.ttft_ms = Summarize(std::move(latencies.ttft_ms));
  report.itl_ms = Summarize(std::move(latencies.itl_ms));
  report.per_token_ms = Summarize(std::move(latencies.per_token_ms));
  report.end_to_end_ms = Summarize(std::move(latencies.end_to_end_ms));
  report.lateness_ms = Summarize(std::move(latencies.lateness_ms));
  return report;
}

nlohmann::json ToJson(const LoadReport& report,
                      const LoadPlan& plan,
                      const ServerTraits& traits,
                      const LatencyObjective& objective) {
  nlohmann::json errors = nlohmann::json::object();
  for (int end = 0; end < kNumRequestEnds; ++end) {
    const auto index = static_cast<size_t>(end);
    if (end == static_cast<int>(RequestEnd::kAnswered) || report.by_end[index] == 0) continue;
    errors[Name(static_cast<RequestEnd>(end))] = {{"count", report.by_end[index]},
                                                  {"first_message", report.first_message[index]}};
  }
  return {
      {"model", traits.model},
      {"requests", plan.requests},
      {"warmup_requests", plan.warmup_requests},
      {"rate", plan.rate},
      {"concurrency", plan.concurrency},
      {"output_tokens_asked", plan.output_tokens},
      {"seed", plan.seed},
      {"slo", {{"ttft_ms", objective.ttft_ms}, {"itl_p99_ms", objective.itl_ms}}},
      {"interrupted", report.interrupted},
      {"sent", report.sent},
      {"answered", report.answered},
      {"failed", report.failed},
      {"errors", std::move(errors)},
      {"short_answers", report.short_answers},
      {"takes_ignore_eos", traits.takes_ignore_eos},
      {"counts_tokens", traits.counts_tokens},
      {"elapsed_seconds", report.elapsed_seconds},
      {"most_in_flight", report.most_in_flight},
      {"prompt_tokens_per_request", report.prompt_tokens_per_request},
      {"output_tokens", report.output_tokens},
      {"tokens_per_chunk", report.tokens_per_chunk},
      {"requests_per_second", report.PerSecond(report.answered)},
      {"output_tokens_per_second", report.PerSecond(report.output_tokens)},
      {"good", report.good},
      {"goodput_requests_per_second", report.PerSecond(report.good)},
      {"ttft_ms", ToJson(report.ttft_ms)},
      {"itl_ms", ToJson(report.itl_ms)},
      {"per_token_ms", ToJson(report.per_token_ms)},
      {"end_to_end_ms", ToJson(report.end_to_end_ms)},
      {"generator_lateness_ms", ToJson(report.lateness_ms)},
      {"generator_cpu_seconds", report.generator_cpu_seconds},
  };
}

std::string ToText(const LoadReport& report,
                   const LoadPlan& plan,
                   const ServerTraits& traits,
                   const LatencyObjective& objective) {
  std::string text = absl::StrFormat("%s: %d requests, %s; %d warm-up requests not counted\n",
                                     PrintableLine(traits.model), plan.requests, LoopText(plan),
                                     plan.warmup_requests);
  absl::StrAppendFormat(&text, "%d sent, %d answered, %d failed in %.2f s; at most %d at once\n",
                        report.sent, report.answered, report.failed, report.elapsed_seconds,
                        report.most_in_flight);
  for (size_t end = 0; end < report.by_end.size(); ++end) {
    if (end == static_cast<size_t>(RequestEnd::kAnswered) || report.by_end[end] == 0) continue;
    absl::StrAppendFormat(&text, "  %-13s %6d  first: %s\n", Name(static_cast<RequestEnd>(end)),
                          report.by_end[end], report.first_message[end]);
  }
  absl::StrAppendFormat(&text, "%.2f requests/s, %.1f output tokens/s",
                        report.PerSecond(report.answered), report.PerSecond(report.output_tokens));
  if (report.prompt_tokens_per_request > 0.0) {
    absl::StrAppendFormat(&text, ", %.1f prompt tokens a request",
                          report.prompt_tokens_per_request);
  }
  absl::StrAppendFormat(&text, "\n\n  %-26s %10s %10s %10s %10s %10s\n", "ms", "p50", "p90", "p99",
                        "max", "mean");
  AppendRow(text, "time to first token", report.ttft_ms);
  AppendRow(text, "between chunks (ITL)", report.itl_ms);
  AppendRow(text, "per output token", report.per_token_ms);
  AppendRow(text, "end to end", report.end_to_end_ms);
  absl::StrAppend(&text, "\n", GoodputText(report, objective), "\n");
  absl::StrAppendFormat(
      &text, "load generator: %.3f CPU s, %.1f %% of one core; sent %.2f ms late at p99\n",
      report.generator_cpu_seconds,
      report.elapsed_seconds > 0.0 ? 100.0 * report.generator_cpu_seconds / report.elapsed_seconds
                                   : 0.0,
      report.lateness_ms.p99);
  for (const std::string& note : Notes(report, traits))
    absl::StrAppend(&text, "note: ", note, "\n");
  return text;
}

LatencyPlot MakeLatencyPlot(const LoadReport& report,
                            const LoadPlan& plan,
                            const LatencyObjective& objective,
                            const std::string& title) {
  LatencyPlot plot{.title = title};
  plot.notes.push_back(
      absl::StrFormat("%s: %d sent, %d answered, %d failed in %.2f s%s; %.1f output tokens/s",
                      LoopText(plan), report.sent, report.answered, report.failed,
                      report.elapsed_seconds, report.interrupted ? " until it was interrupted" : "",
                      report.PerSecond(report.output_tokens)));
  plot.notes.push_back(GoodputText(report, objective));
  plot.curves.push_back({.heading = "Time to first token",
                         .unit = "requests",
                         .quantiles_ms = report.ttft_ms.half_percents,
                         .objective_ms = objective.ttft_ms});
  plot.curves.push_back({.heading = "Gap between chunks",
                         .unit = "gaps",
                         .quantiles_ms = report.itl_ms.half_percents,
                         .objective_ms = objective.itl_ms});
  return plot;
}

}  // namespace sluice::server
