#include "engine/text/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

namespace sluice {
namespace {

constexpr size_t kMaxPatternBytes = 16 * 1024;
constexpr size_t kJitStackStart = 32 * 1024;
constexpr size_t kJitStackLimit = 64 * 1024 * 1024;
constexpr uint32_t kInterpreterHeapKib = 64 * 1024;
// The longest published patterns need about 40 steps for a one-character match.
constexpr int64_t kStepsPerByte = 256;
constexpr int64_t kStepsFloor = 1 << 16;

// Charged by every automatic callout: one step for each item tried, and one for each byte that the
// match position moved since the last item, which is what a run of repeats or backtracks costs.
struct StepBudget {
  int64_t left = 0;
  size_t last_position = 0;
};

int ChargeStep(pcre2_callout_block* block, void* budget_pointer) {
  auto* budget = static_cast<StepBudget*>(budget_pointer);
  const size_t position = block->current_position;
  const size_t moved = position > budget->last_position ? position - budget->last_position
                                                        : budget->last_position - position;
  budget->last_position = position;
  budget->left -= 1 + static_cast<int64_t>(moved);
  return budget->left >= 0 ? 0 : PCRE2_ERROR_CALLOUT;
}

// PCRE2's \s still contains U+180E, which Unicode 6.3 took out of White_Space and which the
// published tokenizers therefore do not treat as a space. Writes the class out; inside [...] only
// \s can be.
std::string WriteOutSpaces(std::string_view pattern) {
  constexpr std::string_view kSpace = R"(\p{Z}\t-\r\x{85})";
  std::string result;
  bool in_class = false;
  size_t class_start = 0;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's' && in_class) {
        result += kSpace;
      } else if (escaped == 's' || (escaped == 'S' && !in_class)) {
        result.append(escaped == 's' ? "[" : "[^").append(kSpace).append("]");
      } else {
        (result += c) += escaped;
      }
      continue;
    }
    if (c == '[' && !in_class) {
      in_class = true;
      class_start = i + (pattern.substr(i + 1, 1) == "^" ? 2 : 1);  // a ] here is literal
    } else if (c == ']' && in_class && i != class_start) {
      in_class = false;
    }
    result += c;
  }
  return result;
}

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatch {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};
struct FreeContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
struct FreeStack {
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};

}  // namespace

struct SplitPattern::Code {
  std::unique_ptr<pcre2_code, FreeCode> code;
};

// What one FindAll needs; PCRE2's compiled code is shared between threads, these are not.
class SplitPattern::Search {
 public:
  Search(const pcre2_code* code, size_t text_bytes)
      : code_(code),
        match_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)),
        stack_(pcre2_jit_stack_create(kJitStackStart, kJitStackLimit, nullptr)) {
    budget_.left = kStepsFloor + kStepsPerByte * static_cast<int64_t>(text_bytes);
    if (!ok()) return;
    pcre2_set_callout(context_.get(), &ChargeStep, &budget_);
    pcre2_set_heap_limit(context_.get(), kInterpreterHeapKib);
    if (stack_ != nullptr) pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
  }
  bool ok() const { return match_ != nullptr && context_ != nullptr; }

  absl::Status AppendMatches(std::string_view subject,
                             size_t offset,
                             std::vector<ByteSpan>& matches) {
    size_t from = 0;
    while (from <= subject.size()) {
      budget_.last_position = from;
      const int result =
          pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(), from,
                      PCRE2_NO_UTF_CHECK, match_.get(), context_.get());
      if (result == PCRE2_ERROR_NOMATCH) break;
      if (result < 0) return absl::InvalidArgumentError("tokenizer pattern: search limit exceeded");
      const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match_.get());
      if (bounds[0] > bounds[1] || bounds[1] < from) {  // \K in a look-around
        return absl::InvalidArgumentError("tokenizer pattern: a match moves backwards");
      }
      matches.push_back({offset + bounds[0], offset + bounds[1]});
      from = bounds[1];
      if (bounds[0] == bounds[1]) from = NextCharacter(subject, from);
    }
    return absl::OkStatus();
  }

 private:
  static size_t NextCharacter(std::string_view text, size_t position) {
    ++position;
    while (position < text.size() && (static_cast<unsigned char>(text[position]) & 0xC0) == 0x80) {
      ++position;
    }
    return position;
  }

  const pcre2_code* code_;
  std::unique_ptr<pcre2_match_data, FreeMatch> match_;
  std::unique_ptr<pcre2_match_context, FreeContext> context_;
  std::unique_ptr<pcre2_jit_stack, FreeStack> stack_;
  StepBudget budget_;
};

absl::StatusOr<SplitPattern> SplitPattern::Compile(std::string_view pattern) {
  if (pattern.empty()) return absl::InvalidArgumentError("tokenizer pattern: empty");
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError("tokenizer pattern: longer than 16 KiB");
  }
  // Class intersection exists in the dialect of the file format, but would silently mean '&' here.
  if (pattern.find("&&") != std::string_view::npos) {
    return absl::InvalidArgumentError("tokenizer pattern: class intersection is not supported");
  }
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  // Automatic callouts count steps; start optimisations would skip them.
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_AUTO_CALLOUT |
                                PCRE2_NO_START_OPTIMIZE | PCRE2_NEVER_BACKSLASH_C |
                                PCRE2_NO_UTF_CHECK;
  const std::string source = WriteOutSpaces(pattern);
  auto code = std::make_shared<Code>();
  code->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source.data()), source.size(),
                                 kOptions, &error, &error_offset, nullptr));
  if (code->code == nullptr)
    return absl::InvalidArgumentError("tokenizer pattern: does not compile");
  uint32_t highest_back_reference = 0;
  pcre2_pattern_info(code->code.get(), PCRE2_INFO_BACKREFMAX, &highest_back_reference);
  if (highest_back_reference > 0) {
    return absl::InvalidArgumentError("tokenizer pattern: back references are not supported");
  }
  // Failure is fine: the interpreter then runs under the same budget.
  pcre2_jit_compile(code->code.get(), PCRE2_JIT_COMPLETE);
  SplitPattern result;
  result.code_ = std::move(code);
  return result;
}

SplitPattern SplitPattern::Literal(std::string_view text) {
  SplitPattern result;
  result.literal_ = text;
  return result;
}

absl::StatusOr<std::vector<ByteSpan>> SplitPattern::FindAll(
    std::string_view text, const std::vector<ByteSpan>& spans) const {
  std::vector<ByteSpan> matches;
  if (code_ == nullptr) {
    for (const ByteSpan& span : spans) AppendLiteral(text, span, matches);
    return matches;
  }
  Search search(code_->code.get(), text.size());
  if (!search.ok()) return absl::ResourceExhaustedError("tokenizer pattern: out of memory");
  for (const ByteSpan& span : spans) {
    const absl::Status status =
        search.AppendMatches(text.substr(span.begin, span.end - span.begin), span.begin, matches);
    if (!status.ok()) return status;
  }
  return matches;
}

void SplitPattern::AppendLiteral(std::string_view text,
                                 const ByteSpan& span,
                                 std::vector<ByteSpan>& matches) const {
  const std::string_view subject = text.substr(0, span.end);
  size_t found = literal_.empty() ? std::string_view::npos : subject.find(literal_, span.begin);
  while (found != std::string_view::npos) {
    matches.push_back({found, found + literal_.size()});
    found = subject.find(literal_, found + literal_.size());
  }
}

}  // namespace sluice
