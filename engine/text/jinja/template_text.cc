#include "engine/text/jinja/template_text.h"

#include <algorithm>
#include <utility>

namespace sluice {

TemplateText::TemplateText(std::string text, bool from_message) : text_(std::move(text)) {
  if (from_message && !text_.empty()) spans_.push_back({0, text_.size()});
}

void TemplateText::Append(const TemplateText& other) {
  const size_t offset = text_.size();
  text_ += other.text_;
  for (const Span& span : other.spans_) {
    if (!spans_.empty() && spans_.back().end == span.begin + offset) {
      spans_.back().end = span.end + offset;
    } else {
      spans_.push_back({span.begin + offset, span.end + offset});
    }
  }
}

TemplateText TemplateText::Substring(size_t begin, size_t end) const {
  TemplateText part;
  part.text_ = text_.substr(begin, end - begin);
  auto span = std::lower_bound(spans_.begin(), spans_.end(), begin,
                               [](const Span& s, size_t at) { return s.end <= at; });
  for (; begin < end && span != spans_.end() && span->begin < end; ++span) {
    part.spans_.push_back({std::max(span->begin, begin) - begin, std::min(span->end, end) - begin});
  }
  return part;
}

}  // namespace sluice
