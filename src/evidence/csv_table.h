// A CSV file as rows of cells, whatever separates them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace semiseg {

// "24.59", "+0.3" or "24.59%" (24.59); nothing where a cell is none.
std::optional<double> number_in(std::string_view cell);
// "", "nan", "NA", "None", "-" and the like.
bool is_absent(const std::string& cell);

class CsvTable {
 public:
  struct Row {
    int line;
    std::vector<std::string> cells;
  };

  // Throws Error(kData): the file is empty, has nothing below its header, is no text in UTF-8, is JSON with names, or a quote
  // in it is not closed.
  explicit CsvTable(const std::string& path);

  // Rows in blocks between blank lines, without the header. Not empty.
  const std::vector<std::vector<Row>>& blocks() const { return blocks_; }
  // The first line, where a cell of it is no number; else empty.
  const std::vector<std::string>& header() const { return header_; }
  int header_line() const { return header_line_; }

  double value(const Row& row, size_t column) const;
  int64_t whole(const Row& row, size_t column, const char* what) const;  // 0 or more
  void require_width(const Row& row, size_t columns) const;
  // Throws Error(kData) with the line.
  [[noreturn]] void fail(int line, const std::string& problem, const std::string& hint = "see `semiseg diagnose --help`") const;

 private:
  void split(const std::string& text);
  void split_brackets(const std::string& text);
  std::vector<std::string> cells_of(const std::string& words, char separator, int line) const;

  std::string path_;
  std::vector<std::vector<Row>> blocks_;
  std::vector<std::string> header_;
  int header_line_ = 1;
};

}  // namespace semiseg
