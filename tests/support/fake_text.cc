// The fake engine's tokenizer and chat template.
#include <array>

#include "tests/support/fake_engine.h"

namespace sluice {
namespace {

constexpr std::array<std::string_view, 4> kSpecial = {"<|bos|>", "<|eos|>", "<|im_start|>",
                                                      "<|im_end|>"};

class FakeTokenizer final : public Tokenizer {
 public:
  FakeTokenizer() {
    summary_.kind = "bytes";
    summary_.vocab_size = kFakeVocabulary;
    summary_.bos_token_id = kFakeBos;
    summary_.eos_token_id = kFakeEos;
  }

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override {
    std::vector<int32_t> ids;
    if (options.add_special_tokens) ids.push_back(kFakeBos);
    while (!text.empty()) {
      const std::optional<size_t> special =
          options.parse_special_tokens ? SpecialAt(text) : std::nullopt;
      if (special.has_value()) {
        ids.push_back(kFakeBos + static_cast<int32_t>(*special));
        text.remove_prefix(kSpecial[*special].size());
      } else {
        ids.push_back(static_cast<unsigned char>(text.front()));
        text.remove_prefix(1);
      }
    }
    return ids;
  }

  std::string TokenBytes(int32_t id, bool /*is_first*/) const override {
    if (id < 0 || id >= kFakeVocabulary) return {};
    if (id < kFakeBos) return std::string(1, static_cast<char>(id));
    return std::string(kSpecial[static_cast<size_t>(id - kFakeBos)]);
  }
  bool IsSpecial(int32_t id) const override { return id >= kFakeBos && id < kFakeVocabulary; }
  std::optional<int32_t> SpecialTokenId(std::string_view content) const override {
    const std::optional<size_t> index = SpecialAt(content);
    if (!index.has_value() || kSpecial[*index] != content) return std::nullopt;
    return kFakeBos + static_cast<int32_t>(*index);
  }
  const TokenizerSummary& summary() const override { return summary_; }

 private:
  static std::optional<size_t> SpecialAt(std::string_view text) {
    for (size_t i = 0; i < kSpecial.size(); ++i) {
      if (text.substr(0, kSpecial[i].size()) == kSpecial[i]) return i;
    }
    return std::nullopt;
  }

  TokenizerSummary summary_;
};

class FakeChatTemplate final : public ChatTemplate {
 public:
  absl::StatusOr<std::vector<PromptSegment>> Render(const std::vector<ChatMessage>& messages,
                                                    bool add_generation_prompt) const override {
    std::vector<PromptSegment> segments;
    for (const ChatMessage& message : messages) {
      segments.push_back({"<|im_start|>" + message.role + "\n", false});
      segments.push_back({message.content, true});
      segments.push_back({"<|im_end|>\n", false});
    }
    if (add_generation_prompt) segments.push_back({"<|im_start|>assistant\n", false});
    return segments;
  }
  std::string_view kind() const override { return "jinja"; }
};

}  // namespace

std::unique_ptr<Tokenizer> MakeFakeTokenizer() { return std::make_unique<FakeTokenizer>(); }

std::unique_ptr<ChatTemplate> MakeFakeChatTemplate() {
  return std::make_unique<FakeChatTemplate>();
}

ModelCard FakeModelCard() {
  ModelCard card;
  card.id = "fake-model";
  card.family = "mod";
  card.vocab_size = kFakeVocabulary;
  card.max_context_tokens = 512;
  card.max_batch_tokens = 256;
  card.eos_token_ids = {kFakeEos};
  card.parameters_total = 1000;
  card.parameters_active = 600;
  card.num_layer_instances = 4;
  card.routed_layers = {"1", "3"};
  card.routing_modes = {"threshold", "predictor"};
  card.has_experts = true;
  card.experts_per_token = 2;
  card.fingerprint = "fp_fake";
  return card;
}

}  // namespace sluice
