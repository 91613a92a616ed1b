#include "engine/weights/weight_store.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "engine/weights/file_fingerprint.h"
#include "engine/weights/model_file.h"
#include "engine/weights/safetensors.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = int64_t{16} << 20;
constexpr size_t kMaxShards = 1000;

using ShardOfTensor = std::map<std::string, std::string>;

class SafetensorsStore : public WeightStore {
 public:
  // `index` is null for a single file; otherwise it says which shard each tensor must come from.
  absl::Status Add(ModelFile file, const std::string& shard, const ShardOfTensor* index);

  bool Contains(std::string_view name) const override { return tensors_.contains(name); }
  absl::StatusOr<TensorRange> Find(std::string_view name) const override;
  absl::Status Read(std::string_view name, int64_t first, std::span<std::byte> into) override;
  std::vector<std::string> Unused() const override;
  int64_t total_bytes() const override { return total_bytes_; }
  absl::StatusOr<std::string> Fingerprint() const override;
  size_t num_tensors() const { return tensors_.size(); }

 private:
  struct Tensor {
    TensorRange range;
    bool readable = true;
    bool used = false;
  };

  absl::Status CheckReadable(std::string_view name, const Tensor& tensor) const;

  std::vector<ModelFile> files_;
  std::map<std::string, Tensor, std::less<>> tensors_;
  int64_t total_bytes_ = 0;
};

absl::Status SafetensorsStore::Add(ModelFile file,
                                   const std::string& shard,
                                   const ShardOfTensor* index) {
  for (const ModelFile& other : files_) {
    if (other.IsSameFile(file)) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path(), ": the same file as ", other.path()));
    }
  }
  ASSIGN_OR_RETURN(SafetensorsContents contents, ReadSafetensorsHeader(file));
  for (SafetensorsEntry& entry : contents.entries) {
    if (index != nullptr) {
      const auto it = index->find(entry.name);
      if (it == index->end() || it->second != shard) {
        return absl::InvalidArgumentError(absl::StrCat(
            file.path(), ": tensor ", QuotedTensorName(entry.name), " is ",
            it == index->end() ? "not in the index" : "in another shard by the index"));
      }
    }
    Tensor tensor;
    tensor.readable = entry.dtype.has_value();
    tensor.range.dtype = entry.dtype.value_or(kernels::DType::kI32);
    tensor.range.shape = std::move(entry.shape);
    tensor.range.bytes = entry.bytes;
    tensor.range.file = static_cast<int32_t>(files_.size());
    tensor.range.offset = contents.values_begin + entry.offset;
    total_bytes_ += entry.bytes;
    tensors_.emplace(std::move(entry.name), std::move(tensor));
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status SafetensorsStore::CheckReadable(std::string_view name, const Tensor& tensor) const {
  if (tensor.readable) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(files_[static_cast<size_t>(tensor.range.file)].path(), ": tensor ",
                   QuotedTensorName(name), ": 64-bit integers are not read"));
}

absl::StatusOr<TensorRange> SafetensorsStore::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return absl::NotFoundError(
        absl::StrCat("tensor ", QuotedTensorName(name), " is not in the weight files"));
  }
  RETURN_IF_ERROR(CheckReadable(name, it->second));
  return it->second.range;
}

absl::Status SafetensorsStore::Read(std::string_view name,
                                    int64_t first,
                                    std::span<std::byte> into) {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return absl::NotFoundError(
        absl::StrCat("tensor ", QuotedTensorName(name), " is not in the weight files"));
  }
  RETURN_IF_ERROR(CheckReadable(name, it->second));
  const TensorRange& range = it->second.range;
  const int64_t size = kernels::SizeOf(range.dtype);
  const auto wanted = static_cast<int64_t>(into.size());
  if (first < 0 || wanted % size != 0 || wanted > range.bytes ||
      first > (range.bytes - wanted) / size) {
    return absl::OutOfRangeError(absl::StrCat("tensor ", QuotedTensorName(name), ": elements from ",
                                              first, " on, ", wanted, " bytes, are not in it (",
                                              range.bytes, " bytes)"));
  }
  std::atomic_ref(it->second.used).store(true, std::memory_order_relaxed);
  return files_[static_cast<size_t>(range.file)].ReadAt(range.offset + first * size, into);
}

std::vector<std::string> SafetensorsStore::Unused() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) {
    if (!tensor.used) names.push_back(name);
  }
  return names;
}

absl::StatusOr<std::string> SafetensorsStore::Fingerprint() const {
  std::vector<std::vector<FileRange>> ranges(files_.size());
  for (const auto& [name, tensor] : tensors_) {
    ranges[static_cast<size_t>(tensor.range.file)].push_back(
        {.offset = tensor.range.offset, .bytes = tensor.range.bytes});
  }
  ASSIGN_OR_RETURN(std::string text, FingerprintOf(files_, ranges));
  for (const auto& [name, tensor] : tensors_) {
    const TensorRange& range = tensor.range;
    absl::StrAppend(&text, name, " ", kernels::Name(range.dtype), " [",
                    absl::StrJoin(range.shape, ","), "] ", range.file, ":", range.offset, "\n");
  }
  return text;
}

absl::StatusOr<ShardOfTensor> ReadIndex(const ModelFile& file) {
  ASSIGN_OR_RETURN(const std::string text, file.ReadText(kMaxIndexBytes));
  JsonLimits limits;
  limits.max_depth = 8;
  limits.max_nodes = 2 * kMaxSafetensorsTensors + 1000;
  ASSIGN_OR_RETURN(const json root, ParseJson(text, limits));
  const json* map = FindMember(root, "weight_map");
  if (map == nullptr || !map->is_object()) {
    return absl::InvalidArgumentError("'weight_map' must be an object");
  }
  ShardOfTensor index;
  for (const auto& [name, value] : map->items()) {
    const auto* shard = value.get_ptr<const json::string_t*>();
    if (shard == nullptr || !IsPlainFileName(*shard) || !absl::EndsWith(*shard, ".safetensors")) {
      return absl::InvalidArgumentError(
          absl::StrCat("'weight_map': tensor ", QuotedTensorName(name),
                       " must name a .safetensors file inside the model directory"));
    }
    index.emplace(name, *shard);
  }
  return index;
}

std::vector<std::string> ShardNames(const ShardOfTensor& index) {
  std::vector<std::string> shards;
  for (const auto& [name, shard] : index) shards.push_back(shard);
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  return shards;
}

absl::StatusOr<std::unique_ptr<WeightStore>> OpenShards(const std::string& directory,
                                                        const ModelFile& file) {
  absl::StatusOr<ShardOfTensor> index = ReadIndex(file);
  if (!index.ok()) {
    return absl::Status(index.status().code(),
                        absl::StrCat(file.path(), ": ", index.status().message()));
  }
  const std::vector<std::string> shards = ShardNames(*index);
  if (shards.empty() || shards.size() > kMaxShards) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": names ", shards.size(),
                                                   " shards; 1 to ", kMaxShards, " are allowed"));
  }
  auto store = std::make_unique<SafetensorsStore>();
  for (const std::string& shard : shards) {
    ASSIGN_OR_RETURN(ModelFile opened, ModelFile::Open(directory, shard));
    RETURN_IF_ERROR(store->Add(std::move(opened), shard, &*index));
  }
  for (const auto& [name, shard] : *index) {
    if (!store->Contains(name)) {
      return absl::InvalidArgumentError(absl::StrCat(
          file.path(), ": tensor ", QuotedTensorName(name), " is not in '", shard, "'"));
    }
  }
  return store;
}

}  // namespace

absl::StatusOr<std::unique_ptr<WeightStore>> WeightStore::Open(const std::string& model_directory) {
  absl::StatusOr<ModelFile> single = ModelFile::Open(model_directory, kSingleFile);
  if (single.ok()) {
    auto store = std::make_unique<SafetensorsStore>();
    RETURN_IF_ERROR(store->Add(*std::move(single), kSingleFile, nullptr));
    return store;
  }
  if (!absl::IsNotFound(single.status())) return single.status();
  absl::StatusOr<ModelFile> index = ModelFile::Open(model_directory, kIndexFile);
  if (absl::IsNotFound(index.status())) {
    return absl::NotFoundError(
        absl::StrCat(model_directory, ": has neither ", kSingleFile, " nor ", kIndexFile));
  }
  RETURN_IF_ERROR(index.status());
  return OpenShards(model_directory, *index);
}

}  // namespace sluice
