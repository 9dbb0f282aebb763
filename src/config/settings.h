// The table of settings: every key that a config may hold.
#pragma once

#include <yaml-cpp/yaml.h>

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "semiseg/config.h"

namespace semiseg {

struct ConfigSetting {
  std::string key, help;
  std::function<void(Config&, const YAML::Node&, const std::string& place)> read;
  std::function<std::string(const Config&)> print;  // as YAML; "null" where there is no value
  std::function<void(Config&)> reset;
  std::function<nlohmann::ordered_json()> schema;
};

// Every setting, in the order in which they are printed. A key without a dot comes before the sections.
const std::vector<ConfigSetting>& settings();

const ConfigSetting* find_setting(const std::string& key);  // null where there is none

std::string section_of(const std::string& key);  // "optim" of "optim.lr"; "" of "seed"
std::string leaf_of(const std::string& key);     // "lr" of "optim.lr"
bool is_section(const std::string& name);

// A value as messages show it, cut where it is long.
std::string shown(const YAML::Node& value);

// Throw Error(kConfig): a value that is not what is expected; a key that no setting has, with the one that was meant.
[[noreturn]] void reject(const std::string& key, const YAML::Node& value, const std::string& place,
                         const std::string& expected);
[[noreturn]] void reject_unknown_key(const std::string& key, const std::string& place);

}  // namespace semiseg
