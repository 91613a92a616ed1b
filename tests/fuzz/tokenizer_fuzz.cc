// Fuzzes tokenizer files and texts: input that starts like a tokenizer.json ({...}, then a zero
// byte and a text) or like a SentencePiece model is loaded as one, anything else is a text for a
// small tokenizer. Beyond "no crash": plain text must never become the special token of the small
// tokenizer, and streamed pieces must be valid UTF-8.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/json_reader.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/incremental_detokenizer.h"
#include "engine/text/sentencepiece_tokenizer.h"

namespace {

// `forbidden`: an id that plain text must never become.
void Exercise(const sluice::Tokenizer& tokenizer, std::string_view text, int32_t forbidden = -1) {
  const auto plain = tokenizer.Encode(text, {.add_special_tokens = false});
  const auto parsed = tokenizer.Encode(text, {.parse_special_tokens = true});
  if (plain.ok() != parsed.ok() && !sluice::IsValidUtf8(text)) std::abort();
  if (!plain.ok()) return;
  sluice::IncrementalDetokenizer detokenizer(tokenizer, /*skip_special=*/false,
                                             /*continues_text=*/false);
  for (const int32_t id : *plain) {
    if (id < 0 || id >= tokenizer.summary().vocab_size || id == forbidden) std::abort();
    if (!sluice::IsValidUtf8(detokenizer.Append(id))) std::abort();
  }
  if (!sluice::IsValidUtf8(detokenizer.Flush())) std::abort();
  const sluice::TextRun runs[] = {{text, false}, {text.substr(0, text.size() / 2), true}};
  if (const auto joined = tokenizer.EncodeRuns({runs[0], runs[1]}, true); joined.ok()) {
    tokenizer.Decode(*joined, /*keep_special=*/true);
  }
}

// A small file whose parts the input replaces: most random JSON would never reach an encoder.
sluice::BpeTokenizer* SmallTokenizer() {
  static auto* tokenizer = [] {
    nlohmann::json vocab = nlohmann::json::object();
    int32_t id = 0;
    for (const char* token :
         {"<unk>", "</s>", "a", "b", "c", "aa", "ab", "aab", "\xE2\x96\x81", " ", "é", "aaaa"}) {
      vocab[token] = id++;
    }
    const nlohmann::json file = {
        {"model",
         {{"type", "BPE"},
          {"vocab", vocab},
          {"merges", {"a a", "a b", "aa b", "aa aa"}},
          {"unk_token", "<unk>"}}},
        {"added_tokens", {{{"id", 1}, {"content", "</s>"}, {"special", true}}}},
        {"normalizer", {{"type", "NFKC"}}},
        {"pre_tokenizer",
         {{"type", "Split"},
          {"pattern", {{"Regex", "\\s+(?!\\S)|\\s+|\\p{N}"}}},
          {"behavior", "Isolated"}}},
        {"decoder", {{"type", "Fuse"}}}};
    return sluice::BpeTokenizer::FromJson(file)->release();
  }();
  return tokenizer;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.starts_with('{')) {
    const size_t cut = input.find('\0');
    const auto json = sluice::ParseJson(input.substr(0, cut), {});
    if (!json.ok()) return 0;
    const auto tokenizer = sluice::BpeTokenizer::FromJson(*json);
    const std::string_view text = cut == std::string_view::npos ? "a b 12" : input.substr(cut + 1);
    if (tokenizer.ok()) Exercise(**tokenizer, text);
  } else if (input.starts_with('\n')) {  // the tag of the first piece
    const auto tokenizer = sluice::SentencePieceTokenizer::FromBytes(input, {});
    if (tokenizer.ok()) Exercise(**tokenizer, "a b \xE2\x96\x81</s>");
  } else {
    Exercise(*SmallTokenizer(), input, /*forbidden=*/1);
  }
  return 0;
}
