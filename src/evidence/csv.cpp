// The CSV files of scores or of confusion matrices that other programs write.
#include <algorithm>
#include <cmath>

#include "evidence/csv_forms.h"
#include "semiseg/error.h"
#include "spelling.h"

namespace semiseg {
namespace {

// Without a header: epoch and three fractions, which no confusion matrix holds.
bool looks_like_scores(const CsvTable& table) {
  bool fractions = false;
  for (const auto& block : table.blocks())
    for (const CsvTable::Row& row : block) {
      if (row.cells.size() != 4) return false;
      for (const std::string& cell : row.cells) {
        const auto number = number_in(cell);
        if (!number) return false;
        fractions = fractions || *number != std::floor(*number);
      }
    }
  return fractions;
}

// In order, each epoch once: the later line counts, as where a run was resumed.
void settle_epochs(Evidence* evidence) {
  auto& history = evidence->history;
  std::stable_sort(history.begin(), history.end(),
                   [](const EpochRecord& a, const EpochRecord& b) { return a.epoch < b.epoch; });
  std::vector<EpochRecord> once;
  int64_t replaced = 0;
  for (EpochRecord& record : history) {
    if (!once.empty() && once.back().epoch == record.epoch) {
      ++replaced;
      once.pop_back();
    }
    once.push_back(std::move(record));
  }
  history = std::move(once);
  if (replaced > 0)
    evidence->notes.push_back(
        counted(replaced, "record") +
        " of an epoch that is there again further below, as where a run was resumed: the later one counts");
  evidence->counts_from_zero = history.front().epoch == 0;
}

}  // namespace

std::optional<size_t> index_of(const std::vector<std::string>& names, const std::string& name) {
  const auto plain = [](std::string text) {
    std::replace(text.begin(), text.end(), '_', ' ');
    return lowered(std::move(text));
  };
  for (size_t i = 0; i < names.size(); ++i)
    if (names[i] == name) return i;
  for (size_t i = 0; i < names.size(); ++i)
    if (plain(names[i]) == plain(name)) return i;
  return std::nullopt;
}

Evidence read_csv(const std::string& path, const std::vector<std::string>& class_names) {
  const CsvTable table(path);
  Evidence evidence;
  evidence.class_names = class_names;
  if (table.header().empty() && looks_like_scores(table))
    read_scores(table, {"epoch", "miou", "mean_class_accuracy", "pixel_accuracy"}, &evidence);
  else if (names_scores(table.header()))
    read_scores(table, table.header(), &evidence);
  else
    read_matrices(table, &evidence);
  settle_epochs(&evidence);
  return evidence;
}

}  // namespace semiseg
