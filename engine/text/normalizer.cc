#include "engine/text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/text/split_pattern.h"
#include "engine/text/utf8.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr size_t kMaxGrowth = 16;
constexpr size_t kGrowthFloor = 1024;
constexpr size_t kMaxSteps = 32;

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
}

utf8proc_propval_t CombiningClass(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

class UnicodeNormalizer : public Normalizer {
 public:
  explicit UnicodeNormalizer(UnicodeForm form) : form_(form) {}
  absl::StatusOr<std::string> Apply(std::string text) const override {
    return NormalizeUnicode(text, form_);
  }

 private:
  UnicodeForm form_;
};

class LowercaseNormalizer : public Normalizer {
 public:
  absl::StatusOr<std::string> Apply(std::string text) const override {
    std::string lowered;
    lowered.reserve(text.size());
    for (size_t position = 0; position < text.size();) {
      const uint32_t code_point = NextCodePoint(text, position);
      if (code_point == 0x130) {
        lowered += "i\xCC\x87";  // the one lower case that is two code points
      } else {
        AppendUtf8(LowerCase(code_point), lowered);
      }
    }
    return lowered;
  }
};

class PrependNormalizer : public Normalizer {
 public:
  explicit PrependNormalizer(std::string prefix) : prefix_(std::move(prefix)) {}
  absl::StatusOr<std::string> Apply(std::string text) const override {
    return text.empty() ? text : prefix_ + text;
  }

 private:
  std::string prefix_;
};

class ReplaceNormalizer : public Normalizer {
 public:
  ReplaceNormalizer(SplitPattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  absl::StatusOr<std::string> Apply(std::string text) const override {
    ASSIGN_OR_RETURN(const std::vector<ByteSpan> matches,
                     pattern_.FindAll(text, {{0, text.size()}}));
    const size_t limit = std::min(kMaxGrowth * text.size() + kGrowthFloor, kMaxSplitBytes);
    if (matches.size() * content_.size() > limit) {
      return absl::InvalidArgumentError("tokenizer normalizer: the text grows too much");
    }
    std::string result;
    result.reserve(text.size());
    size_t copied = 0;
    for (const ByteSpan& match : matches) {
      result.append(text, copied, match.begin - copied).append(content_);
      copied = match.end;
    }
    return result.append(text, copied);
  }

 private:
  SplitPattern pattern_;
  std::string content_;
};

class StripNormalizer : public Normalizer {
 public:
  StripNormalizer(bool left, bool right) : left_(left), right_(right) {}
  absl::StatusOr<std::string> Apply(std::string text) const override {
    size_t begin = 0;
    for (size_t next = 0; left_ && next < text.size(); begin = next) {
      if (!IsWhiteSpace(NextCodePoint(text, next))) break;
    }
    size_t end = text.size();
    for (size_t before = end; right_ && before > begin; end = before) {
      if (!IsWhiteSpace(PreviousCodePoint(text, before))) break;
    }
    return text.substr(begin, end - begin);
  }

 private:
  bool left_;
  bool right_;
};

class NormalizerSequence : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<std::unique_ptr<Normalizer>> steps)
      : steps_(std::move(steps)) {}
  absl::StatusOr<std::string> Apply(std::string text) const override {
    const size_t limit = std::min(kMaxGrowth * text.size() + kGrowthFloor, kMaxSplitBytes);
    for (const auto& step : steps_) {
      ASSIGN_OR_RETURN(text, step->Apply(std::move(text)));
      if (text.size() > limit) {
        return absl::InvalidArgumentError("tokenizer normalizer: the text grows too much");
      }
    }
    return text;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
};

absl::StatusOr<std::unique_ptr<Normalizer>> ReplaceFromJson(const json& value) {
  const json* pattern = FindMember(value, "pattern");
  if (pattern == nullptr || !pattern->is_object()) {
    return absl::InvalidArgumentError("tokenizer normalizer: Replace needs a pattern");
  }
  ASSIGN_OR_RETURN(std::string content, ReadString(value, "content"));
  if (FindMember(*pattern, "Regex") != nullptr) {
    ASSIGN_OR_RETURN(const std::string regex, ReadString(*pattern, "Regex"));
    ASSIGN_OR_RETURN(SplitPattern compiled, SplitPattern::Compile(regex));
    return std::make_unique<ReplaceNormalizer>(std::move(compiled), std::move(content));
  }
  ASSIGN_OR_RETURN(const std::string literal, ReadString(*pattern, "String"));
  return std::make_unique<ReplaceNormalizer>(SplitPattern::Literal(literal), std::move(content));
}

absl::StatusOr<std::unique_ptr<Normalizer>> SequenceFromJson(const json& value) {
  const json* list = FindMember(value, "normalizers");
  if (list == nullptr || !list->is_array() || list->size() > kMaxSteps) {
    return absl::InvalidArgumentError("tokenizer normalizer: Sequence needs a short list");
  }
  std::vector<std::unique_ptr<Normalizer>> steps;
  for (const json& item : *list) {
    // Nesting would multiply the growth limits.
    if (FindMember(item, "normalizers") != nullptr) {
      return absl::InvalidArgumentError("tokenizer normalizer: nested Sequence");
    }
    ASSIGN_OR_RETURN(std::unique_ptr<Normalizer> step, Normalizer::FromJson(item));
    if (step != nullptr) steps.push_back(std::move(step));
  }
  return std::make_unique<NormalizerSequence>(std::move(steps));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Normalizer>> Normalizer::FromJson(const json& value) {
  if (value.is_null()) return std::unique_ptr<Normalizer>();
  ASSIGN_OR_RETURN(const std::string type, ReadString(value, "type"));
  if (type == "NFC") return std::make_unique<UnicodeNormalizer>(UnicodeForm::kNfc);
  if (type == "NFD") return std::make_unique<UnicodeNormalizer>(UnicodeForm::kNfd);
  if (type == "NFKC") return std::make_unique<UnicodeNormalizer>(UnicodeForm::kNfkc);
  if (type == "NFKD") return std::make_unique<UnicodeNormalizer>(UnicodeForm::kNfkd);
  if (type == "Lowercase") return std::make_unique<LowercaseNormalizer>();
  if (type == "Replace") return ReplaceFromJson(value);
  if (type == "Sequence") return SequenceFromJson(value);
  if (type == "Prepend") {
    ASSIGN_OR_RETURN(std::string prefix, ReadString(value, "prepend"));
    return std::make_unique<PrependNormalizer>(std::move(prefix));
  }
  if (type == "Strip") {
    ASSIGN_OR_RETURN(const bool left, ReadBool(value, "strip_left", true));
    ASSIGN_OR_RETURN(const bool right, ReadBool(value, "strip_right", true));
    return std::make_unique<StripNormalizer>(left, right);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer normalizer: type is not supported: ", type.substr(0, 32)));
}

std::string NormalizeUnicode(std::string_view text, UnicodeForm form) {
  if (IsAscii(text)) return std::string(text);
  const bool compatible = form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd;
  const bool compose = form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                      (compatible ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  constexpr utf8proc_ssize_t kMaxDecomposition = 32;  // the longest is 18 (U+FDFA)
  for (size_t position = 0; position < text.size();) {
    utf8proc_int32_t decomposed[kMaxDecomposition];
    const auto code_point = static_cast<utf8proc_int32_t>(NextCodePoint(text, position));
    int boundary = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(code_point, decomposed, kMaxDecomposition, options, &boundary);
    if (count < 0 || count > kMaxDecomposition) {
      points.push_back(code_point);
    } else {
      points.insert(points.end(), decomposed, decomposed + count);
    }
  }
  for (auto run = points.begin(); run != points.end();) {
    if (CombiningClass(*run) == 0) {
      ++run;
      continue;
    }
    auto run_end = std::find_if(run, points.end(), [](auto c) { return CombiningClass(c) == 0; });
    std::stable_sort(run, run_end,
                     [](auto a, auto b) { return CombiningClass(a) < CombiningClass(b); });
    run = run_end;
  }
  if (compose) {
    const utf8proc_ssize_t count = utf8proc_normalize_utf32(
        points.data(), static_cast<utf8proc_ssize_t>(points.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    if (count >= 0) points.resize(static_cast<size_t>(count));
  }
  std::string result;
  result.reserve(text.size());
  for (const utf8proc_int32_t point : points) AppendUtf8(static_cast<uint32_t>(point), result);
  return result;
}

}  // namespace sluice
