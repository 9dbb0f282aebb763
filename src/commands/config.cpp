#include "semiseg/config.h"

#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands/command.h"
#include "commands/config_file.h"
#include "semiseg/error.h"

namespace semiseg {
namespace {

using Json = nlohmann::ordered_json;

std::string code(const Json& value) { return "`" + (value.is_string() ? value.get<std::string>() : value.dump()) + "`"; }

std::string number_text(const Json& value) {
  const std::string text = value.dump();
  return text.ends_with(".0") ? text.substr(0, text.size() - 2) : text;
}

// What a setting takes, from its JSON schema.
std::string values_of(const Json& schema) {
  if (schema.contains("anyOf")) {
    std::string text;
    for (const Json& kind : schema["anyOf"]) text += (text.empty() ? "" : "; or ") + values_of(kind);
    return text;
  }
  if (schema.contains("enum")) {
    std::string text;
    for (const Json& value : schema["enum"]) text += (text.empty() ? "" : ", ") + code(value);
    return text;
  }
  const std::string type = schema.at("type");
  if (type == "boolean") return "`true`, `false`";
  if (type == "object") {
    std::string text;
    for (const auto& [key, value] : schema.at("properties").items()) text += (text.empty() ? "" : ", ") + key;
    return "`{" + text + "}`";
  }
  if (type == "array") {
    const bool fixed = schema.contains("maxItems");
    return (fixed ? "list of " + schema["maxItems"].dump() : std::string("list")) + ", each " + values_of(schema.at("items"));
  }
  if (type == "string" && schema.contains("pattern")) {
    const std::string pattern = schema["pattern"];  // ^(...)$
    return code(pattern.substr(2, pattern.size() - 4));
  }
  if (type == "string") return "text";
  std::string text = type == "integer" ? "whole number" : "number";
  std::string bounds;
  for (const auto& [key, sign] :
       {std::pair{"minimum", ">= "}, {"exclusiveMinimum", "> "}, {"maximum", "<= "}, {"exclusiveMaximum", "< "}})
    if (schema.contains(key)) bounds += (bounds.empty() ? " " : ", ") + (sign + number_text(schema[key]));
  return text + bounds;
}

// A cell of a Markdown table.
std::string cell(std::string text) {
  for (size_t at = text.find('|'); at != std::string::npos; at = text.find('|', at + 2)) text.insert(at, "\\");
  return text;
}

// docs/config.md.
std::string reference() {
  std::string text = R"(# Settings

Made by `semiseg config --reference`; do not edit. Any of these can stand in a config file or follow a command as `key=value`. A default
of - means that none is set; `semiseg config CONFIG` shows the values that hold, a method's own defaults included, and where each came from.
`base:` names a file or a list of files to inherit from, relative to the file that names them.
)";
  std::optional<std::string> section;
  const Json schema = Json::parse(config_schema());
  for (const auto& [key, setting] : schema.at("$defs").items()) {
    const size_t dot = key.find('.');
    const std::string its_section = dot == std::string::npos ? "" : key.substr(0, dot);
    if (section != its_section) {
      section = its_section;
      text += "\n## " + (its_section.empty() ? "General" : its_section) +
              "\n\n| key | takes | default | meaning |\n|---|---|---|---|\n";
    }
    text += "| `" + key + "` | " + cell(values_of(setting)) + " | " +
            (setting.contains("default") ? cell(code(setting["default"])) : "-") + " | " +
            cell(setting.at("description").get<std::string>()) + " |\n";
  }
  return text;
}

int run(const Arguments& arguments) {
  if (arguments.has("schema")) {
    std::cout << config_schema();
    return 0;
  }
  if (arguments.has("reference")) {
    std::cout << reference();
    return 0;
  }
  if (arguments.positional.empty())
    throw Error(ErrorKind::kConfig, "config needs a config file", "",
                "for example: semiseg config configs/synthetic/demo.yaml");
  const std::string path = find_config(arguments.positional.front());
  const std::string text = to_yaml_with_origins(load_config(path, arguments.overrides));
  if (path != arguments.positional.front()) std::cout << "# taking " << path << "\n";
  std::cout << text;
  return 0;
}

const bool kRegistered = add_command({
    .name = "config",
    .synopsis = "CONFIG.yaml [key=value ...]",
    .summary = "prints the resolved config with where each value came from",
    .details = R"(examples:
  semiseg config configs/synthetic/demo.yaml optim.lr=0.02
  semiseg config --schema > schema.json             for editors that complete and check YAML
  semiseg config --reference | less                 every setting with what it takes, its default and its meaning)",
    .flags = {{"schema", "", "print a JSON schema of config files instead"},
              {"reference", "", "print every setting as a page of Markdown instead (docs/config.md)"}},
    .min_positional = 0,
    .max_positional = 1,
    .run = run,
});

}  // namespace
}  // namespace semiseg
