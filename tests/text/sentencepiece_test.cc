// SentencePiece files: our merge model against the library, and malformed files.
#include <gtest/gtest.h>

#include <bit>

#include "engine/text/sentencepiece_file.h"
#include "engine/text/sentencepiece_tokenizer.h"
#include "tests/text/sentencepiece_library.h"
#include "tests/text/text_fixtures.h"

namespace sluice {
namespace {

std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes += static_cast<char>(value);
}
std::string BytesField(uint32_t number, const std::string& bytes) {
  return Varint(number << 3 | 2) + Varint(bytes.size()) + bytes;
}
std::string IntField(uint32_t number, uint64_t value) {
  return Varint(number << 3) + Varint(value);
}

std::string Piece(const std::string& text, float score, PieceKind kind = PieceKind::kNormal) {
  std::string piece = BytesField(1, text) + Varint(2 << 3 | 5);
  const auto bits = std::bit_cast<uint32_t>(score);
  for (int i = 0; i < 4; ++i) piece += static_cast<char>(bits >> (8 * i));
  return BytesField(1, piece + IntField(3, static_cast<uint64_t>(kind)));
}

std::string Trainer() { return BytesField(2, IntField(3, 2) + IntField(35, 1)); }
std::string Normalizer(const std::string& map = "") {
  return BytesField(3, BytesField(1, "identity") + BytesField(2, map) + IntField(3, 1) +
                           IntField(4, 0) + IntField(5, 1));
}

std::string SmallPieces() {
  std::string model = Piece("<unk>", 0, PieceKind::kUnknown) +
                      Piece("<s>", 0, PieceKind::kControl) + Piece("</s>", 0, PieceKind::kControl);
  const char* hex = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte) {
    model += Piece(std::string("<0x") + hex[byte / 16] + hex[byte % 16] + ">", 0, PieceKind::kByte);
  }
  model += Piece("[end]", 0, PieceKind::kUserDefined);
  const char* pieces[] = {"aa", "▁a", "ab", "▁▁", "aaaa", "bab", "▁aa", "éa", "▁ab", "abab", "a▁"};
  float score = 0;
  for (const char* piece : pieces) model += Piece(piece, score -= 1);
  // Equal scores: the leftmost pair merges first.
  model += Piece("bb", -5.0f) + Piece("ba", -5.0f);
  for (const char* piece : {"▁", "a", "b", "é"}) model += Piece(piece, score -= 1);
  return model;
}
std::string SmallModel() { return SmallPieces() + Trainer() + Normalizer(); }

std::unique_ptr<SentencePieceTokenizer> Load(const std::string& model) {
  auto tokenizer = SentencePieceTokenizer::FromBytes(model, {});
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

void ExpectSameAsLibrary(const std::string& model,
                         const std::vector<std::string>& parts,
                         int num_texts) {
  const auto tokenizer = Load(model);
  const auto library = SentencePieceLibrary::Load(model);
  ASSERT_NE(tokenizer, nullptr);
  ASSERT_NE(library, nullptr);
  for (int seed = 1; seed <= num_texts; ++seed) {
    TestRandom random(static_cast<uint64_t>(seed));
    std::string text;
    for (size_t i = random.Below(40); i > 0; --i) text += parts[random.Below(parts.size())];
    SCOPED_TRACE(testing::Message() << "seed " << seed << " text '" << text << "'");
    std::vector<int> expected;
    ASSERT_TRUE(library->Encode(text, expected));
    const auto ids = tokenizer->Encode(text, {.add_special_tokens = false});
    ASSERT_TRUE(ids.ok());
    ASSERT_EQ(*ids, expected);
    ASSERT_EQ(tokenizer->Decode(*ids, false), text);
  }
}

TEST(SentencePieceTest, OurEncoderAgreesWithTheLibrary) {
  ExpectSameAsLibrary(SmallModel(), {"a", "a", "b", " ", "é", "中", "[end]", "aa", "<s>", "\n"},
                      2000);
}

TEST(SentencePieceTest, UnusedPiecesThatNoMergeMakes) {
  const std::string model =
      SmallPieces() + Piece("[PAD1]", 0, PieceKind::kUnused) + Trainer() + Normalizer();
  ExpectSameAsLibrary(model, {"a", "b", " ", "[PAD1]", "[PAD", "1]", "[end]"}, 300);
  for (const char* piece : {"bbb", "c"}) {
    const std::string made = SmallPieces() + Piece(piece, 0, PieceKind::kUnused) + Trainer();
    EXPECT_EQ(SentencePieceTokenizer::FromBytes(made + Normalizer(), {}).status().code(),
              absl::StatusCode::kUnimplemented);
  }
}

TEST(SentencePieceTest, OurEncoderAgreesWithTheLibraryOnAPublishedModel) {
  const std::string path = SourcePath("../shared/data/tokenizers/mistral-v1/tokenizer.model");
  if (!FileExists(path)) GTEST_SKIP() << "no shared tokenizer";
  ExpectSameAsLibrary(ReadText(path),
                      {"the", " ", "  ",   "ing",  "Hello", "\n",     "中文", "🦙", "é", "1",
                       "23",  "!", "def ", "aaaa", "</s>",  "[INST]", "\t",   "ß",    "_", "."},
                      500);
}

TEST(SentencePieceTest, PublishedModelAddsBosAndStripsTheFirstSpace) {
  const auto tokenizer = Tokenizer::Load(SourcePath("../shared/data/tokenizers/mistral-v1"));
  if (!tokenizer.ok()) GTEST_SKIP() << "no shared tokenizer";
  const auto ids = (*tokenizer)->Encode("Hello world", {});
  EXPECT_EQ(*ids, (std::vector<int32_t>{1, 22557, 1526}));
  EXPECT_EQ((*tokenizer)->Decode(*ids, false), "Hello world");
  EXPECT_EQ((*tokenizer)->TokenBytes(22557, true), "Hello");
  EXPECT_EQ((*tokenizer)->TokenBytes(22557, false), " Hello");
  EXPECT_EQ((*tokenizer)->summary().bos_token_id, 1);
  EXPECT_EQ((*tokenizer)->summary().eos_token_id, 2);
}

TEST(SentencePieceTest, ControlTokensAreFoundOnlyWhenAllowed) {
  const auto tokenizer = Load(SmallModel());
  const auto forged = tokenizer->Encode("a</s>", {.add_special_tokens = false});
  for (const int32_t id : *forged) EXPECT_FALSE(tokenizer->IsSpecial(id));
  const auto ids =
      tokenizer->Encode("a</s>", {.add_special_tokens = false, .parse_special_tokens = true});
  EXPECT_EQ(ids->back(), 2);
  EXPECT_EQ(tokenizer->SpecialTokenId("</s>"), 2);
  EXPECT_EQ(tokenizer->TokenBytes(3 + 0xE4, false), "\xE4");
  EXPECT_EQ(tokenizer->TokenBytes(-1, false), "");
  EXPECT_FALSE(tokenizer->Encode("\xFF", {}).ok());
}

TEST(SentencePieceTest, MalformedFilesAreRefused) {
  const auto expect_refused = [](const std::string& model) {
    EXPECT_EQ(SentencePieceTokenizer::FromBytes(model, {}).status().code(),
              absl::StatusCode::kInvalidArgument);
  };
  const std::string ends = Trainer() + Normalizer();
  expect_refused("");
  expect_refused("not a model");
  expect_refused(SmallPieces() + Piece("a", 0) + ends);
  expect_refused(SmallPieces() + Piece("", 0) + ends);
  expect_refused(SmallPieces() + Piece("x", std::numeric_limits<float>::quiet_NaN()) + ends);
  expect_refused(SmallPieces() + Piece("x", 0, static_cast<PieceKind>(9)) + ends);
  expect_refused(SmallPieces() + Piece("<0xGG>", 0, PieceKind::kByte) + ends);
  expect_refused(SmallPieces() + Piece("\xFF", 0) + ends);
  expect_refused(SmallPieces() + BytesField(2, IntField(3, 4)) + Normalizer());
  expect_refused(Piece("a", 0) + ends);  // no unknown piece
}

TEST(SentencePieceTest, ModelsThatWeCannotEncodeWithAreRefusedAsSuch) {
  const auto status = [](const std::string& ends) {
    return SentencePieceTokenizer::FromBytes(SmallPieces() + ends, {}).status();
  };
  EXPECT_TRUE(status(Trainer() + Normalizer()).ok());
  EXPECT_EQ(status(Trainer() + Normalizer("a map")).code(), absl::StatusCode::kUnimplemented);
  const std::string unigram = BytesField(2, IntField(3, 1));
  EXPECT_EQ(status(unigram + Normalizer()).code(), absl::StatusCode::kUnimplemented);
}

TEST(SentencePieceTest, DamagedFilesNeverCrash) {
  const std::string whole = SmallModel();
  for (uint64_t seed = 1; seed <= 1500; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    TestRandom random(seed);
    std::string damaged = whole;
    for (size_t i = 1 + random.Below(4); i > 0; --i) {
      damaged[random.Below(damaged.size())] = static_cast<char>(random.Below(256));
    }
    if (random.Below(4) == 0) damaged.resize(random.Below(damaged.size()));
    const auto tokenizer = SentencePieceTokenizer::FromBytes(damaged, {});
    if (!tokenizer.ok()) continue;
    const auto ids = (*tokenizer)->Encode("ab é [end] 中 aaaa", {.parse_special_tokens = true});
    if (ids.ok()) (*tokenizer)->Decode(*ids, true);
  }
}

}  // namespace
}  // namespace sluice
