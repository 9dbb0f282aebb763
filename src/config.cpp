#include "semiseg/config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "config/checks.h"
#include "config/layers.h"
#include "config/paths.h"
#include "config/settings.h"
#include "config/text.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/method.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kDefault = "default";

// A method's own defaults hold where the layer that names the method, or a later one, does not set the key: semi.method=augseg
// on the command line means AugSeg, whatever a preset of FixMatch says.
void apply_method_defaults(Config& config) {
  const int method_layer = layer_of(config, "semi.method");
  for (const auto& [key, text] : settings_of_method(config.semi.method).defaults) {
    if (config.is_set(key) && layer_of(config, key) >= method_layer) continue;
    reset(config, key);
    find_setting(key)->read(config, YAML::Load(text), "semi.method: " + config.semi.method);
  }
}

void finish(Config& config, int text_layer) {
  if (!config.is_set("data.format"))
    throw Error(ErrorKind::kConfig, "data.format is not set", config.file, "set it to one of " + join(datasets().names()));
  apply_method_defaults(config);
  if (config.model.decoder == "deeplabv3plus") {
    if (!config.is_set("model.output_stride")) config.model.output_stride = 16;
    if (config.model.output_stride == 32)
      contradict(config, "model.output_stride", "model.decoder: deeplabv3plus does not work at model.output_stride 32",
                 "set it to 16 or 8");
  }
  check_together(config, text_layer);
  resolve_paths(config, text_layer);
}

std::string print_yaml(const Config& config, bool with_origins) {
  struct Line {
    std::string text, comment;
  };
  std::vector<Line> lines;
  std::string section;
  const auto& method_defaults = settings_of_method(config.semi.method).defaults;
  for (const auto& entry : settings()) {
    const std::string value = entry.print(config);
    if (value == "null" || !unread(config, entry.key).because.empty()) continue;
    if (section_of(entry.key) != section) lines.push_back({(section = section_of(entry.key)) + ":", ""});
    const auto origin = config.origins.find(entry.key);
    lines.push_back({(section.empty() ? "" : "  ") + leaf_of(entry.key) + ": " + value,
                     "# " + (origin != config.origins.end()     ? origin->second.text()
                             : method_defaults.count(entry.key) ? "default of " + config.semi.method
                                                                : kDefault)});
  }
  constexpr size_t kWidest = 60;  // a long path does not push all comments to the right
  size_t width = 0;
  for (const auto& line : lines)
    if (line.text.size() <= kWidest) width = std::max(width, line.text.size());
  std::string result;
  for (const auto& line : lines) {
    result += line.text;
    if (with_origins && !line.comment.empty())
      result += std::string(line.text.size() < width ? width - line.text.size() : 0, ' ') + "  " + line.comment;
    result += '\n';
  }
  return result;
}

}  // namespace

std::string Origin::text() const { return line == 0 ? file : str(file, ":", line); }

Config load_config(const std::string& path, const std::vector<std::string>& overrides) {
  Layers layers;
  layers.config.file = path;
  layers.add_file(path, "");
  layers.add_overrides(overrides);
  Config& config = layers.config;
  if (config.run.name.empty()) config.run.name = fs::path(path).stem().string();
  finish(config, 0);
  return config;
}

Config parse_config(const std::string& yaml, const std::string& where, const std::vector<std::string>& overrides) {
  constexpr int kTextLayer = 1;
  Layers layers;
  layers.add_text(yaml, where, std::nullopt);
  const Config stored = layers.config;
  layers.add_overrides(overrides);
  Config& config = layers.config;
  finish(config, kTextLayer);
  // Lists that lay under the old root move with it where they are found under the new one.
  if (config.data.root != stored.data.root && !stored.data.root.empty()) {
    for (const auto& key : kLists) {
      std::string& list = list_path(config, key);
      if (layer_of(config, key) != kTextLayer || !list.starts_with(stored.data.root + "/")) continue;
      const std::string moved = config.data.root + list.substr(stored.data.root.size());
      if (fs::is_regular_file(moved)) list = moved;
    }
  }
  return config;
}

std::string to_yaml(const Config& config) { return print_yaml(config, false); }
std::string to_yaml_with_origins(const Config& config) { return print_yaml(config, true); }

std::string config_schema() {
  Json definitions, properties;
  properties["base"] = {{"description", "file or files to inherit from, relative to this file"},
                        {"anyOf", {{{"type", "string"}}, {{"type", "array"}, {"items", {{"type", "string"}}}}}}};
  for (const auto& entry : settings()) {
    const std::string section = section_of(entry.key);
    Json definition = entry.schema();
    definition["description"] = entry.help;
    const std::string value = entry.print(Config{});
    if (value != "null" && value != "\"\"") {
      // Numbers, switches and lists of numbers print as JSON; text prints without quotes.
      const Json parsed = Json::parse(value, nullptr, false);
      definition["default"] = parsed.is_discarded() ? Json(value) : parsed;
    }
    definitions[entry.key] = std::move(definition);
    const Json reference{{"$ref", "#/$defs/" + entry.key}};
    if (section.empty()) {
      properties[entry.key] = reference;
      continue;
    }
    Json& group = properties[section];
    group["type"] = "object";
    group["additionalProperties"] = false;
    group["properties"][leaf_of(entry.key)] = reference;
  }
  for (const auto& entry : settings())  // dotted keys are accepted too
    if (!section_of(entry.key).empty()) properties[entry.key] = {{"$ref", "#/$defs/" + entry.key}};
  const Json schema{{"$schema", "https://json-schema.org/draft/2020-12/schema"},
                    {"title", "semiseg config"},
                    {"type", "object"},
                    {"additionalProperties", false},
                    {"properties", properties},
                    {"$defs", definitions}};
  return schema.dump(2) + "\n";
}

std::vector<std::string> setting_keys() {
  Names keys;
  for (const auto& entry : settings()) keys.push_back(entry.key);
  return keys;
}

std::vector<std::string> differing_keys(const Config& a, const Config& b) {
  Names keys;
  for (const auto& entry : settings())
    if (entry.print(a) != entry.print(b)) keys.push_back(entry.key);
  return keys;
}

std::string value_text(const Config& config, const std::string& key) {
  const ConfigSetting* entry = find_setting(key);
  if (entry == nullptr) throw std::out_of_range("no setting is called " + key);
  return entry->print(config);
}

}  // namespace semiseg
