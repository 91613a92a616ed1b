#include "server/plot/svg_document.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "engine/json_reader.h"

namespace sluice::server {
namespace {

constexpr char kEllipsis[] = "\u2026";
constexpr char kReplacement[] = "\uFFFD";

// A page of its own colour, so that it can be read wherever it is shown; no custom properties,
// which converters do not know.
constexpr char kStyle[] = R"(
text{font-family:system-ui,"Segoe UI",Helvetica,Arial,sans-serif;font-size:11px;fill:#1f2328}
.title{font-size:16px;font-weight:600}
.heading{font-size:12px;font-weight:600}
.note{fill:#59636e}
.page{fill:#ffffff}
.grid{stroke:#e6e9ed;stroke-width:1}
.axis{stroke:#8b949e;stroke-width:1}
.whisker{stroke:#1f2328;stroke-width:1.2}
polyline{fill:none;stroke-width:2;stroke-linejoin:round}
.p0,.p1,.p2,.p3{stroke-width:2}
.dashed{stroke-dasharray:5 3}
.dotted{stroke-dasharray:2 2}
.s0{fill:#2f6fb7}.s1{fill:#c8731a}.s2{fill:#7a828e}.s3{fill:#23865f}
.p0{stroke:#2f6fb7}.p1{stroke:#c8731a}.p2{stroke:#7a828e}.p3{stroke:#23865f}
@media (prefers-color-scheme:dark){
text{fill:#e6e9ee}
.note{fill:#9aa4b0}
.page{fill:#14171c}
.grid{stroke:#2a3038}
.axis{stroke:#66717e}
.whisker{stroke:#e6e9ee}
.s0{fill:#5e9fe8}.s1{fill:#e8a24c}.s2{fill:#9aa3b0}.s3{fill:#56c294}
.p0{stroke:#5e9fe8}.p1{stroke:#e8a24c}.p2{stroke:#9aa3b0}.p3{stroke:#56c294}
}
)";

const char* Name(TextAnchor anchor) {
  if (anchor == TextAnchor::kMiddle) return "middle";
  return anchor == TextAnchor::kEnd ? "end" : "start";
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

// U+FFFE and U+FFFF, whose last byte this is, are no characters of XML.
bool EndsInNoncharacter(std::string_view text, size_t last) {
  const auto byte = [&](size_t back) { return static_cast<unsigned char>(text[last - back]); };
  return last >= 2 && byte(2) == 0xEF && byte(1) == 0xBF && byte(0) >= 0xBE;
}

std::string TitleElement(std::string_view text) {
  return text.empty() ? "" : absl::StrCat("<title>", XmlText(text), "</title>");
}

size_t NumCharacters(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
  return count;
}

// The first `count` characters.
std::string_view Prefix(std::string_view text, size_t count) {
  size_t end = 0;
  for (; end < text.size(); ++end) {
    if ((static_cast<unsigned char>(text[end]) & 0xC0) != 0x80 && count-- == 0) break;
  }
  return text.substr(0, end);
}

}  // namespace

std::string SeriesArea(size_t series) { return absl::StrCat("s", series % kNumSeriesColours); }
std::string SeriesLine(size_t series) { return absl::StrCat("p", series % kNumSeriesColours); }

std::string XmlText(std::string_view text) {
  const bool is_utf8 = IsValidUtf8(text);
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte == '&') {
      out += "&amp;";
    } else if (byte == '<') {
      out += "&lt;";
    } else if (byte == '>') {
      out += "&gt;";
    } else if (byte == '"') {
      out += "&quot;";
    } else if (byte < 0x20) {
      out += ' ';
    } else if (byte >= 0x80 && !is_utf8) {
      out += kReplacement;
    } else {
      out += text[i];
      if (is_utf8 && EndsInNoncharacter(text, i)) out.replace(out.size() - 3, 3, kReplacement);
    }
  }
  return out;
}

std::vector<std::string> WrapText(std::string_view text, size_t characters) {
  std::vector<std::string> lines;
  for (const absl::string_view part : absl::StrSplit(View(text), ' ', absl::SkipEmpty())) {
    std::string word(part);
    if (NumCharacters(word) > characters)
      word = absl::StrCat(View(Prefix(word, characters - 1)), kEllipsis);
    if (!lines.empty() && NumCharacters(lines.back()) + 1 + NumCharacters(word) <= characters) {
      absl::StrAppend(&lines.back(), " ", word);
    } else {
      lines.push_back(word);
    }
  }
  return lines;
}

double TextWidth(std::string_view text, double font_size) {
  return 0.64 * font_size * static_cast<double>(NumCharacters(text));
}

void SvgDocument::Line(Point from, Point to, std::string_view classes) {
  absl::StrAppendFormat(&shapes_,
                        "<line class=\"%s\" x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\"/>\n",
                        View(classes), from.x, from.y, to.x, to.y);
}

void SvgDocument::Rect(Point corner,
                       Point opposite,
                       std::string_view classes,
                       std::string_view tooltip) {
  absl::StrAppendFormat(
      &shapes_,
      "<rect class=\"%s\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\">%s</rect>\n",
      View(classes), corner.x, corner.y, opposite.x - corner.x, opposite.y - corner.y,
      TitleElement(tooltip));
}

void SvgDocument::Dot(Point centre, std::string_view classes, std::string_view tooltip) {
  absl::StrAppendFormat(&shapes_,
                        "<circle class=\"%s\" cx=\"%.2f\" cy=\"%.2f\" r=\"3.5\">%s</circle>\n",
                        View(classes), centre.x, centre.y, TitleElement(tooltip));
}

void SvgDocument::Polyline(const std::vector<Point>& points, std::string_view classes) {
  absl::StrAppendFormat(&shapes_, "<polyline class=\"%s\" points=\"", View(classes));
  for (const Point& point : points) absl::StrAppendFormat(&shapes_, "%.2f,%.2f ", point.x, point.y);
  absl::StrAppend(&shapes_, "\"/>\n");
}

void SvgDocument::Text(Point at,
                       std::string_view text,
                       std::string_view classes,
                       TextAnchor anchor) {
  absl::StrAppendFormat(&shapes_,
                        "<text class=\"%s\" x=\"%.2f\" y=\"%.2f\" text-anchor=\"%s\">%s</text>\n",
                        View(classes), at.x, at.y, Name(anchor), XmlText(text));
}

double SvgDocument::Title(Point corner, std::string_view text, double width) {
  return Write(
      corner, text, width,
      {.classes = "title", .font_size = 16.0, .line_height = 22.0, .character_width = 0.65});
}

double SvgDocument::Note(Point corner, std::string_view text, double width) {
  return Write(corner, text, width, {.classes = "note"});
}

double SvgDocument::Write(Point corner,
                          std::string_view text,
                          double width,
                          const Paragraph& style) {
  const auto characters = static_cast<size_t>(width / (style.font_size * style.character_width));
  for (const std::string& line : WrapText(text, characters)) {
    Text({corner.x, corner.y + style.font_size}, line, style.classes);
    corner.y += style.line_height;
  }
  return corner.y;
}

void SvgDocument::UprightText(Point at, std::string_view text, std::string_view classes) {
  absl::StrAppendFormat(&shapes_,
                        "<text class=\"%s\" transform=\"translate(%.2f %.2f) rotate(-90)\" "
                        "text-anchor=\"middle\">%s</text>\n",
                        View(classes), at.x, at.y, XmlText(text));
}

std::string SvgDocument::Finish(Point size,
                                std::string_view title,
                                std::string_view description) const {
  return absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
      "viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-labelledby=\"plot-title plot-description\">\n"
      "<title id=\"plot-title\">%s</title>\n<desc id=\"plot-description\">%s</desc>\n"
      "<style>%s</style>\n<rect class=\"page\" width=\"%.0f\" height=\"%.0f\"/>\n%s</svg>\n",
      size.x, size.y, size.x, size.y, XmlText(title), XmlText(description), kStyle, size.x, size.y,
      shapes_);
}

}  // namespace sluice::server
