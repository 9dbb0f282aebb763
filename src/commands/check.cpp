// check: reads every image and label of a data set and says what is wrong with it.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "commands/command.h"
#include "commands/config_file.h"
#include "data_check.h"
#include "datasets/file_list.h"
#include "output_files.h"
#include "reports/text.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/log.h"
#include "semiseg/train.h"
#include "train_parts.h"

namespace semiseg {
namespace {

using Size = SplitFacts::Size;

constexpr const char* kHeadings[] = {"problems", "warnings", "notes"};  // by Severity
constexpr Severity kSeverities[] = {Severity::kProblem, Severity::kWarning, Severity::kNote};

// --- for the terminal ---

std::string sizes_text(const SplitFacts& split) {
  const auto text = [](const Size& size) { return str(size.first, " x ", size.second); };
  if (split.sizes.empty()) return "none readable";
  if (split.sizes.size() == 1) return text(split.sizes.begin()->first);
  const auto area = [](const Size& size) { return size.first * size.second; };
  const auto [least, most] = std::minmax_element(split.sizes.begin(), split.sizes.end(),
                                                 [&](const auto& a, const auto& b) { return area(a.first) < area(b.first); });
  const auto common = std::max_element(split.sizes.begin(), split.sizes.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
  return str(text(least->first), " to ", text(most->first), ", most often ", text(common->first), " (", common->second, ")");
}

std::string stored_text(const SplitFacts& split) {
  std::vector<std::pair<std::string, int64_t>> kinds(split.stored.begin(), split.stored.end());
  std::stable_sort(kinds.begin(), kinds.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::string text;
  for (const auto& [kind, count] : kinds)
    text += (text.empty() ? "" : ", ") + kind + (kinds.size() > 1 ? str(" (", count, ")") : "");
  return text;
}

void print_lists(const DataReport& report) {
  std::printf("%-10s %8s   %s\n", "list", "images", "size (H x W), format");
  for (const Split split : kSplits) {
    const SplitFacts& facts = report[split];
    if (facts.images == 0) continue;
    std::printf("%-10s %8lld   %s, %s\n", split_name(split), static_cast<long long>(facts.images), sizes_text(facts).c_str(),
                stored_text(facts).c_str());
  }
}

void print_classes(const DataReport& report) {
  std::vector<Split> splits;
  for (const Split split : kSplits)
    if (report[split].labels > 0) splits.push_back(split);
  if (splits.empty()) return;
  std::printf("\n%-16s", "class");
  for (const Split split : splits)
    std::printf(" | %9s %16s %7s", "share", (std::string(split_name(split)) + " pixels").c_str(), "images");
  std::printf("\n");
  for (int64_t k = 0; k < report.classes.size(); ++k) {
    std::printf("%s", padded(report.classes.names[k], 16).c_str());
    for (const Split split : splits) {
      const SplitFacts& facts = report[split];
      std::printf(" | %8.3f%% %16lld %7lld", 100 * facts.share(k), static_cast<long long>(facts.pixels[k]),
                  static_cast<long long>(facts.images_of[k]));
    }
    std::printf("\n");
  }
  std::printf("%-16s", "ignored");
  for (const Split split : splits) {
    const SplitFacts& facts = report[split];
    const double all = static_cast<double>(facts.ignored + facts.counted());
    std::printf(" | %8.3f%% %16lld %7s", all > 0 ? 100 * static_cast<double>(facts.ignored) / all : 0,
                static_cast<long long>(facts.ignored), "");
  }
  std::printf("   (share of all pixels)\n");
}

// Findings that are alike are told in full up to a number, the others by their files.
void print_findings(const DataReport& report, Severity severity) {
  constexpr int64_t kInFull = 10;
  std::vector<std::string> kinds;
  std::map<std::string, std::vector<const Finding*>> of_kind;
  for (const Finding& finding : report.findings) {
    if (finding.severity != severity) continue;
    if (of_kind[finding.kind].empty()) kinds.push_back(finding.kind);
    of_kind[finding.kind].push_back(&finding);
  }
  if (kinds.empty()) return;
  std::printf("\n%s\n", kHeadings[static_cast<size_t>(severity)]);
  // Whatever is broken is to be put right; the rest is an example.
  const size_t most = severity == Severity::kProblem ? 200 : 5;
  const auto print_names = [&](const std::vector<std::string>& names) {
    for (size_t i = 0; i < std::min(names.size(), most); ++i) std::printf("      %s\n", names[i].c_str());
    if (names.size() > most) std::printf("      and %zu more; --json FILE names all\n", names.size() - most);
  };
  for (const std::string& kind : kinds) {
    std::set<std::string> others;
    int64_t shown = 0;
    for (const Finding* finding : of_kind.at(kind)) {
      if (shown++ < kInFull) {
        std::printf("  %s\n", finding->message.c_str());
        if (finding->files.size() > 1) print_names(finding->files);
      } else {
        others.insert(finding->files.begin(), finding->files.end());
      }
    }
    if (!others.empty()) {
      std::printf("    and %lld more of this kind:\n", static_cast<long long>(shown - kInFull));
      print_names({others.begin(), others.end()});
    }
  }
}

std::string verdict(const DataReport& report) {
  const int64_t problems = report.count(Severity::kProblem), warnings = report.count(Severity::kWarning);
  if (problems + warnings == 0) return "ok";
  return counted(problems, "problem") + ", " + counted(warnings, "warning");
}

// --- for programs ---

nlohmann::ordered_json json_of(const SplitFacts& split, const ClassSet& classes) {
  nlohmann::ordered_json json = {{"images", split.images}, {"labels", split.labels}};
  json["sizes"] = nlohmann::ordered_json::array();
  for (const auto& [size, images] : split.sizes)
    json["sizes"].push_back({{"height", size.first}, {"width", size.second}, {"images", images}});
  json["formats"] = nlohmann::ordered_json::object();
  for (const auto& [kind, images] : split.stored) json["formats"][kind] = images;
  if (split.labels == 0) return json;
  json["classes"] = nlohmann::ordered_json::array();
  for (int64_t k = 0; k < classes.size(); ++k)
    json["classes"].push_back(
        {{"name", classes.names[k]}, {"pixels", split.pixels[k]}, {"share", split.share(k)}, {"images", split.images_of[k]}});
  json["ignored_pixels"] = split.ignored;
  return json;
}

std::string json_of(const DataReport& report) {
  nlohmann::ordered_json json;
  const int64_t problems = report.count(Severity::kProblem), warnings = report.count(Severity::kWarning);
  json["verdict"] = problems > 0 ? "broken" : warnings > 0 ? "warnings" : "ok";
  for (const Severity severity : kSeverities) {
    auto& list = json[kHeadings[static_cast<size_t>(severity)]] = nlohmann::ordered_json::array();
    for (const Finding& finding : report.findings)
      if (finding.severity == severity)
        list.push_back({{"kind", finding.kind}, {"message", finding.message}, {"files", finding.files}});
  }
  for (const Split split : kSplits) json["lists"][split_name(split)] = json_of(report[split], report.classes);
  // Names of files are bytes, not always UTF-8.
  return json.dump(2, ' ', /*ensure_ascii=*/false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

int run(const Arguments& arguments) {
  if (arguments.has("json")) require_report(arguments.get("json"), ReportKind::kJson);
  const Config config = load_config(config_file(arguments.positional.at(0)), arguments.overrides);
  install_signal_handlers();
  FactsCache cache(facts_path(config.data.root), arguments.has("fresh"));
  const Stopwatch watch;
  double shown = 0;
  const DataReport report = check_data(
      config, cache,
      [&](int64_t done, int64_t total) {
        constexpr double kEvery = 0.1;  // seconds
        const double now = watch.seconds();
        if (now - shown < kEvery) return;
        shown = now;
        show_status(format("reading image %lld of %lld, %.0f images/s, %.0f s left", static_cast<long long>(done),
                           static_cast<long long>(total), static_cast<double>(done) / now,
                           now / static_cast<double>(done) * static_cast<double>(total - done)));
      },
      [] { return stop_signal() != 0; });
  show_status("");
  try {
    cache.save();
  } catch (const Error& error) {
    log_warning(str("what was read is not kept for the next check: ", error.what()));
  }
  if (report.stopped) {
    log_info(str("stopped; ", cache.read(), " files read",
                 cache.path().empty() ? "" : ", which the next check need not read again"));
    return exit_code_of(stop_signal());
  }

  print_lists(report);
  print_classes(report);
  for (const Severity severity : kSeverities) print_findings(report, severity);
  const std::string seconds = format("%.1f s", watch.seconds());
  std::printf(
      "\nverdict: %s  (%s in %s%s)\n", verdict(report).c_str(), counted(report.files, "file").c_str(), seconds.c_str(),
      cache.found() == 0 ? "" : str(": ", cache.found(), " known from an earlier check, ", cache.read(), " read").c_str());
  std::fflush(stdout);
  if (arguments.has("json")) write_file(arguments.get("json"), json_of(report));
  const int64_t problems = report.count(Severity::kProblem);
  if (problems > 0)
    throw Error(ErrorKind::kData, counted(problems, "problem") + " found in the data", config.file,
                "the first: " + report.findings.front().message);
  return 0;
}

const bool kRegistered = add_command({
    .name = "check",
    .synopsis = "CONFIG.yaml [key=value ...]",
    .summary = "reads every image and label; reports sizes, classes, copies, leaks and broken files",
    .details =
        R"(Nothing is changed. Exits with 3 when something is broken: a file that cannot be read in full, a label value that is no class, an
image and a label of two sizes. Warnings are for data that can be trained on, but probably not as meant: validation images among the
training ones, classes without pixels, images that show nothing. What was read is kept in ~/.cache/semiseg (or XDG_CACHE_HOME), so
that the next check reads only files whose size or time of change is another.

examples:
  semiseg check configs/cityscapes/supervised.yaml data.root=/data/cityscapes
  semiseg check my.yaml data.workers=16 --json check.json)",
    .flags = {{"json", "FILE", "write the report as JSON, with every file"},
              {"fresh", "", "read everything, whatever is kept of the last check"}},
    .min_positional = 1,
    .max_positional = 1,
    .run = run,
});

}  // namespace
}  // namespace semiseg
