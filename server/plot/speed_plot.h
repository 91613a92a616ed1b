// Speeds of a model beside those of what it is compared with, as grouped bars: what
// `sluice bench --plot` draws. From numbers to text; it measures nothing and writes no file.
#pragma once

#include <string>
#include <vector>

namespace sluice::server {

// Tokens per second of one contender. Values that are not positive and finite are drawn as nothing.
struct Speed {
  double median = 0.0;
  double lower_quartile = 0.0, upper_quartile = 0.0;  // 0: too few rounds
};

// How many times faster the model would be if all time went to arithmetic, or all to reading
// weights; 0: not known.
struct IdealRatio {
  double by_flops = 0.0, by_weight_bytes = 0.0;
};

struct SpeedGroup {
  std::string label;               // under the bars: "batch 8"
  std::vector<Speed> speeds;       // of each contender
  std::vector<IdealRatio> ideals;  // of the first contender over each other one
};

struct SpeedPanel {
  std::string heading;
  std::vector<SpeedGroup> groups;
};

// Rows of the least and of the most used expert over their fair share; both 0: no experts.
struct ExpertBalance {
  double least = 0.0, most = 0.0;
};

struct BalanceGroup {
  std::string label;
  std::vector<ExpertBalance> balances;  // of each contender
};

struct SpeedPlot {
  std::string title;
  std::vector<std::string> notes;       // below it: the machine, the load
  std::vector<std::string> contenders;  // the first is the model
  std::vector<SpeedPanel> panels;
  std::vector<BalanceGroup> balance;  // drawn when any contender has experts
};

std::string ToSvg(const SpeedPlot& plot);

}  // namespace sluice::server
