#include "run_record.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string text_of(const std::string& path) { return fs::is_regular_file(path) ? read_file(path) : ""; }

EpochRecord record_of(const std::string& json, const std::string& where) {
  try {
    return epoch_from_json(json);
  } catch (const Error& error) {
    throw Error(ErrorKind::kData, error.problem(), where,
                "the file is damaged, or not one of semiseg; `semiseg train --resume RUN` writes that of a run anew");
  }
}

// The classes that RunFolder::open writes into environment.json, and their labelled shares, which older versions did not.
void read_classes(const std::string& environment, RunRecord* run) {
  const Json json = Json::parse(environment, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("classes")) return;
  ClassSet classes;
  std::vector<double> shares;
  try {
    for (const Json& entry : json["classes"]) {
      classes.names.push_back(entry.value("name", ""));
      classes.colours.push_back(entry.value("colour", std::array<uint8_t, 3>{}));
      if (entry.contains("label_share")) shares.push_back(entry["label_share"].get<double>());
    }
  } catch (const nlohmann::json::exception&) {
    return;
  }
  if (shares.size() == classes.names.size()) run->label_share = std::move(shares);
  run->classes = std::move(classes);
}

}  // namespace

RunRecord read_run(const std::string& dir, bool may_be_young) {
  const std::string path = dir + "/metrics.jsonl";
  if (!fs::is_regular_file(path) && !may_be_young)
    throw Error(ErrorKind::kData, "no epoch of this run is finished: there is no such file", path,
                "give a run folder of `semiseg train`");
  RunRecord run;
  run.dir = dir;
  if (const std::string before = dir + "/before_training.json"; fs::is_regular_file(before))
    run.history.push_back(record_of(read_file(before), before));
  const size_t untrained = run.history.size();
  const std::string text = text_of(path);
  int line = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string record = text.substr(at, end - at);
    at = end + 1;
    ++line;
    if (record.find_first_not_of(" \r\t") != std::string::npos) run.history.push_back(record_of(record, str(path, ":", line)));
  }
  if (run.history.size() == untrained && !may_be_young)
    throw Error(ErrorKind::kData, "no epoch of this run is finished yet", path);

  run.environment = text_of(dir + "/environment.json");
  run.status = parse_status(text_of(dir + "/status.json"));
  read_classes(run.environment, &run);
  const std::string config = dir + "/config.yaml";
  if (!fs::is_regular_file(config)) {
    run.notes.push_back("there is no config.yaml, so advice may name what is set already");
    return run;
  }
  try {
    run.config = parse_config(read_file(config), config, {});
  } catch (const Error& error) {
    run.notes.push_back(
        str("the run's settings could not be read (", error.what(), "), so advice may name what is set already"));
  }
  return run;
}

}  // namespace semiseg
