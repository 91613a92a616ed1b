#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "engine/status_macros.h"
#include "server/flag_table.h"

namespace sluice::server {
namespace {

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

absl::Status Expected(const FlagRow& row, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("--", View(row.name), ": expected ", what));
}

struct Suffix {
  std::string_view text;
  double factor;
};
constexpr Suffix kByteSuffixes[] = {
    {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"TiB", 1099511627776.0},
    {"KB", 1e3},     {"MB", 1e6},        {"GB", 1e9},           {"TB", 1e12},
    {"K", 1024.0},   {"M", 1048576.0},   {"G", 1073741824.0},   {"T", 1099511627776.0},
    {"B", 1.0},
};
constexpr Suffix kSecondSuffixes[] = {{"ms", 1e-3}, {"s", 1.0}, {"m", 60.0}};

template <size_t kCount>
std::string_view TakeSuffix(std::string_view value,
                            const Suffix (&suffixes)[kCount],
                            double* factor) {
  *factor = 1.0;
  for (const Suffix& suffix : suffixes) {
    if (value.size() > suffix.text.size() && value.ends_with(suffix.text)) {
      *factor = suffix.factor;
      return value.substr(0, value.size() - suffix.text.size());
    }
  }
  return value;
}

// Digits with at most one sign and point: no hex, no "inf", no spaces.
bool ParseDecimal(std::string_view text, double* number) {
  for (const char c : text) {
    if (!absl::ascii_isdigit(static_cast<unsigned char>(c)) && c != '.' && c != '-' && c != 'e') {
      return false;
    }
  }
  return absl::SimpleAtod(View(text), number) && std::isfinite(*number);
}

std::string Range(const FlagRow& row) {
  return absl::StrCat("from ", row.lo, " to ", absl::StrFormat("%.0f", row.hi));
}

absl::StatusOr<double> ReadQuantity(const FlagRow& row, std::string_view value) {
  double number = 0.0;
  double factor = 1.0;
  if (row.kind == FlagKind::kInteger) {
    int64_t integer = 0;
    if (!absl::SimpleAtoi(View(value), &integer)) {
      return Expected(row, absl::StrCat("a whole number ", Range(row)));
    }
    number = static_cast<double>(integer);
  } else {
    std::string_view digits = value;
    if (row.kind == FlagKind::kBytes) digits = TakeSuffix(value, kByteSuffixes, &factor);
    if (row.kind == FlagKind::kSeconds) digits = TakeSuffix(value, kSecondSuffixes, &factor);
    if (!ParseDecimal(digits, &number)) {
      return Expected(row, row.kind == FlagKind::kBytes     ? "bytes such as 512MiB or 4GiB"
                           : row.kind == FlagKind::kSeconds ? "a duration such as 25s or 500ms"
                                                            : "a number");
    }
  }
  number *= factor;
  if (number < row.lo || number > row.hi)
    return Expected(row, absl::StrCat("a value ", Range(row)));
  return number;
}

absl::StatusOr<bool> ReadSwitch(const FlagRow& row, std::string_view value) {
  const std::string lower = absl::AsciiStrToLower(View(value));
  if (lower == "true" || lower == "1" || lower == "yes" || lower == "on") return true;
  if (lower == "false" || lower == "0" || lower == "no" || lower == "off") return false;
  return Expected(row, "true or false");
}

}  // namespace

absl::Status SetFlag(const FlagRow& row, std::string_view value, ServerConfig& config) {
  if (value.find('\0') != std::string_view::npos) return Expected(row, "text without NUL");
  if (row.kind == FlagKind::kSwitch) {
    ASSIGN_OR_RETURN(*std::get<bool* (*)(ServerConfig&)>(row.target)(config),
                     ReadSwitch(row, value));
    return absl::OkStatus();
  }
  if (row.kind == FlagKind::kText || row.kind == FlagKind::kChoice) {
    if (row.kind == FlagKind::kChoice) {
      bool known = false;
      for (const absl::string_view choice : absl::StrSplit(View(row.hint), '|')) {
        known = known || choice == View(value);
      }
      if (!known) {
        return Expected(row, absl::StrReplaceAll(View(row.hint), {{"|", ", "}}));
      }
    }
    *std::get<std::string* (*)(ServerConfig&)>(row.target)(config) = std::string(value);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const double number, ReadQuantity(row, value));
  if (const auto* target = std::get_if<int32_t* (*)(ServerConfig&)>(&row.target)) {
    *(*target)(config) = static_cast<int32_t>(number);
  } else if (const auto* wide = std::get_if<int64_t* (*)(ServerConfig&)>(&row.target)) {
    *(*wide)(config) = static_cast<int64_t>(number);
  } else {
    *std::get<double* (*)(ServerConfig&)>(row.target)(config) = number;
  }
  return absl::OkStatus();
}

std::string FlagValue(const FlagRow& row, ServerConfig& config) {
  return std::visit(
      [&config](auto target) -> std::string {
        using Value = std::remove_pointer_t<decltype(target(config))>;
        if constexpr (std::is_same_v<Value, bool>) {
          return *target(config) ? "true" : "false";
        } else {
          return absl::StrCat(*target(config));
        }
      },
      row.target);
}

std::string EnvironmentName(std::string_view flag) {
  return absl::StrCat("SLUICE_",
                      absl::AsciiStrToUpper(absl::StrReplaceAll(View(flag), {{"-", "_"}})));
}

}  // namespace sluice::server
