#include "tests/scheduling/simulated_model.h"

namespace sluice {
namespace {

constexpr int32_t kVocabulary = 23;

uint64_t Mix(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
  return bits ^ (bits >> 31);
}

uint64_t MixAll(uint64_t state, std::initializer_list<uint64_t> values) {
  for (const uint64_t value : values) state = Mix(state + 0x9E3779B97F4A7C15u + value);
  return state;
}

uint64_t Unsigned(int32_t value) { return static_cast<uint64_t>(value); }

// What one layer stores for a row; `previous` is what it stored for the row before.
uint64_t Content(const SimulatedRequest& request,
                 uint64_t previous,
                 int32_t token,
                 int32_t position,
                 uint64_t layer) {
  return MixAll(request.key, {previous, Unsigned(token), Unsigned(position), layer});
}

}  // namespace

std::vector<KvClassSpec> SimulatedModel::Classes() {
  const kernels::KvGeometry narrow{
      .num_kv_heads = 1, .key_dim = 1, .value_dim = 1, .page_tokens = 4};
  const kernels::KvGeometry wide{.num_kv_heads = 2, .key_dim = 1, .value_dim = 1, .page_tokens = 2};
  return {{.name = "all", .num_layers = 2, .geometry = narrow, .routed = false},
          {.name = "routed narrow", .num_layers = 1, .geometry = narrow, .routed = true},
          {.name = "routed wide", .num_layers = 1, .geometry = wide, .routed = true}};
}

// A whole prompt stands for a choice among all its tokens: the rule reads the prompt's last token.
bool SimulatedModel::Takes(const SimulatedRequest& request,
                           size_t kv_class,
                           int32_t token,
                           int32_t position) {
  if (!Classes()[kv_class].routed) return true;
  const bool in_prompt = position < static_cast<int32_t>(request.prompt.size());
  const int32_t last = request.whole_prompt && in_prompt ? request.prompt.back() : -1;
  const uint64_t hash = MixAll(kv_class, {Unsigned(token), Unsigned(position), Unsigned(last)});
  return hash % 100 < 40;
}

uint64_t* SimulatedModel::SlotAddress(const Sequence& sequence,
                                      size_t kv_class,
                                      int32_t layer,
                                      int32_t slot) const {
  const kernels::KvLayerView view = cache_.LayerView(static_cast<int32_t>(kv_class), layer);
  const int64_t block = slot / view.geometry.page_tokens;
  const int64_t in_page = slot % view.geometry.page_tokens;
  const auto place = static_cast<int64_t>(*sequence.kv);
  const int64_t page = view.page_table[place * view.sequence_stride + block * view.block_stride];
  const int64_t slot_bytes = view.page_bytes / view.geometry.page_tokens;
  return reinterpret_cast<uint64_t*>(static_cast<char*>(view.pool) + page * view.page_bytes +
                                     in_page * slot_bytes);
}

void SimulatedModel::Store(const SimulatedRequest& request,
                           const PlannedRows& rows,
                           size_t kv_class) {
  const Sequence& sequence = *rows.sequence;
  std::vector<int32_t> positions;
  for (int32_t position = rows.first; position < rows.first + rows.count; ++position) {
    const int32_t token = sequence.tokens[static_cast<size_t>(position)];
    if (Takes(request, kv_class, token, position)) positions.push_back(position);
  }
  num_skipped_rows_ += rows.count - static_cast<int32_t>(positions.size());
  std::vector<int32_t> slots(positions.size());
  cache_.Append(*sequence.kv, static_cast<int32_t>(kv_class), positions, slots);
  for (int32_t layer = 0; layer < cache_.classes()[kv_class].num_layers; ++layer) {
    for (size_t i = 0; i < slots.size(); ++i) {
      const int32_t slot = slots[i];
      const uint64_t before = slot == 0 ? 0 : *SlotAddress(sequence, kv_class, layer, slot - 1);
      const int32_t token = sequence.tokens[static_cast<size_t>(positions[i])];
      *SlotAddress(sequence, kv_class, layer, slot) =
          Content(request, before, token, positions[i], Unsigned(layer) * 8 + kv_class);
    }
  }
}

int32_t SimulatedModel::Run(const SimulatedRequest& request, const PlannedRows& rows) {
  uint64_t state = request.key;
  for (size_t c = 0; c < cache_.classes().size(); ++c) {
    Store(request, rows, c);
    const int32_t length = cache_.Length(*rows.sequence->kv, static_cast<int32_t>(c));
    for (int32_t layer = 0; layer < cache_.classes()[c].num_layers; ++layer) {
      for (int32_t slot = 0; slot < length && rows.samples; ++slot) {
        state = Mix(state ^ *SlotAddress(*rows.sequence, c, layer, slot));
      }
    }
  }
  return static_cast<int32_t>(state % kVocabulary);
}

std::vector<int32_t> SimulatedModel::SoloText(const SimulatedRequest& request) {
  const std::vector<KvClassSpec> classes = Classes();
  std::vector<int32_t> tokens = request.prompt;
  std::vector<int32_t> text;
  while (static_cast<int32_t>(text.size()) < request.max_tokens) {
    uint64_t state = request.key;
    for (size_t c = 0; c < classes.size(); ++c) {
      for (int32_t layer = 0; layer < classes[c].num_layers; ++layer) {
        uint64_t stored = 0;
        for (size_t i = 0; i < tokens.size(); ++i) {
          const auto position = static_cast<int32_t>(i);
          if (!Takes(request, c, tokens[i], position)) continue;
          stored = Content(request, stored, tokens[i], position, Unsigned(layer) * 8 + c);
          state = Mix(state ^ stored);
        }
      }
    }
    text.push_back(static_cast<int32_t>(state % kVocabulary));
    tokens.push_back(text.back());
    if (text.back() == kEndToken) break;
  }
  return text;
}

}  // namespace sluice
