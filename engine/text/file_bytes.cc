#include "engine/text/file_bytes.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sluice {

absl::StatusOr<std::string> ReadFileBytes(const std::string& path, int64_t max_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
  struct stat facts {};
  std::string bytes;
  bool complete = false;
  if (::fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_size <= max_bytes) {
    bytes.resize(static_cast<size_t>(facts.st_size));
    size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t count = ::read(fd, bytes.data() + done, bytes.size() - done);
      if (count <= 0) break;
      done += static_cast<size_t>(count);
    }
    complete = done == bytes.size();
  }
  ::close(fd);
  if (!complete) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": not a readable regular file of at most ", max_bytes, " bytes"));
  }
  return bytes;
}

}  // namespace sluice
