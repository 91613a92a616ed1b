// An SVG document, written shape by shape. Shapes name classes; one style sheet gives these their
// colours, for light and for dark viewers. It knows nothing of what is drawn.
//   Text sizes:  title, heading, label, note (smaller and greyer in this order)
//   Lines:       grid, axis, whisker, p0 to p3, dashed, dotted
//   Areas:       s0 to s3, the colours of p0 to p3; page, the background
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::server {

struct Point {
  double x = 0.0, y = 0.0;  // y grows downwards
};

// Where the point of a text lies in it.
enum class TextAnchor : unsigned char { kStart, kMiddle, kEnd };

inline constexpr double kFontSize = 11.0;  // of label and note

// Colours of their own; what comes after them begins again.
inline constexpr size_t kNumSeriesColours = 4;
std::string SeriesArea(size_t series);  // "s1"
std::string SeriesLine(size_t series);  // "p1"

// For content and attributes: reserved characters escaped, and what XML cannot hold replaced, so
// that any bytes make a document.
std::string XmlText(std::string_view text);

// Lines of at most `characters`, broken at spaces; a longer word loses its end to an ellipsis.
std::vector<std::string> WrapText(std::string_view text, size_t characters);

// About what the text takes at most: as many of a wide font's digits.
double TextWidth(std::string_view text, double font_size = kFontSize);

class SvgDocument {
 public:
  void Line(Point from, Point to, std::string_view classes);
  // Between two corners; `tooltip` is shown by viewers under the pointer.
  void Rect(Point corner, Point opposite, std::string_view classes, std::string_view tooltip = {});
  void Dot(Point centre, std::string_view classes, std::string_view tooltip = {});
  void Polyline(const std::vector<Point>& points, std::string_view classes);
  void Text(Point at,
            std::string_view text,
            std::string_view classes,
            TextAnchor anchor = TextAnchor::kStart);
  // Lines of a title, else of notes, broken at `width`; where the next thing below can begin.
  double Title(Point corner, std::string_view text, double width);
  double Note(Point corner, std::string_view text, double width);
  // From bottom to top, around its middle.
  void UprightText(Point at, std::string_view text, std::string_view classes);

  // The whole document, from (0, 0) to `size`; `description` says in words what the picture shows.
  std::string Finish(Point size, std::string_view title, std::string_view description) const;

 private:
  struct Paragraph {
    std::string_view classes;
    double font_size = kFontSize, line_height = 15.0;
    double character_width = 0.58;  // of prose on average, in font sizes
  };
  double Write(Point corner, std::string_view text, double width, const Paragraph& style);

  std::string shapes_;
};

}  // namespace sluice::server
