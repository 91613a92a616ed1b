// A whole HTTP server on free ports over a FakeEngine.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/http/http_server.h"
#include "tests/server/http_client.h"
#include "tests/support/fake_engine.h"

namespace sluice::server {

inline constexpr const char* kCompletionsPath = "/v1/completions";
inline constexpr const char* kChatPath = "/v1/chat/completions";

class HttpFixture : public testing::Test {
 protected:
  void TearDown() override;

  // Starts with `options_`, `engine_options_` and, when not empty, the key file.
  void StartServer();
  void StartServerWithoutEngine();
  // A file below the test's temporary directory.
  std::string WriteFile(const std::string& name, const std::string& text) const;

  uint16_t port() const { return server_->port(); }
  ClientResponse Complete(std::string_view body) { return Post(port(), kCompletionsPath, body); }
  ClientResponse Chat(std::string_view body) { return Post(port(), kChatPath, body); }
  // Waits until the access log has `count` records.
  std::vector<AccessRecord> WaitForRecords(size_t count);

  HttpOptions options_;
  FakeEngineOptions engine_options_;
  std::string key_file_;
  SteadyClock clock_;
  const Clock* auth_clock_ = &clock_;
  RequestCounters counters_;
  std::unique_ptr<FakeEngine> engine_;
  std::unique_ptr<Authenticator> authenticator_;
  std::unique_ptr<HttpServer> server_;

 private:
  std::mutex mutex_;
  std::condition_variable logged_;
  std::vector<AccessRecord> records_;
};

}  // namespace sluice::server
