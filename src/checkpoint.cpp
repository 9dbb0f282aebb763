#include "semiseg/checkpoint.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "semiseg/device.h"
#include "semiseg/distributed.h"
#include "semiseg/weights.h"

namespace semiseg {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr const char* kFormat = "semiseg checkpoint 1";

// Tensors of a method by the names a checkpoint gives them: the predictor's bare, other networks' behind student. / teacher. /
// ...
std::map<std::string, Tensor> named_tensors(Method& method) {
  std::map<std::string, Tensor> tensors;
  for (const auto& child : method.named_children()) {
    const std::string prefix = child.value().get() == &method.predictor() ? "" : child.key() + ".";
    for (const auto& item : child.value()->named_parameters()) tensors[prefix + item.key()] = item.value();
    for (const auto& item : child.value()->named_buffers()) tensors[prefix + item.key()] = item.value();
  }
  return tensors;
}

// One read from the device for all tensors together.
void require_finite(const std::map<std::string, Tensor>& tensors) {
  at::NoGradGuard no_grad;
  std::vector<Tensor> floating;
  for (const auto& [name, tensor] : tensors)
    if (tensor.is_floating_point()) floating.push_back(tensor);
  if (at::stack(at::_foreach_norm(floating)).isfinite().all().item<bool>()) return;
  for (const auto& [name, tensor] : tensors)
    if (tensor.is_floating_point() && !tensor.isfinite().all().item<bool>())
      throw Error(ErrorKind::kNonFinite, "the weights \"" + name + "\" are NaN or infinite; no checkpoint is written of them",
                  "", "lower optim.lr, set optim.clip_grad_norm, or resume from the last checkpoint");
}

Json json_of(const ClassSet& classes) {
  Json array = Json::array();
  for (int64_t c = 0; c < classes.size(); ++c) {
    Json entry = {{"name", classes.names[c]}, {"colour", classes.colours[c]}};
    if (!classes.label_ids.empty()) entry["label_id"] = classes.label_ids[c];
    array.push_back(entry);
  }
  return array;
}

ClassSet classes_from(const Json& array) {
  ClassSet classes;
  classes.value_to_class.fill(-1);
  for (const Json& entry : array) {
    classes.names.push_back(entry.at("name"));
    classes.colours.push_back(entry.at("colour"));
    if (entry.contains("label_id")) classes.label_ids.push_back(entry.at("label_id"));
  }
  return classes;
}

}  // namespace

void save_checkpoint(const std::string& path, const Config& config, const ClassSet& classes, const TrainState& state,
                     Method& method, const Optimizer& optimizer) {
  if (!is_writer()) return;
  StateDict tensors = named_tensors(method);
  for (const auto& [name, tensor] : optimizer.state()) tensors["optimizer." + name] = tensor;
  require_finite(tensors);
  for (const auto& [name, tensor] : state.epoch_sums) tensors["progress." + name] = tensor;
  for (const auto& [name, tensor] : state.probe) tensors["probe." + name] = tensor;

  Json history = Json::array();
  for (const EpochRecord& record : state.history) history.push_back(Json::parse(to_json(record)));
  const Json counters = {
      {"step", state.step},
      {"seed", config.seed},
      {"before_training", state.before_training ? Json::parse(to_json(*state.before_training)) : Json(nullptr)},
      {"best_miou", state.best_miou},
      {"best_epoch", state.best_epoch},
      {"epoch_seconds", state.epoch_seconds},
      {"epoch_wait", state.epoch_wait},
      {"class_weights", state.class_weights},
      {"label_share", state.label_share},
      {"data_fingerprint", state.data_fingerprint},
      {"threads", at::get_num_threads()},
      {"processes", process_count()},
      {"device", tensors.begin()->second.device().str()}};
  write_safetensors(path, tensors,
                    {{"format", kFormat},
                     {"config", to_yaml(config)},
                     {"classes", json_of(classes).dump()},
                     {"state", counters.dump()},
                     {"history", history.dump()},
                     {"checksum", ""}});
}

Checkpoint read_checkpoint(const std::string& path) {
  SafeTensors file = read_safetensors(path);
  const auto format = file.metadata.find("format");
  if (format == file.metadata.end() || format->second != kFormat || !file.metadata.count("checksum"))
    throw Error(ErrorKind::kCheckpoint, "not a checkpoint of semiseg", path, "other weights files are given as model.weights");
  try {
    Checkpoint checkpoint;
    checkpoint.path = path;
    checkpoint.config = parse_config(file.metadata.at("config"), path, {});
    checkpoint.classes = classes_from(Json::parse(file.metadata.at("classes")));
    const Json counters = Json::parse(file.metadata.at("state"));
    TrainState& state = checkpoint.state;
    state.step = counters.at("step");
    if (counters.contains("before_training") && !counters.at("before_training").is_null())
      state.before_training = epoch_from_json(counters.at("before_training").dump());
    state.best_miou = counters.at("best_miou");
    state.best_epoch = counters.at("best_epoch");
    state.epoch_seconds = counters.at("epoch_seconds");
    state.epoch_wait = counters.at("epoch_wait");
    state.class_weights = counters.at("class_weights").get<std::vector<double>>();
    state.label_share = counters.value("label_share", std::vector<double>{});
    state.data_fingerprint = counters.at("data_fingerprint");
    checkpoint.threads = counters.at("threads");
    checkpoint.processes = counters.value("processes", int64_t{1});
    checkpoint.device = counters.at("device");
    for (const Json& record : Json::parse(file.metadata.at("history"))) state.history.push_back(epoch_from_json(record.dump()));
    for (auto& [name, tensor] : file.tensors) {
      if (name.rfind("progress.", 0) == 0)
        state.epoch_sums[name.substr(9)] = tensor;
      else if (name.rfind("probe.", 0) == 0)
        state.probe[name.substr(6)] = tensor;
      else
        checkpoint.tensors[name] = tensor;
    }
    return checkpoint;
  } catch (const nlohmann::json::exception& e) {
    throw Error(ErrorKind::kCheckpoint, str("the checkpoint's metadata cannot be read: ", e.what()), path);
  } catch (const std::out_of_range&) {
    throw Error(ErrorKind::kCheckpoint, "the checkpoint's metadata is incomplete", path);
  }
}

bool is_checkpoint(const std::string& path) {
  // The header alone: 8 bytes of its length, then JSON.
  std::ifstream file(path, std::ios::binary);
  uint64_t length = 0;
  if (!file.read(reinterpret_cast<char*>(&length), sizeof(length)) || length > (100u << 20)) return false;
  std::string header(length, '\0');
  if (!file.read(header.data(), static_cast<std::streamsize>(length))) return false;
  const Json json = Json::parse(header, nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.contains("__metadata__") && json["__metadata__"].value("format", "") == kFormat;
}

void restore(const Checkpoint& checkpoint, Method& method, Optimizer& optimizer) {
  at::NoGradGuard no_grad;
  std::map<std::string, Tensor> optimizer_state;
  for (const auto& [name, tensor] : checkpoint.tensors)
    if (name.rfind("optimizer.", 0) == 0) optimizer_state[name.substr(10)] = tensor;
  for (auto& [name, tensor] : named_tensors(method)) {
    const auto found = checkpoint.tensors.find(name);
    if (found == checkpoint.tensors.end() || found->second.sizes() != tensor.sizes())
      throw Error(ErrorKind::kCheckpoint, "tensor \"" + name + "\" is missing or has another shape", checkpoint.path);
    Tensor(tensor).copy_(found->second);
  }
  optimizer.load_state(optimizer_state);
}

bool has_checkpoint(const std::string& run_dir) {
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(run_dir + "/checkpoints", none))
    if (entry.path().extension() == ".safetensors") return true;
  return false;
}

Checkpoint newest_checkpoint(const std::string& run_dir, std::vector<std::string>* damaged) {
  const fs::path folder = fs::path(run_dir) / "checkpoints";
  std::error_code error;
  std::optional<Checkpoint> newest;
  const auto progress = [](const Checkpoint& c) { return std::pair(c.state.step, c.state.history.size()); };
  std::vector<std::string> paths;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path().string());
  // `last` comes last: of two with equal progress it is the one that knows of --extend.
  std::sort(paths.begin(), paths.end(), [](const std::string& a, const std::string& b) {
    const auto key = [](const std::string& path) { return std::pair(fs::path(path).stem() == "last", path); };
    return key(a) < key(b);
  });
  std::string first_problem;
  for (const std::string& path : paths) {
    try {
      Checkpoint checkpoint = read_checkpoint(path);
      if (!newest || progress(checkpoint) >= progress(*newest)) newest = std::move(checkpoint);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kCheckpoint) throw;
      if (first_problem.empty()) first_problem = e.what();
      if (damaged) damaged->push_back(e.what());
    }
  }
  if (newest) return std::move(*newest);
  if (paths.empty())
    throw Error(ErrorKind::kCheckpoint, "there is no checkpoint to go on from", run_dir,
                "start the run anew with `semiseg train CONFIG`");
  throw Error(ErrorKind::kCheckpoint, str("none of its ", paths.size(), " checkpoints is whole; the first: ", first_problem),
              run_dir, "start the run anew with `semiseg train CONFIG`");
}

LoadedModel load_model(const Checkpoint& checkpoint, const Config* config, torch::Device device) {
  LoadedModel model;
  model.config = config ? *config : checkpoint.config;
  model.config.model = checkpoint.config.model;
  model.classes = checkpoint.classes;
  model.network = make_segmenter(checkpoint.config.model, model.classes.size(), /*seed=*/0);
  const LoadSummary summary = load_weights(*model.network, checkpoint.tensors, checkpoint.path);
  if (!summary.missing.empty())
    throw Error(ErrorKind::kCheckpoint, "tensor \"" + summary.missing[0] + "\" is missing", checkpoint.path);
  move_module(*model.network, device);
  model.network->eval();
  return model;
}

Config config_of(const Checkpoint& checkpoint, const std::vector<std::string>& overrides) {
  Config config = parse_config(to_yaml(checkpoint.config), checkpoint.path, overrides);
  for (const std::string& key : differing_keys(checkpoint.config, config))
    if (key.rfind("model.", 0) == 0 && key != "model.weights" && key != "model.dropout")
      throw Error(ErrorKind::kConfig,
                  "the network of the checkpoint has " + key + "=" + value_text(checkpoint.config, key) + ", not " +
                      value_text(config, key),
                  checkpoint.path, "leave " + key + " out");
  return config;
}

LoadedModel load_model(const std::string& path, const Config* config, torch::Device device) {
  if (is_checkpoint(path)) return load_model(read_checkpoint(path), config, device);
  const StateDict weights = read_weights(path);  // a file that is missing or damaged is told first
  if (!config)
    throw Error(ErrorKind::kConfig, "a weights file alone does not say which network it belongs to", path,
                "give the config of that network too");
  LoadedModel model;
  model.config = *config;
  const DataConfig& data = config->data;  // formats with classes of their own are called as these are
  model.classes = load_classes(data.classes.empty() && data.format != "list" ? data.format : data.classes, data.ignore_index);
  model.network = make_segmenter(config->model, model.classes.size(), /*seed=*/0);
  const LoadSummary summary = load_weights(*model.network, weights, path);
  if (!summary.missing.empty() || !summary.reinitialized.empty())
    throw Error(
        ErrorKind::kCheckpoint,
        str("the file lacks ", summary.missing.size() + summary.reinitialized.size(), " of the network's tensors, such as \"",
            summary.missing.empty() ? summary.reinitialized[0] : summary.missing[0], "\""),
        path, "it must hold a whole segmentation network of this backbone and class count");
  move_module(*model.network, device);
  model.network->eval();
  return model;
}

}  // namespace semiseg
