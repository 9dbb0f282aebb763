#include "reports/html/run_json.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <map>
#include <set>

#include "run_summary.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/health.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// --- numbers ---

Json rounded(double value) {
  if (!std::isfinite(value)) return nullptr;
  return std::strtod(format("%.7g", value).c_str(), nullptr);
}
Json rounded(const MaybeFraction& value) { return value ? rounded(*value) : Json(nullptr); }

template <class Value>
Json rounded(const std::vector<Value>& values) {
  Json array = Json::array();
  for (const Value& value : values) array.push_back(rounded(value));
  return array;
}

// --- classes ---

size_t class_count(const RunRecord& run) {
  size_t count = run.classes.names.size();
  for (const EpochRecord& record : run.history) {
    if (record.val) count = std::max(count, record.val->iou.size());
    if (record.pseudo) count = std::max(count, record.pseudo->share.size());
  }
  return count;
}

std::string class_name(const RunRecord& run, size_t c) {
  const bool named = c < run.classes.names.size() && !run.classes.names[c].empty();
  return named ? run.classes.names[c] : str("class ", c);
}

Json json_of_classes(const RunRecord& run) {
  Json classes = Json::array();
  for (size_t c = 0; c < class_count(run); ++c) {
    Json colour = nullptr;
    if (c < run.classes.colours.size()) {
      const auto& [r, g, b] = run.classes.colours[c];
      colour = format("#%02x%02x%02x", r, g, b);
    }
    classes.push_back({{"name", class_name(run, c)}, {"colour", colour}});
  }
  return classes;
}

// --- epochs ---

// One array for each quantity, in the order of the epochs. Epoch 0, the scores before training, has scores alone.
Json json_of_epochs(const std::vector<EpochRecord>& history) {
  Json columns;
  for (const char* name :
       {"epoch", "step", "seconds", "lr", "images_per_s", "data_wait", "peak_memory_mb", "loss", "loss_supervised",
        "loss_unsupervised", "miou", "mean_class_accuracy", "pixel_accuracy", "rare_iou", "iou", "accepted", "agreement"})
    columns[name] = Json::array();
  for (const EpochRecord& r : history) {
    const auto trained = [&](double value) { return r.epoch > 0 ? rounded(value) : Json(nullptr); };
    columns["epoch"].push_back(r.epoch);
    columns["step"].push_back(r.step);
    columns["seconds"].push_back(trained(r.seconds));
    columns["lr"].push_back(trained(r.lr));
    columns["images_per_s"].push_back(trained(r.images_per_s));
    columns["data_wait"].push_back(trained(r.data_wait));
    columns["peak_memory_mb"].push_back(trained(r.peak_memory_mb));
    columns["loss"].push_back(trained(r.loss));
    columns["loss_supervised"].push_back(trained(r.loss_supervised));
    columns["loss_unsupervised"].push_back(rounded(r.loss_unsupervised));
    columns["miou"].push_back(r.val ? rounded(r.val->miou) : Json(nullptr));
    columns["mean_class_accuracy"].push_back(r.val ? rounded(r.val->mean_class_accuracy) : Json(nullptr));
    columns["pixel_accuracy"].push_back(r.val ? rounded(r.val->pixel_accuracy) : Json(nullptr));
    columns["rare_iou"].push_back(r.val ? rounded(rare_iou(*r.val)) : Json(nullptr));
    columns["iou"].push_back(r.val ? rounded(r.val->iou) : Json(nullptr));
    columns["accepted"].push_back(r.pseudo ? rounded(r.pseudo->accepted) : Json(nullptr));
    columns["agreement"].push_back(r.pseudo ? rounded(r.pseudo->agreement) : Json(nullptr));
  }
  return columns;
}

Json json_of_scores(const EpochRecord& record) {
  const Scores& s = *record.val;
  return {{"epoch", record.epoch},
          {"iou", rounded(s.iou)},
          {"class_accuracy", rounded(s.class_accuracy)},
          {"label_share", rounded(s.label_share)},
          {"prediction_share", rounded(s.prediction_share)}};
}

// The newest record that `has` what is looked for; null where there is none.
template <class Has>
const EpochRecord* newest(const std::vector<EpochRecord>& history, const Has& has) {
  const auto found = std::find_if(history.rbegin(), history.rend(), has);
  return found == history.rend() ? nullptr : &*found;
}

Json json_of_pseudo(const std::vector<EpochRecord>& history) {
  // Those of an evaluated epoch know their agreement, too.
  const EpochRecord* record = newest(history, [](const EpochRecord& r) { return r.pseudo && r.val; });
  if (record == nullptr) record = newest(history, [](const EpochRecord& r) { return r.pseudo.has_value(); });
  if (record == nullptr) return nullptr;
  const PseudoScores& p = *record->pseudo;
  return {{"epoch", record->epoch},
          {"share", rounded(p.share)},
          {"accepted_by_class", rounded(p.accepted_by_class)},
          {"agreement_by_class", rounded(p.agreement_by_class)},
          {"precision", rounded(p.precision)},
          {"recall", rounded(p.recall)}};
}

Json json_of_alarms(const std::vector<EpochRecord>& history) {
  Json alarms = Json::array();
  for (const AlarmStory& story : alarm_stories(history)) {
    Json spans = Json::array();
    for (const auto& [from, to] : story.spans) spans.push_back({{"from", from}, {"to", to}});
    alarms.push_back(
        {{"kind", story.newest.kind}, {"message", story.newest.message}, {"spans", spans}, {"lasts", story.lasts}});
  }
  return alarms;
}

Json json_of(const std::optional<EpochScores>& scores) {
  if (!scores) return nullptr;
  return {{"epoch", scores->epoch},
          {"miou", rounded(scores->miou)},
          {"mean_class_accuracy", rounded(scores->mean_class_accuracy)},
          {"pixel_accuracy", rounded(scores->pixel_accuracy)},
          {"rare_iou", rounded(scores->rare_iou)}};
}

// --- the rest of a run's own page ---

Json json_of_diagnosis(const RunRecord& run) {
  Json findings = Json::array(), settings = Json::array();
  if (std::any_of(run.history.begin(), run.history.end(), [](const EpochRecord& r) { return r.epoch > 0 && r.val; })) {
    HealthContext context;
    for (size_t c = 0; c < class_count(run); ++c) context.class_names.push_back(class_name(run, c));
    context.label_share = run.label_share;
    if (run.config) context.config = &*run.config;
    context.alarms_are_recorded = true;
    const Diagnosis diagnosis = diagnose(run.history, context);
    const auto stories = alarm_stories(run.history);  // which the page has already
    for (const Alarm& finding : diagnosis.findings)
      if (std::none_of(stories.begin(), stories.end(), [&](const AlarmStory& s) { return s.newest.kind == finding.kind; }))
        findings.push_back(finding.message);
    for (const Setting& setting : diagnosis.settings)
      settings.push_back({{"assignment", setting.assignment}, {"now", setting.now}, {"reason", setting.reason}});
  }
  return {{"findings", findings}, {"settings", settings}};
}

// `origins` of environment.json: where each setting was set when the run began.
Json json_of_config(const Config& config, const Json& environment) {
  const Json origins = environment.value("origins", Json::object());
  const Config defaults;
  const Json schema = Json::parse(config_schema());
  Json entries = Json::array();
  for (const auto& [key, definition] : schema["$defs"].items()) {
    const std::string value = value_text(config, key), standard = value_text(defaults, key);
    std::string origin = value == standard ? "default" : "";
    if (origins.is_object() && origins.contains(key) && origins[key].is_string()) origin = origins[key].get<std::string>();
    entries.push_back({{"key", key},
                       {"value", value},
                       {"default", standard},
                       {"origin", origin},
                       {"help", definition.value("description", "")}});
  }
  return entries;
}

std::string plain_text(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

// environment.json without what has a place of its own, as texts by name.
Json json_of_environment(const Json& environment) {
  static const std::set<std::string> kShownElsewhere{"classes", "origins", "resumed", "resumed_at_step"};
  Json entries = Json::object();
  for (const auto& [key, value] : environment.items()) {
    if (kShownElsewhere.count(key) != 0) continue;
    std::string name = key;
    std::replace(name.begin(), name.end(), '_', ' ');
    entries[name] = plain_text(value);
  }
  const Json resumes = environment.value("resumed", Json::array());
  for (size_t i = 0; i < resumes.size(); ++i) {
    if (!resumes[i].is_object()) continue;
    entries[str("resumed (", i + 1, ")")] =
        str("at step ", plain_text(resumes[i].value("resumed_at_step", Json())), ", ",
            plain_text(resumes[i].value("started", Json())), ": ", plain_text(resumes[i].value("command_line", Json())));
  }
  return entries;
}

std::string base64(const std::string& bytes) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const auto byte = [&](size_t k) { return i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u; };
    const unsigned group = byte(0) << 16 | byte(1) << 8 | byte(2);
    text += kDigits[group >> 18];
    text += kDigits[group >> 12 & 63];
    text += i + 1 < bytes.size() ? kDigits[group >> 6 & 63] : '=';
    text += i + 2 < bytes.size() ? kDigits[group & 63] : '=';
  }
  return text;
}

void add_picture(const std::string& path, const std::string& title, const std::string& text, Json* pictures) {
  const std::string bytes = read_file(path);
  if (!bytes.starts_with("\xff\xd8")) return;  // no JPEG, whatever it is called
  pictures->push_back({{"title", title}, {"text", text}, {"source", "data:image/jpeg;base64," + base64(bytes)}});
}

// samples/epoch_NNNN.jpg by epoch.
std::map<int64_t, std::string> sample_files(const std::string& dir) {
  std::map<int64_t, std::string> files;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(dir + "/samples", none)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("epoch_") || !name.ends_with(".jpg")) continue;
    const std::string number = name.substr(6, name.size() - 10);
    if (number.empty() || number.size() > 9 || number.find_first_not_of("0123456789") != std::string::npos) continue;
    files[std::stoll(number)] = entry.path().string();
  }
  return files;
}

Json json_of_pictures(const RunRecord& run, const RunSummary& summary) {
  Json pictures = Json::array();
  auto samples = sample_files(run.dir);
  // What a run that was resumed from an earlier checkpoint has not reached again is not its own.
  if (!run.history.empty()) samples.erase(samples.upper_bound(run.history.back().epoch), samples.end());
  if (!samples.empty()) {
    const auto& [epoch, file] = *samples.rbegin();
    const bool is_best = summary.best && summary.best->epoch == epoch;
    add_picture(file, str("Epoch ", epoch, is_best ? ", the newest and the best" : ", the newest"), "", &pictures);
    if (!is_best && summary.best && samples.count(summary.best->epoch) != 0)
      add_picture(samples.at(summary.best->epoch), str("Epoch ", summary.best->epoch, ", the best mIoU"), "", &pictures);
  }
  if (const std::string batch = run.dir + "/train_batch.jpg"; fs::is_regular_file(batch))
    add_picture(batch, "The first training batch", "As the network sees it: cropped, augmented and mixed.", &pictures);
  return pictures;
}

// The words below the title.
Json json_of_facts(const RunRecord& run, const Json& environment) {
  Json facts = {{"device", environment.contains("device") ? Json(plain_text(environment["device"])) : Json(nullptr)}};
  if (run.config) {
    const Config& config = *run.config;
    facts["method"] = config.semi.method;
    facts["model"] = config.model.backbone + " " + config.model.decoder;
    facts["data"] = config.data.root.empty() ? config.data.format : config.data.format + " " + config.data.root;
  }
  return facts;
}

Json object_in(const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json : Json::object();
}

}  // namespace

Json json_of_run(const RunRecord& run) {
  const RunSummary summary = summarize(run);
  const EpochRecord* last = newest(run.history, [](const EpochRecord& r) { return r.val && !r.val->iou.empty(); });
  const EpochRecord* best =
      newest(run.history, [&](const EpochRecord& r) { return r.val && summary.best && r.epoch == summary.best->epoch; });
  const EpochRecord* confused = newest(run.history, [](const EpochRecord& r) { return r.val && !r.val->confusion.empty(); });
  return {{"name", summary.name},
          {"dir", run.dir},
          {"state", summary.state},
          {"message", summary.message},
          {"updated", summary.updated},
          {"summary",
           {{"epochs", summary.epochs},
            {"total_epochs", summary.total_epochs ? Json(*summary.total_epochs) : Json(nullptr)},
            {"seconds", rounded(summary.seconds)},
            {"best", json_of(summary.best)},
            {"last", json_of(summary.last)}}},
          {"classes", json_of_classes(run)},
          {"epochs", json_of_epochs(run.history)},
          {"newest", last != nullptr ? json_of_scores(*last) : Json(nullptr)},
          {"best", best != nullptr ? json_of_scores(*best) : Json(nullptr)},
          {"pseudo", json_of_pseudo(run.history)},
          {"confusion",
           confused != nullptr ? Json{{"epoch", confused->epoch}, {"counts", confused->val->confusion}} : Json(nullptr)},
          {"alarms", json_of_alarms(run.history)}};
}

void add_details(const RunRecord& run, Json* page) {
  const Json environment = object_in(run.environment);
  (*page)["notes"] = run.notes;
  (*page)["facts"] = json_of_facts(run, environment);
  (*page)["started"] = environment.contains("started") ? Json(plain_text(environment["started"])) : Json(nullptr);
  (*page)["diagnosis"] = json_of_diagnosis(run);
  (*page)["config"] = run.config ? json_of_config(*run.config, environment) : Json::array();
  (*page)["environment"] = json_of_environment(environment);
  (*page)["pictures"] = json_of_pictures(run, summarize(run));
  (*page)["written_at"] = time_now();
}

Json json_of_differences(const std::vector<RunRecord>& runs) {
  std::set<std::string> differing;
  for (const RunRecord& run : runs) {
    if (!run.config) return nullptr;
    for (const std::string& key : differing_keys(*runs[0].config, *run.config)) differing.insert(key);
  }
  const Json schema = Json::parse(config_schema());
  Json differences = Json::array();
  for (const auto& [key, definition] : schema["$defs"].items()) {  // in the order of the settings
    if (differing.count(key) == 0 || key == "run.name" || key == "run.dir") continue;
    Json values = Json::array();
    for (const RunRecord& run : runs) values.push_back(value_text(*run.config, key));
    differences.push_back({{"key", key}, {"values", values}});
  }
  return differences;
}

std::string time_now() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M UTC", std::gmtime(&now));
  return text;
}

}  // namespace semiseg
