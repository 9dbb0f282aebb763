#include "config/paths.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "config/checks.h"
#include "config/layers.h"
#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

const Names kClassPresets{"cityscapes", "camvid", "synthetic"};

class Paths {
 public:
  Paths(Config& config, int text_layer) : config_(config), text_layer_(text_layer) {}

  void resolve() {
    make_absolute("data.root", config_.data.root);
    make_absolute("data.cache", config_.data.cache);
    make_absolute("model.weights", config_.model.weights);
    if (!config_.run.dir.empty()) config_.run.dir = absolute_path(without_home(config_.run.dir));  // like any output: from here
    if (config_.data.format == "list" && config_.data.root.empty() && !config_.file.empty())
      config_.data.root = absolute_path(fs::path(config_.file).parent_path() / ".");
    resolve_classes();
    for (const auto& key : kLists) resolve_list(key, list_path(config_, key));
  }

 private:
  bool is_resolved(const std::string& key) const { return !config_.is_set(key) || layer_of(config_, key) == text_layer_; }

  fs::path folder_of(const std::string& key) const {
    const Origin& origin = config_.origins.at(key);
    return origin.file == kCommandLine ? fs::path() : fs::path(origin.file).parent_path();
  }

  void make_absolute(const std::string& key, std::string& path) const {
    if (!is_resolved(key)) path = absolute_path(folder_of(key) / without_home(path));
  }

  void resolve_classes() const {
    const std::string key = "data.classes";
    std::string& classes = config_.data.classes;
    if (is_resolved(key) || contains(kClassPresets, classes)) return;
    const Names tried = places_of(key, classes);
    const auto found =
        std::find_if(tried.begin(), tried.end(), [](const std::string& file) { return fs::is_regular_file(file); });
    if (found == tried.end())
      contradict(config_, key,
                 "data.classes is \"" + classes + "\", neither a preset (" + join(kClassPresets) + ") nor a file; looked for " +
                     join(tried, " and "),
                 "");
    classes = *found;
  }

  // Where a list or a class file may lie: beside what names it, beside the config, in data.root.
  Names places_of(const std::string& key, const std::string& file) const {
    const fs::path path = without_home(file);
    Names places;
    const auto candidate = [&](const fs::path& place) {
      const std::string absolute = absolute_path(place);
      if (!contains(places, absolute)) places.push_back(absolute);
    };
    candidate(folder_of(key) / path);
    if (path.is_relative() && !config_.file.empty()) candidate(fs::path(config_.file).parent_path() / path);
    if (path.is_relative() && !config_.data.root.empty()) candidate(fs::path(config_.data.root) / path);
    return places;
  }

  void resolve_list(const std::string& key, std::string& list) const {
    if (is_resolved(key) || (key == "data.labeled" && parse_fraction(list))) return;
    const Names tried = places_of(key, list);
    for (const auto& file : tried) {
      if (!fs::is_regular_file(file)) continue;
      list = file;
      return;
    }
    for (const auto& folder : tried)
      if (fs::is_directory(folder))
        contradict(config_, key, key + ": \"" + list + "\" is a folder, not a list file: " + folder,
                   "`semiseg init --help` says how to make lists from folders");
    const fs::path path = without_home(list);
    std::string hint = key == "data.labeled" && parse_yaml_number<double>(list) ? "a fraction is written 1/8"
                       : path.is_relative() && !config_.data.root.empty() && !fs::is_directory(config_.data.root)
                           ? "data.root (" + config_.data.root + ") is no folder"
                       : tried.size() == 1 && path.is_relative() ? "name the list file, or set data.root"
                                                                 : "name the list file, or change data.root";
    contradict(config_, key, key + ": no such list file: \"" + list + "\"; looked for " + join(tried, " and "), hint);
  }

  Config& config_;
  int text_layer_;
};

}  // namespace

std::string without_home(const std::string& path) {
  if (path != "~" && !path.starts_with("~/")) return path;
  const char* home = std::getenv("HOME");
  if (home == nullptr) throw Error(ErrorKind::kConfig, "cannot expand ~: HOME is not set", path, "write the whole path");
  return home + path.substr(1);
}

std::string& list_path(Config& config, const std::string& key) {
  if (key == "data.labeled") return config.data.labeled;
  return key == "data.unlabeled" ? config.data.unlabeled : config.data.val;
}

void resolve_paths(Config& config, int text_layer) { Paths(config, text_layer).resolve(); }

}  // namespace semiseg
