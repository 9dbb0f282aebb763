#include "reports/text.h"

#include <wchar.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "semiseg/error.h"

namespace semiseg {
namespace {

// A character of UTF-8 text; what is no UTF-8 counts byte by byte, as U+FFFD.
struct Character {
  size_t bytes;
  uint32_t code;
};

Character character_at(const std::string& text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  if (first < 0x80) return {1, first};
  const size_t bytes = first >= 0xf0 && first < 0xf8 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first >= 0xf8 || at + bytes > text.size()) return {1, 0xfffd};
  uint32_t code = first & (0x7fU >> bytes);
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return {1, 0xfffd};
    code = code << 6 | (byte(at + i) & 0x3f);
  }
  return {bytes, code};
}

int columns_of(uint32_t code) {
  const int columns = ::wcwidth(static_cast<wchar_t>(code));
  return columns < 0 ? 1 : columns;
}

std::string utf8(uint32_t code) {  // U+0800 to U+FFFF
  return {static_cast<char>(0xe0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 0x3f)),
          static_cast<char>(0x80 | (code & 0x3f))};
}

// Dots of a chart, the origin at its lower left.
class Dots {
 public:
  Dots(int columns, int rows, int per_column, int per_row)
      : width_(columns * per_column), height_(rows * per_row), set_(static_cast<size_t>(width_ * height_)) {}

  int width() const { return width_; }
  int height() const { return height_; }
  bool at(int x, int y) const { return set_[index(x, y)] != 0; }

  void line(int x0, int y0, int x1, int y1) {
    const int steps = std::max({std::abs(x1 - x0), std::abs(y1 - y0), 1});
    for (int i = 0; i <= steps; ++i)
      set_[index(x0 + static_cast<int>(std::lround(double(x1 - x0) * i / steps)),
                 y0 + static_cast<int>(std::lround(double(y1 - y0) * i / steps)))] = 1;
  }

 private:
  size_t index(int x, int y) const { return static_cast<size_t>(y * width_ + x); }

  int width_, height_;
  std::vector<char> set_;
};

// Braille: U+2800 and a bit for each dot, here by column and by row from the top.
constexpr std::array<std::array<uint32_t, 4>, 2> kBraille{{{0x01, 0x02, 0x04, 0x40}, {0x08, 0x10, 0x20, 0x80}}};

}  // namespace

std::string duration(double seconds) {
  const auto s = static_cast<long long>(std::llround(std::max(0.0, seconds)));
  if (s < 60) return format("%llds", s);
  if (s < 3600) return format("%lldm%02llds", s / 60, s % 60);
  if (s < 100 * 3600) return format("%lldh%02lldm", s / 3600, s / 60 % 60);
  return format("%lldd%02lldh", s / 86400, s / 3600 % 24);
}

int columns_of(const std::string& text) {
  int columns = 0;
  for (size_t at = 0; at < text.size();) {
    const Character c = character_at(text, at);
    columns += columns_of(c.code);
    at += c.bytes;
  }
  return columns;
}

std::string clip(const std::string& text, int columns) {
  size_t at = 0;
  while (at < text.size()) {
    const Character c = character_at(text, at);
    columns -= columns_of(c.code);
    if (columns < 0) break;
    at += c.bytes;
  }
  return text.substr(0, at);
}

std::string padded(const std::string& text, int columns) {
  return text + std::string(static_cast<size_t>(std::max(0, columns - columns_of(text))), ' ');
}

std::string printable(const std::string& text, bool unicode) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const Character c = character_at(text, at);
    if (c.code == '\t')
      result += ' ';
    else if (c.code >= 0x20 && c.code < 0x7f)
      result += static_cast<char>(c.code);
    else if (c.code >= 0xa0)  // 0x80 to 0x9f are control characters, too
      result += unicode && c.code != 0xfffd ? text.substr(at, c.bytes) : "?";
    at += c.bytes;
  }
  return result;
}

std::vector<std::string> wrap(const std::string& text, int columns) {
  std::vector<std::string> lines;
  std::string rest = text;
  while (columns_of(rest) > columns) {
    std::string line = clip(rest, columns);
    if (line.empty()) line = rest.substr(0, character_at(rest, 0).bytes);  // one wide character
    const size_t space = rest[line.size()] == ' ' ? line.size() : line.rfind(' ');
    if (space != std::string::npos && space > 0) line.resize(space);
    rest.erase(0, line.size());
    rest.erase(0, std::min(rest.find_first_not_of(' '), rest.size()));
    lines.push_back(line);
  }
  if (!rest.empty()) lines.push_back(rest);
  return lines;
}

std::string bar(double fraction, int columns, bool unicode) {
  const int parts = unicode ? 8 : 1;
  const int filled = static_cast<int>(std::lround(std::clamp(fraction, 0.0, 1.0) * columns * parts));
  std::string text;
  for (int i = 0; i < columns; ++i) {
    const int eighths = std::clamp(filled - i * parts, 0, parts);
    if (!unicode)
      text += eighths > 0 ? '#' : '.';
    else
      text += eighths == 0 ? " " : utf8(0x2590 - static_cast<uint32_t>(eighths));  // U+2588 full ... U+258F one eighth
  }
  return text;
}

std::vector<std::string> curve(const std::vector<CurvePoint>& points, Range x, Range y, int columns, int rows, bool unicode) {
  Dots dots(columns, rows, unicode ? 2 : 1, unicode ? 4 : 1);
  const auto place = [](double value, Range range, int count) {
    return static_cast<int>(std::lround((value - range.low) / (range.high - range.low) * (count - 1)));
  };
  const auto inside = [](double value, Range range) { return value >= range.low && value <= range.high; };
  std::optional<std::pair<int, int>> last;
  for (const CurvePoint& point : points) {
    if (!inside(point.x, x) || !inside(point.y, y)) continue;  // false for NaN, too
    const int column = place(point.x, x, dots.width()), row = place(point.y, y, dots.height());
    dots.line(last ? last->first : column, last ? last->second : row, column, row);
    last = {column, row};
  }
  std::vector<std::string> lines;
  for (int row = rows - 1; row >= 0; --row) {
    std::string line;
    for (int column = 0; column < columns; ++column) {
      if (!unicode) {
        line += dots.at(column, row) ? '*' : ' ';
        continue;
      }
      uint32_t bits = 0;
      for (int dx = 0; dx < 2; ++dx)
        for (int from_top = 0; from_top < 4; ++from_top)
          if (dots.at(2 * column + dx, 4 * row + 3 - from_top)) bits |= kBraille[dx][from_top];
      line += bits == 0 ? " " : utf8(0x2800 + bits);
    }
    lines.push_back(line);
  }
  return lines;
}

}  // namespace semiseg
