#include "folder_walk.h"

#include <algorithm>
#include <set>

namespace semiseg {
namespace {

namespace fs = std::filesystem;

void walk(const fs::path& folder, const std::function<bool(const fs::path&)>& enters, std::set<fs::path>* visited,
          std::vector<fs::path>* files) {
  if (!visited->insert(fs::canonical(folder)).second) return;
  std::vector<fs::path> entries;
  for (const auto& entry : fs::directory_iterator(folder)) entries.push_back(entry.path());
  std::sort(entries.begin(), entries.end());  // of several ways to a folder always the same is taken
  for (const fs::path& entry : entries) {
    std::error_code none;  // a link to nothing is no file
    if (fs::is_directory(entry, none)) {
      if (!enters || enters(entry)) walk(entry, enters, visited, files);
    } else if (fs::is_regular_file(entry, none)) {
      files->push_back(entry);
    }
  }
}

}  // namespace

std::vector<fs::path> files_below(const fs::path& folder, const std::function<bool(const fs::path&)>& enters) {
  std::set<fs::path> visited;
  std::vector<fs::path> files;
  walk(folder, enters, &visited, &files);
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace semiseg
