// CSV files with a line of scores per epoch.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "evidence/csv_forms.h"
#include "semiseg/error.h"

namespace semiseg {
namespace {

using Row = CsvTable::Row;

// What a column holds: "miou", "epoch", "loss", ..., or of a class "iou", "class_accuracy", "label_share", "prediction_share".
struct Meaning {
  std::string key;   // "": something else
  std::string name;  // of the class
};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// Takes one of the words, and what separates it, off the front.
bool take_prefix(std::string* text, const std::vector<std::string>& words) {
  for (const std::string& word : words)
    if (text->size() > word.size() + 1 && lower(text->substr(0, word.size())) == word &&
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
  static const std::set<std::string> not_classes{"loss", "mean", "avg", "std", "min", "max", "all", "total", "best"};
  for (const auto& [word, key] : kinds) {
    std::string name = text;
    if (text.size() > word.size() + 2 && text.back() == ')' && text[word.size()] == '(' &&
        lower(text.substr(0, word.size())) == word)
      name = text.substr(word.size() + 1, text.size() - word.size() - 2);
    else if (!take_prefix(&name, {word})) {
      if (text.size() < word.size() + 2 || lower(text.substr(text.size() - word.size())) != word ||
          std::string("/._ :").find(text[text.size() - word.size() - 1]) == std::string::npos)
        continue;
      name = text.substr(0, text.size() - word.size() - 1);
    }
    if (not_classes.count(lower(name)) != 0) continue;
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
  const bool of_training = take_prefix(&text, {"train", "training"});
  const bool of_validation = !of_training && take_prefix(&text, {"val", "valid", "validation", "eval", "test"});
  std::string key = lower(text);
  std::replace(key.begin(), key.end(), ' ', '_');
  std::replace(key.begin(), key.end(), '-', '_');
  if (const auto found = known.find(key); found != known.end()) {
    const bool time = found->second == "epoch" || found->second == "step";
    if (found->second == "loss" ? of_validation : of_training && !time) return {};
    return {found->second, ""};
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
    for (size_t i = 0; i < header_.size(); ++i) {
      const Meaning meaning = meaning_of(header_[i]);
      if (!meaning.name.empty()) {
        of_class_[meaning.key].emplace_back(meaning.name, i);
        if (meaning.key == "iou") names.push_back(meaning.name);
      } else if (meaning.key.empty() || !column_.emplace(meaning.key, i).second) {
        if (meaning.key == "miou" || meaning.key == "mean_class_accuracy" || meaning.key == "pixel_accuracy")
          table_.fail(table_.header_line(), "two columns are called " + meaning.key, "leave the other one out: " + header_[i]);
        if (!header_[i].empty()) unread.push_back("\"" + header_[i] + "\"");
      }
    }
    for (const char* key : {"miou", "pixel_accuracy"})
      if (!has(key))
        table_.fail(
            table_.header_line(), str("no column is called ", key, "; there are ", listed(header_)),
            "columns are epoch, miou, mean_class_accuracy, pixel_accuracy, loss, and iou/NAME of a class, or as mmsegmentation "
            "and others call them");
    find_classes(names);
    if (!unread.empty()) evidence_.notes.push_back("columns that say nothing here: " + listed(unread));
  }

  static std::string listed(const std::vector<std::string>& words) {
    constexpr size_t kMost = 8;
    std::string text;
    for (size_t i = 0; i < std::min(words.size(), kMost); ++i) text += (i == 0 ? "" : ", ") + words[i];
    return words.size() > kMost ? text + str(" and ", words.size() - kMost, " more") : text;
  }

  // Columns of classes are put in one order, by name.
  void find_classes(const std::vector<std::string>& names) {
    const bool named_outside = !evidence_.class_names.empty();
    if (!named_outside) evidence_.class_names = names;
    const std::vector<std::string>& classes = evidence_.class_names;
    const bool numbers = named_outside && std::all_of(names.begin(), names.end(), [](const auto& name) {
                           return name.find_first_not_of("0123456789") == std::string::npos && name.size() < 5;
                         });
    for (auto& [kind, columns] : of_class_) {
      std::vector<std::optional<size_t>> in_order(classes.size());
      for (const auto& [name, at] : columns) {
        auto c = index_of(classes, name);
        if (!c && numbers && std::stoul(name) < classes.size()) c = std::stoul(name);
        if (!c && kind != "iou") continue;
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
    if (without_scores > 0)
      evidence_.notes.push_back(str(without_scores, without_scores == 1 ? " line has" : " lines have", " no mIoU"));
    if (without > 0)
      evidence_.notes.push_back(str(without, without == 1 ? " line has" : " lines have", " no pixel accuracy and ",
                                    without == 1 ? "is" : "are", " left out"));
    if (!has("epoch") && has("step")) {
      const size_t step = column_.at("step");
      std::stable_sort(rows_.begin(), rows_.end(),
                       [&](const Row* a, const Row* b) { return table_.value(*a, step) < table_.value(*b, step); });
      evidence_.notes.push_back("epochs are the lines in the order of \"" + header_[step] + "\"");
    }
  }

  void find_units() {
    units_.assign(header_.size(), 1);
    for (const char* key : {"miou", "mean_class_accuracy", "pixel_accuracy"})
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
    record.val = scores;
    return record;
  }

  // IoU is no higher than class accuracy, in the mean neither.
  void require_possible() {
    constexpr double kRounding = 0.005;
    int64_t impossible = 0;
    for (const EpochRecord& record : evidence_.history)
      impossible += record.val->miou > record.val->mean_class_accuracy + kRounding;
    if (impossible == 0) return;
    const Scores& first = *evidence_.history.front().val;
    const std::string what =
        str("mIoU is above the mean class accuracy in ", impossible, impossible == 1 ? " line" : " lines", ", which cannot be");
    if (table_.header().empty())
      table_.fail(rows_.front()->line,
                  what + format(" (%.2f %%", 100 * first.miou) + format(" and %.2f %%)", 100 * first.mean_class_accuracy),
                  "name the columns in a first line: epoch,miou,mean_class_accuracy,pixel_accuracy");
    evidence_.notes.push_back(what + ": are two columns exchanged, or of other images?");
  }

  // What columns of one kind are divided by: 100 where they hold percent, which may be below 1, else 1. Fails where some lines
  // hold percent and others fractions. The lines are compared by their largest value, but for scores before training, which may
  // be anything.
  double unit_of(const std::vector<const Row*>& rows, const std::vector<size_t>& columns, const std::string& kind) {
    for (const Row* row : rows)
      for (const size_t at : columns)
        if (row->cells[at].ends_with('%')) return 100;
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
      const bool before_training = epoch != column_.end() && number_in(row->cells[epoch->second]) == 0;
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
  return std::any_of(header.begin(), header.end(), [](const std::string& name) {
    const std::string key = meaning_of(name).key;
    return key == "miou" || key == "mean_class_accuracy" || key == "pixel_accuracy";
  });
}

void read_scores(const CsvTable& table, const std::vector<std::string>& header, Evidence* evidence) {
  ScoresReader(table, header, evidence).read();
}

}  // namespace semiseg
