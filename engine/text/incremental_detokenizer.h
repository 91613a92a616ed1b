// Turns one sequence's generated tokens into text pieces that are always valid UTF-8: bytes of an
// unfinished character are held back until they are complete. One instance per sequence, single
// threaded.
#pragma once

#include <cstdint>
#include <string>

#include "engine/text/tokenizer.h"

namespace sluice {

class IncrementalDetokenizer {
 public:
  // `tokenizer` must outlive this object. `skip_special`: special tokens add no text.
  // `continues_text`: the sequence continues a prompt, so the first token is not the first of the
  // text.
  IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special, bool continues_text);

  // The text that is complete after `token`; may be empty.
  std::string Append(int32_t token);

  // What is left at the end of the sequence; incomplete bytes become U+FFFD.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  bool is_first_;
  std::string held_back_;
};

}  // namespace sluice
