// The CSV files of scores or of confusion matrices that other programs write.
#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <optional>
#include <string_view>

#include "evidence/evidence.h"
#include "parse_number.h"
#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

constexpr int64_t kMostClasses = 4096;  // of a confusion matrix: more is a misread file
constexpr const char* kPointHint = "write numbers with a point, such as 0.2459";

std::optional<double> number_in(std::string_view cell) {
  if (cell.size() > 1 && cell[0] == '+') cell.remove_prefix(1);
  const auto number = parse_number<double>(cell);
  return number && std::isfinite(*number) ? number : std::nullopt;
}

bool is_absent(const std::string& cell) { return cell.empty() || cell == "nan" || cell == "NaN" || cell == "null"; }

// See evidence.h.
class CsvReader {
 public:
  CsvReader(const std::string& path, std::vector<std::string> class_names) : path_(path) {
    evidence_.class_names = std::move(class_names);
  }

  Evidence read() {
    split();
    const std::vector<std::string>& first = blocks_.front().front().cells;
    if (std::all_of(first.begin(), first.end(), [](const auto& cell) { return number_in(cell).has_value(); })) {
      if (looks_like_scores())
        read_scores({"epoch", "miou", "mean_class_accuracy", "pixel_accuracy"});
      else
        read_matrices(has_epoch_column(), 1);
    } else {
      header_line_ = blocks_.front().front().line;
      const std::vector<std::string> header = first;
      blocks_.front().erase(blocks_.front().begin());
      if (blocks_.front().empty()) blocks_.erase(blocks_.begin());
      if (blocks_.empty()) fail(header_line_, "there is nothing below the header");
      read_by(header);
    }
    std::stable_sort(evidence_.history.begin(), evidence_.history.end(),
                     [](const EpochRecord& a, const EpochRecord& b) { return a.epoch < b.epoch; });
    return std::move(evidence_);
  }

 private:
  struct Row {
    int line;
    std::vector<std::string> cells;
  };

  static constexpr const char* kHelpHint = "see `semiseg diagnose --help`";

  [[noreturn]] void fail(int line, const std::string& problem, const std::string& hint = kHelpHint) const {
    throw Error(ErrorKind::kData, problem, str(path_, ":", line), hint);
  }

  // Rows in blocks between blank lines. Cells are separated by what the first line has of semicolon, tab, comma, else by
  // spaces.
  void split() {
    std::string text = read_file(path_);
    if (text.rfind("\xef\xbb\xbf", 0) == 0) text.erase(0, 3);
    char separator = 0;
    bool open = false;
    int line = 0;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      std::string words = text.substr(at, end - at);
      at = end + 1;
      ++line;
      while (!words.empty() && (words.back() == '\r' || words.back() == ' ' || words.back() == '\t')) words.pop_back();
      if (words.empty()) {
        open = false;
        continue;
      }
      if (words[0] == '#') continue;
      if (separator == 0) {
        separator = ' ';
        for (const char candidate : {',', '\t', ';'})
          if (words.find(candidate) != std::string::npos) separator = candidate;
      }
      if (!open) blocks_.emplace_back();
      open = true;
      blocks_.back().push_back({line, cells_of(words, separator, line)});
    }
    if (blocks_.empty()) fail(1, "the file is empty");
    for (const auto& block : blocks_)
      for (const Row& row : block)
        for (const std::string& cell : row.cells)
          if (has_decimal_comma(cell)) fail(row.line, "\"" + cell + "\" has a decimal comma", kPointHint);
  }

  // "0,2459", where something else separates the cells.
  static bool has_decimal_comma(const std::string& cell) {
    const size_t comma = cell.find(',');
    if (comma == std::string::npos) return false;
    std::string with_point = cell;
    with_point[comma] = '.';
    return number_in(with_point).has_value() && std::isdigit(static_cast<unsigned char>(with_point.back())) != 0;
  }

  std::vector<std::string> cells_of(const std::string& words, char separator, int line) const {
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
    }
    return cells;
  }

  double value(const Row& row, size_t column) const {
    const auto number = number_in(row.cells[column]);
    if (!number) fail(row.line, "\"" + row.cells[column] + "\" is no number");
    return *number;
  }

  int64_t whole(const Row& row, size_t column, const char* what) const {
    const double number = value(row, column);
    if (number != std::floor(number) || number < 0 || number > 9e15)
      fail(row.line, str("\"", row.cells[column], "\" is no ", what),
           "a confusion matrix holds numbers of pixels, not shares of them; scores need a first line that names their columns");
    return static_cast<int64_t>(number);
  }

  void require_width(const Row& row, size_t columns) const {
    if (row.cells.size() == columns) return;
    // "1,0,2459,0,3714": an epoch and numbers in two parts each.
    const bool halves = row.cells.size() == 2 * columns - 1 &&
                        std::all_of(row.cells.begin(), row.cells.end(),
                                    [](const auto& cell) { return cell.find_first_not_of("0123456789") == std::string::npos; });
    fail(row.line, str("has ", row.cells.size(), " values, not ", columns, halves ? ": are these decimal commas?" : ""),
         halves ? kPointHint : kHelpHint);
  }

  void read_by(const std::vector<std::string>& header) {
    std::vector<std::string> keys;
    for (const std::string& name : header) keys.push_back(key_of(name));
    const auto has = [&](const char* key) { return std::find(keys.begin(), keys.end(), key) != keys.end(); };
    if (has("miou")) return read_scores(header);
    if (has("label") && has("prediction") && has("count")) return read_counts(keys);
    if (has("mean_class_accuracy") || has("pixel_accuracy")) fail(header_line_, "no column is called miou");
    const size_t epoch_columns = keys[0] == "epoch";
    const std::vector<std::string> names(header.begin() + static_cast<long>(epoch_columns), header.end());
    if (evidence_.class_names.empty()) evidence_.class_names = names;
    read_matrices(epoch_columns == 1, names.size());
  }

  // The name that a column of scores has here, for the usual ones of others.
  static std::string key_of(const std::string& name) {
    std::string key;
    for (const char c : name)
      key += c == ' ' || c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    for (const char* prefix : {"val_", "val/"})
      if (key.rfind(prefix, 0) == 0) key.erase(0, 4);
    static const std::map<std::string, std::string> others{{"mean_iou", "miou"},
                                                           {"macc", "mean_class_accuracy"},
                                                           {"mean_accuracy", "mean_class_accuracy"},
                                                           {"class_accuracy", "mean_class_accuracy"},
                                                           {"accuracy", "pixel_accuracy"},
                                                           {"acc", "pixel_accuracy"},
                                                           {"aacc", "pixel_accuracy"},
                                                           {"overall_accuracy", "pixel_accuracy"},
                                                           {"train_loss", "loss"}};
    const auto found = others.find(key);
    return found == others.end() ? key : found->second;
  }

  // --- scores ---

  // Without a header: epoch and three fractions, which no confusion matrix holds.
  bool looks_like_scores() const {
    bool fractions = false;
    for (const auto& block : blocks_)
      for (const Row& row : block) {
        if (row.cells.size() != 4) return false;
        for (const std::string& cell : row.cells) {
          const auto number = number_in(cell);
          if (!number) return false;
          fractions = fractions || *number != std::floor(*number);
        }
      }
    return fractions;
  }

  void read_scores(const std::vector<std::string>& header) {
    std::map<std::string, size_t> column;  // by key
    std::map<std::string, std::vector<size_t>> of_class;
    std::vector<std::string> names;
    for (size_t i = 0; i < header.size(); ++i) {
      const std::string key = key_of(header[i]);
      const bool is_score = key == "miou" || key == "mean_class_accuracy" || key == "pixel_accuracy";
      if (const size_t slash = header[i].find('/'); slash != std::string::npos && !is_score) {
        of_class[header[i].substr(0, slash)].push_back(i);
        if (header[i].rfind("iou/", 0) == 0) names.push_back(header[i].substr(slash + 1));
        continue;
      }
      if (!column.emplace(key, i).second) fail(header_line_, "two columns are called " + key);
    }
    for (const char* key : {"miou", "mean_class_accuracy", "pixel_accuracy"})
      if (!column.count(key)) fail(header_line_, str("no column is called ", key));
    if (evidence_.class_names.empty()) evidence_.class_names = names;

    std::vector<const Row*> rows;
    for (const auto& block : blocks_)
      for (const Row& row : block) {
        require_width(row, header.size());
        if (!is_absent(row.cells[column.at("miou")])) rows.push_back(&row);  // else not evaluated
      }
    if (rows.empty()) fail(header_line_, "no line has scores");
    std::vector<double> units(header.size(), 1);
    for (const char* key : {"miou", "mean_class_accuracy", "pixel_accuracy"}) {
      const size_t at = column.at(key);
      units[at] = unit_of(rows, {at}, key, column);
    }
    // A mean IoU is no higher than the mean class accuracy: where it would be, it is below 1 %.
    const size_t miou = column.at("miou"), accuracy = column.at("mean_class_accuracy");
    if (std::any_of(rows.begin(), rows.end(),
                    [&](const Row* row) {
                      return number_in(row->cells[miou]).value_or(0) / units[miou] >
                             number_in(row->cells[accuracy]).value_or(0) / units[accuracy];
                    }) &&
        units[accuracy] > units[miou])
      units[miou] = units[accuracy];
    for (const char* kind : {"iou", "class_accuracy", "label_share", "prediction_share"}) {
      const auto columns = of_class.find(kind);
      if (columns == of_class.end()) continue;
      const double unit = unit_of(rows, columns->second, kind, column);
      for (const size_t at : columns->second) units[at] = unit;
    }
    const auto fraction = [&](const Row& row, size_t at) {
      const double unit = units[at], number = value(row, at) / unit;
      if (number < 0 || number > 1)
        fail(row.line, "\"" + row.cells[at] + "\" is no " + (unit == 1 ? "fraction in 0..1" : "percentage in 0..100"));
      return number;
    };
    for (const Row* row : rows) {
      EpochRecord record;
      record.epoch = column.count("epoch") ? whole(*row, column.at("epoch"), "number of an epoch")
                                           : static_cast<int64_t>(evidence_.history.size()) + 1;
      if (column.count("loss") && !is_absent(row->cells[column.at("loss")])) record.loss = value(*row, column.at("loss"));
      Scores scores;
      scores.miou = fraction(*row, column.at("miou"));
      scores.mean_class_accuracy = fraction(*row, column.at("mean_class_accuracy"));
      scores.pixel_accuracy = fraction(*row, column.at("pixel_accuracy"));
      const auto fill = [&](const char* kind, auto* values) {
        const auto found = of_class.find(kind);
        if (found == of_class.end() || found->second.size() != names.size()) return;
        for (const size_t at : found->second) {
          if (is_absent(row->cells[at]))
            values->emplace_back();
          else
            values->push_back(fraction(*row, at));
        }
      };
      fill("iou", &scores.iou);
      fill("class_accuracy", &scores.class_accuracy);
      fill("label_share", &scores.label_share);
      fill("prediction_share", &scores.prediction_share);
      if (scores.label_share.size() != scores.prediction_share.size())
        scores.label_share.clear(), scores.prediction_share.clear();
      record.val = scores;
      add(record, row->line);
    }
  }

  // What columns of one kind are divided by: 100 where they hold percent, which may be below 1, else 1. Fails where some lines
  // hold percent and others fractions. The lines are compared by their largest value, but for scores before training, which may
  // be anything.
  double unit_of(const std::vector<const Row*>& rows, const std::vector<size_t>& columns, const std::string& kind,
                 const std::map<std::string, size_t>& column) {
    struct Most {
      double value;
      const Row* row;
      size_t at;
    };
    std::vector<Most> lines;
    bool percent = false;  // as far as all scores tell, those before training among them
    for (const Row* row : rows) {
      Most most{0, row, columns.front()};
      for (const size_t at : columns)
        if (const auto number = number_in(row->cells[at]); number && *number > most.value) most = {*number, row, at};
      percent = percent || most.value > 1;
      const auto epoch = column.find("epoch");
      const bool before_training = epoch != column.end() && number_in(row->cells[epoch->second]) == 0;
      if (most.value > 0 && !before_training) lines.push_back(most);
    }
    const auto small = std::find_if(lines.begin(), lines.end(), [](const Most& line) { return line.value <= 1; });
    const auto large = std::find_if(lines.begin(), lines.end(), [](const Most& line) { return line.value > 1; });
    if (lines.empty()) return percent ? 100 : 1;
    if (large == lines.end()) return 1;
    if (small == lines.end()) return 100;

    // How far the column goes up and down, read as percent, and with its small values as fractions: an mIoU may rise from 0.5
    // %.
    double as_percent = 0, as_mixed = 0;
    const auto mixed = [](const Most& line) { return line.value <= 1 ? 100 * line.value : line.value; };
    for (size_t i = 1; i < lines.size(); ++i) {
      as_percent += std::abs(lines[i].value - lines[i - 1].value);
      as_mixed += std::abs(mixed(lines[i]) - mixed(lines[i - 1]));
    }
    // The best of all classes is never below 1 % once training has begun.
    if (columns.size() == 1 && as_percent <= as_mixed) return 100;
    // A mean IoU is no higher than the mean class accuracy: small values that would be, as fractions, are percent of a
    // collapse.
    if (kind == "miou") {
      const size_t accuracy = column.at("mean_class_accuracy");
      const auto in = [&](const Row* row) { return number_in(row->cells[accuracy]).value_or(0); };
      const bool in_percent = std::any_of(rows.begin(), rows.end(), [&](const Row* row) { return in(row) > 1; });
      const double to_percent = in_percent ? 1 : 100;
      if (std::all_of(lines.begin(), lines.end(),
                      [&](const Most& line) { return line.value > 1 || 100 * line.value > to_percent * in(line.row); })) {
        evidence_.notes.push_back("mIoU is taken as percent, \"" + small->row->cells[small->at] + "\" in line " +
                                  str(small->row->line) + " too: as a fraction it would be above the mean class accuracy");
        return 100;
      }
    }
    const auto smalls = std::count_if(lines.begin(), lines.end(), [](const Most& line) { return line.value <= 1; });
    const bool large_is_odd = 2 * smalls >= static_cast<int64_t>(lines.size());
    const Most &odd = large_is_odd ? *large : *small, &other = large_is_odd ? *small : *large;
    fail(odd.row->line,
         str("\"", odd.row->cells[odd.at], "\" and \"", other.row->cells[other.at], "\" of line ", other.row->line,
             " cannot both be ", large_is_odd ? "fractions" : "percent", ": ", kind),
         "give all of a column as fractions, or all as percent");
  }

  void add(const EpochRecord& record, int line) {
    for (const EpochRecord& other : evidence_.history)
      if (other.epoch == record.epoch) fail(line, str("epoch ", record.epoch, " is there twice"));
    evidence_.history.push_back(record);
  }

  // --- confusion matrices ---

  // Without a header: K + 1 columns, the first of which is equal over K rows at a time and then rises.
  bool has_epoch_column() const {
    std::vector<std::string> first;
    size_t columns = 0;
    for (const auto& block : blocks_)
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

  void add_matrix(int64_t epoch, const std::vector<int64_t>& counts, int line) {
    const auto K = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(counts.size()))));
    if (K < 2) fail(line, "a confusion matrix needs at least two classes");
    if (!evidence_.class_names.empty() && static_cast<int64_t>(evidence_.class_names.size()) != K)
      fail(line, str("a confusion matrix of ", K, " classes, but ", evidence_.class_names.size(), " have names"),
           "rows are labels, columns predictions");
    if (!evidence_.history.empty() && static_cast<int64_t>(evidence_.history.front().val->iou.size()) != K)
      fail(line, str("a confusion matrix of ", K, " classes after one of ", evidence_.history.front().val->iou.size()));
    if (std::all_of(counts.begin(), counts.end(), [](int64_t count) { return count == 0; }))
      fail(line, "this confusion matrix counts no pixel");
    EpochRecord record;
    record.epoch = epoch;
    record.val = scores_of(at::tensor(counts, at::kLong).view({K, K}));
    if (!evidence_.history.empty() && evidence_.history.back().epoch > epoch)
      fail(line, str("epoch ", epoch, " comes after epoch ", evidence_.history.back().epoch));
    add(record, line);
  }

  void read_matrices(bool with_epoch, size_t named_columns) {
    const size_t skip = with_epoch ? 1 : 0;
    int64_t number = 0;
    for (const auto& block : blocks_) {
      const size_t K = block.front().cells.size() - skip;
      if (named_columns > 1 && K != named_columns) require_width(block.front(), named_columns + skip);
      if (K < 2 || static_cast<int64_t>(K) > kMostClasses || block.size() % K != 0)
        fail(block.front().line, str("a block of ", block.size(), " lines with ", block.front().cells.size(),
                                     " values is no square confusion matrix"));
      for (size_t top = 0; top < block.size(); top += K) {
        std::vector<int64_t> counts;
        const int64_t epoch = with_epoch ? whole(block[top], 0, "number of an epoch") : ++number;
        for (size_t i = top; i < top + K; ++i) {
          require_width(block[i], K + skip);
          if (with_epoch && whole(block[i], 0, "number of an epoch") != epoch)
            fail(block[i].line,
                 str("epoch ", block[i].cells[0], " begins before the ", K, " lines of epoch ", epoch, " are complete"));
          for (size_t c = skip; c < K + skip; ++c) counts.push_back(whole(block[i], c, "number of pixels"));
        }
        add_matrix(epoch, counts, block[top].line);
      }
    }
  }

  // Columns label, prediction and count in any order; epoch may be missing. Classes are numbers from 0, or names.
  void read_counts(const std::vector<std::string>& keys) {
    const auto column = [&](const char* key) {
      return static_cast<size_t>(std::find(keys.begin(), keys.end(), key) - keys.begin());
    };
    const size_t label = column("label"), prediction = column("prediction"), count = column("count"), epoch = column("epoch");
    std::vector<std::string> names = evidence_.class_names;
    bool numbers = true;
    for (const auto& block : blocks_)
      for (const Row& row : block) {
        require_width(row, keys.size());
        numbers = numbers && number_in(row.cells[label]) && number_in(row.cells[prediction]);
      }
    int64_t K = static_cast<int64_t>(names.size());
    const auto class_of = [&](const Row& row, size_t at) {
      if (numbers) {
        const int64_t c = whole(row, at, "number of a class");
        if (c >= (evidence_.class_names.empty() ? kMostClasses : static_cast<int64_t>(names.size())))
          fail(row.line, str("there is no class ", c));
        K = std::max(K, c + 1);
        return c;
      }
      const auto found = std::find(names.begin(), names.end(), row.cells[at]);
      if (found != names.end()) return static_cast<int64_t>(found - names.begin());
      if (!evidence_.class_names.empty()) fail(row.line, "there is no class \"" + row.cells[at] + "\"");
      names.push_back(row.cells[at]);
      K = static_cast<int64_t>(names.size());
      return K - 1;
    };
    struct Cell {
      int64_t label, prediction, count;
    };
    std::map<int64_t, std::vector<Cell>> cells;
    std::map<int64_t, int> lines;
    for (const auto& block : blocks_)
      for (const Row& row : block) {
        const int64_t when = epoch < keys.size() ? whole(row, epoch, "number of an epoch") : 1;
        const int64_t from = class_of(row, label), to = class_of(row, prediction);
        cells[when].push_back({from, to, whole(row, count, "number of pixels")});
        lines.emplace(when, row.line);
      }
    if (!numbers) evidence_.class_names = names;
    for (const auto& [when, of_epoch] : cells) {
      std::vector<int64_t> counts(K * K, 0);
      for (const Cell& cell : of_epoch) counts[cell.label * K + cell.prediction] += cell.count;
      add_matrix(when, counts, lines.at(when));
    }
  }

  std::string path_;
  std::vector<std::vector<Row>> blocks_;
  int header_line_ = 1;
  Evidence evidence_;
};

}  // namespace

Evidence read_csv(const std::string& path, const std::vector<std::string>& class_names) {
  return CsvReader(path, class_names).read();
}

}  // namespace semiseg
