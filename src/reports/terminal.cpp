#include <cstdio>

#include "reports/text.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/health.h"
#include "semiseg/log.h"
#include "semiseg/report.h"

namespace semiseg {
namespace {

std::string percent(const MaybeFraction& value) { return value ? format("%6.2f", 100 * *value) : "     -"; }

// A column of a table: "accepted" and the like, as wide as its title.
struct Column {
  const char* title;
  const std::vector<MaybeFraction>* values;  // [K]
};

// The per-class table; what is not known about pseudo-labels has no column.
std::string table_of(const Scores& s, const PseudoScores* pseudo, const std::vector<std::string>& class_names) {
  const size_t K = class_names.size();
  std::vector<MaybeFraction> share;
  std::vector<Column> columns;
  if (pseudo) {
    share.assign(pseudo->share.begin(), pseudo->share.end());
    for (const Column& column : {Column{"pseudo share", &share}, Column{"accepted", &pseudo->accepted_by_class},
                                 Column{"agreement", &pseudo->agreement_by_class}, Column{"precision", &pseudo->precision},
                                 Column{"recall", &pseudo->recall}})
      if (column.values->size() == K) columns.push_back(column);
  }
  std::string text =
      format("  %-16s %6s %9s %12s %17s", "class, percent", "IoU", "accuracy", "label share", "prediction share");
  for (const Column& column : columns) text += format("  %8s", column.title);
  for (size_t c = 0; c < K; ++c) {
    text += format("\n  %s %6s %9s %12.2f %17.2f", padded(class_names[c], 16).c_str(), percent(s.iou[c]).c_str(),
                   percent(s.class_accuracy[c]).c_str(), 100 * s.label_share[c], 100 * s.prediction_share[c]);
    for (const Column& column : columns)
      text += format("  %*s", std::max(8, static_cast<int>(std::string(column.title).size())),
                     percent((*column.values)[c]).c_str());
  }
  text += format("\n  mIoU %.2f  mean class accuracy %.2f  pixel accuracy %.2f", 100 * s.miou, 100 * s.mean_class_accuracy,
                 100 * s.pixel_accuracy);
  if (pseudo && pseudo->agreement) text += format("  agreement with the evaluation before %.2f", 100 * *pseudo->agreement);
  return text;
}

// The progress line and, after each epoch, the per-class table and the alarms. Where stdout is no terminal, plain lines.
class Terminal : public Reporter {
 public:
  void begin(const RunInfo& info) override {
    info_ = info;
    log_info(str("run folder: ", info.dir, "; ", info.total_steps, " steps, ", info.steps_per_epoch, " per epoch",
                 info.first_step > 0 ? str(", going on after step ", info.first_step) : ""));
  }

  void activity(const Activity& now) override {
    if (now.phase == Phase::kEvaluating) show_status(str("epoch ", now.epoch, "  evaluating ", now.images, "/", now.of));
  }

  void step(const StepReport& r) override {
    std::string line =
        format("epoch %lld  step %lld/%lld  loss %.4f (labelled %.4f", static_cast<long long>(r.epoch),
               static_cast<long long>(r.step), static_cast<long long>(info_.total_steps), r.loss, r.loss_supervised);
    if (r.loss_unsupervised) line += format(", unlabelled %.4f", *r.loss_unsupervised);
    line += format(")  lr %.2e  %.1f images/s  data wait %.0f%%  %s left", r.lr, r.images_per_s, 100 * r.data_wait,
                   duration(r.seconds_left).c_str());
    if (terminal_is_interactive()) {
      constexpr int kWidth = 20;
      const int filled = static_cast<int>(kWidth * r.step / std::max<int64_t>(1, info_.total_steps));
      show_status("[" + std::string(filled, '=') + std::string(kWidth - filled, ' ') + "] " + line);
      log_file_only(line);
    } else {
      log_info(line);
    }
  }

  void epochs(const std::vector<EpochRecord>& history, bool resumed) override {
    if (resumed || history.empty()) return;
    const EpochRecord& r = history.back();
    std::string text = format("epoch %lld  loss %.4f  %.1f images/s  %s", static_cast<long long>(r.epoch), r.loss,
                              r.images_per_s, duration(r.seconds).c_str());
    if (r.pseudo) text += format("  pseudo-labels accepted %.1f%%", 100 * r.pseudo->accepted);
    if (!r.val) {
      log_info(text);
      return warn(history);
    }
    const EpochRecord& best = *best_of(history);
    text += format("  mIoU %.2f (best %.2f in epoch %lld)", 100 * r.val->miou, 100 * best.val->miou,
                   static_cast<long long>(best.epoch));
    log_info(text + "\n" + table_of(*r.val, r.pseudo ? &*r.pseudo : nullptr, info_.classes->names));
    warn(history);
  }

 private:
  // An alarm in full when it begins or its classes change, then a line in each epoch in which it lasts.
  static void warn(const std::vector<EpochRecord>& history) {
    for (const Alarm& alarm : history.back().alarms) {
      if (is_news(alarm, history)) {
        log_warning("alarm " + alarm.kind + ": " + alarm.message);
        continue;
      }
      std::string classes;
      for (const std::string& name : alarm.classes) classes += (classes.empty() ? ": " : ", ") + name;
      log_warning("alarm " + alarm.kind + " lasts" + classes);
    }
  }

  RunInfo info_;
};

}  // namespace

std::string score_table(const Scores& s, const std::vector<std::string>& class_names) {
  return table_of(s, nullptr, class_names);
}

std::unique_ptr<Reporter> make_terminal() { return std::make_unique<Terminal>(); }

}  // namespace semiseg
