// Who may call what: every route of the table, keys, models, quotas.
#include "absl/strings/escaping.h"
#include "server/http/exchange.h"
#include "tests/server/http_fixture.h"

namespace sluice::server {
namespace {

class FixedClock final : public Clock {
 public:
  absl::Duration Now() const override { return absl::Seconds(seconds_.load()); }
  void Advance(int seconds) { seconds_ += seconds; }

 private:
  std::atomic<int> seconds_{1000};
};

std::string Line(const std::string& id, const std::string& key, const std::string& rest) {
  const KeyDigest digest = DigestOf(key);
  const absl::string_view bytes(reinterpret_cast<const char*>(digest.data()), digest.size());
  return id + ":" + absl::BytesToHexString(bytes) + ":" + rest + "\n";
}

std::string Bearer(const std::string& key) { return "Authorization: Bearer " + key + "\r\n"; }

class AuthTest : public HttpFixture {
 protected:
  void SetUp() override {
    auth_clock_ = &fixed_clock_;
    key_file_ = WriteFile("keys", "# keys\n" + Line("admin", "root-key", "*:*") +
                                      Line("alice", "alice-key", "fake-model:*") +
                                      Line("bob", "bob-key", "other-model:*") +
                                      Line("carol", "carol-key", "*:60"));
    StartServer();
  }
  ClientResponse CompleteAs(const std::string& key, std::string_view body = R"({"prompt": "a"})") {
    return Post(port(), kCompletionsPath, body, Bearer(key));
  }

  FixedClock fixed_clock_;
};

TEST_F(AuthTest, EveryRouteButHealthAndTheFrontPageNeedsAKey) {
  int open = 0;
  for (const Route& route : Routes()) {
    const std::string path(route.path);
    const bool is_open = path == "/" || path.rfind("/health", 0) == 0;
    open += is_open ? 1 : 0;
    for (const char* fields : {"", "Authorization: Bearer wrong\r\n", "x-api-key: wrong\r\n",
                               "Authorization: Basic cm9vdC1rZXk=\r\n", "Authorization: Bearer\r\n",
                               "Authorization: Bearer root-key x\r\n"}) {
      const ClientResponse response = route.method == "POST"
                                          ? Post(port(), path, "{}", fields)
                                          : Get(port(), path, fields, std::string(route.method));
      EXPECT_EQ(response.status, is_open ? 200 : 401) << path << " " << fields;
      if (is_open) continue;
      EXPECT_EQ(response.ErrorCode(), "invalid_api_key");
      EXPECT_EQ(response.Json()["error"]["type"], "authentication_error");
      EXPECT_TRUE(response.fields.count("www-authenticate") > 0);
    }
    const ClientResponse admin = route.method == "POST"
                                     ? Post(port(), path, "{}", Bearer("root-key"))
                                     : Get(port(), path, Bearer("root-key"));
    EXPECT_NE(admin.status, 401) << path;
    EXPECT_NE(admin.status, 403) << path;
  }
  EXPECT_EQ(open, 4);
  EXPECT_EQ(Get(port(), "/no/such/path").status, 401);  // denied by default
  EXPECT_EQ(Get(server_->metrics_port(), "/metrics").status, 200);
}

TEST_F(AuthTest, BothHeaderStylesWork) {
  EXPECT_EQ(CompleteAs("alice-key").status, 200);
  EXPECT_EQ(Post(port(), kCompletionsPath, R"({"prompt": "a"})", "x-api-key: alice-key\r\n").status,
            200);
  EXPECT_EQ(
      Post(port(), kCompletionsPath, R"({"prompt": "a"})", "authorization: bearer alice-key\r\n")
          .status,
      200);
  EXPECT_EQ(WaitForRecords(1)[0].key_id, "alice");
}

TEST_F(AuthTest, AKeyWithATrailingNulIsNoKey) {
  EXPECT_EQ(CompleteAs(std::string("alice-key\0", 10)).status, 401);
}

TEST_F(AuthTest, AKeyMayNotUseOtherModels) {
  const ClientResponse response = CompleteAs("bob-key");
  EXPECT_EQ(response.status, 403);
  EXPECT_EQ(response.ErrorCode(), "model_not_allowed");
  EXPECT_EQ(response.ErrorParam(), "model");
  EXPECT_EQ(response.Json()["error"]["type"], "permission_error");
  EXPECT_TRUE(Get(port(), "/v1/models", Bearer("bob-key")).Json()["data"].empty());
}

TEST_F(AuthTest, RoutingNeedsTheAdminKey) {
  EXPECT_EQ(Get(port(), "/v1/routing", Bearer("alice-key")).ErrorCode(), "admin_key_required");
  EXPECT_EQ(Get(port(), "/v1/routing", Bearer("alice-key")).status, 403);
  EXPECT_EQ(Get(port(), "/v1/routing", Bearer("root-key")).status, 200);
}

TEST_F(AuthTest, TokensPerMinuteRunOutAndComeBack) {
  const std::string body = "{\"prompt\": \"" + std::string(50, 'a') + "\"}";  // 51 tokens, 4 out
  EXPECT_EQ(CompleteAs("carol-key", body).status, 200);
  WaitForRecords(1);
  const ClientResponse refused = CompleteAs("carol-key", body);
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.ErrorCode(), "rate_limit_exceeded");
  EXPECT_EQ(refused.fields.at("retry-after"), "46");  // 51 needed, 60 - 51 - 4 left, 1 a second
  fixed_clock_.Advance(46);
  EXPECT_EQ(CompleteAs("carol-key", body).status, 200);
  EXPECT_EQ(CompleteAs("alice-key", body).status, 200);  // others are not affected
}

TEST_F(AuthTest, ReloadingReplacesKeys) {
  WriteFile("keys", Line("dave", "dave-key", "*:*"));
  ASSERT_TRUE(authenticator_->Reload().ok());
  EXPECT_EQ(CompleteAs("alice-key").status, 401);
  EXPECT_EQ(CompleteAs("dave-key").status, 200);
  WriteFile("keys", "broken");
  EXPECT_FALSE(authenticator_->Reload().ok());
  EXPECT_EQ(CompleteAs("dave-key").status, 200);  // the old keys stay
}

}  // namespace
}  // namespace sluice::server
