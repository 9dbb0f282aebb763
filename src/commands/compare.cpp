// compare: several runs side by side, as a table in the terminal and as a page.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "commands/command.h"
#include "output_files.h"
#include "reports/html/page.h"
#include "reports/html/run_json.h"
#include "reports/run_view.h"
#include "reports/text.h"
#include "run_record.h"
#include "run_summary.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/log.h"

namespace semiseg {
namespace {

using Json = nlohmann::ordered_json;

// What `watch` says of a process that could not say itself that it ended.
void find_killed(RunStatus* status) {
  const Life life = life_of(*status);
  if (life == Life::kGone) status->state = "killed";
  if (life == Life::kSilent) status->state = "no sign of life";
}

// Those of the runs that can be read and have a finished epoch.
std::vector<RunRecord> read_runs(const std::vector<std::string>& dirs) {
  std::vector<RunRecord> runs;
  std::vector<std::pair<std::string, Error>> left_out;
  for (const std::string& dir : dirs) {
    if (!std::filesystem::exists(dir)) throw Error(ErrorKind::kConfig, "there is no such run folder", dir);
    if (!std::filesystem::is_directory(dir)) {  // `compare runs/*` may meet anything
      left_out.emplace_back(dir, Error(ErrorKind::kConfig, "is no run folder", dir));
      continue;
    }
    try {
      RunRecord run = read_run(dir, /*may_be_young=*/true);
      if (run.history.empty()) throw Error(ErrorKind::kData, "no epoch of this run is finished yet", dir);
      if (run.status) find_killed(&*run.status);
      runs.push_back(std::move(run));
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kData) throw;
      left_out.emplace_back(dir, error);
    }
  }
  if (runs.empty()) throw left_out.front().second;
  for (const auto& [dir, error] : left_out) log_warning(dir + " is left out: " + error.what());
  return runs;
}

// Classes by their names, or where these are not known by their number.
std::string classes_of(const RunRecord& run) {
  std::string names;
  for (const std::string& name : run.classes.names) names += (names.empty() ? "" : ", ") + name;
  return names;
}

// Those of the first run that has them.
std::vector<std::string> class_names_of(const std::vector<RunRecord>& runs) {
  for (const RunRecord& run : runs)
    if (!run.classes.names.empty()) return run.classes.names;
  return {};
}

size_t class_count(const RunRecord& run) {
  for (const EpochRecord& record : run.history)
    if (record.val && !record.val->iou.empty()) return record.val->iou.size();
  return run.classes.names.size();
}

void require_same_classes(const std::vector<RunRecord>& runs) {
  for (const RunRecord& run : runs) {
    const size_t count = class_count(run), first_count = class_count(runs[0]);
    if (count != first_count && count != 0 && first_count != 0)
      throw Error(ErrorKind::kData, str("has ", count, " classes, but ", runs[0].dir, " has ", first_count), run.dir,
                  "compare runs on the same classes");
    const std::string names = classes_of(run), first_names = classes_of(runs[0]);
    if (names != first_names && !names.empty() && !first_names.empty())
      throw Error(ErrorKind::kData, str("has the classes ", names, ", but ", runs[0].dir, " has ", first_names), run.dir,
                  "compare runs on the same classes");
  }
}

// --- the table ---

// A row of cells for each run; the first row is the header.
using Table = std::vector<std::vector<std::string>>;

// Percent of each run, with a star at the largest where `marks`; none where all are the same.
std::vector<std::string> scores(const std::vector<MaybeFraction>& values, bool marks) {
  const auto [least, best] = std::minmax_element(values.begin(), values.end());
  std::vector<std::string> cells;
  for (const MaybeFraction& value : values)
    cells.push_back(!value ? "- " : format("%.2f%s", 100 * *value, marks && value == *best && *least != *best ? "*" : " "));
  return cells;
}

Table score_table(const std::vector<RunSummary>& summaries, bool marks) {
  Table table{{"run"}};
  for (const RunSummary& s : summaries) table.push_back({s.name});
  const auto add = [&](const char* name, const std::vector<std::string>& cells) {
    table[0].emplace_back(name);
    for (size_t r = 0; r < cells.size(); ++r) table[r + 1].push_back(cells[r]);
  };
  const auto texts = [&](const auto& text_of) {
    std::vector<std::string> cells;
    for (const RunSummary& s : summaries) cells.push_back(text_of(s));
    return cells;
  };
  const auto fractions = [&](const auto& value_of) {
    std::vector<MaybeFraction> values;
    for (const RunSummary& s : summaries) values.push_back(value_of(s));
    return scores(values, marks);
  };
  const auto at_best = [&](const auto& value_in) {
    return fractions([&](const RunSummary& s) { return s.best ? MaybeFraction(value_in(*s.best)) : std::nullopt; });
  };
  add("best mIoU ", at_best([](const EpochScores& e) { return e.miou; }));
  add("in epoch", texts([](const RunSummary& s) { return s.best ? str(s.best->epoch) : "-"; }));
  add("last mIoU ", fractions([](const RunSummary& s) { return s.last ? MaybeFraction(s.last->miou) : std::nullopt; }));
  add("class accuracy ", at_best([](const EpochScores& e) { return e.mean_class_accuracy; }));
  add("pixel accuracy ", at_best([](const EpochScores& e) { return e.pixel_accuracy; }));
  add("rare IoU ", at_best([](const EpochScores& e) { return e.rare_iou; }));
  add("epochs", texts([](const RunSummary& s) { return str(s.epochs, s.total_epochs ? str("/", *s.total_epochs) : ""); }));
  add("time", texts([](const RunSummary& s) { return duration(s.seconds); }));
  add("state", texts([](const RunSummary& s) { return s.state; }));
  return table;
}

// IoU of each class at the run's best mIoU, rare classes first.
Table class_table(const std::vector<RunSummary>& summaries, const std::vector<std::string>& class_names, bool marks) {
  Table table{{"IoU, rarest class first"}};
  std::vector<size_t> classes;
  for (const RunSummary& s : summaries) {
    table[0].push_back(s.name + " ");
    if (classes.empty() && s.best) classes = s.best->from_rarest;
  }
  for (const size_t c : classes) {
    std::vector<MaybeFraction> values;
    for (const RunSummary& s : summaries) values.push_back(s.best && c < s.best->iou.size() ? s.best->iou[c] : std::nullopt);
    table.push_back({c < class_names.size() ? class_names[c] : str("class ", c)});
    for (const std::string& cell : scores(values, marks)) table.back().push_back(cell);
  }
  return table;
}

// "53.70 ± 0.41": mean and standard deviation (n - 1) of what is known.
std::string mean_text(const std::vector<MaybeFraction>& values) {
  double sum = 0, squares = 0, count = 0;
  for (const MaybeFraction& value : values)
    if (value) sum += *value, ++count;
  if (count < 2) return "-";
  for (const MaybeFraction& value : values)
    if (value) squares += (*value - sum / count) * (*value - sum / count);
  return format("%.2f ± %.2f", 100 * sum / count, 100 * std::sqrt(squares / (count - 1)));
}

Table repetitions_table(const std::vector<std::vector<size_t>>& groups, const std::vector<RunSummary>& summaries) {
  Table table{{"mean over seeds", "best mIoU", "last mIoU", "class accuracy", "pixel accuracy", "rare IoU"}};
  for (const auto& group : groups) {
    std::vector<MaybeFraction> best, last, class_accuracy, pixel_accuracy, rare;
    for (const size_t r : group) {
      const RunSummary& s = summaries[r];
      if (!s.best) continue;
      best.emplace_back(s.best->miou);
      last.emplace_back(s.last->miou);
      class_accuracy.emplace_back(s.best->mean_class_accuracy);
      pixel_accuracy.emplace_back(s.best->pixel_accuracy);
      rare.push_back(s.best->rare_iou);
    }
    table.push_back({str(summaries[group[0]].name, " and ", group.size() - 1, " more"), mean_text(best), mean_text(last),
                     mean_text(class_accuracy), mean_text(pixel_accuracy), mean_text(rare)});
  }
  return table;
}

Table differences_table(const Json& differences, const std::vector<RunSummary>& summaries) {
  Table table{{"setting"}};
  for (const RunSummary& s : summaries) table[0].push_back(s.name);
  for (const Json& difference : differences) {
    table.push_back({difference["key"].get<std::string>()});
    for (const Json& value : difference["values"]) table.back().push_back(value.get<std::string>());
  }
  return table;
}

// Columns as wide as their widest cell, the first to the left, the others to the right.
void print(const Table& table) {
  std::vector<int> widths(table[0].size());
  for (const auto& row : table)
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], columns_of(row[c]));
  for (const auto& row : table) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string space(static_cast<size_t>(widths[c] - columns_of(row[c])), ' ');
      line += c == 0 ? row[c] + space : "  " + space + row[c];
    }
    std::printf("%s\n", line.c_str());
  }
}

Json json_of(const std::vector<RunRecord>& runs, const std::vector<RunSummary>& summaries, const Json& differences) {
  Json entries = Json::array();
  for (size_t r = 0; r < runs.size(); ++r) {
    const RunSummary& s = summaries[r];
    const auto point = [&](const std::optional<EpochScores>& scores) -> Json {
      if (!scores) return nullptr;
      Json iou = Json::object();
      for (size_t c = 0; c < std::min(scores->iou.size(), runs[r].classes.names.size()); ++c)
        iou[runs[r].classes.names[c]] = scores->iou[c] ? Json(*scores->iou[c]) : Json(nullptr);
      return {{"epoch", scores->epoch},
              {"miou", scores->miou},
              {"mean_class_accuracy", scores->mean_class_accuracy},
              {"pixel_accuracy", scores->pixel_accuracy},
              {"rare_iou", scores->rare_iou ? Json(*scores->rare_iou) : Json(nullptr)},
              {"iou", iou}};
    };
    entries.push_back({{"run", runs[r].dir},
                       {"best", point(s.best)},
                       {"last", point(s.last)},
                       {"epochs", s.epochs},
                       {"total_epochs", s.total_epochs ? Json(*s.total_epochs) : Json(nullptr)},
                       {"seconds", s.seconds},
                       {"state", s.state}});
  }
  return {{"runs", entries}, {"differences", differences}};
}

int run(const Arguments& arguments) {
  const std::string page = arguments.has("o") ? arguments.get("o") : "compare.html";
  require_report(page, ReportKind::kHtml);
  if (arguments.has("json")) require_report(arguments.get("json"), ReportKind::kJson);
  const std::vector<RunRecord> runs = read_runs(arguments.positional);
  require_same_classes(runs);
  std::vector<RunSummary> summaries;
  for (const RunRecord& record : runs) summaries.push_back(summarize(record));
  const std::vector<std::string> names = distinct_names(runs);
  for (size_t r = 0; r < runs.size(); ++r) summaries[r].name = names[r];
  const Json differences = json_of_differences(runs);

  const auto otherwise = scored_otherwise(runs);
  if (otherwise)
    log_warning(str(runs[otherwise->second].dir, " was scored on other validation labels than ", runs[otherwise->first].dir,
                    ": their scores cannot be compared, and no best one is marked"));
  const bool alike = !otherwise;
  print(score_table(summaries, alike));
  std::printf(
      "\nPercent; accuracies and rare IoU (mean over the third of the classes with the fewest labelled pixels) at the best "
      "mIoU.\n\n");
  if (const Table classes = class_table(summaries, class_names_of(runs), alike); classes.size() > 1) {
    print(classes);
    std::printf("\n");
  }
  if (const auto groups = repetitions(runs); !groups.empty()) {
    print(repetitions_table(groups, summaries));
    std::printf("\n");
  }
  if (differences.is_null())
    std::printf("Settings cannot be compared: a run has no readable config.yaml.\n");
  else if (runs.size() > 1 && differences.empty())
    std::printf("The runs have the same settings.\n");
  else if (!differences.empty())
    print(differences_table(differences, summaries));

  write_file(page, compare_page(runs));
  std::printf("\n%s\n", page.c_str());
  if (arguments.has("json"))
    write_file(arguments.get("json"),
               json_of(runs, summaries, differences).dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  return 0;
}

const bool kRegistered = add_command({
    .name = "compare",
    .synopsis = "RUN RUN... [-o FILE.html] [--json FILE]",
    .summary = "sets runs side by side: scores, curves, classes, settings that differ",
    .details = R"(examples:
  semiseg compare runs/first runs/second
  semiseg compare runs/* -o tuesday.html --json tuesday.json

The best value of each column is marked with a star, where all runs were scored on the same validation labels.
The page is one file that needs no network.)",
    .flags = {{"o", "FILE.html", "the page to write; compare.html when not given"},
              {"json", "FILE", "write the numbers as JSON, too"}},
    .min_positional = 1,
    .max_positional = 1000,
    .run = run,
});

}  // namespace
}  // namespace semiseg
