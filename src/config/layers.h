// The layers of a config: base files, the file itself, key=value words; a later one wins.
#pragma once

#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "semiseg/config.h"

namespace semiseg {

inline constexpr const char* kCommandLine = "command line";  // Origin::file of a key=value word

// Applies layers to a config, lowest first. Throws Error(kConfig) with file and line.
class Layers {
 public:
  Config config;

  // `shown`: the path as messages name it. `asked_from`: the line that names it as its base; empty for the first file.
  void add_file(const std::filesystem::path& shown, const std::string& asked_from);
  // `folder`: where base files are looked up; nothing where they are not allowed.
  void add_text(const std::string& text, const std::string& where, const std::optional<std::filesystem::path>& folder);
  // key=value words; the last layer.
  void add_overrides(const std::vector<std::string>& overrides);

 private:
  void add_bases(const YAML::Node& value, const std::filesystem::path& folder, const std::string& where, int line);
  void apply(const std::string& key, const YAML::Node& value, const Origin& origin);

  int layer_ = 0;
  std::vector<std::string> open_files_;  // canonical paths of the files being read, for circles
};

}  // namespace semiseg
