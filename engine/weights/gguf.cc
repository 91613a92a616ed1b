#include "engine/weights/gguf.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/weights/safetensors.h"

namespace sluice {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr int64_t kWindowBytes = int64_t{1} << 20;
constexpr int64_t kMaxKeyBytes = 65'535;
constexpr int64_t kMaxNameBytes = 1'024;
constexpr int64_t kMaxDimensions = 4;
constexpr int64_t kDefaultAlignment = 32;
constexpr int64_t kMaxAlignment = int64_t{1} << 20;

absl::Status Invalid(const std::string& what) { return absl::InvalidArgumentError(what); }

int64_t RoundUpTo(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

}  // namespace

// Reads the header front to back through a window. The first error sticks.
class GgufReader {
 public:
  explicit GgufReader(const ModelFile& file) : file_(file) {}

  absl::StatusOr<GgufContents> Read() {
    ReadCounts();
    for (int64_t i = 0; i < num_keys_ && status_.ok(); ++i) ReadPair();
    ReadAlignment();
    for (int64_t i = 0; i < num_tensors_ && status_.ok(); ++i) ReadTensor();
    if (status_.ok()) PlaceTensors();
    if (status_.ok()) status_ = file_.CheckSize();
    if (!status_.ok()) return status_;
    return std::move(contents_);
  }

 private:
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  int64_t left() const { return file_.size() - position_; }

  // False after any error. `count` is checked against the rest of the file first.
  bool Take(char* into, int64_t count) {
    if (!status_.ok()) return false;
    if (count > left()) {
      Fail(Invalid("the file ends inside the header"));
      return false;
    }
    while (count > 0) {
      if (position_ < window_begin_ ||
          position_ >= window_begin_ + static_cast<int64_t>(window_.size())) {
        window_begin_ = position_;
        window_.resize(static_cast<size_t>(std::min(kWindowBytes, left())));
        Fail(file_.ReadAt(position_, std::as_writable_bytes(std::span<char>(window_))));
        if (!status_.ok()) return false;
      }
      const int64_t at = position_ - window_begin_;
      const int64_t now = std::min(count, static_cast<int64_t>(window_.size()) - at);
      std::memcpy(into, window_.data() + at, static_cast<size_t>(now));
      into += now;
      position_ += now;
      count -= now;
    }
    return true;
  }

  template <typename T>
  T Number() {
    char bytes[sizeof(T)] = {};
    Take(bytes, sizeof(T));
    T value;
    std::memcpy(&value, bytes, sizeof(T));
    return value;
  }

  // A 64-bit count that is at most `limit`.
  int64_t Count(const char* what, int64_t limit) {
    const auto count = Number<uint64_t>();
    if (!status_.ok()) return 0;
    if (count > static_cast<uint64_t>(limit)) {
      Fail(Invalid(absl::StrCat(what, " ", count, " is above the limit of ", limit)));
      return 0;
    }
    return static_cast<int64_t>(count);
  }

  std::string Text(const char* what, int64_t limit) {
    std::string text(static_cast<size_t>(Count(what, std::min(limit, left()))), '\0');
    Take(text.data(), static_cast<int64_t>(text.size()));
    return text;
  }

  void ReadCounts() {
    if (file_.size() < 24) return Fail(Invalid("shorter than a GGUF header"));
    if (Number<uint32_t>() != kMagic) return Fail(Invalid("does not start with 'GGUF'"));
    const auto version = Number<uint32_t>();
    if (version != 2 && version != 3) {
      return Fail(absl::UnimplementedError(absl::StrCat(
          "GGUF version ", version, " is not supported (2 and 3, little-endian, are)")));
    }
    num_tensors_ = Count("the number of tensors", kMaxGgufTensors);
    num_keys_ = Count("the number of keys", kMaxGgufKeys);
  }

  void ReadPair() {
    const std::string key = Text("the length of a key", kMaxKeyBytes);
    if (!status_.ok()) return;
    if (key.empty() || !IsValidUtf8(key)) return Fail(Invalid("a key is empty or not UTF-8"));
    GgufValue value;
    value.type = static_cast<GgufValueType>(Number<uint32_t>());
    if (value.type == GgufValueType::kArray) {
      ReadArray(value);
    } else if (value.type == GgufValueType::kString) {
      value.bytes = Text("the length of a text", left());
    } else if (GgufNumberBytes(value.type) > 0) {
      value.bytes.resize(static_cast<size_t>(GgufNumberBytes(value.type)));
      Take(value.bytes.data(), GgufNumberBytes(value.type));
    } else {
      Fail(Invalid("has an unknown type"));
    }
    if (!status_.ok()) {
      status_ = absl::Status(status_.code(),
                             absl::StrCat("key ", QuotedTensorName(key), ": ", status_.message()));
      return;
    }
    if (!contents_.metadata.Insert(key, std::move(value))) {
      Fail(Invalid(absl::StrCat("key ", QuotedTensorName(key), " stands twice")));
    }
  }

  void ReadArray(GgufValue& value) {
    value.element = static_cast<GgufValueType>(Number<uint32_t>());
    const int64_t number = GgufNumberBytes(value.element);
    if (value.element != GgufValueType::kString && number == 0) {
      return Fail(Invalid("is an array of arrays, or of an unknown type"));
    }
    // Each text takes at least its length.
    value.count = Count("the length of the array", left() / (number == 0 ? 8 : number));
    if (number > 0) {
      value.bytes.resize(static_cast<size_t>(value.count * number));
      Take(value.bytes.data(), value.count * number);
      return;
    }
    for (int64_t i = 0; i < value.count && status_.ok(); ++i) {
      const std::string text = Text("the length of a text", left());
      const auto length = static_cast<uint64_t>(text.size());
      value.bytes.append(reinterpret_cast<const char*>(&length), sizeof(length));
      value.bytes.append(text);
    }
  }

  void ReadAlignment() {
    if (!status_.ok()) return;
    const auto alignment =
        contents_.metadata.Int("general.alignment", 1, kMaxAlignment, kDefaultAlignment);
    if (!alignment.ok()) return Fail(alignment.status());
    alignment_ = *alignment;
    if ((alignment_ & (alignment_ - 1)) != 0) {
      Fail(Invalid("'general.alignment' must be a power of two"));
    }
  }

  void ReadTensor() {
    GgufTensor tensor;
    tensor.name = Text("the length of a tensor name", kMaxNameBytes);
    if (!status_.ok()) return;
    const std::string error = ReadTensorInfo(tensor);
    if (!status_.ok()) return;
    if (!error.empty()) {
      return Fail(Invalid(absl::StrCat("tensor ", QuotedTensorName(tensor.name), ": ", error)));
    }
    contents_.tensors.push_back(std::move(tensor));
  }

  // Returns what is wrong with it.
  std::string ReadTensorInfo(GgufTensor& tensor) {
    if (tensor.name.empty() || !IsValidUtf8(tensor.name)) return "the name is empty or not UTF-8";
    if (!names_.insert(tensor.name).second) return "stands twice";
    const auto rank = Number<uint32_t>();
    if (status_.ok() && (rank < 1 || rank > kMaxDimensions)) return "must have 1 to 4 dimensions";
    for (uint32_t i = 0; i < rank && status_.ok(); ++i) {
      const auto size = Number<uint64_t>();
      if (size < 1 || size > static_cast<uint64_t>(INT64_MAX)) return "has a size out of range";
      tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
    }
    const auto type = Number<uint32_t>();
    const auto offset = Number<uint64_t>();
    if (!status_.ok()) return "";
    tensor.type = FindGgmlBlockType(type);
    if (tensor.type == nullptr) {
      return absl::StrCat("values of ggml type ", type, " are not supported (",
                          SupportedGgmlTypes(), " are)");
    }
    if (offset > static_cast<uint64_t>(file_.size())) return "starts behind the end of the file";
    tensor.offset = static_cast<int64_t>(offset);
    return Measure(tensor);
  }

  // The file's size bounds every product, so none overflows.
  std::string Measure(GgufTensor& tensor) const {
    const int64_t row = tensor.shape.back();
    if (row % tensor.type->elements != 0) {
      return absl::StrCat("rows of ", row, " are no whole blocks of ", tensor.type->elements);
    }
    tensor.bytes = tensor.type->bytes;
    if (row / tensor.type->elements > file_.size() / tensor.bytes) return "is larger than the file";
    tensor.bytes *= row / tensor.type->elements;
    for (size_t i = 0; i + 1 < tensor.shape.size(); ++i) {
      if (tensor.shape[i] > file_.size() / tensor.bytes) return "is larger than the file";
      tensor.bytes *= tensor.shape[i];
    }
    return "";
  }

  // The values of all tensors, one behind the other, each from a multiple of the alignment on.
  void PlaceTensors() {
    const int64_t begin = RoundUpTo(position_, alignment_);
    std::vector<GgufTensor>& tensors = contents_.tensors;
    std::sort(tensors.begin(), tensors.end(),
              [](const auto& a, const auto& b) { return a.offset < b.offset; });
    int64_t end = 0;
    for (GgufTensor& tensor : tensors) {
      if (tensor.offset != RoundUpTo(end, alignment_)) {
        return Fail(
            Invalid(absl::StrCat("tensor ", QuotedTensorName(tensor.name), ": ",
                                 tensor.offset < end ? "overlaps the tensor before it"
                                                     : "does not follow the tensor before it")));
      }
      end = tensor.offset + tensor.bytes;
      tensor.offset += begin;
      if (begin + end > file_.size()) {
        return Fail(Invalid(
            absl::StrCat("tensor ", QuotedTensorName(tensor.name), ": the file ends inside it")));
      }
    }
    if (!tensors.empty() && file_.size() > begin + RoundUpTo(end, alignment_)) {
      Fail(Invalid("there are bytes behind the last tensor"));
    }
  }

  const ModelFile& file_;
  absl::Status status_;
  std::string window_;
  int64_t window_begin_ = 0;
  int64_t position_ = 0;
  int64_t num_tensors_ = 0;
  int64_t num_keys_ = 0;
  int64_t alignment_ = kDefaultAlignment;
  std::set<std::string> names_;
  GgufContents contents_;
};

absl::StatusOr<GgufContents> ReadGguf(const ModelFile& file) {
  absl::StatusOr<GgufContents> contents = GgufReader(file).Read();
  if (contents.ok()) return contents;
  return absl::Status(contents.status().code(),
                      absl::StrCat(file.path(), ": ", contents.status().message()));
}

}  // namespace sluice
