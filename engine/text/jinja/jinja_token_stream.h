// The parser's view of the tokens: look at the next, take it if it fits, and count nesting.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text/jinja/jinja_lexer.h"

namespace sluice {

class JinjaTokenStream {
 public:
  explicit JinjaTokenStream(std::vector<JinjaToken> tokens) : tokens_(std::move(tokens)) {}

  const JinjaToken& peek(size_t ahead = 0) const {
    const size_t index = position_ + ahead;
    return index < tokens_.size() ? tokens_[index] : tokens_.back();
  }
  JinjaToken Take() {
    return position_ + 1 < tokens_.size() ? tokens_[position_++] : tokens_.back();
  }

  bool IsName(std::string_view name) const {
    return peek().kind == JinjaTokenKind::kName && peek().text == name;
  }
  bool IsOperator(std::string_view op) const {
    return peek().kind == JinjaTokenKind::kOperator && peek().text == op;
  }
  bool TakeName(std::string_view name) { return IsName(name) && Skip(); }
  bool TakeOperator(std::string_view op) { return IsOperator(op) && Skip(); }
  bool TakeKind(JinjaTokenKind kind) { return peek().kind == kind && Skip(); }

  absl::Status Error(std::string_view message) const {
    return absl::InvalidArgumentError(
        absl::StrCat("chat template, line ", peek().line, ": ", std::string(message)));
  }
  absl::Status Expect(std::string_view op) {
    if (TakeOperator(op)) return absl::OkStatus();
    return Error(std::string("expected ").append(op));
  }

  // Enter at each recursive rule; every Enter needs a Leave, also after an error.
  absl::Status Enter() {
    constexpr int kMaxNesting = 64;
    return ++depth_ <= kMaxNesting ? absl::OkStatus() : Error("nested too deeply");
  }
  void Leave() { --depth_; }

 private:
  bool Skip() {
    Take();
    return true;
  }

  std::vector<JinjaToken> tokens_;
  size_t position_ = 0;
  int depth_ = 0;
};

class JinjaNestingScope {
 public:
  explicit JinjaNestingScope(JinjaTokenStream& stream) : stream_(stream) {}
  ~JinjaNestingScope() { stream_.Leave(); }
  JinjaNestingScope(const JinjaNestingScope&) = delete;
  JinjaNestingScope& operator=(const JinjaNestingScope&) = delete;

 private:
  JinjaTokenStream& stream_;
};

}  // namespace sluice
