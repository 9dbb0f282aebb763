// CSV files with a line of scores per epoch.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "evidence/csv_forms.h"
#include "health/words.h"
#include "parse_number.h"
#include "semiseg/error.h"
#include "spelling.h"

namespace semiseg {
namespace {

using Row = CsvTable::Row;

constexpr size_t kMostColumns = 8;  // that a message lists
constexpr const char* kScores[] = {"miou", "mean_class_accuracy", "pixel_accuracy"};

bool is_score(const std::string& key) { return std::find(std::begin(kScores), std::end(kScores), key) != std::end(kScores); }

// What a column holds: "miou", "epoch", "loss", ..., or of a class "iou", "class_accuracy", "label_share", "prediction_share".
struct Meaning {
  std::string key;   // "": something else
  std::string name;  // of the class
  int rank = 0;      // of columns with one meaning, that of the validation images counts, then that of test images, then any
};

// Takes one of the words, and what separates it, off the front.
bool take_prefix(std::string* text, const std::vector<std::string>& words) {
  for (const std::string& word : words)
    if (text->size() > word.size() + 1 && lowered(text->substr(0, word.size())) == word &&
        std::string("/._ :-").find((*text)[word.size()]) != std::string::npos) {
      text->erase(0, word.size() + 1);
      return true;
    }
  return false;
}

// "iou/road", "IoU_road", "iou.road", "iou(road)", "road/iou", ...
Meaning of_class(std::string text) {
  static const std::vector<std::pair<std::string, std::string>> kinds{
      {"class_accuracy", "class_accuracy"}, {"label_share", "label_share"}, {"prediction_share", "prediction_share"},
      {"accuracy", "class_accuracy"},       {"acc", "class_accuracy"},      {"iou", "iou"}};
  static const std::set<std::string> not_classes{
      "loss",     "mean",  "avg",   "std",  "min", "max",   "all",           "best",
      "weighted", "micro", "macro", "freq", "fw",  "total", "freq_weighted", "frequency_weighted",
      "boundary"};
  for (const auto& [word, key] : kinds) {
    std::string name = text;
    if (text.size() > word.size() + 2 && text.back() == ')' && text[word.size()] == '(' &&
        lowered(text.substr(0, word.size())) == word)
      name = text.substr(word.size() + 1, text.size() - word.size() - 2);
    else if (!take_prefix(&name, {word})) {
      if (text.size() < word.size() + 2 || lowered(text.substr(text.size() - word.size())) != word ||
          std::string("/._ :").find(text[text.size() - word.size() - 1]) == std::string::npos)
        continue;
      name = text.substr(0, text.size() - word.size() - 1);
    }
    const bool threshold = name.find('.') != std::string::npos && number_in(name).has_value();  // "iou_0.5"
    if (not_classes.count(lowered(name)) != 0 || threshold) continue;
    return {key, name};
  }
  return {};
}

Meaning meaning_of(const std::string& header) {
  static const std::map<std::string, std::string> known{
      {"epoch", "epoch"},
      {"epochs", "epoch"},
      {"step", "step"},
      {"global_step", "step"},
      {"_step", "step"},
      {"iter", "step"},
      {"iteration", "step"},
      {"miou", "miou"},
      {"mean_iou", "miou"},
      {"mean_io_u", "miou"},
      {"iou_mean", "miou"},
      {"mean_jaccard", "miou"},
      {"mean_class_accuracy", "mean_class_accuracy"},
      {"macc", "mean_class_accuracy"},
      {"mean_acc", "mean_class_accuracy"},
      {"mean_accuracy", "mean_class_accuracy"},
      {"mean_class_acc", "mean_class_accuracy"},
      {"class_accuracy", "mean_class_accuracy"},
      {"pixel_accuracy", "pixel_accuracy"},
      {"accuracy", "pixel_accuracy"},
      {"acc", "pixel_accuracy"},
      {"aacc", "pixel_accuracy"},
      {"pixel_acc", "pixel_accuracy"},
      {"pixacc", "pixel_accuracy"},
      {"overall_accuracy", "pixel_accuracy"},
      {"overall_acc", "pixel_accuracy"},
      {"global_accuracy", "pixel_accuracy"},
      {"loss", "loss"},
      {"training_loss", "loss"},
  };
  std::string text = header;
  // Weights & Biases: "run - val/mIoU", with columns of its smallest and largest value beside it.
  if (text.ends_with("__MIN") || text.ends_with("__MAX")) return {};
  if (const size_t dash = text.rfind(" - "); dash != std::string::npos) text.erase(0, dash + 3);
  for (const char* unit : {"(%)", "[%]"})
    if (text.ends_with(unit)) text.resize(text.find_last_not_of(' ', text.size() - 4) + 1);
  const bool of_training = take_prefix(&text, {"train", "training"});
  const bool of_validation = !of_training && take_prefix(&text, {"val", "valid", "validation", "eval"});
  const bool of_test = !of_training && !of_validation && take_prefix(&text, {"test"});
  std::string key = lowered(text);
  std::replace(key.begin(), key.end(), ' ', '_');
  std::replace(key.begin(), key.end(), '-', '_');
  if (const auto found = known.find(key); found != known.end()) {
    const bool time = found->second == "epoch" || found->second == "step";
    const bool other_side = found->second == "loss" ? of_validation || of_test : (of_training && !time);
    if (other_side) return {};
    return {found->second, "", of_validation ? 2 : of_test ? 1 : 0};
  }
  return of_training ? Meaning{} : of_class(text);
}

// See evidence.h.
class ScoresReader {
 public:
  ScoresReader(const CsvTable& table, const std::vector<std::string>& header, Evidence* evidence)
      : table_(table), header_(header), evidence_(*evidence) {}

  void read() {
    find_columns();
    choose_rows();
    find_units();
    for (size_t i = 0; i < rows_.size(); ++i) evidence_.history.push_back(record_of(*rows_[i], static_cast<int64_t>(i) + 1));
    require_possible();
  }

 private:
  bool has(const char* key) const { return column_.count(key) != 0; }

  void find_columns() {
    std::vector<std::string> names, unread;
    std::map<std::string, int> ranks;
    for (size_t i = 0; i < header_.size(); ++i) {
      const Meaning meaning = meaning_of(header_[i]);
      if (!meaning.name.empty()) {
        of_class_[meaning.key].emplace_back(meaning.name, i);
        if (meaning.key == "iou") names.push_back(meaning.name);
        continue;
      }
      size_t left_out = i;
      if (!meaning.key.empty()) {
        const auto [at, is_new] = column_.emplace(meaning.key, i);
        if (is_new) {
          ranks[meaning.key] = meaning.rank;
          continue;
        }
        if (is_score(meaning.key) && meaning.rank == ranks[meaning.key])
          table_.fail(table_.header_line(), "two columns are called " + meaning.key, "leave the other one out: " + header_[i]);
        if (meaning.rank > ranks[meaning.key]) {
          left_out = std::exchange(at->second, i);
          ranks[meaning.key] = meaning.rank;
        }
      }
      if (!header_[left_out].empty()) unread.push_back(quoted_header(left_out));
    }
    for (const char* key : {"miou", "pixel_accuracy"})
      if (!has(key))
        table_.fail(
            table_.header_line(), str("no column is called ", key, "; there are ", list_of(header_, kMostColumns)),
            "columns are epoch, miou, mean_class_accuracy, pixel_accuracy, loss, and iou/NAME of a class, or as mmsegmentation "
            "and others call them");
    find_classes(names, &unread);
    if (!unread.empty()) evidence_.notes.push_back("columns that say nothing here: " + list_of(unread, kMostColumns));
  }

  std::string quoted_header(size_t at) const { return "\"" + header_[at] + "\""; }

  // Columns of classes are put in one order, by name.
  void find_classes(const std::vector<std::string>& names, std::vector<std::string>* unread) {
    if (evidence_.class_names.empty()) evidence_.class_names = names;
    const std::vector<std::string>& classes = evidence_.class_names;
    for (auto& [kind, columns] : of_class_) {
      std::vector<std::optional<size_t>> in_order(classes.size());
      for (const auto& [name, at] : columns) {
        auto c = index_of(classes, name);
        if (const auto number = parse_number<size_t>(name); !c && number && *number < classes.size()) c = *number;
        if (!c && kind != "iou") {
          unread->push_back(quoted_header(at));
          continue;
        }
        if (!c)
          table_.fail(table_.header_line(),
                      "the class \"" + name + "\" of the column \"" + header_[at] + "\" is not one of --classes");
        if (in_order[*c]) table_.fail(table_.header_line(), "two columns are the " + kind + " of " + name);
        in_order[*c] = at;
      }
      by_class_[kind] = in_order;
    }
    // Shares are of all classes or of none.
    for (const char* kind : {"label_share", "prediction_share"}) {
      const auto found = by_class_.find(kind);
      if (found != by_class_.end() &&
          std::any_of(found->second.begin(), found->second.end(), [](const auto& at) { return !at; })) {
        evidence_.notes.push_back(str("the columns ", kind, "/... are not there for every class, and left out"));
        by_class_.erase(found);
      }
    }
    if (!by_class_.count("label_share") || !by_class_.count("prediction_share"))
      by_class_.erase("label_share"), by_class_.erase("prediction_share");
  }

  void choose_rows() {
    int64_t without = 0, without_scores = 0;
    for (const auto& block : table_.blocks())
      for (const Row& row : block) {
        table_.require_width(row, header_.size());
        if (is_absent(row.cells[column_.at("miou")])) {  // not evaluated
          ++without_scores;
          continue;
        }
        if (is_absent(row.cells[column_.at("pixel_accuracy")]))
          ++without;
        else
          rows_.push_back(&row);
      }
    if (rows_.empty()) table_.fail(table_.header_line(), "no line has scores");
    const auto have = [](int64_t lines) { return counted(lines, "line") + (lines == 1 ? " has" : " have"); };
    if (without_scores > 0) evidence_.notes.push_back(have(without_scores) + " no mIoU");
    if (without > 0)
      evidence_.notes.push_back(have(without) + " no pixel accuracy and " + (without == 1 ? "is" : "are") + " left out");
    order_rows();
  }

  // By epoch where there is a column of whole numbers; by step, or as they come, else, and where an epoch was evaluated more
  // than once on its way.
  void order_rows() {
    const auto of = [&](const char* key, const Row* row) { return number_in(row->cells[column_.at(key)]).value_or(0); };
    const auto is_sorted_without_twins = [&](const char* key) {
      return std::adjacent_find(rows_.begin(), rows_.end(),
                                [&](const Row* a, const Row* b) { return of(key, a) >= of(key, b); }) == rows_.end();
    };
    bool by_epoch = has("epoch");
    if (by_epoch) {
      const bool whole = std::all_of(rows_.begin(), rows_.end(),
                                     [&](const Row* row) { return of("epoch", row) == std::floor(of("epoch", row)); });
      by_epoch = whole && (!has("step") || is_sorted_without_twins("epoch") || !is_sorted_without_twins("step"));
    }
    if (by_epoch || (!has("epoch") && !has("step"))) return;
    const char* by = has("step") ? "step" : "epoch";
    std::stable_sort(rows_.begin(), rows_.end(), [&](const Row* a, const Row* b) { return of(by, a) < of(by, b); });
    evidence_.notes.push_back("epochs are the lines in the order of \"" + header_[column_.at(by)] + "\"");
    column_.erase("epoch");
  }

  void find_units() {
    units_.assign(header_.size(), 1);
    for (const char* key : kScores)
      if (has(key)) units_[column_.at(key)] = unit_of(rows_, {column_.at(key)}, key);
    // A mean IoU is no higher than the mean class accuracy: where it would be, it is below 1 %.
    if (has("mean_class_accuracy")) {
      const size_t miou = column_.at("miou"), accuracy = column_.at("mean_class_accuracy");
      const auto in = [&](const Row* row, size_t at) { return number_in(row->cells[at]).value_or(0) / units_[at]; };
      if (units_[accuracy] > units_[miou] &&
          std::any_of(rows_.begin(), rows_.end(), [&](const Row* row) { return in(row, miou) > in(row, accuracy); }))
        units_[miou] = units_[accuracy];
    }
    for (const auto& [kind, columns] : by_class_) {
      std::vector<size_t> there;
      for (const auto& at : columns)
        if (at) there.push_back(*at);
      if (there.empty()) continue;
      const double unit = unit_of(rows_, there, kind);
      for (const size_t at : there) units_[at] = unit;
    }
  }

  double fraction(const Row& row, size_t at) const {
    const double unit = units_[at], number = table_.value(row, at) / unit;
    if (number < 0 || number > 1)
      table_.fail(row.line, "\"" + row.cells[at] + "\" is no " + (unit == 1 ? "fraction in 0..1" : "percentage in 0..100"));
    return number;
  }

  EpochRecord record_of(const Row& row, int64_t number) const {
    EpochRecord record;
    record.epoch = has("epoch") ? table_.whole(row, column_.at("epoch"), "number of an epoch") : number;
    if (has("loss") && !is_absent(row.cells[column_.at("loss")])) record.loss = table_.value(row, column_.at("loss"));
    Scores scores;
    scores.miou = fraction(row, column_.at("miou"));
    scores.mean_class_accuracy = has("mean_class_accuracy") && !is_absent(row.cells[column_.at("mean_class_accuracy")])
                                     ? fraction(row, column_.at("mean_class_accuracy"))
                                     : std::numeric_limits<double>::quiet_NaN();
    scores.pixel_accuracy = fraction(row, column_.at("pixel_accuracy"));
    const auto fill = [&](const char* kind, auto* values) {
      const auto found = by_class_.find(kind);
      if (found == by_class_.end()) return;
      for (const auto& at : found->second) {
        if (!at || is_absent(row.cells[*at]))
          values->emplace_back();
        else
          values->push_back(fraction(row, *at));
      }
    };
    fill("iou", &scores.iou);
    fill("class_accuracy", &scores.class_accuracy);
    fill("label_share", &scores.label_share);
    fill("prediction_share", &scores.prediction_share);
    const auto lacks_share = [&](const char* kind) {
      const auto found = by_class_.find(kind);
      return found != by_class_.end() &&
             std::any_of(found->second.begin(), found->second.end(), [&](const auto& at) { return is_absent(row.cells[*at]); });
    };
    if (lacks_share("label_share") || lacks_share("prediction_share"))
      scores.label_share.clear(), scores.prediction_share.clear();
    record.val = scores;
    return record;
  }

  // IoU is no higher than class accuracy, in the mean neither.
  void require_possible() {
    constexpr double kRounding = 0.005;
    std::vector<size_t> impossible;
    for (size_t i = 0; i < rows_.size(); ++i) {
      const Scores& scores = *evidence_.history[i].val;
      if (scores.miou > scores.mean_class_accuracy + kRounding) impossible.push_back(i);
    }
    if (impossible.empty()) return;
    const Scores& first = *evidence_.history[impossible.front()].val;
    const std::string what = str("mIoU is above the mean class accuracy in ",
                                 counted(static_cast<int64_t>(impossible.size()), "line"), ", which cannot be");
    if (table_.header().empty())
      table_.fail(rows_[impossible.front()]->line,
                  what + format(" (%.2f %% and %.2f %%)", 100 * first.miou, 100 * first.mean_class_accuracy),
                  "name the columns in a first line: epoch,miou,mean_class_accuracy,pixel_accuracy");
    evidence_.notes.push_back(what + ": are two columns exchanged, or of other images?");
  }

  // What columns of one kind are divided by: 100 where they hold percent, which may be below 1, else 1. Fails where some lines
  // hold percent and others fractions. The lines are compared by their largest value, but for an epoch 0, whose scores may be
  // those before training, and anything.
  double unit_of(const std::vector<const Row*>& rows, const std::vector<size_t>& columns, const std::string& kind) {
    const Row* marked = nullptr;  // with a percent sign
    const Row* plain = nullptr;
    for (const Row* row : rows)
      for (const size_t at : columns)
        if (!is_absent(row->cells[at])) (row->cells[at].ends_with('%') ? marked : plain) = row;
    if (marked != nullptr && plain != nullptr)
      table_.fail(plain->line, str("has no percent sign for ", kind, ", as line ", marked->line, " has"),
                  "give all of a column as fractions, or all as percent");
    if (marked != nullptr) return 100;
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
      const auto epoch = column_.find("epoch");
      const bool may_be_start = epoch != column_.end() && number_in(row->cells[epoch->second]) == 0;
      if (most.value > 0 && !may_be_start) lines.push_back(most);
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
    if (kind == "miou" && has("mean_class_accuracy")) {
      const size_t accuracy = column_.at("mean_class_accuracy");
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
    table_.fail(odd.row->line,
                str("\"", odd.row->cells[odd.at], "\" and \"", other.row->cells[other.at], "\" of line ", other.row->line,
                    " cannot both be ", large_is_odd ? "fractions" : "percent", ": ", kind),
                "give all of a column as fractions, or all as percent");
  }

  const CsvTable& table_;
  const std::vector<std::string>& header_;
  Evidence& evidence_;
  std::map<std::string, size_t> column_;                                         // by key
  std::map<std::string, std::vector<std::pair<std::string, size_t>>> of_class_;  // name and column, by kind
  std::map<std::string, std::vector<std::optional<size_t>>> by_class_;           // columns by kind, in the order of classes
  std::vector<const Row*> rows_;                                                 // with scores
  std::vector<double> units_;                                                    // by column
};

}  // namespace

bool names_scores(const std::vector<std::string>& header) {
  return std::any_of(header.begin(), header.end(), [](const std::string& name) { return is_score(meaning_of(name).key); });
}

void read_scores(const CsvTable& table, const std::vector<std::string>& header, Evidence* evidence) {
  ScoresReader(table, header, evidence).read();
}

}  // namespace semiseg
