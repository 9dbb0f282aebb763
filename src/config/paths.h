// Where the files that a config names lie.
#pragma once

#include <string>

#include "config/text.h"
#include "semiseg/config.h"

namespace semiseg {

// "~/x" -> the home folder's x.
std::string without_home(const std::string& path);

inline const Names kLists{"data.labeled", "data.unlabeled", "data.val"};
std::string& list_path(Config& config, const std::string& key);  // REQUIRES: one of kLists

// Makes the paths that were set by files or the command line absolute. `text_layer`: settings of that layer came from to_yaml,
// hold absolute paths already, and their files may lie on another machine; 0 where there is no such layer.
void resolve_paths(Config& config, int text_layer);

}  // namespace semiseg
