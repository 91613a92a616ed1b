#include "server/server_config.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/flag_table.h"

namespace sluice::server {
namespace {

using testing::HasSubstr;

using Variables = std::map<std::string, std::string>;

Environment From(Variables variables) {
  return [variables = std::move(variables)](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  };
}

absl::StatusOr<ServerConfig> Parse(std::vector<std::string> arguments, Variables variables = {}) {
  return ParseServerConfig(arguments, From(std::move(variables)));
}

std::string ErrorOf(std::vector<std::string> arguments, Variables variables = {}) {
  return std::string(Parse(std::move(arguments), std::move(variables)).status().message());
}

// A flag file that is removed with the object.
class FlagFile {
 public:
  explicit FlagFile(const std::string& text) {
    const int descriptor = mkstemp(path_.data());
    if (descriptor >= 0) close(descriptor);
    std::ofstream(path_) << text;
  }
  ~FlagFile() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = testing::TempDir() + "sluice_flags_XXXXXX";
};

TEST(ServerConfigTest, DraftTokensWithoutAnExitLayerAreRefused) {
  EXPECT_THAT(ErrorOf({"serve", "--model=/m", "--draft-tokens=3"}),
              HasSubstr("--draft-tokens needs --draft-exit-layer"));
  EXPECT_THAT(ErrorOf({"serve", "--model=/m"}, {{"SLUICE_DRAFT_TOKENS", "3"}}),
              HasSubstr("--draft-tokens needs --draft-exit-layer"));
  EXPECT_EQ(ErrorOf({"serve", "--model=/m", "--draft-tokens=3", "--draft-exit-layer=1"}), "");
  EXPECT_EQ(ErrorOf({"serve", "--model=/m", "--draft-exit-layer=1"}), "");
}

TEST(ServerConfigTest, DefaultsAreLoopbackAndTheDocumentedPorts) {
  const auto config = Parse({"serve", "--model=/m"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->command, Command::kServe);
  EXPECT_EQ(config->engine.model_directory, "/m");
  EXPECT_EQ(config->listeners.host, "127.0.0.1");
  EXPECT_EQ(config->listeners.port, 8080);
  EXPECT_EQ(config->listeners.grpc_port, 8081);
  EXPECT_EQ(config->listeners.metrics_port, 9100);
  EXPECT_EQ(config->drain_timeout_seconds, 25.0);
  EXPECT_FALSE(config->engine.weights.has_value());
}

TEST(ServerConfigTest, FlagBeatsEnvironmentBeatsFile) {
  const FlagFile file("# comment\n--port=1\n  threads = 3 \nstrict\nmax-sequences=5\n");
  const Variables variables = {
      {"SLUICE_PORT", "2"}, {"SLUICE_THREADS", "4"}, {"SLUICE_MODEL", "/m"}};
  const auto config = Parse({"serve", "--flagfile", file.path(), "--port=9"}, variables);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->listeners.port, 9);
  EXPECT_EQ(config->engine.threads, 4);
  EXPECT_EQ(config->engine.max_sequences, 5);
  EXPECT_TRUE(config->requests.strict);
  EXPECT_EQ(config->engine.model_directory, "/m");
}

TEST(ServerConfigTest, TheFlagFileCanComeFromTheEnvironment) {
  const FlagFile file("model=/from-file\n");
  const auto config = Parse({"serve"}, {{"SLUICE_FLAGFILE", file.path()}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->engine.model_directory, "/from-file");
}

TEST(ServerConfigTest, AFlagFileServesSeveralCommands) {
  const FlagFile file("model=/m\nport=7\nmax-tokens=3\n");
  const auto config = Parse({"generate", "--flagfile=" + file.path(), "--prompt=x"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->generate.max_tokens, 3);
}

TEST(ServerConfigTest, AFlagFileNamesTheBadLine) {
  const FlagFile file("model=/m\nprot=7\n");
  EXPECT_THAT(ErrorOf({"serve", "--flagfile=" + file.path()}),
              testing::AllOf(HasSubstr(":2:"), HasSubstr("did you mean --port?")));
}

TEST(ServerConfigTest, SwitchesAndSeparateValues) {
  const auto config =
      Parse({"serve", "--model", "/m", "--strict", "--allow-routing-trace=true", "--no-strict"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->requests.strict);
  EXPECT_TRUE(config->requests.allow_routing_trace);
}

TEST(ServerConfigTest, ReadsBytesAndDurations) {
  const auto config =
      Parse({"serve", "--model=/m", "--kv-memory=1.5GiB", "--drain-timeout=1500ms"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->engine.kv_memory_bytes, 3 * (int64_t{1} << 29));
  EXPECT_EQ(config->drain_timeout_seconds, 1.5);
}

TEST(ServerConfigTest, WeightsBecomeAFormat) {
  const auto config = Parse({"serve", "--model=/m", "--weights=bf16"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->engine.weights, kernels::WeightFormat::kBF16);
  EXPECT_EQ(Parse({"serve", "--model=/m", "--weights=int8"})->engine.weights,
            kernels::WeightFormat::kInt8);
  EXPECT_EQ(Parse({"serve", "--model=/m", "--weights=int4"})->engine.weights,
            kernels::WeightFormat::kInt4);
  EXPECT_THAT(ErrorOf({"serve", "--model=/m", "--weights=int2"}),
              HasSubstr("auto, f32, bf16, int8, int4"));
}

TEST(ServerConfigTest, TheModelsSamplingDefaultsCanBeSwitchedOff) {
  EXPECT_EQ(Parse({"serve", "--model=/m"})->engine.generation_config, "auto");
  EXPECT_EQ(Parse({"serve", "--model=/m", "--generation-config=none"})->engine.generation_config,
            "none");
  EXPECT_EQ(Parse({"generate", "--model=/m", "--prompt=x"}, {{"SLUICE_GENERATION_CONFIG", "none"}})
                ->engine.generation_config,
            "none");
  EXPECT_EQ(Parse({"bench", "--model=/m"})->engine.generation_config, "none");
  EXPECT_THAT(ErrorOf({"serve", "--model=/m", "--generation-config=/m"}),
              HasSubstr("--generation-config: expected auto, none"));
}

TEST(ServerConfigTest, BenchQualityIsACommandOfTwoWords) {
  const auto config = Parse({"bench", "quality", "--model=/m", "--weights=int8", "--text=story"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->command, Command::kBenchQuality);
  EXPECT_EQ(config->quality.text_file, "story");
  EXPECT_THAT(ErrorOf({"bench", "qualty"}), HasSubstr("did you mean bench quality?"));
  EXPECT_THAT(ErrorOf({"bench", "--model=/m", "--text=story"}), HasSubstr("unknown flag --text"));
}

TEST(ServerConfigTest, BenchServeNeedsAnAddressAndOneKindOfLoop) {
  const auto config =
      Parse({"bench", "serve", "--url=http://h:1", "--rate=2.5", "--seed=3", "--output-tokens=9"},
            {{"SLUICE_API_KEY", "k"}, {"SLUICE_MODEL", "/m"}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->command, Command::kBenchServe);
  EXPECT_EQ(config->load.rate, 2.5);
  EXPECT_EQ(config->load.api_key, "k");
  EXPECT_EQ(config->generate.seed, 3);
  EXPECT_EQ(config->bench.output_tokens, 9);
  EXPECT_THAT(ErrorOf({"bench", "serve", "--rate=1"}), HasSubstr("--url is required"));
  EXPECT_THAT(ErrorOf({"bench", "serve", "--url=u"}), HasSubstr("one of --rate"));
  EXPECT_THAT(ErrorOf({"bench", "serve", "--url=u", "--rate=1", "--concurrency=1"}),
              HasSubstr("one of --rate"));
  EXPECT_THAT(ErrorOf({"bench", "serve", "--url=u", "--model=/m"}),
              HasSubstr("unknown flag --model"));
}

struct BadCase {
  std::vector<std::string> arguments;
  std::string message;
};

class BadFlagTest : public testing::TestWithParam<BadCase> {};

TEST_P(BadFlagTest, IsRefusedWithAMessageThatHelps) {
  EXPECT_THAT(ErrorOf(GetParam().arguments), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Table,
    BadFlagTest,
    testing::Values(
        BadCase{{"sevre"}, "did you mean serve?"},
        BadCase{{"zzzzzz"}, "unknown command \"zzzzzz\""},
        BadCase{{"serve", "--modle=/m"}, "unknown flag --modle; did you mean --model?"},
        BadCase{{"serve", "--metrics=1"}, "did you mean --metrics-"},
        BadCase{{"serve", "--prompt=x"}, "unknown flag --prompt"},
        BadCase{{"serve", "--qqqqqqqqqqqq"}, "unknown flag --qqqqqqqqqqqq"},
        BadCase{{"serve", "model"}, "unexpected argument"},
        BadCase{{"serve", "--no-model"}, "unknown flag --no-model"},
        BadCase{{"serve", "--model"}, "a value is missing"},
        BadCase{{"serve"}, "--model is required"},
        BadCase{{"serve", "--model=/m", "--port=65536"}, "from 0 to 65535"},
        BadCase{{"serve", "--model=/m", "--port=80x"}, "a whole number"},
        BadCase{{"serve", "--model=/m", "--port="}, "a whole number"},
        BadCase{{"serve", "--model=/m", "--port=99999999999999999999"}, "a whole number"},
        BadCase{{"serve", "--model=/m", "--threads=-1"}, "from 0 to 1024"},
        BadCase{{"serve", "--model=/m", "--kv-memory=lots"}, "bytes such as"},
        BadCase{{"serve", "--model=/m", "--kv-memory=-1GiB"}, "from 0"},
        BadCase{{"serve", "--model=/m", "--drain-timeout=nan"}, "a duration such as"},
        BadCase{{"serve", "--model=/m", "--max-step-ms=inf"}, "a number"},
        BadCase{{"serve", "--model=/m", "--strict=maybe"}, "true or false"},
        BadCase{{"serve", "--model=/m", "--isa=sse"}, "auto, scalar, avx2, avx512, amx"},
        BadCase{{"serve", "--model=/m", "--prefetch-bytes=100"},
                "a multiple of 64 from 0 to 65536"},
        BadCase{{"serve", "--model=/m", "--prefetch-bytes=-64"}, "expected auto, or a multiple"},
        BadCase{{"serve", "--model=/m", "--prefetch-bytes=65600"}, "from 0 to 65536"},
        BadCase{{"serve", "--model=/m", "--prefetch-bytes=4KiB"}, "expected auto, or a multiple"},
        BadCase{{"serve", "--model=/m", "--prefetch-bytes="}, "expected auto, or a multiple"},
        BadCase{{"serve", "--model=/m", "--flagfile=/nonexistent"}, "cannot read"},
        BadCase{{"serve", "--model=/m", "--tls-cert=c"}, "belong together"},
        BadCase{{"serve", "--model=/m", "--host=0.0.0.0"}, "--allow-no-auth"},
        BadCase{{"serve", "--model=/m", "--grpc-host=192.0.2.1"}, "--grpc-host is not loopback"},
        BadCase{{"serve", "--model=/m", "--host=127.0.0.1.evil.example"}, "--host is not loopback"},
        BadCase{{"generate", "--model=/m", "--prompt=x", "--temperature=-0.5"}, "0 to 2, or -1"},
        BadCase{{"generate", "--model=/m"}, "--prompt is required"}));

TEST(ServerConfigTest, PrefetchBytesAreANumberOrMeasured) {
  EXPECT_EQ(Parse({"serve", "--model=/m"})->engine.prefetch_bytes, std::nullopt);
  EXPECT_EQ(Parse({"serve", "--model=/m", "--prefetch-bytes=auto"})->engine.prefetch_bytes,
            std::nullopt);
  EXPECT_EQ(Parse({"bench", "--model=/m", "--prefetch-bytes=0"})->engine.prefetch_bytes, 0);
  EXPECT_EQ(Parse({"bench", "--model=/m", "--prefetch-bytes=65536"})->engine.prefetch_bytes, 65536);
}

TEST(ServerConfigTest, OpenAddressesNeedKeysOrConsent) {
  EXPECT_TRUE(Parse({"serve", "--model=/m", "--host=0.0.0.0", "--allow-no-auth"}).ok());
  EXPECT_TRUE(Parse({"serve", "--model=/m", "--host=0.0.0.0", "--api-key-file=k"}).ok());
  EXPECT_TRUE(Parse({"serve", "--model=/m", "--host=::1"}).ok());
  EXPECT_TRUE(Parse({"serve", "--model=/m", "--grpc-host=0.0.0.0", "--grpc-port=-1"}).ok());
}

TEST(ServerConfigTest, BenchOfAnotherServerNeedsNoModel) {
  EXPECT_TRUE(Parse({"bench", "--model=m", "--baseline=d"}).ok());
  EXPECT_FALSE(Parse({"bench"}).ok());
  EXPECT_TRUE(Parse({"bench", "machine", "--threads=1", "--json"}).ok());
  EXPECT_TRUE(Parse({"bench", "machine", "--device=cuda:1"}).ok());
  EXPECT_FALSE(Parse({"bench", "machine", "--device=gpu"}).ok());
  EXPECT_FALSE(Parse({"bench", "machine", "--batch=1"}).ok());
  EXPECT_TRUE(Parse({"bench", "profile", "--model=m", "--batch=8", "--context=64"}).ok());
  EXPECT_FALSE(Parse({"bench", "profile"}).ok());
  EXPECT_FALSE(Parse({"bench", "machines"}).ok());
}

TEST(ServerConfigTest, HelpShowsTheDefaultsOfItsCommand) {
  EXPECT_EQ(Parse({"serve", "--model=/m"})->engine.max_step_ms, 100.0);
  EXPECT_EQ(Parse({"bench", "--model=/m"})->engine.max_step_ms, 60000.0);
  EXPECT_EQ(Parse({"bench", "--model=/m", "--max-step-ms=7"})->engine.max_step_ms, 7.0);
  EXPECT_THAT(HelpText(Command::kServe), HasSubstr("while others decode [100]"));
  EXPECT_THAT(HelpText(Command::kBench), HasSubstr("while others decode [60000]"));
}

TEST(ServerConfigTest, HelpIsGroupedAndNamesEveryFlagOfTheCommand) {
  const auto config = Parse({"serve", "--help"});
  ASSERT_TRUE(config.ok());
  EXPECT_TRUE(config->help);
  const std::string help = HelpText(Command::kServe);
  for (const FlagRow& row : FlagTable()) {
    const bool is_listed = help.find("--" + std::string(row.name)) != std::string::npos;
    if ((row.commands & kOnServe) != 0) {
      EXPECT_TRUE(is_listed) << row.name;
    }
  }
  EXPECT_THAT(help, HasSubstr("\nSecurity:\n"));
  EXPECT_THAT(help, testing::Not(HasSubstr("--prompt=")));
  EXPECT_THAT(HelpText(Command::kNone), HasSubstr("inspect"));
}

TEST(FlagTableTest, NamesAreUniqueAndDefaultsAreInRange) {
  std::set<std::string_view> names;
  ServerConfig defaults;
  for (const FlagRow& row : FlagTable()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    EXPECT_FALSE(row.name.starts_with("no-")) << row.name;
    const std::string value = FlagValue(row, defaults);
    if (row.kind == FlagKind::kText) continue;
    ServerConfig copy;
    EXPECT_TRUE(SetFlag(row, value, copy).ok()) << row.name << "=" << value;
  }
  EXPECT_EQ(EnvironmentName("kv-memory"), "SLUICE_KV_MEMORY");
}

}  // namespace
}  // namespace sluice::server
