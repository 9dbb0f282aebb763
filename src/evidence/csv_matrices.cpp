// CSV files of confusion matrices, in pixels.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "evidence/csv_forms.h"
#include "semiseg/error.h"
#include "semiseg/metrics.h"
#include "spelling.h"

namespace semiseg {
namespace {

using Row = CsvTable::Row;

constexpr int64_t kMostClasses = 4096;  // more is a misread file
constexpr double kMostPixels = 4e18;    // in int64

// The side of a square of so many cells; nothing where it is none, or has less than two classes.
std::optional<size_t> side_of(size_t cells) {
  const auto side = static_cast<size_t>(std::llround(std::sqrt(static_cast<double>(cells))));
  return side >= 2 && side * side == cells ? std::optional(side) : std::nullopt;
}

// See evidence.h.
class MatricesReader {
 public:
  MatricesReader(const CsvTable& table, Evidence* evidence) : table_(table), evidence_(*evidence) {}

  void read() {
    const auto& header = table_.header();
    std::vector<std::string> keys;
    for (const std::string& name : header) keys.push_back(key_of(name));
    const auto has = [&](const char* key) { return std::find(keys.begin(), keys.end(), key) != keys.end(); };
    if (header.empty()) {
      read_rows(has_epoch_column(), {});
    } else if (has("label") && has("prediction") && has("count")) {
      read_counts(keys);
    } else {
      const bool epochs = keys[0] == "epoch";
      // A table with the classes on both sides, as pandas writes it.
      labelled_ = !epochs && (keys[0].empty() || first_cells_are_names());
      read_rows(epochs, {header.begin() + (epochs || labelled_ ? 1 : 0), header.end()});
    }
    if (are_indices(names_)) names_.clear();
    if (evidence_.class_names.empty()) evidence_.class_names = names_;
    leave_out_totals();
    turn_transposed();
    for (const Matrix& matrix : matrices_) add(matrix);
  }

 private:
  struct Matrix {
    int64_t epoch;
    int line;
    at::Tensor counts_KK;
  };

  static std::string key_of(const std::string& name) {
    static const std::map<std::string, std::string> others{
        {"actual", "label"},    {"true", "label"},         {"truth", "label"},
        {"target", "label"},    {"ground_truth", "label"}, {"predicted", "prediction"},
        {"pred", "prediction"}, {"npredictions", "count"}, {"n", "count"},
        {"pixels", "count"}};
    const auto found = others.find(lowered(name));
    return found == others.end() ? lowered(name) : found->second;
  }

  // "0", "1", ...: no names.
  static bool are_indices(const std::vector<std::string>& names) {
    for (size_t i = 0; i < names.size(); ++i)
      if (names[i] != std::to_string(i)) return false;
    return true;
  }

  bool first_cells_are_names() const {
    for (const auto& block : table_.blocks())
      for (const Row& row : block)
        if (number_in(row.cells[0])) return false;
    return true;
  }

  // Without a header: K + 1 columns, the first of which is equal over K rows at a time and then rises.
  bool has_epoch_column() const {
    std::vector<std::string> first;
    size_t columns = 0;
    for (const auto& block : table_.blocks())
      for (const Row& row : block) {
        if (columns != 0 && row.cells.size() != columns) return false;
        columns = row.cells.size();
        first.push_back(row.cells[0]);
      }
    if (columns < 3 || first.size() % (columns - 1) != 0) return false;
    for (size_t i = 1; i < first.size(); ++i) {
      const double before = number_in(first[i - 1]).value_or(0), now = number_in(first[i]).value_or(0);
      if (i % (columns - 1) == 0 ? now <= before : now != before) return false;
    }
    return true;
  }

  // Of whole matrices every line counts the same pixels; rows of one matrix do only where classes have equally many. One line
  // is no square matrix.
  bool has_equal_sums(size_t skip) const {
    std::optional<double> sum;
    for (const auto& block : table_.blocks())
      for (const Row& row : block) {
        double of_row = 0;
        for (size_t i = skip; i < row.cells.size(); ++i) of_row += number_in(row.cells[i]).value_or(0);
        if (sum && *sum != of_row) return false;
        sum = of_row;
      }
    return true;
  }

  // `names` of the columns may be empty.
  void read_rows(bool with_epoch, const std::vector<std::string>& names) {
    names_ = names;
    const size_t skip = with_epoch || labelled_ ? 1 : 0;
    const bool lines_are_matrices = names.empty() && has_equal_sums(skip);
    int64_t number = 0;
    for (const auto& block : table_.blocks()) {
      const size_t cells = block.front().cells.size() - skip;
      // One matrix a line, row after row.
      const auto flat = lines_are_matrices ? side_of(cells) : std::nullopt;
      if (flat) {
        if (block.size() % cells == 0)
          table_.fail(block.front().line,
                      str("these lines may be matrices of ", cells, " classes, a line for each, or of ", *flat,
                          " classes in a line each"),
                      "name the classes in a first line, or write the matrices apart");
        for (const Row& row : block) {
          table_.require_width(row, cells + skip);
          matrices_.push_back({with_epoch ? table_.whole(row, 0, "number of an epoch") : ++number, row.line,
                               counts_of({&row}, skip, static_cast<int64_t>(*flat))});
        }
        continue;
      }
      if (!names.empty() && cells != names.size()) table_.require_width(block.front(), names.size() + skip);
      if (cells < 2 || static_cast<int64_t>(cells) > kMostClasses || block.size() % cells != 0)
        table_.fail(block.front().line, str("a block of ", block.size(), " lines with ", block.front().cells.size(),
                                            " values is no square confusion matrix"));
      for (size_t top = 0; top < block.size(); top += cells) {
        const int64_t epoch = with_epoch ? table_.whole(block[top], 0, "number of an epoch") : ++number;
        std::vector<const Row*> rows(cells);
        for (size_t i = 0; i < cells; ++i) {
          const Row& row = block[top + i];
          table_.require_width(row, cells + skip);
          if (with_epoch && table_.whole(row, 0, "number of an epoch") != epoch)
            table_.fail(row.line,
                        str("epoch ", row.cells[0], " begins before the ", cells, " lines of epoch ", epoch, " are complete"));
          size_t c = i;
          if (labelled_) {
            const auto found = index_of(names, row.cells[0]);
            if (!found) table_.fail(row.line, "no column is called \"" + row.cells[0] + "\", as this line is");
            c = *found;
          }
          if (rows[c] != nullptr) table_.fail(row.line, "two lines are called \"" + row.cells[0] + "\"");
          rows[c] = &row;
        }
        matrices_.push_back({epoch, block[top].line, counts_of(rows, skip, static_cast<int64_t>(cells))});
      }
    }
  }

  at::Tensor counts_of(const std::vector<const Row*>& rows, size_t skip, int64_t K) const {
    std::vector<int64_t> counts;
    for (const Row* row : rows)
      for (size_t i = skip; i < row->cells.size(); ++i) counts.push_back(table_.whole(*row, i, "number of pixels"));
    return at::tensor(counts, at::kLong).view({K, K});
  }

  // Columns label, prediction and count in any order; epoch may be missing. Classes are numbers from 0, or names.
  void read_counts(const std::vector<std::string>& keys) {
    const auto column = [&](const char* key) {
      return static_cast<size_t>(std::find(keys.begin(), keys.end(), key) - keys.begin());
    };
    const size_t label = column("label"), prediction = column("prediction"), count = column("count"), epoch = column("epoch");
    const bool named_outside = !evidence_.class_names.empty();
    std::vector<std::string> names = evidence_.class_names;
    bool numbers = true;
    for (const auto& block : table_.blocks())
      for (const Row& row : block) {
        table_.require_width(row, keys.size());
        numbers = numbers && number_in(row.cells[label]) && number_in(row.cells[prediction]);
      }
    int64_t K = static_cast<int64_t>(names.size());
    const auto class_of = [&](const Row& row, size_t at) {
      if (numbers) {
        const int64_t c = table_.whole(row, at, "number of a class");
        if (c >= (named_outside ? static_cast<int64_t>(names.size()) : kMostClasses))
          table_.fail(row.line, str("there is no class ", c));
        K = std::max(K, c + 1);
        return c;
      }
      if (const auto found = index_of(names, row.cells[at])) return static_cast<int64_t>(*found);
      if (named_outside) table_.fail(row.line, "there is no class \"" + row.cells[at] + "\"");
      names.push_back(row.cells[at]);
      K = static_cast<int64_t>(names.size());
      return K - 1;
    };
    struct Cell {
      int64_t label, prediction, count;
    };
    std::map<int64_t, std::vector<Cell>> cells;
    std::map<int64_t, int> lines;
    for (const auto& block : table_.blocks())
      for (const Row& row : block) {
        const int64_t when = epoch < keys.size() ? table_.whole(row, epoch, "number of an epoch") : 1;
        const int64_t from = class_of(row, label), to = class_of(row, prediction);
        cells[when].push_back({from, to, table_.whole(row, count, "number of pixels")});
        lines.emplace(when, row.line);
      }
    if (!numbers) names_ = names;
    for (const auto& [when, of_epoch] : cells) {
      const auto counts_KK = at::zeros({K, K}, at::kLong);
      auto counts = counts_KK.accessor<int64_t, 2>();
      for (const Cell& cell : of_epoch) counts[cell.label][cell.prediction] += cell.count;
      matrices_.push_back({when, lines.at(when), counts_KK});
    }
  }

  // A last row and column that add up the others.
  void leave_out_totals() {
    const auto has_totals = [](const Matrix& matrix) {
      const int64_t K = matrix.counts_KK.size(0) - 1;
      if (K < 2) return false;
      const auto inner = matrix.counts_KK.narrow(0, 0, K).narrow(1, 0, K);
      return inner.sum(0).equal(matrix.counts_KK[K].narrow(0, 0, K)) &&
             inner.sum(1).equal(matrix.counts_KK.select(1, K).narrow(0, 0, K)) && inner.sum().item<int64_t>() > 0;
    };
    if (!std::all_of(matrices_.begin(), matrices_.end(), has_totals)) return;
    for (Matrix& matrix : matrices_) {
      const int64_t K = matrix.counts_KK.size(0) - 1;
      matrix.counts_KK = matrix.counts_KK.narrow(0, 0, K).narrow(1, 0, K).contiguous();
    }
    if (evidence_.class_names == names_ && !names_.empty()) evidence_.class_names.pop_back();
    if (!names_.empty()) names_.pop_back();
    evidence_.notes.push_back("the last row and column are the sums of the others, and left out");
  }

  // The labels of the validation images stay the same from epoch to epoch, so the sums of labels do.
  void turn_transposed() {
    if (matrices_.size() < 2) return;
    // By how much a side's sums differ from those of the first epoch, as a share of all pixels.
    const auto moves = [&](int64_t summed) {
      double most = 0;
      for (const Matrix& matrix : matrices_) {
        if (matrix.counts_KK.sizes() != matrices_[0].counts_KK.sizes()) return 1.0;
        const auto by = (matrix.counts_KK.sum(summed) - matrices_[0].counts_KK.sum(summed)).abs().max().item<double>();
        most = std::max(most, by / std::max(1.0, matrix.counts_KK.sum().item<double>()));
      }
      return most;
    };
    constexpr double kNothing = 1e-6, kSomething = 1e-4;
    if (moves(/*summed=*/1) < kSomething || moves(/*summed=*/0) > kNothing) return;
    for (Matrix& matrix : matrices_) matrix.counts_KK = matrix.counts_KK.t().contiguous();
    evidence_.notes.push_back(
        "rows are taken as predictions and columns as labels: the sums of the columns stay the same from epoch to epoch, as "
        "those of labels do");
  }

  // Classes in the order of the names that are asked for.
  at::Tensor in_order(const Matrix& matrix) const {
    const auto& wanted = evidence_.class_names;
    const int64_t K = matrix.counts_KK.size(0);
    if (names_.empty() || names_ == wanted || static_cast<int64_t>(names_.size()) != K) return matrix.counts_KK;
    std::vector<int64_t> place;
    for (const std::string& name : names_) {
      const auto c = index_of(wanted, name);
      if (!c) table_.fail(table_.header_line(), "the class \"" + name + "\" is not one of --classes");
      place.push_back(static_cast<int64_t>(*c));
    }
    const auto N = static_cast<int64_t>(wanted.size());
    const auto index = at::tensor(place, at::kLong);
    const auto rows = at::zeros({N, K}, at::kLong).index_copy(0, index, matrix.counts_KK);
    return at::zeros({N, N}, at::kLong).index_copy(1, index, rows);
  }

  void add(const Matrix& matrix) {
    const at::Tensor counts_KK = in_order(matrix);
    const int64_t K = counts_KK.size(0);
    if (K < 2) table_.fail(matrix.line, "a confusion matrix needs at least two classes");
    if (!evidence_.class_names.empty() && static_cast<int64_t>(evidence_.class_names.size()) != K)
      table_.fail(matrix.line, str("a confusion matrix of ", K, " classes, but ", evidence_.class_names.size(), " have names"),
                  "rows are labels, columns predictions");
    if (!evidence_.history.empty() && static_cast<int64_t>(evidence_.history.front().val->iou.size()) != K)
      table_.fail(matrix.line,
                  str("a confusion matrix of ", K, " classes after one of ", evidence_.history.front().val->iou.size()));
    const double pixels = counts_KK.to(at::kDouble).sum().item<double>();
    if (pixels == 0) table_.fail(matrix.line, "this confusion matrix counts no pixel");
    if (pixels > kMostPixels) table_.fail(matrix.line, "this confusion matrix holds more pixels than can be counted");
    if (evidence_.history.empty() && (counts_KK.sum(1) == counts_KK.sum(1)[0]).all().item<bool>())
      evidence_.notes.push_back(
          "every line of the matrix sums to the same: where lines were normalised, shares and scores are those of classes of "
          "one size");
    EpochRecord record;
    record.epoch = matrix.epoch;
    record.val = scores_of(counts_KK);
    evidence_.history.push_back(record);
  }

  const CsvTable& table_;
  Evidence& evidence_;
  bool labelled_ = false;           // each line begins with its class
  std::vector<std::string> names_;  // the file's own; may be empty
  std::vector<Matrix> matrices_;
};

}  // namespace

void read_matrices(const CsvTable& table, Evidence* evidence) { MatricesReader(table, evidence).read(); }

}  // namespace semiseg
