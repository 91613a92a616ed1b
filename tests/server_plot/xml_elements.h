// As much of an XML parser as a test of our own SVG needs: it refuses what is not well formed, and
// lists the elements.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::server {

struct XmlElement {
  std::string name;
  std::map<std::string, std::string> attributes;  // without escapes
  std::string text;                               // directly inside, without escapes
  int depth = 0;                                  // 0: the document's one element

  double Number(const std::string& attribute) const;
  bool HasClass(std::string_view wanted) const;
};

// In the order of their beginnings; none when `text` is no well-formed document.
std::optional<std::vector<XmlElement>> ParseXml(std::string_view text);

}  // namespace sluice::server
