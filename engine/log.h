// The log: one line per event on stderr, `time level event key=value ...` or one JSON object,
// written by a background thread. Values are escaped, so that no value can forge a line or a field.
// Never log prompts, generated text, keys or routing traces. Not for the start-up report or
// metrics.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace sluice {

enum class LogFormat : uint8_t { kText, kJson };
enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError };

struct LogField {
  LogField(std::string_view field_key, std::string_view field_value)
      : key(field_key), value(field_value), quoted(true) {}
  LogField(std::string_view field_key, const char* field_value)
      : LogField(field_key, std::string_view(field_value)) {}
  LogField(std::string_view field_key, int64_t number)
      : key(field_key), value(std::to_string(number)), quoted(false) {}
  LogField(std::string_view field_key, int number)
      : LogField(field_key, static_cast<int64_t>(number)) {}
  LogField(std::string_view field_key, double number);

  std::string_view key;
  std::string value;
  bool quoted;  // a string in JSON
};

// Call once at start, before other threads exist. Without it the first Log call uses text at kInfo.
void StartLog(LogFormat format, LogLevel level);
// Writes what is queued. Call before the process ends.
void FlushLog();

// `event`: a short constant phrase. When the queue of 8,192 lines is full the oldest line is
// dropped.
void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields = {});

// Lines dropped since start because the writer could not keep up.
uint64_t LogLinesDropped();

// One line without its time stamp; for tests.
std::string FormatLogLine(LogFormat format,
                          LogLevel level,
                          std::string_view event,
                          std::initializer_list<LogField> fields);

}  // namespace sluice
