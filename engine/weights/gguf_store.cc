#include "engine/weights/gguf_store.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "engine/status_macros.h"
#include "engine/weights/file_fingerprint.h"
#include "engine/weights/safetensors.h"
#include "kernels/check.h"

namespace sluice {
namespace {

constexpr int64_t kMaxBlockElements = 256;
// Little enough to be decoded while it is in the second cache, beside the values.
constexpr int64_t kReadBytes = int64_t{64} << 10;

constexpr char kIndexMark[] = "{e}";

class OpenedGgufStore : public GgufStore {
 public:
  OpenedGgufStore(ModelFile file, std::vector<GgufTensor> tensors, std::vector<GgufPart> parts)
      : file_(std::move(file)), tensors_(std::move(tensors)) {
    for (GgufPart& part : parts) {
      Part entry;
      entry.tensor = part.tensor;
      entry.range.dtype = tensors_[part.tensor].type->dtype;
      entry.range.shape = std::move(part.shape);
      if (part.name.find(kIndexMark) != std::string::npos) {
        entry.count = entry.range.shape.front();
        entry.range.shape.erase(entry.range.shape.begin());
      }
      entry.found.resize(static_cast<size_t>(entry.count));
      entry.read.resize(static_cast<size_t>(entry.count));
      entry.range.bytes = entry.range.num_elements() * kernels::SizeOf(entry.range.dtype);
      entry.range.offset = tensors_[part.tensor].offset;
      total_bytes_ += entry.range.bytes * entry.count;
      const int64_t elements = entry.range.num_elements() * entry.count;
      (tensors_[part.tensor].type->decode == nullptr ? plain_elements_ : block_elements_) +=
          elements;
      SLUICE_CHECK(parts_.emplace(std::move(part.name), std::move(entry)).second);
    }
  }

  bool Contains(std::string_view name) const override { return Look(name).part != nullptr; }

  absl::StatusOr<TensorRange> Find(std::string_view name) const override {
    const Place place = Look(name);
    if (place.part == nullptr) {
      return absl::NotFoundError(
          absl::StrCat("tensor ", QuotedTensorName(name), " has no counterpart in the GGUF file"));
    }
    Mark(place.part->found[place.index]);
    return place.part->range;
  }

  absl::Status Read(std::string_view name, int64_t first, std::span<std::byte> into) override {
    RETURN_IF_ERROR(Find(name).status());
    const Place place = Look(name);
    const Part& part = *place.part;
    const int64_t size = kernels::SizeOf(part.range.dtype);
    const auto wanted = static_cast<int64_t>(into.size());
    if (first < 0 || wanted % size != 0 || wanted > part.range.bytes ||
        first > (part.range.bytes - wanted) / size) {
      return absl::OutOfRangeError(
          absl::StrCat("tensor ", QuotedTensorName(name), ": elements from ", first, " on, ",
                       wanted, " bytes, are not in it (", part.range.bytes, " bytes)"));
    }
    Mark(part.read[place.index]);
    const GgufTensor& tensor = tensors_[part.tensor];
    first += static_cast<int64_t>(place.index) * part.range.num_elements();
    if (tensor.type->decode == nullptr) return file_.ReadAt(tensor.offset + first * size, into);
    return Decode(tensor, first, into);
  }

  std::vector<std::string> Unused() const override {
    std::vector<std::string> names;
    for (const auto& [name, part] : parts_) {
      for (size_t i = 0; i < part.read.size(); ++i) {
        if (part.read[i] == 0)
          names.push_back(absl::StrReplaceAll(name, {{kIndexMark, absl::StrCat(i)}}));
      }
    }
    return names;
  }

  const GgufTensor* NeverFound() const override {
    for (const auto& [name, part] : parts_) {
      if (std::find(part.found.begin(), part.found.end(), 0) != part.found.end())
        return &tensors_[part.tensor];
    }
    return nullptr;
  }

  int64_t total_bytes() const override { return total_bytes_; }
  bool quantized() const override { return block_elements_ > plain_elements_; }

  absl::StatusOr<std::string> Fingerprint() const override {
    std::vector<std::vector<FileRange>> ranges(1);
    for (const GgufTensor& tensor : tensors_)
      ranges[0].push_back({.offset = tensor.offset, .bytes = tensor.bytes});
    ASSIGN_OR_RETURN(std::string text, FingerprintOf({&file_, 1}, ranges));
    for (const auto& [name, part] : parts_) {
      const GgufTensor& tensor = tensors_[part.tensor];
      absl::StrAppend(&text, name, " ", tensor.type->id, " [", absl::StrJoin(part.range.shape, ","),
                      "] ", tensor.offset, "\n");
    }
    return text;
  }

 private:
  struct Part {
    size_t tensor = 0;
    int64_t count = 1;
    TensorRange range;                         // of one of them
    mutable std::vector<uint8_t> found, read;  // bytes: threads may set different ones
  };
  struct Place {
    const Part* part = nullptr;
    size_t index = 0;
  };

  static void Mark(uint8_t& flag) { std::atomic_ref(flag).store(1, std::memory_order_relaxed); }

  // By its name, or with one number between dots as the index ("experts.12.up_proj").
  Place Look(std::string_view name) const {
    const auto exact = parts_.find(name);
    if (exact != parts_.end() && name.find(kIndexMark) == name.npos) return {&exact->second, 0};
    for (size_t dot = name.find('.'); dot != name.npos; dot = name.find('.', dot + 1)) {
      const size_t end = name.find('.', dot + 1);
      const std::string digits(name.substr(dot + 1, end - dot - 1));
      int64_t index = 0;
      if (end == name.npos || !absl::SimpleAtoi(digits, &index) || absl::StrCat(index) != digits)
        continue;
      const auto it = parts_.find(std::string(name.substr(0, dot + 1)) + kIndexMark +
                                  std::string(name.substr(end)));
      if (it != parts_.end() && index >= 0 && index < it->second.count)
        return {&it->second, static_cast<size_t>(index)};
    }
    return {};
  }

  // Elements from `first` on. Whole blocks go straight to their place; of those at both ends a
  // part may be all that is needed.
  absl::Status Decode(const GgufTensor& tensor, int64_t first, std::span<std::byte> into) const {
    const GgmlBlockType& type = *tensor.type;
    std::array<std::byte, kReadBytes> raw;
    std::array<float, kMaxBlockElements> values{};
    const auto read = [&](int64_t block, int64_t count) {
      const auto bytes = static_cast<size_t>(count * type.bytes);
      return file_.ReadAt(tensor.offset + block * type.bytes, std::span(raw).first(bytes));
    };
    const int64_t end = first + static_cast<int64_t>(into.size() / sizeof(float));
    std::byte* to = into.data();
    while (first < end) {
      const int64_t block = first / type.elements;
      const int64_t skipped = first % type.elements;
      int64_t elements = std::min(end - first, type.elements - skipped);
      if (elements < type.elements) {
        RETURN_IF_ERROR(read(block, 1));
        type.decode(raw.data(), 1, values.data());
        std::memcpy(to, values.data() + skipped, static_cast<size_t>(elements) * sizeof(float));
      } else {
        const int64_t count = std::min(kReadBytes / type.bytes, (end - first) / type.elements);
        RETURN_IF_ERROR(read(block, count));
        type.decode(raw.data(), count, reinterpret_cast<float*>(to));
        elements *= count;
      }
      first += elements;
      to += elements * static_cast<int64_t>(sizeof(float));
    }
    return absl::OkStatus();
  }

  ModelFile file_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, Part, std::less<>> parts_;
  int64_t total_bytes_ = 0;
  int64_t plain_elements_ = 0, block_elements_ = 0;
};

}  // namespace

std::unique_ptr<GgufStore> MakeGgufStore(ModelFile file,
                                         std::vector<GgufTensor> tensors,
                                         std::vector<GgufPart> parts) {
  return std::make_unique<OpenedGgufStore>(std::move(file), std::move(tensors), std::move(parts));
}

}  // namespace sluice
