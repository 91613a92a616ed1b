#include "tests/text/text_fixtures.h"

#include "engine/text/pre_tokenizer.h"
#include "engine/text/utf8.h"

namespace sluice {

nlohmann::json SmallByteLevelFile() {
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    AppendUtf8(ByteLevelCodePoint(static_cast<unsigned char>(byte)), token);
    vocab[token] = byte;
  }
  vocab["<|end|>"] = 256;
  vocab["aa"] = 257;
  vocab["aaaa"] = 258;
  vocab["bc"] = 259;
  return {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a a", "aa aa", "b c"}}}},
          {"added_tokens", {{{"id", 256}, {"content", "<|end|>"}, {"special", true}}}},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"decoder", {{"type", "ByteLevel"}}}};
}

}  // namespace sluice
