// A string that remembers which of its bytes came out of a chat message. Every operation of the
// template interpreter that cuts or joins text keeps these marks, so that user text can be told
// from the template's own text in the rendered prompt.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

class TemplateText {
 public:
  struct Span {
    size_t begin = 0;
    size_t end = 0;
  };

  TemplateText() = default;
  explicit TemplateText(std::string text, bool from_message = false);

  const std::string& text() const { return text_; }
  size_t size() const { return text_.size(); }
  bool empty() const { return text_.empty(); }
  // With its marks, which can weigh more than a text that changes its origin at every byte.
  size_t stored_bytes() const { return text_.size() + spans_.size() * sizeof(Span); }
  // The parts that came out of a message: in order, not empty, not touching.
  const std::vector<Span>& message_spans() const { return spans_; }
  bool from_message() const { return !spans_.empty(); }

  void Append(const TemplateText& other);
  void Append(std::string_view own_text) { text_ += own_text; }
  TemplateText Substring(size_t begin, size_t end) const;

 private:
  std::string text_;
  std::vector<Span> spans_;
};

}  // namespace sluice
