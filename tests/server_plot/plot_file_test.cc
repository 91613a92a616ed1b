// The file of a plot: whole or not at all, and known before the measuring.
#include "server/plot/plot_file.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sluice::server {
namespace {

using testing::HasSubstr;

class PlotFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "/plot_file_XXXXXX";
    folder_ = ::mkdtemp(name.data());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ / name; }
  std::string Read(const std::string& name) const {
    std::ifstream file(Path(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }
  size_t NumFiles() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  std::filesystem::path folder_;
};

TEST_F(PlotFileTest, WritesAndReplaces) {
  for (const char* text : {"the first, which is longer", "second"}) {
    ASSERT_TRUE(CheckPlotFile(Path("a.svg")).ok());
    ASSERT_TRUE(WritePlotFile(Path("a.svg"), text).ok());
    EXPECT_EQ(Read("a.svg"), text);
    EXPECT_EQ(NumFiles(), 1u);
  }
}

TEST_F(PlotFileTest, ACheckLeavesNothingAndKeepsWhatIsThere) {
  EXPECT_TRUE(CheckPlotFile(Path("a.svg")).ok());
  EXPECT_EQ(NumFiles(), 0u);
  ASSERT_TRUE(WritePlotFile(Path("a.svg"), "old").ok());
  EXPECT_TRUE(CheckPlotFile(Path("a.svg")).ok());
  EXPECT_EQ(Read("a.svg"), "old");
}

TEST_F(PlotFileTest, ALinkStaysOne) {
  std::filesystem::create_directory(Path("results"));
  ASSERT_TRUE(WritePlotFile(Path("results/a.svg"), "old").ok());
  std::filesystem::create_symlink(Path("results/a.svg"), Path("latest.svg"));
  for (const char* text : {"new", "newer"}) {
    ASSERT_TRUE(CheckPlotFile(Path("latest.svg")).ok());
    ASSERT_TRUE(WritePlotFile(Path("latest.svg"), text).ok());
    EXPECT_TRUE(std::filesystem::is_symlink(Path("latest.svg")));
    EXPECT_EQ(Read("results/a.svg"), text);
  }
}

TEST_F(PlotFileTest, NoPathAsksForNothing) {
  EXPECT_TRUE(CheckPlotFile("").ok());
  EXPECT_TRUE(WritePlotFile("", "text").ok());
}

TEST_F(PlotFileTest, WhatCannotBeWrittenIsSaid) {
  ASSERT_EQ(::mkfifo(Path("pipe").c_str(), 0600), 0);
  for (const std::string& path :
       {Path("missing/a.svg"), Path(""), Path("pipe"), Path(std::string(255, 'a'))}) {
    const absl::Status status = CheckPlotFile(path);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_THAT(std::string(status.message()), HasSubstr("--plot: " + path + ": "));
  }
  EXPECT_TRUE(std::filesystem::is_fifo(Path("pipe")));
  EXPECT_EQ(NumFiles(), 1u);
  EXPECT_EQ(WritePlotFile(Path("missing/a.svg"), "text").code(), absl::StatusCode::kUnavailable);
}

TEST_F(PlotFileTest, WithoutRoomTheOldOneStays) {
  ASSERT_TRUE(WritePlotFile(Path("a.svg"), "old").ok());
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit little = {.rlim_cur = 4096, .rlim_max = limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &little), 0);
  const absl::Status status = WritePlotFile(Path("a.svg"), std::string(100000, 'x'));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("File too large"));
  EXPECT_EQ(Read("a.svg"), "old");
  EXPECT_EQ(NumFiles(), 1u);
}

}  // namespace
}  // namespace sluice::server
