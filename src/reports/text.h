// Text for terminals: durations, bars and curves made of characters, lines that fit a width.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace semiseg {

std::string duration(double seconds);  // 42s, 3m07s, 5h02m, 2d03h

// Terminal columns that UTF-8 text takes. Without a UTF-8 locale each character counts as one.
int columns_of(const std::string& text);
// The first `columns` of it.
std::string clip(const std::string& text, int columns);
// With spaces behind it up to so many columns.
std::string padded(const std::string& text, int columns);
// Without control characters, which a terminal would obey; without `unicode`, also without what is not ASCII.
std::string printable(const std::string& text, bool unicode);
// Broken at spaces; a word that is longer than a line is broken anywhere. REQUIRES: columns > 0.
std::vector<std::string> wrap(const std::string& text, int columns);

// A bar of `columns` characters, filled by a fraction in 0..1 to an eighth of a character.
std::string bar(double fraction, int columns, bool unicode);

struct CurvePoint {
  double x, y;
};
struct Range {
  double low, high;
};

// A curve in `rows` lines of `columns` characters, the top line first: braille dots, 2 x 4 in a character, or asterisks.
// Points outside the ranges are left out. REQUIRES: points in the order of x, low < high.
std::vector<std::string> curve(const std::vector<CurvePoint>& points, Range x, Range y, int columns, int rows, bool unicode);

}  // namespace semiseg
