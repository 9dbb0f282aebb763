// diagnose: says in plain words why mIoU moved as it did, for a run of semiseg or of any other program.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "commands/command.h"
#include "commands/written_ids.h"
#include "evidence/evidence.h"
#include "output_files.h"
#include "reports/run_view.h"
#include "run_record.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/health.h"
#include "shell.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

// What is to be known of a run that is not done.
std::string unfinished(const RunRecord& run) {
  if (!run.status || run.status->state == "done") return "";
  const RunStatus& status = *run.status;
  std::string text = str("epoch ", run.history.back().epoch);
  if (status.total_epochs) text += str(" of ", *status.total_epochs);
  if (status.state == "failed") return "this run failed after " + text + (status.message.empty() ? "" : ": " + status.message);
  if (status.state == "stopped") return "this run was stopped after " + text;
  const Life life = life_of(status);
  if (life == Life::kGone)
    return "this run was killed after " + text + "; go on with `semiseg train --resume " + shell_quoted(run.dir) + "`";
  return (life == Life::kSilent ? "this run has given no sign of life for a while, after "
                                : "this run is still training, after ") +
         text;
}

Evidence evidence_of(RunRecord run, std::vector<std::string> class_names) {
  if (const std::string note = unfinished(run); !note.empty()) run.notes.push_back(note);
  Evidence evidence;
  evidence.history = std::move(run.history);
  evidence.class_names = class_names.empty() ? std::move(run.classes.names) : std::move(class_names);
  evidence.label_share = std::move(run.label_share);
  evidence.config = std::move(run.config);
  evidence.alarms_are_recorded = true;
  evidence.notes = std::move(run.notes);
  return evidence;
}

// Paragraphs of a width that is read at ease; a paragraph's further lines are indented.
void print_wrapped(const std::string& text, const std::string& first, const std::string& indent) {
  constexpr size_t kWidth = 110;
  std::string line = first;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find(' ', at), text.size());
    if (end + 1 < text.size() && text[end + 1] == '%') end = std::min(text.find(' ', end + 1), text.size());  // "24.59 %"
    const std::string word = text.substr(at, end - at);
    if (line.size() > indent.size() && line.size() + word.size() + 1 > kWidth) {
      std::printf("%s\n", line.c_str());
      line = indent;
    }
    line += (line.empty() || line.back() == ' ' ? "" : " ") + word;
    at = end + 1;
  }
  std::printf("%s\n", line.c_str());
}

void print_epochs(const std::vector<EpochRecord>& history) {
  constexpr size_t kMostLines = 12;
  std::vector<const EpochRecord*> shown;
  for (const EpochRecord& record : history)
    if (record.val) shown.push_back(&record);
  const size_t all = shown.size();
  if (all > kMostLines) {  // evenly spread, first, best and last among them
    const auto best =
        *std::max_element(shown.begin(), shown.end(), [](const auto* a, const auto* b) { return a->val->miou < b->val->miou; });
    std::vector<const EpochRecord*> some;
    for (size_t i = 0; i < all; ++i)
      if (i % ((all + kMostLines - 2) / (kMostLines - 1)) == 0 || i + 1 == all || shown[i] == best) some.push_back(shown[i]);
    shown = some;
  }
  std::printf("%6s %8s %20s %15s %8s\n", "epoch", "mIoU", "mean class accuracy", "pixel accuracy", "loss");
  for (const EpochRecord* r : shown) {
    const double class_accuracy = r->val->mean_class_accuracy;
    std::printf("%6lld %8.2f %20s %15.2f", static_cast<long long>(r->epoch), 100 * r->val->miou,
                std::isnan(class_accuracy) ? "-" : format("%.2f", 100 * class_accuracy).c_str(), 100 * r->val->pixel_accuracy);
    if (r->loss > 0) std::printf(" %8.3f", r->loss);
    std::printf("\n");
  }
  if (shown.size() < all) std::printf("(%zu of %zu epochs with scores)\n", shown.size(), all);
}

void print(const Evidence& evidence, const Diagnosis& diagnosis) {
  for (const std::string& note : evidence.notes) print_wrapped(note, "note: ", "  ");
  print_epochs(evidence.history);
  std::printf("\n");
  for (const Alarm& finding : diagnosis.findings) print_wrapped(finding.message, "- ", "  ");
  if (diagnosis.settings.empty()) {
    std::printf("\nThere is no setting to advise.\n");
    return;
  }
  std::printf("\nWhat to set, the most fitting first, one at a time:\n");
  for (const Setting& s : diagnosis.settings) {
    std::printf("  %s\n", s.assignment.c_str());
    print_wrapped((s.now.empty() ? "" : "now " + s.now + "; ") + s.reason, "      ", "      ");
  }
}

std::string to_json(const Evidence& evidence, const Diagnosis& diagnosis) {
  using Json = nlohmann::ordered_json;
  Json epochs = Json::array(), findings = Json::array(), settings = Json::array();
  for (const EpochRecord& r : evidence.history)
    if (r.val) {
      Json epoch = {{"epoch", r.epoch}};
      epoch["val"] = Json::parse(semiseg::to_json(*r.val));
      epochs.push_back(epoch);
    }
  for (const Alarm& f : diagnosis.findings)
    findings.push_back({{"kind", f.kind}, {"message", f.message}, {"classes", f.classes}});
  for (const Setting& s : diagnosis.settings)
    settings.push_back({{"set", s.assignment}, {"now", s.now.empty() ? Json(nullptr) : Json(s.now)}, {"reason", s.reason}});
  return Json{{"epochs", epochs}, {"findings", findings}, {"settings", settings}, {"notes", evidence.notes}}.dump(
             2, ' ', false, Json::error_handler_t::replace) +
         "\n";
}

Evidence gather(const Arguments& arguments) {
  const std::string classes = arguments.has("classes") ? arguments.get("classes") : "";
  if (arguments.has("labels") != arguments.has("predictions"))
    throw Error(ErrorKind::kConfig, "--labels and --predictions go together", "", "see `semiseg diagnose --help`");
  if (arguments.has("labels") == !arguments.positional.empty())
    throw Error(ErrorKind::kConfig,
                arguments.positional.empty() ? "there is nothing to diagnose" : "a run or a file goes without --labels", "",
                "give a run folder, a CSV file, or --labels DIR --predictions DIR");
  const bool label_ids = wants_label_ids(arguments);
  if (arguments.has("ids") && !arguments.has("labels"))
    throw Error(ErrorKind::kConfig, "--ids is of the PNGs of --predictions, which is not given", "--ids");
  if (arguments.has("labels")) return read_folders(arguments.get("labels"), arguments.get("predictions"), classes, label_ids);
  const std::string& path = arguments.positional[0];
  std::vector<std::string> names = classes.empty() ? std::vector<std::string>{} : load_classes(classes, kIgnore).names;
  if (fs::is_directory(path)) return evidence_of(read_run(path), names);
  if (!fs::is_regular_file(path)) throw Error(ErrorKind::kConfig, "there is no such run or file", path);
  return read_csv(path, names);
}

int run(const Arguments& arguments) {
  if (arguments.has("json")) require_report(arguments.get("json"), ReportKind::kJson);
  const Evidence evidence = gather(arguments);
  if (std::none_of(evidence.history.begin(), evidence.history.end(), [](const EpochRecord& r) { return r.val.has_value(); }))
    throw Error(ErrorKind::kData, "no epoch of this run was evaluated yet", arguments.positional.at(0), "see eval.every");
  HealthContext context;
  context.class_names = evidence.class_names;
  if (evidence.config) context.config = &*evidence.config;
  context.label_share = evidence.label_share;
  context.alarms_are_recorded = evidence.alarms_are_recorded;
  context.counts_from_zero = evidence.counts_from_zero;
  const Diagnosis diagnosis = diagnose(evidence.history, context);
  print(evidence, diagnosis);
  if (arguments.has("json")) write_file(arguments.get("json"), to_json(evidence, diagnosis));
  return 0;
}

const bool kRegistered = add_command({
    .name = "diagnose",
    .synopsis = "RUN | FILE.csv | --labels DIR --predictions DIR  [--classes PRESET|FILE] [--json FILE]",
    .summary = "says why mIoU moved as it did, and what to set",
    .details = R"(RUN is a run folder of semiseg, finished or not. Runs of other programs:

FILE.csv of scores, a line per epoch, columns in any order, as fractions or percent:
  epoch,miou,mean_class_accuracy,pixel_accuracy,loss,iou/road,iou/pole
  1,0.2459,0.3714,0.8059,3.078,0.9310,0.0712
  miou and pixel_accuracy must be there; usual other names (mIoU, mAcc, aAcc, val/mean_iou, IoU_road, road/iou) are known too.
  Of a class there may also be class_accuracy/NAME, label_share/NAME and prediction_share/NAME. A step column does for epoch.

FILE.csv of confusion matrices, in pixels, rows are labels, columns predictions, one of:
  K lines of K numbers per epoch, the next epoch below or after a blank line; a first line may name the classes, or a first
  line and a first column, as pandas writes them; brackets, as numpy and JSON write them, do not matter
  the same with the epoch's number in front of each line; a first line is then epoch,NAME,NAME,...
  K x K numbers in one line per epoch
  epoch,label,prediction,count as the first line, then a line per cell; classes are numbers from 0 or names

Folders of label PNGs, paired by file name; endings such as _gtFine_labelTrainIds, _leftImg8bit or _pred do not matter. Without
--classes every value is a class, but 255 in the labels.

examples:
  semiseg diagnose runs/first
  semiseg diagnose epochs.csv --classes cityscapes
  semiseg diagnose --labels gtFine/val --predictions out --classes cityscapes --json diagnosis.json)",
    .flags = {{"labels", "DIR", "label PNGs: class ids, or the colours that the file of --classes gives"},
              {"predictions", "DIR", "prediction PNGs of the same images"},
              {"ids", "train|label",
               "values of those PNGs: class indices, or Cityscapes' label ids (without it as their names end)"},
              {"classes", "PRESET|FILE",
               "names of the classes, and their values in label PNGs; names in a CSV are found by them"},
              {"json", "FILE", "write the findings as JSON"}},
    .min_positional = 0,
    .max_positional = 1,
    .run = run,
});

}  // namespace
}  // namespace semiseg
