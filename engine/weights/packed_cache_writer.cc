#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/status_macros.h"
#include "engine/weights/file_fingerprint.h"
#include "engine/weights/packed_cache.h"
#include "engine/weights/packed_cache_format.h"
#include "kernels/check.h"

namespace sluice {
namespace {

std::string TemporaryName(const std::string& name) { return name + ".tmp"; }

// False, with errno, when not everything was written.
bool WriteAt(int file, uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return true;
}

absl::Status WriteError(int error) {
  return absl::UnavailableError(absl::StrCat("cannot be written: ", std::strerror(error)));
}

// Why something in `directory` could not be made: its own fault, or of what is there.
absl::Status DirectoryError(int error, int directory) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::PermissionDeniedError(std::strerror(error));
    case EACCES:
    case EPERM:
    case EROFS:
      if (directory < 0 || ::faccessat(directory, ".", W_OK | X_OK, AT_EACCESS) != 0)
        return absl::PermissionDeniedError(std::strerror(error));
      break;
    default:
      break;
  }
  return WriteError(error);
}

// True when `name` is that file, and not one that came in its place.
bool HasName(int directory, int file, const char* name) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(file, &opened) == 0 && S_ISREG(opened.st_mode) &&
         ::fstatat(directory, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

// Locks a temporary file. Another process may have renamed or removed it between the opening and
// the lock.
absl::Status LockAs(int directory, int file, const char* name) {
  constexpr char kTaken[] = "another process is writing it";
  if (::flock(file, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return absl::UnavailableError(kTaken);
    return absl::UnavailableError(absl::StrCat("cannot be locked: ", std::strerror(errno)));
  }
  if (!HasName(directory, file, name)) return absl::UnavailableError(kTaken);
  return absl::OkStatus();
}

// As packed_model.cc names them: "tiny-mod.bf16.0123456789ab.packed.tmp".
bool IsTemporaryName(std::string_view name) {
  const std::string suffix = TemporaryName(kPackedCacheSuffix);
  if (!name.ends_with(suffix)) return false;
  name.remove_suffix(suffix.size());
  const size_t dot = name.rfind('.');
  if (dot == name.npos || name.size() - dot - 1 != kPackedCacheNameDigits) return false;
  return name.find_first_not_of("0123456789abcdef", dot + 1) == name.npos;
}

// Temporary files that nobody writes any more: their processes were killed.
void RemoveAbandoned(int directory) {
  const int copy = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const listed = copy < 0 ? nullptr : ::fdopendir(copy);
  if (listed == nullptr) {
    if (copy >= 0) ::close(copy);
    return;
  }
  while (const dirent* entry = ::readdir(listed)) {
    const char* const name = entry->d_name;
    if (!IsTemporaryName(name)) continue;
    const int file = ::openat(directory, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0) continue;
    if (LockAs(directory, file, name).ok()) ::unlinkat(directory, name, 0);
    ::close(file);
  }
  ::closedir(listed);
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedCacheWriter>> PackedCacheWriter::Create(
    const std::string& directory, const std::string& name) {
  const std::string temporary = TemporaryName(name);
  if (!IsPlainFileName(name) || !IsPlainFileName(temporary))
    return absl::InvalidArgumentError("cannot be the name of a file");
  const int parent = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (parent < 0) return DirectoryError(errno, -1);
  RemoveAbandoned(parent);
  const int file =
      ::openat(parent, temporary.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
  const int error = errno;
  std::unique_ptr<PackedCacheWriter> writer(new PackedCacheWriter(parent, file, name));
  if (file < 0) return DirectoryError(error, parent);
  const absl::Status locked = LockAs(parent, file, temporary.c_str());
  if (!locked.ok()) {
    ::close(std::exchange(writer->file_, -1));  // it belongs to somebody else
    return locked;
  }
  if (::ftruncate(file, 0) != 0) return WriteError(errno);
  writer->next_ = kPackedCacheBegin;
  return writer;
}

PackedCacheWriter::~PackedCacheWriter() {
  if (file_ >= 0) {  // not finished
    ::unlinkat(directory_, TemporaryName(name_).c_str(), 0);
    ::close(file_);
  }
  if (directory_ >= 0) ::close(directory_);
}

void PackedCacheWriter::Write(std::string_view key,
                              std::span<const std::byte> bytes,
                              ForEachTask for_each) {
  if (!status_.ok()) return;
  PackedCacheEntry entry{
      .key = PackedCacheKey(key), .offset = next_, .bytes = bytes.size(), .checksum = 0};
  const auto same = [&](const PackedCacheEntry& other) { return other.key == entry.key; };
  if (std::any_of(entries_.begin(), entries_.end(), same)) return;  // a tensor used twice
  std::vector<uint64_t> sums(NumChunks(entry.bytes));
  std::atomic<int> error = 0;
  for_each(static_cast<int64_t>(sums.size()), [&](int64_t i) {
    const std::span<const std::byte> chunk = ChunkOf(bytes, i);
    sums[static_cast<size_t>(i)] = Checksum64(chunk, static_cast<uint64_t>(i));
    const uint64_t offset = entry.offset + static_cast<uint64_t>(i) * kPackedCacheChunkBytes;
    if (error.load() == 0 && !WriteAt(file_, offset, chunk)) error.store(errno);
  });
  if (error.load() != 0) {
    status_ = WriteError(error.load());
    static_cast<void>(::ftruncate(file_, 0));  // gives a full disk its room back at once
    return;
  }
  entry.checksum = CombineChunks(entry.key, sums);
  entries_.push_back(entry);
  next_ +=
      (entry.bytes + kPackedCacheAlignment - 1) / kPackedCacheAlignment * kPackedCacheAlignment;
}

absl::Status PackedCacheWriter::WriteEnd(const PackedCacheIdentity& identity) {
  SLUICE_CHECK(identity.size() <= kMaxPackedCacheParts) << identity.size();
  const auto index = std::as_bytes(std::span(entries_));
  PackedCacheHeader header{.magic = kPackedCacheMagic,
                           .version = kPackedCacheVersion,
                           .num_parts = static_cast<uint32_t>(identity.size()),
                           .index_offset = next_,
                           .index_bytes = index.size(),
                           .index_checksum = Checksum64(index, kPackedCacheVersion),
                           .file_bytes = next_ + index.size()};
  for (size_t i = 0; i < identity.size(); ++i) {
    ASSIGN_OR_RETURN(const std::string digest, Sha256Hex(identity[i].value));
    SLUICE_CHECK(digest.size() == header.digests[i].size());
    std::copy(digest.begin(), digest.end(), header.digests[i].begin());
  }
  header.checksum = ChecksumOf(header);
  if (!WriteAt(file_, next_, index) || !WriteAt(file_, 0, std::as_bytes(std::span(&header, 1))))
    return WriteError(errno);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> PackedCacheWriter::Finish(const PackedCacheIdentity& identity) {
  RETURN_IF_ERROR(status_);
  status_ = WriteEnd(identity);
  RETURN_IF_ERROR(status_);
  const std::string temporary = TemporaryName(name_);
  if (::renameat(directory_, temporary.c_str(), directory_, name_.c_str()) != 0)
    return WriteError(errno);
  ::close(std::exchange(file_, -1));
  return static_cast<int64_t>(next_ + entries_.size() * sizeof(PackedCacheEntry));
}

}  // namespace sluice
