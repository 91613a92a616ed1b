// Latencies of a load as curves of how many stayed within which time: what `sluice bench serve
// --plot` draws. From numbers to text; it measures nothing and writes no file.
#pragma once

#include <string>
#include <vector>

namespace sluice::server {

struct LatencyCurve {
  std::string heading;  // "Time to first token"
  std::string unit;     // what is counted: "requests"
  // Milliseconds at equal steps of shares, from the least to the greatest: 101 of them are whole
  // percents. At least two; empty: nothing was measured.
  std::vector<double> quantiles_ms;
  double objective_ms = 0.0;  // 0: none
};

struct LatencyPlot {
  std::string title;
  std::vector<std::string> notes;  // below it: the load, goodput
  std::vector<LatencyCurve> curves;
};

std::string ToSvg(const LatencyPlot& plot);

}  // namespace sluice::server
