// Which keys the mappings ask a ConfigReader for, for the test that holds tables against them.
#pragma once

#include <set>
#include <string>

namespace sluice {

// Notes every key that is asked for on this thread while it lives, whether a config has it or not.
// One at a time.
class ConfigKeyLog {
 public:
  ConfigKeyLog();
  ~ConfigKeyLog();
  ConfigKeyLog(const ConfigKeyLog&) = delete;
  ConfigKeyLog& operator=(const ConfigKeyLog&) = delete;

  const std::set<std::string>& keys() const { return keys_; }

 private:
  std::set<std::string> keys_;
};

}  // namespace sluice
