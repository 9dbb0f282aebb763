#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "host.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/report.h"

namespace semiseg {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

// Between two versions of the file, whatever the run does meanwhile: a reader takes an older one for a sign of death.
constexpr std::chrono::seconds kHeartbeat{2};

Json number_or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

const char* name_of(Phase phase) {
  switch (phase) {
    case Phase::kEvaluating:
      return "evaluating";
    case Phase::kPseudoLabeling:
      return "pseudo-labelling";
    case Phase::kTraining:
      break;
  }
  return "training";
}

// status.json: what another program asks to know how the run stands. A thread of its own keeps `updated` fresh during long
// steps, evaluations and waits for data; `active` is the time of the newest step or evaluated image, so that a run that hangs
// can be told from one that works and from one that was killed.
class StatusFile : public Reporter {
 public:
  ~StatusFile() override { stop_heart(); }

  void begin(const RunInfo& info) override {
    {
      const std::lock_guard lock(mutex_);
      path_ = info.dir + "/status.json";
      fields_["phase"] = "starting";
      fields_["evaluated"] = nullptr;
      fields_["epoch"] = info.first_epoch;
      fields_["step"] = info.first_step;
      fields_["total_steps"] = info.total_steps;
      fields_["total_epochs"] = info.total_epochs;
      fields_["steps_per_epoch"] = info.steps_per_epoch;
      fields_["active"] = utc_now();
      if (fields_["started"].is_null()) fields_["started"] = fields_["active"];
    }
    write(Durability::kAtOnce);
    if (!heart_.joinable()) heart_ = std::jthread([this](const std::stop_token& stop) { beat(stop); });
  }

  void activity(const Activity& now) override {
    const std::lock_guard lock(mutex_);
    fields_["phase"] = name_of(now.phase);
    fields_["evaluated"] = now.phase == Phase::kTraining ? Json(nullptr) : Json{{"images", now.images}, {"of", now.of}};
    fields_["epoch"] = now.epoch;
    fields_["step"] = now.step;
    fields_["active"] = utc_now();
  }

  void step(const StepReport& report) override {
    const std::lock_guard lock(mutex_);
    fields_["epoch"] = report.epoch;
    fields_["step"] = report.step;
    fields_["seconds_left"] = report.seconds_left;
    fields_["images_per_s"] = report.images_per_s;
    fields_["data_wait"] = report.data_wait;
    fields_["lr"] = report.lr;
    fields_["loss"] = report.loss;
    fields_["loss_supervised"] = report.loss_supervised;
    fields_["loss_unsupervised"] = number_or_null(report.loss_unsupervised);
  }

  void epochs(const std::vector<EpochRecord>& history, bool) override {
    take_in(history);
    write(Durability::kAtOnce);
  }

  void end(RunState state, int exit_code, const std::string& message) override {
    stop_heart();
    if (path_.empty()) return;  // failed before there was a folder
    {
      const std::lock_guard lock(mutex_);
      fields_["state"] = state == RunState::kDone ? "done" : state == RunState::kStopped ? "stopped" : "failed";
      fields_["phase"] = fields_["evaluated"] = nullptr;
      fields_["seconds_left"] = state == RunState::kDone ? Json(0) : Json(nullptr);
      fields_["exit_code"] = exit_code;
      fields_["message"] = message;
    }
    write(Durability::kAtOnce);
  }

 private:
  void take_in(const std::vector<EpochRecord>& history) {
    const std::lock_guard lock(mutex_);
    Json best, alarms = Json::array();
    if (const EpochRecord* record = best_of(history)) best = {{"epoch", record->epoch}, {"miou", record->val->miou}};
    if (fields_["phase"] == "evaluating") fields_["phase"] = "training";
    fields_["evaluated"] = nullptr;
    if (!history.empty()) {
      for (const Alarm& alarm : history.back().alarms)
        alarms.push_back({{"kind", alarm.kind}, {"message", alarm.message}, {"classes", alarm.classes}});
      fields_["epoch"] = history.back().epoch;
      fields_["step"] = std::max(fields_["step"].get<int64_t>(), history.back().step);
    }
    fields_["best"] = best;
    fields_["alarms"] = alarms;
  }

  void beat(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, stop, kHeartbeat, [] { return false; }) && !stop.stop_requested()) {
      lock.unlock();
      try {
        write(Durability::kAfterAWhile);
      } catch (const std::exception&) {
        // A full disk, say. The run meets it where it writes what matters.
      }
      lock.lock();
    }
  }

  void stop_heart() {
    if (!heart_.joinable()) return;
    heart_.request_stop();
    heart_.join();
  }

  // A step must not wait for a slow disk: the fields are free again before the file is written.
  // REQUIRES: mutex_ is not held by this thread.
  void write(Durability durability) {
    const std::lock_guard one_writer(file_mutex_);
    std::string text, path;
    {
      const std::lock_guard lock(mutex_);
      path = path_;
      fields_["updated"] = utc_now();
      text = fields_.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
    }
    AtomicFile file(path);
    file.write(text.data(), text.size());
    file.commit(durability);
  }

  std::mutex mutex_;       // of path_ and fields_
  std::mutex file_mutex_;  // of the file; taken first
  std::condition_variable_any wake_;
  std::string path_;
  // In the order in which they are written.
  Json fields_ = {{"state", "running"},
                  {"phase", "starting"},
                  {"epoch", 1},
                  {"step", 0},
                  {"total_steps", 0},
                  {"total_epochs", 0},
                  {"steps_per_epoch", 0},
                  {"evaluated", nullptr},
                  {"seconds_left", nullptr},
                  {"images_per_s", nullptr},
                  {"data_wait", nullptr},
                  {"lr", nullptr},
                  {"loss", nullptr},
                  {"loss_supervised", nullptr},
                  {"loss_unsupervised", nullptr},
                  {"best", nullptr},
                  {"alarms", Json::array()},
                  {"exit_code", nullptr},
                  {"message", ""},
                  {"pid", ::getpid()},
                  {"host", host_name()},
                  {"started", nullptr},
                  {"active", nullptr},
                  {"updated", nullptr}};
  std::jthread heart_;
};

}  // namespace

std::unique_ptr<Reporter> make_status_file() { return std::make_unique<StatusFile>(); }

}  // namespace semiseg
