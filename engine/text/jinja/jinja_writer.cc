#include "engine/text/jinja/jinja_writer.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

using Entry = std::pair<TemplateText, JinjaValue>;

// Writes nested values; recursion is bounded by the depth of values (64).
class Writer {
 public:
  Writer(const JinjaJsonStyle* json, JinjaBudget& budget) : json_(json), budget_(budget) {}

  absl::Status Write(const JinjaValue& value, int level) {
    RETURN_IF_ERROR(budget_.Step());
    if (const TemplateText* text = value.text()) return WriteString(*text);
    if (const JinjaList* list = value.list()) return WriteList(*list, level);
    if (const JinjaDict* dict = value.dict()) return WriteDict(*dict, level);
    if (const bool* boolean = value.boolean()) {
      out_ += json_ != nullptr ? (*boolean ? "true" : "false") : (*boolean ? "True" : "False");
    } else if (const int64_t* integer = value.integer()) {
      absl::StrAppend(&out_, *integer);
    } else if (const double* number = value.floating()) {
      out_ += JinjaFloatText(*number);
    } else if (value.is_none()) {
      out_ += json_ != nullptr ? "null" : "None";
    } else if (json_ != nullptr) {
      return JinjaTypeError(value, "has no JSON form");
    } else {
      (out_ += value.is_undefined() ? "Undefined" : "<") +=
          value.is_undefined() ? "" : value.type_name();
      if (!value.is_undefined()) out_ += '>';
    }
    return absl::OkStatus();
  }

  TemplateText Finish() { return TemplateText(std::move(out_), from_message_); }

 private:
  absl::Status WriteString(const TemplateText& text) {
    RETURN_IF_ERROR(budget_.Bytes(text.size()));
    RETURN_IF_ERROR(budget_.Characters(text.size()));
    from_message_ = from_message_ || text.from_message();
    const size_t before = out_.size();
    if (json_ != nullptr) {
      WriteJsonString(text.text());
    } else {
      WritePythonString(text.text());
    }
    const size_t written = out_.size() - before;  // at most six bytes for each
    return written > text.size() ? budget_.Bytes(written - text.size()) : absl::OkStatus();
  }

  void WriteHex(std::string_view prefix, char c) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    out_ += prefix;
    out_ += kDigits[static_cast<unsigned char>(c) >> 4];
    out_ += kDigits[static_cast<unsigned char>(c) & 15];
  }

  absl::Status Add(std::string_view piece) {
    RETURN_IF_ERROR(budget_.Bytes(piece.size()));
    out_ += piece;
    return absl::OkStatus();
  }

  void WriteJsonString(std::string_view text) {
    out_ += '"';
    for (const char c : text) {
      const size_t known = std::string_view("\"\\\n\r\t\b\f").find(c);
      if (known != std::string_view::npos) {
        (out_ += '\\') += "\"\\nrtbf"[known];
      } else if (static_cast<unsigned char>(c) < 0x20) {
        WriteHex("\\u00", c);
      } else {
        out_ += c;
      }
    }
    out_ += '"';
  }

  void WritePythonString(std::string_view text) {
    const bool has_single = text.find('\'') != std::string_view::npos;
    const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
    out_ += quote;
    for (const char c : text) {
      const size_t known = std::string_view("\\\n\r\t").find(c);
      if (known != std::string_view::npos) {
        (out_ += '\\') += "\\nrt"[known];
      } else if (c == quote) {
        (out_ += '\\') += c;
      } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
        WriteHex("\\x", c);
      } else {
        out_ += c;
      }
    }
    out_ += quote;
  }

  bool is_indented() const { return json_ != nullptr && json_->indent >= 0; }

  absl::Status BreakLine(int level) {
    if (!is_indented()) return absl::OkStatus();
    const size_t spaces = static_cast<size_t>(json_->indent) * static_cast<size_t>(level);
    RETURN_IF_ERROR(budget_.Bytes(1 + spaces));
    out_ += '\n';
    out_.append(spaces, ' ');
    return absl::OkStatus();
  }
  absl::Status Separate() { return Add(json_ == nullptr ? ", " : json_->item_separator); }

  absl::Status WriteList(const JinjaList& list, int level) {
    out_ += '[';
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) RETURN_IF_ERROR(Separate());
      RETURN_IF_ERROR(BreakLine(level + 1));
      RETURN_IF_ERROR(Write(list.items[i], level + 1));
    }
    if (!list.items.empty()) RETURN_IF_ERROR(BreakLine(level));
    out_ += ']';
    return absl::OkStatus();
  }

  absl::Status WriteDict(const JinjaDict& dict, int level) {
    std::vector<const Entry*> entries;
    for (const Entry& entry : dict.entries) entries.push_back(&entry);
    if (json_ != nullptr && json_->sort_keys) {
      std::sort(entries.begin(), entries.end(),
                [](const Entry* a, const Entry* b) { return a->first.text() < b->first.text(); });
    }
    out_ += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) RETURN_IF_ERROR(Separate());
      RETURN_IF_ERROR(BreakLine(level + 1));
      RETURN_IF_ERROR(WriteString(entries[i]->first));
      RETURN_IF_ERROR(Add(json_ == nullptr ? std::string_view(": ") : json_->key_separator));
      RETURN_IF_ERROR(Write(entries[i]->second, level + 1));
    }
    if (!entries.empty()) RETURN_IF_ERROR(BreakLine(level));
    out_ += '}';
    return absl::OkStatus();
  }

  const JinjaJsonStyle* json_;  // null: Python's repr
  JinjaBudget& budget_;
  std::string out_;
  bool from_message_ = false;
};

}  // namespace

absl::StatusOr<TemplateText> JinjaToText(const JinjaValue& value, JinjaBudget& budget) {
  if (const TemplateText* text = value.text()) return *text;
  if (value.is_undefined()) return TemplateText();
  Writer writer(nullptr, budget);
  RETURN_IF_ERROR(writer.Write(value, 0));
  return writer.Finish();
}

absl::StatusOr<TemplateText> JinjaToJson(const JinjaValue& value,
                                         const JinjaJsonStyle& style,
                                         JinjaBudget& budget) {
  Writer writer(&style, budget);
  RETURN_IF_ERROR(writer.Write(value, 0));
  return writer.Finish();
}

std::string JinjaFloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const double magnitude = std::fabs(value);
  const bool is_plain = magnitude == 0 || (magnitude >= 1e-4 && magnitude < 1e16);
  const std::chars_format format =
      is_plain ? std::chars_format::fixed : std::chars_format::scientific;
  const auto result = std::to_chars(buffer, buffer + sizeof(buffer), value, format);
  std::string text(buffer, result.ptr);
  if (is_plain && text.find('.') == std::string::npos) text += ".0";
  return text;
}

}  // namespace sluice
