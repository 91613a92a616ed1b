#include "server/auth/authenticator.h"

#include "gtest/gtest.h"

namespace sluice::server {
namespace {

const std::string kDigest(64, 'a');

TEST(KeyFileTest, ReadsLinesAndComments) {
  const auto keys = ParseKeyFile("# first\n\n a:" + kDigest + ":*:*\r\nb:" + kDigest + ":m1,m2:9");
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->size(), 2u);
  EXPECT_TRUE((*keys)[0].models.empty());
  EXPECT_EQ((*keys)[0].tokens_per_minute, 0);
  EXPECT_EQ((*keys)[0].digest[0], 0xaa);
  EXPECT_EQ((*keys)[1].models, (std::vector<std::string>{"m1", "m2"}));
  EXPECT_EQ((*keys)[1].tokens_per_minute, 9);
}

TEST(KeyFileTest, RefusesBadLinesWithoutRepeatingThem) {
  for (const std::string& line :
       {std::string("secret"), "a:" + kDigest + ":*", "a:" + kDigest + ":*:x",
        "a:" + kDigest + ":*:-1", "a:" + kDigest + "a:*:1", "a:zz" + kDigest.substr(2) + ":*:1",
        ":" + kDigest + ":*:1", "a b:" + kDigest + ":*:1", "a:" + kDigest + "::1",
        "a:" + kDigest + ":*:1\na:" + kDigest + ":*:1", std::string()}) {
    const auto keys = ParseKeyFile(line);
    ASSERT_EQ(keys.status().code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_EQ(keys.status().message().find("secret"), absl::string_view::npos);
  }
}

TEST(AuthenticatorTest, WithoutAFileEverybodyIsAdmin) {
  const SteadyClock clock;
  const auto authenticator = Authenticator::Create("", &clock);
  ASSERT_TRUE(authenticator.ok());
  EXPECT_TRUE((*authenticator)->open());
  EXPECT_TRUE((*authenticator)->Authenticate("")->admin);
  EXPECT_TRUE((*authenticator)->Admit(Principal{}, 1 << 30).ok());
}

TEST(AuthenticatorTest, AMissingFileIsNotFound) {
  const SteadyClock clock;
  EXPECT_EQ(Authenticator::Create("/nonexistent/keys", &clock).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(AuthenticatorTest, DigestIsSha256) {
  EXPECT_EQ(DigestOf("abc")[0], 0xba);
  EXPECT_EQ(DigestOf("abc")[31], 0xad);
}

TEST(AuthenticatorTest, BearerTokens) {
  EXPECT_EQ(BearerToken("Bearer k"), "k");
  EXPECT_EQ(BearerToken("bearer  k"), "k");
  EXPECT_EQ(BearerToken("Basic k"), "");
  EXPECT_EQ(BearerToken("Bearer"), "");
  EXPECT_EQ(BearerToken(""), "");
}

}  // namespace
}  // namespace sluice::server
