#include "tests/text/sentencepiece_library.h"

#include <sentencepiece_processor.h>

#include <exception>

namespace sluice {
namespace {

class Library : public SentencePieceLibrary {
 public:
  bool Load(std::string_view model) {
    try {
      return processor_.LoadFromSerializedProto(model).ok();
    } catch (const std::exception&) {
      return false;
    }
  }

  bool Encode(std::string_view text, std::vector<int>& ids) const override {
    try {
      std::vector<int> encoded;
      if (!processor_.Encode(text, &encoded).ok()) return false;
      ids.insert(ids.end(), encoded.begin(), encoded.end());
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }
  int num_pieces() const override { return processor_.GetPieceSize(); }
  int bos_id() const override { return processor_.bos_id(); }
  int eos_id() const override { return processor_.eos_id(); }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace

std::unique_ptr<SentencePieceLibrary> SentencePieceLibrary::Load(std::string_view model) {
  auto library = std::make_unique<Library>();
  if (!library->Load(model)) return nullptr;
  return library;
}

}  // namespace sluice
