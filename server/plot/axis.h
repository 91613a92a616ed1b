// Round numbers for an axis, and how they are written.
#pragma once

#include <string>
#include <vector>

namespace sluice::server {

// From 0 in steps of 1, 2 or 5 times a power of ten, four or fewer of them, to the first that is
// not below `most`. {0, 1} when that is not a positive number.
std::vector<double> LinearTicks(double most);

// Of a logarithmic axis: 1, 2 and 5 times powers of ten, or powers alone where those are many. The
// first is not above `least`, the last not below `most`; at least two.
std::vector<double> LogTicks(double least, double most);

// As short as it can be told from its neighbours on an axis: "0.5", "2000", "20k", "3M".
std::string TickLabel(double value);

}  // namespace sluice::server
