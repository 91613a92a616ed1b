#include "engine/text/incremental_detokenizer.h"

#include "engine/text/utf8.h"

namespace sluice {

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer& tokenizer,
                                               bool skip_special,
                                               bool continues_text)
    : tokenizer_(tokenizer), skip_special_(skip_special), is_first_(!continues_text) {}

std::string IncrementalDetokenizer::Append(int32_t token) {
  if (skip_special_ && tokenizer_.IsSpecial(token)) return "";
  held_back_ += tokenizer_.TokenBytes(token, is_first_);
  is_first_ = false;
  return TakeUtf8(held_back_, /*at_end=*/false);
}

std::string IncrementalDetokenizer::Flush() { return TakeUtf8(held_back_, /*at_end=*/true); }

}  // namespace sluice
