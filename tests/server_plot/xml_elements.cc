#include "tests/server_plot/xml_elements.h"

#include <array>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_split.h"
#include "engine/json_reader.h"

namespace sluice::server {
namespace {

bool IsNameCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || (c >= '0' && c <= '9');
}

constexpr std::array<std::pair<std::string_view, char>, 4> kEscapes = {
    {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}}};

class XmlParser {
 public:
  explicit XmlParser(std::string_view text) : rest_(text) {}

  bool Parse() {
    if (!Element(0)) return false;
    while (Take("\n")) {
    }
    return rest_.empty();
  }
  std::vector<XmlElement> elements;

 private:
  bool Take(std::string_view prefix) {
    if (!rest_.starts_with(prefix)) return false;
    rest_.remove_prefix(prefix.size());
    return true;
  }

  std::string Name() {
    std::string name;
    while (!rest_.empty() && IsNameCharacter(rest_.front())) {
      name += rest_.front();
      rest_.remove_prefix(1);
    }
    return name;
  }

  // Text up to `end`, which is not taken.
  bool Text(char end, std::string& text) {
    while (!rest_.empty() && rest_.front() != end) {
      const char c = rest_.front();
      if (c == '<' || (static_cast<unsigned char>(c) < 0x20 && c != '\n')) return false;
      if (c != '&') {
        text += c;
        rest_.remove_prefix(1);
        continue;
      }
      bool known = false;
      for (const auto& [escape, meant] : kEscapes) {
        if (known || !Take(escape)) continue;
        text += meant;
        known = true;
      }
      if (!known) return false;
    }
    return !rest_.empty();
  }

  bool Attributes(XmlElement& element) {
    while (Take(" ")) {
      const std::string name = Name();
      std::string value;
      if (name.empty() || !Take("=\"") || !Text('"', value) || !Take("\"")) return false;
      if (!element.attributes.emplace(name, value).second) return false;
    }
    return true;
  }

  bool Element(int depth) {
    if (!Take("<")) return false;
    const size_t index = elements.size();
    elements.push_back({.name = Name(), .depth = depth});
    const std::string name = elements[index].name;
    if (name.empty() || !Attributes(elements[index])) return false;
    if (Take("/>")) return true;
    if (!Take(">")) return false;
    while (Text('<', elements[index].text)) {
      if (Take("</")) return Name() == name && Take(">");
      if (!Element(depth + 1)) return false;
    }
    return false;
  }

  std::string_view rest_;
};

}  // namespace

double XmlElement::Number(const std::string& attribute) const {
  const auto found = attributes.find(attribute);
  return found == attributes.end() ? 0.0 : std::strtod(found->second.c_str(), nullptr);
}

bool XmlElement::HasClass(std::string_view wanted) const {
  const auto found = attributes.find("class");
  if (found == attributes.end()) return false;
  for (const absl::string_view each : absl::StrSplit(found->second, ' ')) {
    if (std::string_view(each.data(), each.size()) == wanted) return true;
  }
  return false;
}

std::optional<std::vector<XmlElement>> ParseXml(std::string_view text) {
  XmlParser parser(text);
  if (!IsValidUtf8(text) || text.find("\xEF\xBF\xBE") != text.npos ||
      text.find("\xEF\xBF\xBF") != text.npos || !parser.Parse())
    return std::nullopt;
  return std::move(parser.elements);
}

}  // namespace sluice::server
