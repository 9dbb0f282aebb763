#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/report.h"

namespace semiseg {
namespace {

std::string cell(const MaybeFraction& value) { return value ? str(*value) : ""; }

// metrics.jsonl and metrics.csv, rewritten whole after each epoch from the run's history: after a resume no line is lost and
// none doubled, whatever the killed process had written.
class MetricsFile : public Reporter {
 public:
  void begin(const RunInfo& info) override {
    dir_ = info.dir;
    class_names_ = info.class_names;
  }

  void epochs(const std::vector<EpochRecord>& history, bool) override {
    std::string lines, table =
                           "epoch,step,seconds,lr,images_per_s,data_wait,peak_memory_mb,loss,loss_supervised,loss_unsupervised,"
                           "miou,mean_class_accuracy,pixel_accuracy,pseudo_accepted";
    for (const std::string kind : {"iou", "class_accuracy", "label_share", "prediction_share"})
      for (const std::string& name : class_names_) table += "," + kind + "/" + name;
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
    std::string text = str(r.epoch, ",", r.step, ",", r.seconds, ",", r.lr, ",", r.images_per_s, ",", r.data_wait, ",",
                           r.peak_memory_mb, ",", r.loss, ",", r.loss_supervised, ",", cell(r.loss_unsupervised));
    if (!r.val) return text + ",,,," + (r.pseudo ? str(r.pseudo->accepted) : "") + std::string(4 * class_names_.size(), ',');
    text += str(",", r.val->miou, ",", r.val->mean_class_accuracy, ",", r.val->pixel_accuracy, ",",
                r.pseudo ? str(r.pseudo->accepted) : "");
    for (const auto& value : r.val->iou) text += "," + cell(value);
    for (const auto& value : r.val->class_accuracy) text += "," + cell(value);
    for (const double value : r.val->label_share) text += "," + str(value);
    for (const double value : r.val->prediction_share) text += "," + str(value);
    return text;
  }

  std::string dir_;
  std::vector<std::string> class_names_;
};

}  // namespace

std::unique_ptr<Reporter> make_metrics_file() { return std::make_unique<MetricsFile>(); }

}  // namespace semiseg
