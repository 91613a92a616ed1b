#include "engine/log.h"

#include <cmath>
#include <cstdio>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "spdlog/async.h"
#include "spdlog/async_logger.h"
#include "spdlog/sinks/stdout_sinks.h"

namespace sluice {
namespace {

constexpr size_t kQueueLines = 8192;

struct LogState {
  LogFormat format = LogFormat::kText;
  std::shared_ptr<spdlog::logger> logger;
  // Last, so that its thread is joined before the logger it writes through goes: the library's own
  // reference counts say as much, but not to ThreadSanitizer, which does not see inside it.
  std::shared_ptr<spdlog::details::thread_pool> pool;
};

// The process has one stderr, so it has one log; everything else in Sluice is passed by reference.
// Shared, because a thread may be inside Log while FlushLog lets go of it.
struct CurrentLog {
  std::mutex mutex;
  std::shared_ptr<LogState> state;
};

CurrentLog& Current() {
  static CurrentLog& current = *new CurrentLog;
  return current;
}

spdlog::level::level_enum SpdlogLevel(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      break;
  }
  return spdlog::level::err;
}

const char* LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      break;
  }
  return "error";
}

// Printable ASCII stays; the rest becomes \n, \t, \", \\ or \u00XX. Bytes above 0x7f pass only in
// text that is already valid UTF-8 by construction (model names); they too are escaped bytewise to
// be safe.
std::string Escape(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 2);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (c == '\n') {
      out.append("\\n");
    } else if (c == '\t') {
      out.append("\\t");
    } else if (byte < 0x20 || byte >= 0x7f) {
      absl::StrAppendFormat(&out, "\\u%04x", static_cast<unsigned>(byte));
    } else {
      out.push_back(c);
    }
  }
  return out;
}

bool NeedsQuotes(std::string_view text) {
  if (text.empty()) return true;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte <= 0x20 || byte >= 0x7f || c == '"' || c == '\\' || c == '=') return true;
  }
  return false;
}

std::shared_ptr<LogState> MakeState(LogFormat format, LogLevel level) {
  auto state = std::make_shared<LogState>();
  state->format = format;
  state->pool = std::make_shared<spdlog::details::thread_pool>(kQueueLines, 1);
  state->logger = std::make_shared<spdlog::async_logger>(
      "sluice", std::make_shared<spdlog::sinks::stderr_sink_mt>(), state->pool,
      spdlog::async_overflow_policy::overrun_oldest);
  state->logger->set_pattern("%v");
  state->logger->set_level(SpdlogLevel(level));
  state->logger->flush_on(spdlog::level::info);
  return state;
}

std::shared_ptr<LogState> State() {
  CurrentLog& current = Current();
  const std::lock_guard lock(current.mutex);
  if (current.state == nullptr) current.state = MakeState(LogFormat::kText, LogLevel::kInfo);
  return current.state;
}

}  // namespace

LogField::LogField(std::string_view field_key, double number)
    : key(field_key), value(absl::StrCat(number)), quoted(!std::isfinite(number)) {}

void StartLog(LogFormat format, LogLevel level) {
  CurrentLog& current = Current();
  const std::lock_guard lock(current.mutex);
  current.state = MakeState(format, level);
}

void FlushLog() {
  CurrentLog& current = Current();
  std::shared_ptr<LogState> last;
  const std::lock_guard lock(current.mutex);
  // The pool's end joins its thread, which first writes everything that is queued.
  last = std::move(current.state);
}

std::string FormatLogLine(LogFormat format,
                          LogLevel level,
                          std::string_view event,
                          std::initializer_list<LogField> fields) {
  std::string line;
  if (format == LogFormat::kJson) {
    line = absl::StrCat("\"level\":\"", LevelName(level), "\",\"event\":\"", Escape(event), "\"");
    for (const LogField& field : fields) {
      const char* quote = field.quoted ? "\"" : "";
      absl::StrAppend(&line, ",\"", Escape(field.key), "\":", quote, Escape(field.value), quote);
    }
    return line;
  }
  line = absl::StrCat(LevelName(level), " ", Escape(event));
  for (const LogField& field : fields) {
    const char* quote = NeedsQuotes(field.value) ? "\"" : "";
    absl::StrAppend(&line, " ", Escape(field.key), "=", quote, Escape(field.value), quote);
  }
  return line;
}

void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  const std::shared_ptr<LogState> state = State();
  if (!state->logger->should_log(SpdlogLevel(level))) return;
  const std::string time =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  const std::string body = FormatLogLine(state->format, level, event, fields);
  const std::string line = state->format == LogFormat::kJson
                               ? absl::StrCat("{\"time\":\"", time, "\",", body, "}")
                               : absl::StrCat(time, " ", body);
  state->logger->log(SpdlogLevel(level), spdlog::string_view_t(line.data(), line.size()));
}

uint64_t LogLinesDropped() {
  CurrentLog& current = Current();
  const std::lock_guard lock(current.mutex);
  return current.state == nullptr ? 0 : current.state->pool->overrun_counter();
}

}  // namespace sluice
