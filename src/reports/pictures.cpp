#include "reports/pictures.h"

#include <algorithm>

#include "semiseg/config.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

// Of the newest evaluated epoch.
void write_confusion_matrix(const std::string& dir, const std::vector<EpochRecord>& history,
                            const std::vector<std::string>& class_names) {
  const auto newest = std::find_if(history.rbegin(), history.rend(), [](const EpochRecord& r) { return r.val.has_value(); });
  if (newest == history.rend()) return;
  const Tensor picture_HWC = draw_confusion_matrix(*newest, class_names);
  if (picture_HWC.defined()) write_image(dir + "/confusion_matrix.png", picture_HWC);
}

// The pictures in the run folder, each rewritten when what it shows has changed.
class Pictures : public Reporter {
 public:
  void begin(const RunInfo& info) override {
    dir_ = info.dir;
    remove_stale_temporaries(dir_ + "/samples");
    classes_ = *info.classes;
    mean_ = info.config->data.mean;
    std_ = info.config->data.std;
    if (info.labeled_counts != nullptr)
      write_image(dir_ + "/class_histogram.png", draw_class_histogram(*info.labeled_counts, classes_));
  }

  void first_batch(const FirstBatch& batch) override {
    write_image(dir_ + "/train_batch.jpg", draw_first_batch(batch, mean_, std_, classes_));
  }

  void samples(const EpochSamples& samples) override {
    make_folders(dir_ + "/samples");
    write_image(dir_ + "/" + sample_picture_name(samples.epoch), draw_samples(samples, classes_));
  }

  void epochs(const std::vector<EpochRecord>& history, bool resumed) override {
    if (history.empty()) return;
    if (resumed || history.back().val) write_confusion_matrix(dir_, history, classes_.names);
    write_image(dir_ + "/results.png", draw_results(history, classes_.names));
  }

 private:
  std::string dir_;
  ClassSet classes_;
  std::vector<double> mean_, std_;
};

}  // namespace

std::string sample_picture_name(int64_t epoch) { return format("samples/epoch_%04lld.jpg", static_cast<long long>(epoch)); }

void rewrite_pictures(const RunRecord& run) {
  write_confusion_matrix(run.dir, run.history, run.classes.names);
  // As in training: epochs alone, without the scores before them.
  auto history = run.history;
  std::erase_if(history, [](const EpochRecord& record) { return record.epoch == 0; });
  write_image(run.dir + "/results.png", draw_results(history, run.classes.names));
}

std::unique_ptr<Reporter> make_pictures() { return std::make_unique<Pictures>(); }

}  // namespace semiseg
