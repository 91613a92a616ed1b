#include "engine/weights/model_file.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

constexpr int kOpenFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

// O_NONBLOCK keeps a FIFO from blocking the open; fstat refuses it afterwards.
int OpenBeneath(int directory, const char* name) {
  open_how how{};
  how.flags = static_cast<uint64_t>(kOpenFlags);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  const auto opened = static_cast<int>(::syscall(SYS_openat2, directory, name, &how, sizeof(how)));
  if (opened >= 0 || (errno != ENOSYS && errno != EPERM)) return opened;
  // Old kernels, and sandboxes that forbid openat2: no symbolic links at all.
  return ::openat(directory, name, kOpenFlags | O_NOFOLLOW);
}

absl::Status OpenError(const std::string& path, int error) {
  if (error == ENOENT) return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  if (error == EXDEV || error == ELOOP) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is a symbolic link out of the model directory"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": cannot be opened: ", std::strerror(error)));
}

}  // namespace

bool IsPlainFileName(std::string_view name) {
  if (name.empty() || name.size() > 255 || name == "." || name == "..") return false;
  return name.find('/') == name.npos && name.find('\0') == name.npos;
}

absl::StatusOr<ModelFile> ModelFile::Open(const std::string& directory, const std::string& name) {
  if (!IsPlainFileName(name)) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory, ": names a file outside the model directory"));
  }
  const std::string path = absl::StrCat(directory, "/", name);
  const int parent = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (parent < 0) return absl::NotFoundError(absl::StrCat(directory, ": ", std::strerror(errno)));
  const int descriptor = OpenBeneath(parent, name.c_str());
  const int error = errno;
  ::close(parent);
  if (descriptor < 0) return OpenError(path, error);

  ModelFile file(descriptor, path);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  file.size_ = status.st_size;
  file.modified_ns_ = int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
  file.device_ = status.st_dev;
  file.inode_ = status.st_ino;
  return file;
}

ModelFile::ModelFile(ModelFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      path_(std::move(other.path_)),
      size_(other.size_),
      modified_ns_(other.modified_ns_),
      device_(other.device_),
      inode_(other.inode_) {}

ModelFile& ModelFile::operator=(ModelFile&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  std::swap(size_, other.size_);
  std::swap(modified_ns_, other.modified_ns_);
  std::swap(device_, other.device_);
  std::swap(inode_, other.inode_);
  return *this;
}

ModelFile::~ModelFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

absl::Status ModelFile::ReadAt(int64_t offset, std::span<std::byte> into) const {
  // Linux reads at most 2^31 - 4096 bytes a call.
  constexpr size_t kLargestRead = size_t{1} << 30;
  size_t done = 0;
  while (done < into.size()) {
    const ssize_t n =
        ::pread(descriptor_, into.data() + done, std::min(into.size() - done, kLargestRead),
                static_cast<off_t>(offset + static_cast<int64_t>(done)));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::DataLossError(absl::StrCat(path_, ": ", std::strerror(errno)));
    if (n == 0)
      return absl::DataLossError(absl::StrCat(path_, ": became shorter while it was read"));
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ModelFile::ReadText(int64_t max_bytes) const {
  if (size_ > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": larger than the limit of ", max_bytes, " bytes"));
  }
  std::string text(static_cast<size_t>(size_), '\0');
  RETURN_IF_ERROR(ReadAt(0, std::as_writable_bytes(std::span<char>(text))));
  return text;
}

absl::Status ModelFile::CheckSize() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0 || status.st_size != size_) {
    return absl::DataLossError(absl::StrCat(path_, ": changed its size while it was read"));
  }
  return absl::OkStatus();
}

bool ModelFile::IsSameFile(const ModelFile& other) const {
  return device_ == other.device_ && inode_ == other.inode_;
}

}  // namespace sluice
