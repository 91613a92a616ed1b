#include "server/commands/port_holder.h"

#include <unistd.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace sluice::server {
namespace {

namespace fs = std::filesystem;

// The inode of the listening socket on `port`, from one of /proc/net/tcp and tcp6. Columns: sl,
// local_address (hex address:port), rem_address, st (0A = LISTEN), ..., inode is the tenth.
std::optional<uint64_t> ListeningInode(const char* table, int port) {
  std::ifstream file(table);
  const std::string wanted = absl::StrFormat(":%04X", port);
  std::string line;
  while (std::getline(file, line)) {
    const std::vector<std::string> columns = absl::StrSplit(line, ' ', absl::SkipEmpty());
    uint64_t inode = 0;
    if (columns.size() > 9 && columns[3] == "0A" && columns[1].ends_with(wanted) &&
        absl::SimpleAtoi(columns[9], &inode)) {
      return inode;
    }
  }
  return std::nullopt;
}

bool HasDescriptor(const fs::path& process, const std::string& link) {
  std::error_code error;
  for (fs::directory_iterator it(process / "fd", error), end; !error && it != end;
       it.increment(error)) {
    std::error_code unreadable;
    if (fs::read_symlink(it->path(), unreadable) == link && !unreadable) return true;
  }
  return false;
}

}  // namespace

std::optional<std::string> FindPortHolder(int port) {
  std::optional<uint64_t> inode = ListeningInode("/proc/net/tcp", port);
  if (!inode.has_value()) inode = ListeningInode("/proc/net/tcp6", port);
  if (!inode.has_value()) return std::nullopt;
  const std::string link = absl::StrCat("socket:[", *inode, "]");
  std::error_code error;
  for (fs::directory_iterator it("/proc", error), end; !error && it != end; it.increment(error)) {
    int process_id = 0;
    if (!absl::SimpleAtoi(it->path().filename().string(), &process_id)) continue;
    if (!HasDescriptor(it->path(), link)) continue;
    std::string name;
    std::getline(std::ifstream(it->path() / "comm") >> std::ws, name);
    return absl::StrCat("process ", process_id, " (", name, ")");
  }
  return "another process";
}

}  // namespace sluice::server
