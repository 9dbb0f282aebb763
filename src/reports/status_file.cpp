#include <unistd.h>

#include <chrono>
#include <ctime>
#include <nlohmann/json.hpp>

#include "semiseg/files.h"
#include "semiseg/report.h"

namespace semiseg {
namespace {

// status.json: what another program asks to know how the run stands. Rewritten at most every two seconds.
class StatusFile : public Reporter {
 public:
  void begin(const RunInfo& info) override {
    dir_ = info.dir;
    step_ = info.first_step;
    total_steps_ = info.total_steps;
    epoch_ = info.steps_per_epoch > 0 ? info.first_step / info.steps_per_epoch + 1 : 1;
    write("running", nullptr, "");
  }

  void step(const StepReport& report) override {
    epoch_ = report.epoch;
    step_ = report.step;
    if (std::chrono::steady_clock::now() - written_ > std::chrono::seconds(2)) write("running", nullptr, "");
  }

  void epochs(const std::vector<EpochRecord>& history, bool) override {
    best_ = nullptr;
    for (const EpochRecord& record : history)
      if (record.val && (best_.is_null() || record.val->miou > best_["miou"].get<double>()))
        best_ = {{"epoch", record.epoch}, {"miou", record.val->miou}};
    alarms_ = nlohmann::ordered_json::array();
    if (!history.empty()) {
      for (const Alarm& alarm : history.back().alarms)
        alarms_.push_back({{"kind", alarm.kind}, {"message", alarm.message}, {"classes", alarm.classes}});
      epoch_ = history.back().epoch;
      step_ = std::max(step_, history.back().step);
    }
    write("running", nullptr, "");
  }

  void end(RunState state, int exit_code, const std::string& message) override {
    if (dir_.empty()) return;  // failed before there was a folder
    write(state == RunState::kDone ? "done" : state == RunState::kStopped ? "stopped" : "failed", exit_code, message);
  }

 private:
  void write(const char* state, const nlohmann::json& exit_code, const std::string& message) {
    char now[32];
    const std::time_t time = std::time(nullptr);
    std::strftime(now, sizeof(now), "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&time));
    const nlohmann::ordered_json status = {
        {"state", state},    {"epoch", epoch_},        {"step", step_},      {"total_steps", total_steps_}, {"best", best_},
        {"alarms", alarms_}, {"exit_code", exit_code}, {"message", message}, {"pid", ::getpid()},           {"updated", now}};
    write_file(dir_ + "/status.json", status.dump(2) + "\n");
    written_ = std::chrono::steady_clock::now();
  }

  std::string dir_;
  int64_t epoch_ = 1, step_ = 0, total_steps_ = 0;
  nlohmann::ordered_json best_;
  nlohmann::ordered_json alarms_ = nlohmann::ordered_json::array();  // of the newest epoch
  std::chrono::steady_clock::time_point written_;
};

}  // namespace

std::unique_ptr<Reporter> make_status_file() { return std::make_unique<StatusFile>(); }

}  // namespace semiseg
