// The kinds of pre-tokenizer that a tokenizer.json can name, and their construction from JSON.
#include <algorithm>
#include <array>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/utf8.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr size_t kMaxSteps = 32;
constexpr size_t kMaxGrowth = 16;
constexpr size_t kGrowthFloor = 1024;
constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kWordPattern =
    R"([\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}]+|[^\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\s]+)";

absl::Status Invalid(const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer pre_tokenizer: ", message));
}

class PatternSplit : public PreTokenizer {
 public:
  PatternSplit(SplitPattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  absl::Status Apply(Pieces& pieces) const override {
    ASSIGN_OR_RETURN(const std::vector<ByteSpan> matches,
                     pattern_.FindAll(pieces.text, pieces.spans));
    SplitPieces(matches, invert_, behavior_, pieces);
    return absl::OkStatus();
  }

 private:
  SplitPattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

// Splits at every character of a class.
class ClassSplit : public PreTokenizer {
 public:
  ClassSplit(bool (*contains)(uint32_t), SplitBehavior behavior)
      : contains_(contains), behavior_(behavior) {}
  absl::Status Apply(Pieces& pieces) const override {
    std::vector<ByteSpan> matches;
    for (const ByteSpan& span : pieces.spans) {
      for (size_t position = span.begin; position < span.end;) {
        const size_t begin = position;
        if (contains_(NextCodePoint(pieces.text, position))) matches.push_back({begin, position});
      }
    }
    SplitPieces(matches, /*invert=*/false, behavior_, pieces);
    return absl::OkStatus();
  }

 private:
  bool (*contains_)(uint32_t);
  SplitBehavior behavior_;
};

// Rewrites every piece with `append(piece, is_first, out)`.
template <typename AppendPiece>
void RewritePieces(Pieces& pieces, AppendPiece append) {
  std::string text;
  text.reserve(pieces.text.size() + pieces.text.size() / 4);
  bool is_first = true;
  for (ByteSpan& span : pieces.spans) {
    const size_t begin = text.size();
    append(std::string_view(pieces.text).substr(span.begin, span.end - span.begin), is_first, text);
    span = {begin, text.size()};
    is_first = false;
  }
  pieces.text = std::move(text);
}

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(std::optional<SplitPattern> pattern, bool add_prefix_space)
      : pattern_(std::move(pattern)), add_prefix_space_(add_prefix_space) {
    for (size_t byte = 0; byte < 256; ++byte) {
      AppendUtf8(ByteLevelCodePoint(static_cast<unsigned char>(byte)), stand_ins_[byte]);
    }
  }

  absl::Status Apply(Pieces& pieces) const override {
    if (add_prefix_space_) {
      RewritePieces(pieces, [](std::string_view piece, bool, std::string& out) {
        if (!piece.starts_with(" ")) out += ' ';
        out += piece;
      });
    }
    if (pattern_.has_value()) {
      ASSIGN_OR_RETURN(const std::vector<ByteSpan> matches,
                       pattern_->FindAll(pieces.text, pieces.spans));
      SplitPieces(matches, /*invert=*/false, SplitBehavior::kIsolated, pieces);
    }
    RewritePieces(pieces, [this](std::string_view piece, bool, std::string& out) {
      for (const char byte : piece) out += stand_ins_[static_cast<unsigned char>(byte)];
    });
    return absl::OkStatus();
  }

 private:
  std::optional<SplitPattern> pattern_;
  bool add_prefix_space_;
  std::array<std::string, 256> stand_ins_;
};

enum class PrependScheme { kAlways, kFirst, kNever };

class Metaspace : public PreTokenizer {
 public:
  Metaspace(std::string replacement, PrependScheme scheme, bool split)
      : replacement_(std::move(replacement)), scheme_(scheme), split_(split) {}

  absl::Status Apply(Pieces& pieces) const override {
    const bool starts_text = pieces.starts_text;
    RewritePieces(pieces, [&](std::string_view piece, bool is_first, std::string& out) {
      const bool prepend = scheme_ == PrependScheme::kAlways ||
                           (scheme_ == PrependScheme::kFirst && is_first && starts_text);
      if (prepend && !piece.starts_with(" ") && !piece.starts_with(replacement_)) {
        out += replacement_;
      }
      for (const char c : piece) {
        if (c == ' ') {
          out += replacement_;
        } else {
          out += c;
        }
      }
    });
    if (!split_) return absl::OkStatus();
    ASSIGN_OR_RETURN(const std::vector<ByteSpan> matches,
                     SplitPattern::Literal(replacement_).FindAll(pieces.text, pieces.spans));
    SplitPieces(matches, /*invert=*/false, SplitBehavior::kMergedWithNext, pieces);
    return absl::OkStatus();
  }

 private:
  std::string replacement_;
  PrependScheme scheme_;
  bool split_;
};

class PreTokenizerSequence : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(std::vector<std::unique_ptr<PreTokenizer>> steps)
      : steps_(std::move(steps)) {}
  absl::Status Apply(Pieces& pieces) const override {
    const size_t limit = std::min(kMaxGrowth * pieces.text.size() + kGrowthFloor, kMaxSplitBytes);
    for (const auto& step : steps_) {
      RETURN_IF_ERROR(step->Apply(pieces));
      if (pieces.text.size() > limit) return Invalid("the text grows too much");
    }
    return absl::OkStatus();
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

using Result = absl::StatusOr<std::unique_ptr<PreTokenizer>>;

absl::StatusOr<SplitBehavior> ReadBehavior(const json& value, const char* fallback) {
  ASSIGN_OR_RETURN(
      const std::string name,
      ReadString(value, "behavior",
                 fallback == nullptr ? std::nullopt : std::optional<std::string>(fallback)));
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return Invalid("unknown split behavior");
}

Result ByteLevelFromJson(const json& value) {
  ASSIGN_OR_RETURN(const bool use_regex, ReadBool(value, "use_regex", true));
  ASSIGN_OR_RETURN(const bool add_prefix_space, ReadBool(value, "add_prefix_space", true));
  std::optional<SplitPattern> pattern;
  if (use_regex) {
    ASSIGN_OR_RETURN(pattern, SplitPattern::Compile(kGpt2Pattern));
  }
  return std::make_unique<ByteLevel>(std::move(pattern), add_prefix_space);
}

Result SplitFromJson(const json& value) {
  ASSIGN_OR_RETURN(const SplitBehavior behavior, ReadBehavior(value, nullptr));
  ASSIGN_OR_RETURN(const bool invert, ReadBool(value, "invert", false));
  const json* pattern = FindMember(value, "pattern");
  if (pattern == nullptr || !pattern->is_object()) return Invalid("Split needs a pattern");
  if (FindMember(*pattern, "Regex") != nullptr) {
    ASSIGN_OR_RETURN(const std::string regex, ReadString(*pattern, "Regex"));
    ASSIGN_OR_RETURN(SplitPattern compiled, SplitPattern::Compile(regex));
    return std::make_unique<PatternSplit>(std::move(compiled), behavior, invert);
  }
  ASSIGN_OR_RETURN(const std::string literal, ReadString(*pattern, "String"));
  return std::make_unique<PatternSplit>(SplitPattern::Literal(literal), behavior, invert);
}

Result MetaspaceFromJson(const json& value) {
  ASSIGN_OR_RETURN(std::string replacement, ReadString(value, "replacement", "\xE2\x96\x81"));
  if (CountCodePoints(replacement) != 1) return Invalid("Metaspace replaces by one character");
  ASSIGN_OR_RETURN(const bool add_prefix, ReadBool(value, "add_prefix_space", true));
  ASSIGN_OR_RETURN(const std::string scheme,
                   ReadString(value, "prepend_scheme", add_prefix ? "always" : "never"));
  ASSIGN_OR_RETURN(const bool split, ReadBool(value, "split", true));
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    return Invalid("unknown prepend_scheme");
  }
  const PrependScheme parsed = scheme == "always"  ? PrependScheme::kAlways
                               : scheme == "first" ? PrependScheme::kFirst
                                                   : PrependScheme::kNever;
  return std::make_unique<Metaspace>(std::move(replacement), parsed, split);
}

Result SequenceFromJson(const json& value) {
  const json* list = FindMember(value, "pretokenizers");
  if (list == nullptr || !list->is_array() || list->size() > kMaxSteps) {
    return Invalid("Sequence needs a short list");
  }
  std::vector<std::unique_ptr<PreTokenizer>> steps;
  for (const json& item : *list) {
    // Nesting would multiply the growth limits.
    if (FindMember(item, "pretokenizers") != nullptr) return Invalid("nested Sequence");
    ASSIGN_OR_RETURN(std::unique_ptr<PreTokenizer> step, PreTokenizer::FromJson(item));
    if (step != nullptr) steps.push_back(std::move(step));
  }
  return std::make_unique<PreTokenizerSequence>(std::move(steps));
}

}  // namespace

Result PreTokenizer::FromJson(const json& value) {
  if (value.is_null()) return std::unique_ptr<PreTokenizer>();
  ASSIGN_OR_RETURN(const std::string type, ReadString(value, "type"));
  if (type == "ByteLevel") return ByteLevelFromJson(value);
  if (type == "Split") return SplitFromJson(value);
  if (type == "Sequence") return SequenceFromJson(value);
  if (type == "Metaspace") return MetaspaceFromJson(value);
  if (type == "Digits") {
    ASSIGN_OR_RETURN(const bool individual, ReadBool(value, "individual_digits", false));
    return std::make_unique<ClassSplit>(
        &IsNumeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  if (type == "Punctuation") {
    ASSIGN_OR_RETURN(const SplitBehavior behavior, ReadBehavior(value, "Isolated"));
    return std::make_unique<ClassSplit>(&IsPunctuation, behavior);
  }
  if (type == "WhitespaceSplit") {
    return std::make_unique<ClassSplit>(&IsWhiteSpace, SplitBehavior::kRemoved);
  }
  if (type == "Whitespace") {
    ASSIGN_OR_RETURN(SplitPattern words, SplitPattern::Compile(kWordPattern));
    return std::make_unique<PatternSplit>(std::move(words), SplitBehavior::kRemoved, true);
  }
  return Invalid(absl::StrCat("type is not supported: ", type.substr(0, 32)));
}

}  // namespace sluice
