#include "evidence/csv_table.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <set>
#include <utility>

#include "parse_number.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "spelling.h"

namespace semiseg {
namespace {

constexpr const char* kPointHint = "write numbers with a point, such as 0.2459";

bool all_digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

// "0,2459" is .2459.
void read_decimal_comma(std::string* cell) {
  const size_t comma = cell->find(',');
  if (comma == std::string::npos || !all_digits(std::string_view(*cell).substr(comma + 1))) return;
  std::string with_point = *cell;
  with_point[comma] = '.';
  if (number_in(with_point)) *cell = with_point;
}

bool is_blank(char c) { return c == '\r' || c == ' ' || c == '\t'; }

bool is_header(const std::vector<std::string>& cells) {
  return std::any_of(cells.begin(), cells.end(), [](const std::string& cell) { return !number_in(cell); });
}

}  // namespace

std::optional<double> number_in(std::string_view cell) {
  if (cell.size() > 1 && cell[0] == '+') cell.remove_prefix(1);
  if (cell.size() > 1 && cell.back() == '%') cell.remove_suffix(1);
  while (cell.size() > 1 && cell.back() == ' ') cell.remove_suffix(1);
  const auto number = parse_number<double>(cell);
  return number && std::isfinite(*number) ? number : std::nullopt;
}

bool is_absent(const std::string& cell) {
  static const std::set<std::string> absent{"", "-", "nan", "na", "n/a", "none", "null", "inf", "-inf"};
  return absent.count(lowered(cell)) != 0;
}

CsvTable::CsvTable(const std::string& path) : path_(path) {
  std::string text = read_file(path_);
  if (text.rfind("\xef\xbb\xbf", 0) == 0) text.erase(0, 3);
  if (text.find('\0') != std::string::npos)
    fail(1, "is no text in UTF-8 (a table saved as Unicode text is UTF-16)", "save it as CSV in UTF-8");
  for (const char* word : {"tensor(", "array("})
    if (text.rfind(word, 0) == 0) text.erase(0, std::string_view(word).size());
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && text[first] == '{')
    fail(1, "is JSON with names, not CSV", "of a run of semiseg give the folder");
  if (first != std::string::npos && text[first] == '[')
    split_brackets(text);
  else
    split(text);
  if (blocks_.empty()) fail(1, "the file is empty");

  const std::vector<std::string>& cells = blocks_.front().front().cells;
  header_line_ = blocks_.front().front().line;
  if (!is_header(cells)) return;
  header_ = cells;
  blocks_.front().erase(blocks_.front().begin());
  if (blocks_.front().empty()) blocks_.erase(blocks_.begin());
  if (blocks_.empty()) fail(header_line_, "there is nothing below the header");
}

void CsvTable::fail(int line, const std::string& problem, const std::string& hint) const {
  throw Error(ErrorKind::kData, problem, str(path_, ":", line), hint);
}

// Cells are separated by what the first line has of semicolon, tab, comma, else by spaces.
void CsvTable::split(const std::string& text) {
  char separator = 0;
  bool open = false;
  int line = 0;
  std::optional<Row> comment;  // the newest above the first line
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string words = text.substr(at, end - at);
    at = end + 1;
    ++line;
    while (!words.empty() && is_blank(words.back())) words.pop_back();
    if (words.empty()) {
      open = false;
      continue;
    }
    const bool is_comment = words[0] == '#';
    if (is_comment && !blocks_.empty()) continue;
    if (separator == 0) {
      separator = ' ';
      for (const char candidate : {',', '\t', ';'})
        if (words.find(candidate) != std::string::npos) separator = candidate;
    }
    if (is_comment) {
      comment = Row{line, cells_of(words.substr(1), separator, line)};
      separator = 0;
      continue;
    }
    if (!open) blocks_.emplace_back();
    open = true;
    blocks_.back().push_back({line, cells_of(words, separator, line)});
    // numpy.savetxt puts names behind a #.
    if (comment && comment->cells.size() == blocks_[0][0].cells.size() && is_header(comment->cells) &&
        !is_header(blocks_[0][0].cells))
      blocks_[0].insert(blocks_[0].begin(), *comment);
    comment.reset();
  }
}

// Lists within lists, as numpy and PyTorch print them and JSON writes them: the innermost are rows, those around them blocks.
void CsvTable::split_brackets(const std::string& text) {
  Row row{1, {}};
  bool open = false;
  int line = 1;
  std::string cell;
  const auto end_cell = [&] {
    if (!cell.empty()) row.cells.push_back(std::move(cell));
    cell.clear();
  };
  for (const char c : text) {
    if (c == '[') {
      row.line = line;
    } else if (c == ']') {
      end_cell();
      if (row.cells.empty()) {
        open = false;
      } else {
        if (!open) blocks_.emplace_back();
        open = true;
        blocks_.back().push_back(std::exchange(row, {line, {}}));
      }
    } else if (c == ',' || c == '\n' || is_blank(c)) {
      end_cell();
    } else if (c != ')') {
      cell += c;
    }
    line += c == '\n';
  }
}

std::vector<std::string> CsvTable::cells_of(const std::string& words, char separator, int line) const {
  std::vector<std::string> cells(1);
  bool quoted = false;
  for (size_t i = 0; i < words.size(); ++i) {
    const char c = words[i];
    if (c == '"') {
      if (quoted && i + 1 < words.size() && words[i + 1] == '"')
        cells.back() += words[++i];
      else
        quoted = !quoted;
    } else if (c == separator && !quoted) {
      if (separator != ' ' || !cells.back().empty()) cells.emplace_back();
    } else {
      cells.back() += c;
    }
  }
  if (quoted) fail(line, "a quote is not closed");
  for (std::string& cell : cells) {
    cell.erase(0, cell.find_first_not_of(" \t"));
    if (const size_t last = cell.find_last_not_of(" \t"); last != std::string::npos) cell.resize(last + 1);
    if (separator != ',') read_decimal_comma(&cell);
  }
  return cells;
}

double CsvTable::value(const Row& row, size_t column) const {
  const auto number = number_in(row.cells[column]);
  if (!number) fail(row.line, "\"" + row.cells[column] + "\" is no number");
  return *number;
}

int64_t CsvTable::whole(const Row& row, size_t column, const char* what) const {
  const double number = value(row, column);
  if (number != std::floor(number) || number < 0 || number > 9e15)
    fail(row.line, str("\"", row.cells[column], "\" is no ", what),
         "a confusion matrix holds numbers of pixels, not shares of them; scores need a first line that names their columns");
  return static_cast<int64_t>(number);
}

void CsvTable::require_width(const Row& row, size_t columns) const {
  if (row.cells.size() == columns) return;
  // "1,0,2459,0,3714": an epoch and numbers in two parts each.
  const bool halves = row.cells.size() == 2 * columns - 1 && std::all_of(row.cells.begin(), row.cells.end(), all_digits);
  fail(row.line, str("has ", row.cells.size(), " values, not ", columns, halves ? ": are these decimal commas?" : ""),
       halves ? kPointHint : "see `semiseg diagnose --help`");
}

}  // namespace semiseg
