#include <unistd.h>

#include <array>
#include <chrono>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "host.h"
#include "image_file.h"
#include "protobuf.h"
#include "reports/pictures.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/files.h"

// TensorBoard's events: records as TFRecord frames them, each an Event of tensorboard/compat/proto/event.proto.
namespace semiseg {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "events.out.tfevents.";

// CRC-32C (Castagnoli), as TFRecord masks it: https://www.tensorflow.org/tutorials/load_data/tfrecord
uint32_t masked_crc(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> of_byte;
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0U);
      of_byte[i] = crc;
    }
    return of_byte;
  }();
  uint32_t crc = ~0U;
  for (const char c : bytes) crc = table[(crc ^ static_cast<uint8_t>(c)) & 0xff] ^ (crc >> 8);
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

std::string little_endian(uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
  return text;
}

std::string record_of(const ProtoMessage& event) {
  const std::string& data = event.serialized();
  const std::string length = little_endian(data.size(), 8);
  return length + little_endian(masked_crc(length), 4) + data + little_endian(masked_crc(data), 4);
}

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

ProtoMessage event_at(int64_t step) {
  ProtoMessage event;
  event.float64(1, now());
  if (step != 0) event.integer(2, step);
  return event;
}

// A Summary under construction: the values of one step.
class Summary {
 public:
  void scalar(const std::string& tag, double value) { add(ProtoMessage().bytes(1, tag).float32(2, static_cast<float>(value))); }
  void scalar(const std::string& tag, const MaybeFraction& value) {
    if (value) scalar(tag, *value);
  }

  void image(const std::string& tag, int64_t height, int64_t width, const std::string& encoded) {
    constexpr int kRgb = 3;
    add(ProtoMessage().bytes(1, tag).message(
        4, ProtoMessage().integer(1, height).integer(2, width).integer(3, kRgb).bytes(4, encoded)));
  }

  // `weights`: of equal bins over [low, high].
  void histogram(const std::string& tag, double low, double high, const std::vector<double>& weights) {
    std::string limits, buckets;
    double num = 0, sum = 0, squares = 0;
    const double bin = (high - low) / static_cast<double>(weights.size());
    for (size_t i = 0; i < weights.size(); ++i) {
      const double right = low + bin * static_cast<double>(i + 1), middle = right - bin / 2;
      limits += little_endian(std::bit_cast<uint64_t>(right), 8);
      buckets += little_endian(std::bit_cast<uint64_t>(weights[i]), 8);
      num += weights[i], sum += weights[i] * middle, squares += weights[i] * middle * middle;
    }
    add(ProtoMessage().bytes(1, tag).message(5, ProtoMessage()
                                                    .float64(1, low)
                                                    .float64(2, high)
                                                    .float64(3, num)
                                                    .float64(4, sum)
                                                    .float64(5, squares)
                                                    .bytes(6, limits)
                                                    .bytes(7, buckets)));
  }

  void text(const std::string& tag, const std::string& markdown) {
    constexpr int kString = 7;  // DT_STRING
    add(ProtoMessage()
            .bytes(1, tag)
            .message(9, metadata("text", ""))
            .message(8, ProtoMessage()
                            .integer(1, kString)
                            .message(2, ProtoMessage().message(2, ProtoMessage().integer(1, 1)))
                            .bytes(8, markdown)));
  }

  // One of the messages that the HPARAMS tab is made of; they carry all they say in their metadata.
  void hparams(const std::string& tag, const ProtoMessage& data) {
    constexpr int kFloat = 1;  // DT_FLOAT, of no element
    add(ProtoMessage()
            .bytes(1, tag)
            .message(9, metadata("hparams", data.serialized()))
            .message(8, ProtoMessage().integer(1, kFloat).message(2, ProtoMessage().message(2, ProtoMessage()))));
  }

  bool empty() const { return summary_.serialized().empty(); }
  std::string record(int64_t step) const { return record_of(event_at(step).message(5, summary_)); }

 private:
  void add(const ProtoMessage& value) { summary_.message(1, value); }
  static ProtoMessage metadata(const std::string& plugin, const std::string& content) {
    return ProtoMessage().message(1, ProtoMessage().bytes(1, plugin).bytes(2, content));
  }

  ProtoMessage summary_;
};

// --- hyperparameters: tensorboard/plugins/hparams/api.proto ---

struct HyperParameter {
  std::string name;
  nlohmann::json value;  // a number, a boolean or a string
};

// Settings that change what is learned, from the config's YAML, which has one a line.
std::vector<HyperParameter> hyper_parameters(const std::string& yaml) {
  std::vector<HyperParameter> parameters;
  std::string section;
  for (size_t at = 0; at < yaml.size();) {
    const size_t end = std::min(yaml.find('\n', at), yaml.size());
    const std::string line = yaml.substr(at, end - at);
    at = end + 1;
    const size_t colon = line.find(':');
    if (colon == std::string::npos || line[0] == '#') continue;
    if (line[0] != ' ') section = line.substr(0, colon);
    if (section == "run" || section == "report" || section == "checkpoint" || colon + 2 >= line.size()) continue;
    const std::string key = line.substr(line.find_first_not_of(' '), colon - line.find_first_not_of(' '));
    const std::string text = line.substr(colon + 2);
    auto value = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!value.is_number() && !value.is_boolean() && !value.is_string()) value = text;
    parameters.push_back({line[0] == ' ' ? section + "." + key : key, value});
  }
  return parameters;
}

ProtoMessage protobuf_value(const nlohmann::json& value) {  // google.protobuf.Value
  if (value.is_boolean()) return ProtoMessage().integer(4, value.get<bool>() ? 1 : 0);
  if (value.is_number()) return ProtoMessage().float64(2, value.get<double>());
  return ProtoMessage().bytes(3, value.get<std::string>());
}

ProtoMessage experiment(const std::vector<HyperParameter>& parameters) {
  ProtoMessage experiment;
  for (const HyperParameter& parameter : parameters)
    experiment.message(4, ProtoMessage()
                              .bytes(1, parameter.name)
                              .integer(4, parameter.value.is_string()    ? 1
                                          : parameter.value.is_boolean() ? 2
                                                                         : 3));
  for (const char* metric : {"val/miou", "val/mean_class_accuracy", "val/pixel_accuracy", "train/loss"})
    experiment.message(5, ProtoMessage().message(1, ProtoMessage().bytes(2, metric)));
  return ProtoMessage().message(2, experiment);
}

ProtoMessage session_start(const std::vector<HyperParameter>& parameters, const std::string& run) {
  ProtoMessage session;
  for (const HyperParameter& parameter : parameters)
    session.message(1, ProtoMessage().bytes(1, parameter.name).message(2, protobuf_value(parameter.value)));
  return ProtoMessage().message(3, session.bytes(4, run).float64(5, now()));
}

ProtoMessage session_end() {
  constexpr int kSuccess = 1;
  return ProtoMessage().message(4, ProtoMessage().integer(1, kSuccess).float64(2, now()));
}

// As code in Markdown.
std::string as_code(const std::string& text) {
  std::string code = "    ";
  for (const char c : text) code += c == '\n' ? "\n    " : std::string(1, c);
  return code;
}

// --- the sink ---

// events.out.tfevents.TIME.HOST.PID: everything at its optimizer step, appended as it comes. Each process begins a file of its
// own: a torn end that a killed one has left hides nothing. A resumed run's file begins with the mark at which TensorBoard
// forgets all from a step on, so that no step is shown twice.
class TensorBoard : public Reporter {
 public:
  explicit TensorBoard(bool was_done) : was_done_(was_done) {}

  void begin(const RunInfo& info) override {
    dir_ = info.dir;
    class_names_ = info.classes->names;
    config_ = to_yaml(*info.config);
    first_step_ = info.first_step;
  }

  void step(const StepReport& report) override {
    if (report.epoch != last_.epoch) {
      epoch_begin_ = last_.step;
      last_ = {};
      last_.step = epoch_begin_;
    }
    // The report's losses are means over the epoch so far; these are over the updates since the last report.
    const auto done = static_cast<double>(report.step - epoch_begin_), before = static_cast<double>(last_.step - epoch_begin_);
    const auto since = [&](double mean, double last) { return (mean * done - last * before) / (done - before); };
    Summary summary;
    if (done > before) {
      summary.scalar("step/loss", since(report.loss, last_.loss));
      summary.scalar("step/loss_supervised", since(report.loss_supervised, last_.loss_supervised));
      if (report.loss_unsupervised)
        summary.scalar("step/loss_unsupervised", since(*report.loss_unsupervised, last_.loss_unsupervised.value_or(0)));
    }
    summary.scalar("step/lr", report.lr);
    append(summary.record(report.step));
    last_ = report;
  }

  void epochs(const std::vector<EpochRecord>& history, bool resumed) override {
    if (history.empty()) return;
    if (resumed && !file_) {  // what of it is to be written, the first write decides
      known_ = history;
      last_ = {};
      last_.step = history.back().step;
    } else if (history.back().epoch > written_epoch_) {
      write_epoch(history.back());
    }
  }

  void end(RunState state, int, const std::string&) override {
    if (state != RunState::kDone) return;  // one that was stopped may go on
    if (was_done_ && !file_) return;       // and there was nothing left to do
    Summary summary;
    summary.hparams("_hparams_/session_end_info", session_end());
    append(summary.record(0));
  }

 private:
  void append(const std::string& records) {
    open();
    file_->append(records);
  }

  // The newest time in the names of this folder's event files, or -1 where there are none.
  int64_t newest_file_time() const {
    int64_t newest = -1;
    for (const auto& entry : fs::directory_iterator(dir_))
      if (const std::string name = entry.path().filename().string(); name.rfind(kPrefix, 0) == 0)
        newest = std::max<int64_t>(newest, std::atoll(name.c_str() + std::char_traits<char>::length(kPrefix)));
    return newest;
  }

  void open() {
    if (file_) return;
    const int64_t newest = newest_file_time();
    // TensorBoard reads the files in the order of their names.
    const int64_t time = std::max<int64_t>(std::time(nullptr), newest + 1);
    file_ = std::make_unique<AppendFile>(
        str(dir_, "/", kPrefix, format("%010lld", static_cast<long long>(time)), ".", host_name(), ".", ::getpid()));
    std::string records = record_of(ProtoMessage().float64(1, now()).bytes(3, "brain.Event:2"));
    const int64_t ended = known_.empty() ? 0 : known_.back().step;
    // An epoch whose end is the checkpoint itself may be missing: the process may have ended before it was told.
    const bool missing = first_step_ == ended;
    if (newest >= 0) {
      constexpr int kStart = 1;
      records += record_of(event_at(missing ? ended : first_step_ + 1).message(7, ProtoMessage().integer(1, kStart)));
    } else {
      const auto parameters = hyper_parameters(config_);
      Summary summary;
      summary.hparams("_hparams_/experiment", experiment(parameters));
      summary.hparams("_hparams_/session_start_info", session_start(parameters, fs::path(dir_).filename().string()));
      summary.text("config", as_code(config_));
      records += summary.record(0);
    }
    file_->append(records);
    for (const EpochRecord& record : known_)
      if (newest < 0 || (missing && record.step == ended)) write_epoch(record, /*is_newest=*/&record == &known_.back());
  }

  // The confusion matrix in the run folder is that of the newest epoch.
  void write_epoch(const EpochRecord& r, bool is_newest = true) {
    Summary summary;
    summary.scalar("epoch", static_cast<double>(r.epoch));
    summary.scalar("train/loss", r.loss);
    summary.scalar("train/loss_supervised", r.loss_supervised);
    summary.scalar("train/loss_unsupervised", r.loss_unsupervised);
    summary.scalar("train/lr", r.lr);
    summary.scalar("speed/images_per_s", r.images_per_s);
    summary.scalar("speed/data_wait", r.data_wait);
    summary.scalar("speed/peak_memory_mb", r.peak_memory_mb);
    summary.scalar("speed/epoch_seconds", r.seconds);
    const auto of_classes = [&](const std::string& group, const auto& values) {
      for (size_t c = 0; c < std::min(values.size(), class_names_.size()); ++c)
        summary.scalar(group + "/" + class_names_[c], MaybeFraction(values[c]));
    };
    // A bin for each class.
    const auto shares = [&](const std::string& tag, const std::vector<double>& share_K) {
      if (!share_K.empty()) summary.histogram(tag, 0, static_cast<double>(share_K.size()), share_K);
    };
    if (r.val) {
      summary.scalar("val/miou", r.val->miou);
      summary.scalar("val/mean_class_accuracy", r.val->mean_class_accuracy);
      summary.scalar("val/pixel_accuracy", r.val->pixel_accuracy);
      of_classes("val_iou", r.val->iou);
      of_classes("val_accuracy", r.val->class_accuracy);
      of_classes("prediction_share", r.val->prediction_share);
      summary.histogram("classes_by_iou", 0, 1, by_iou(r.val->iou));
      shares("share_by_class/label", r.val->label_share);
      shares("share_by_class/prediction", r.val->prediction_share);
      image(summary, "samples", sample_picture_name(r.epoch));
      if (is_newest) image(summary, "confusion_matrix", "confusion_matrix.png");
    }
    if (r.pseudo) {
      summary.scalar("pseudo/accepted", r.pseudo->accepted);
      summary.scalar("pseudo/agreement", r.pseudo->agreement);
      of_classes("pseudo_share", r.pseudo->share);
      of_classes("pseudo_accepted", r.pseudo->accepted_by_class);
      of_classes("pseudo_precision", r.pseudo->precision);
      of_classes("pseudo_recall", r.pseudo->recall);
      shares("share_by_class/pseudo", r.pseudo->share);
    }
    append(summary.record(r.step));
    written_epoch_ = r.epoch;
  }

  // How many classes have an IoU in each of 20 bins.
  static std::vector<double> by_iou(const std::vector<MaybeFraction>& iou_K) {
    std::vector<double> classes(20, 0.0);
    for (const MaybeFraction& iou : iou_K)
      if (iou) ++classes[static_cast<size_t>(std::min(*iou * 20, 19.0))];
    return classes;
  }

  // A picture of the run folder, where it has it.
  void image(Summary& summary, const std::string& tag, const std::string& name) const {
    const std::string path = dir_ + "/" + name;
    if (!fs::exists(path)) return;
    const ImageFile header(path);
    summary.image(tag, header.height(), header.width(), read_file(path));
  }

  std::string dir_, config_;
  std::vector<std::string> class_names_;
  std::unique_ptr<AppendFile> file_;
  bool was_done_;
  std::vector<EpochRecord> known_;  // of a resumed run
  int64_t first_step_ = 0, epoch_begin_ = 0, written_epoch_ = 0;
  StepReport last_;  // of the epoch that goes on; else only its step, at which that epoch began
};

}  // namespace

std::unique_ptr<Reporter> make_tensorboard(bool was_done) { return std::make_unique<TensorBoard>(was_done); }

}  // namespace semiseg
