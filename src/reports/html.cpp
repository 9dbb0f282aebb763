#include "reports/html/page.h"
#include "semiseg/report.h"

namespace semiseg {
namespace {

// report.html, rewritten after each epoch and at the end from what the run folder holds by then.
class HtmlReport : public Reporter {
 public:
  void begin(const RunInfo& info) override { dir_ = info.dir; }

  void epochs(const std::vector<EpochRecord>& history, bool) override {
    has_epochs_ = !history.empty();
    if (has_epochs_) write_report(read_run(dir_));
  }

  void end(RunState, int, const std::string&) override {
    if (has_epochs_) write_report(read_run(dir_));
  }

 private:
  std::string dir_;
  bool has_epochs_ = false;
};

}  // namespace

std::unique_ptr<Reporter> make_html_report() { return std::make_unique<HtmlReport>(); }

}  // namespace semiseg
