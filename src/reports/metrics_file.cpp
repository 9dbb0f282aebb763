#include <nlohmann/json.hpp>

#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/report.h"

namespace semiseg {
namespace {

// The shortest form that reads back equal, as in metrics.jsonl.
std::string cell(double value) { return nlohmann::json(value).dump(); }
std::string cell(const MaybeFraction& value) { return value ? cell(*value) : ""; }

// A class name with a comma or a quote is quoted.
std::string quoted(const std::string& name) {
  if (name.find_first_of(",\"\n") == std::string::npos) return name;
  std::string text = "\"";
  for (const char c : name) text += c == '"' ? "\"\"" : std::string(1, c);
  return text + "\"";
}

// metrics.jsonl and metrics.csv, rewritten whole after each epoch from the run's history: after a resume no line is lost and
// none doubled, whatever the killed process had written.
class MetricsFile : public Reporter {
 public:
  void begin(const RunInfo& info) override {
    dir_ = info.dir;
    class_names_ = info.classes->names;
  }

  void epochs(const std::vector<EpochRecord>& history, bool) override {
    std::string lines, table =
                           "epoch,step,seconds,lr,images_per_s,data_wait,peak_memory_mb,loss,loss_supervised,loss_unsupervised,"
                           "miou,mean_class_accuracy,pixel_accuracy,pseudo_accepted,agreement";
    for (const std::string kind : {"iou", "class_accuracy", "label_share", "prediction_share", "pseudo_share",
                                   "pseudo_accepted", "agreement", "precision", "recall"})
      for (const std::string& name : class_names_) table += "," + quoted(kind + "/" + name);
    table += "\n";
    for (const EpochRecord& r : history) {
      lines += to_json(r) + "\n";
      table += row(r) + "\n";
    }
    write_file(dir_ + "/metrics.jsonl", lines);
    write_file(dir_ + "/metrics.csv", table);
  }

 private:
  std::string row(const EpochRecord& r) const {
    std::string text = str(r.epoch, ",", r.step);
    const auto add = [&](const auto& value) { text += "," + cell(value); };
    for (const double value : {r.seconds, r.lr, r.images_per_s, r.data_wait, r.peak_memory_mb, r.loss, r.loss_supervised})
      add(value);
    add(r.loss_unsupervised);
    const Scores scores = r.val.value_or(Scores{});
    for (const double value : {scores.miou, scores.mean_class_accuracy, scores.pixel_accuracy})
      add(r.val ? MaybeFraction(value) : std::nullopt);
    add(r.pseudo ? MaybeFraction(r.pseudo->accepted) : std::nullopt);
    add(r.pseudo ? r.pseudo->agreement : std::nullopt);
    // What is not known has empty cells.
    const auto add_classes = [&](const auto& values) {
      for (size_t c = 0; c < class_names_.size(); ++c) add(c < values.size() ? MaybeFraction(values[c]) : std::nullopt);
    };
    add_classes(scores.iou);
    add_classes(scores.class_accuracy);
    add_classes(scores.label_share);
    add_classes(scores.prediction_share);
    const PseudoScores pseudo = r.pseudo.value_or(PseudoScores{});
    add_classes(pseudo.share);
    add_classes(pseudo.accepted_by_class);
    add_classes(pseudo.agreement_by_class);
    add_classes(pseudo.precision);
    add_classes(pseudo.recall);
    return text;
  }

  std::string dir_;
  std::vector<std::string> class_names_;
};

}  // namespace

std::unique_ptr<Reporter> make_metrics_file() { return std::make_unique<MetricsFile>(); }

}  // namespace semiseg
