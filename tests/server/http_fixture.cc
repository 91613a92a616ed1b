#include "tests/server/http_fixture.h"

#include <unistd.h>

#include <chrono>
#include <fstream>

namespace sluice::server {

void HttpFixture::TearDown() {
  server_.reset();
  engine_.reset();
}

void HttpFixture::StartServer() {
  StartServerWithoutEngine();
  engine_ = std::make_unique<FakeEngine>(engine_options_);
  server_->SetEngine(engine_.get());
}

void HttpFixture::StartServerWithoutEngine() {
  options_.port = 0;
  options_.metrics_port = 0;
  options_.counters = &counters_;
  options_.access_log = [this](const AccessRecord& record) {
    const std::lock_guard lock(mutex_);
    records_.push_back(record);
    logged_.notify_all();
  };
  auto authenticator = Authenticator::Create(key_file_, auth_clock_);
  ASSERT_TRUE(authenticator.ok()) << authenticator.status();
  authenticator_ = *std::move(authenticator);
  auto server = HttpServer::Create(options_, authenticator_.get());
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  server_->Start();
}

std::string HttpFixture::WriteFile(const std::string& name, const std::string& text) const {
  const std::string path = testing::TempDir() + std::to_string(::getpid()) + "-" + name;
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

std::vector<AccessRecord> HttpFixture::WaitForRecords(size_t count) {
  std::unique_lock lock(mutex_);
  logged_.wait_for(lock, std::chrono::seconds(20), [&] { return records_.size() >= count; });
  return records_;
}

}  // namespace sluice::server
