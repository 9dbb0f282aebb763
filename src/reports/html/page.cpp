#include "reports/html/page.h"

#include <map>
#include <nlohmann/json.hpp>

#include "reports/html/assets.h"
#include "reports/html/run_json.h"
#include "run_summary.h"
#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

using Json = nlohmann::ordered_json;

std::string escaped(const std::string& text) {
  std::string html;
  for (const char c : text) {
    switch (c) {
      case '&':
        html += "&amp;";
        break;
      case '<':
        html += "&lt;";
        break;
      case '>':
        html += "&gt;";
        break;
      case '"':
        html += "&quot;";
        break;
      case '\'':
        html += "&#39;";
        break;
      default:
        html += c;
    }
  }
  return html;
}

// JSON for inside a script element, which ends at "</script" wherever it stands: no < is left in it. Bytes that are no UTF-8
// become U+FFFD.
std::string json_text(const Json& json) {
  std::string text;
  for (const char c : json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace))
    text += c == '<' ? std::string("\\u003c") : std::string(1, c);
  return text;
}

// Puts values in the place of {{their names}}; what a value holds is left as it is.
std::string filled(std::string_view page, const std::map<std::string, std::string, std::less<>>& values) {
  std::string text;
  for (size_t at = 0;;) {
    const size_t begin = page.find("{{", at);
    text += page.substr(at, begin - at);
    if (begin == std::string_view::npos) return text;
    const size_t end = page.find("}}", begin);
    text += values.find(page.substr(begin + 2, end - begin - 2))->second;
    at = end + 2;
  }
}

std::string joined(std::string_view first, std::string_view second) { return std::string(first) + std::string(second); }

std::string cell(const std::string& text, const char* name = "td") { return str("<", name, ">", text, "</", name, ">"); }

std::string percent(const MaybeFraction& value) { return value ? format("%.2f", 100 * *value) : "&ndash;"; }

std::string line_of(const RunSummary& summary) {
  std::string text = str(summary.state, ", ", summary.epochs, " epochs");
  if (summary.total_epochs) text += str(" of ", *summary.total_epochs);
  if (summary.best)
    text += format(", best mIoU %.2f %% in epoch %lld", 100 * summary.best->miou, static_cast<long long>(summary.best->epoch));
  if (!summary.message.empty()) text += ": " + summary.message;
  return text;
}

// What remains of a run's page where scripts do not run: alarms that last, and the epochs as a table.
std::string without_scripts(const RunRecord& run) {
  const RunSummary summary = summarize(run);
  std::string html = "<h1>" + escaped(summary.name) + "</h1>\n<p>" + escaped(line_of(summary)) +
                     "</p>\n<p>The curves of this page need JavaScript; the numbers are here.</p>\n";
  for (const AlarmStory& story : alarm_stories(run.history))
    if (story.lasts) html += "<p class=\"box warning\">" + escaped(story.newest.message) + "</p>\n";
  html += "<div class=\"scroll\"><table class=\"numbers\">\n<tr>";
  for (const char* name : {"epoch", "loss", "learning rate", "mIoU, %", "mean class accuracy, %", "pixel accuracy, %",
                           "pseudo-labels accepted, %"})
    html += cell(name, "th");
  html += "</tr>\n";
  for (const EpochRecord& r : run.history) {
    const bool trained = r.epoch > 0;
    html +=
        "<tr>" + cell(str(r.epoch)) + cell(trained ? format("%.4f", r.loss) : "") + cell(trained ? format("%.2e", r.lr) : "");
    html += cell(percent(r.val ? MaybeFraction(r.val->miou) : std::nullopt));
    html += cell(percent(r.val ? MaybeFraction(r.val->mean_class_accuracy) : std::nullopt));
    html += cell(percent(r.val ? MaybeFraction(r.val->pixel_accuracy) : std::nullopt));
    html += cell(percent(r.pseudo ? MaybeFraction(r.pseudo->accepted) : std::nullopt)) + "</tr>\n";
  }
  return html + "</table></div>\n";
}

}  // namespace

std::string report_page(const RunRecord& run) {
  Json data = json_of_run(run);
  add_details(run, &data);
  return filled(assets::kPageHtml, {{"title", escaped(data["name"].get<std::string>()) + " &ndash; semiseg"},
                                    {"style", std::string(assets::kReportCss)},
                                    {"noscript", without_scripts(run)},
                                    {"data", json_text(data)},
                                    {"script", joined(assets::kChartsJs, assets::kReportJs)}});
}

std::string compare_page(const std::vector<RunRecord>& runs) {
  Json data = {{"runs", Json::array()},
               {"differences", json_of_differences(runs)},
               {"repetitions", repetitions(runs)},
               {"comparable", !scored_otherwise(runs)},
               {"written_at", time_now()}};
  std::string lines = "<h1>Comparison</h1>\n<p>The curves of this page need JavaScript.</p>\n";
  const std::vector<std::string> names = distinct_names(runs);
  for (size_t r = 0; r < runs.size(); ++r) {
    data["runs"].push_back(json_of_run(runs[r]));
    data["runs"].back()["name"] = names[r];
    lines += "<p>" + escaped(names[r] + ": " + line_of(summarize(runs[r]))) + "</p>\n";
  }
  return filled(assets::kPageHtml, {{"title", "Comparison &ndash; semiseg"},
                                    {"style", std::string(assets::kReportCss)},
                                    {"noscript", lines},
                                    {"data", json_text(data)},
                                    {"script", joined(assets::kChartsJs, assets::kCompareJs)}});
}

std::string write_report(const RunRecord& run) {
  const std::string path = run.dir + "/report.html";
  write_file(path, report_page(run));
  return path;
}

}  // namespace semiseg
