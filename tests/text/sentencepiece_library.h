// The few calls of libsentencepiece that we use. Apart from the rest because its header declares
// its own absl::string_view, which cannot live beside Abseil's.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

namespace sluice {

class SentencePieceLibrary {
 public:
  // Null when the library refuses `model` (a serialised ModelProto).
  static std::unique_ptr<SentencePieceLibrary> Load(std::string_view model);
  virtual ~SentencePieceLibrary() = default;

  // Appends the ids of `text`; false when the library fails.
  virtual bool Encode(std::string_view text, std::vector<int>& ids) const = 0;
  virtual int num_pieces() const = 0;
  virtual int bos_id() const = 0;  // negative: none
  virtual int eos_id() const = 0;
};

}  // namespace sluice
