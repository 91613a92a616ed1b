#include "server/plot/plot_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"

namespace sluice::server {
namespace {

// The file itself where `path` is a link to one.
std::string TargetOf(const std::string& path) {
  std::error_code unknown;
  const std::filesystem::path target = std::filesystem::weakly_canonical(path, unknown);
  return unknown ? path : target.string();
}

std::string TemporaryName(const std::string& path) {
  return absl::StrCat(TargetOf(path), ".", ::getpid());
}

std::string Message(const std::string& path, const std::string& reason) {
  return absl::StrCat("--plot: ", path, ": ", reason);
}

// Null and errno when that is not possible; never a file that is there already.
std::FILE* Create(const std::string& path) { return std::fopen(path.c_str(), "wxe"); }

// With the name that is in the way where one is: what a process that was killed left behind.
std::string CannotCreate(const std::string& path, const std::string& temporary) {
  const int error = errno;
  const std::string reason = std::strerror(error);
  return Message(path, error == EEXIST ? absl::StrCat(temporary, ": ", reason) : reason);
}

}  // namespace

absl::Status CheckPlotFile(const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  std::error_code unknown;
  const auto status = std::filesystem::status(path, unknown);
  // Renaming would put a file in the place of a device.
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    return absl::InvalidArgumentError(Message(path, "not a regular file"));
  const std::string temporary = TemporaryName(path);
  std::FILE* const file = Create(temporary);
  if (file == nullptr) return absl::InvalidArgumentError(CannotCreate(path, temporary));
  std::fclose(file);
  ::unlink(temporary.c_str());
  return absl::OkStatus();
}

absl::Status WritePlotFile(const std::string& path, const std::string& svg) {
  if (path.empty()) return absl::OkStatus();
  const std::string temporary = TemporaryName(path);
  std::FILE* const file = Create(temporary);
  if (file == nullptr) return absl::UnavailableError(CannotCreate(path, temporary));
  const bool is_written = std::fwrite(svg.data(), 1, svg.size(), file) == svg.size();
  const bool is_closed = std::fclose(file) == 0;  // what was buffered may fail only here
  if (is_written && is_closed && std::rename(temporary.c_str(), TargetOf(path).c_str()) == 0)
    return absl::OkStatus();
  absl::Status status = absl::UnavailableError(Message(path, std::strerror(errno)));
  ::unlink(temporary.c_str());
  return status;
}

}  // namespace sluice::server
