#include "output_files.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "datasets/file_list.h"
#include "result_mark.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "spelling.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

// What a file is, by whatever path and links.
using FileId = std::pair<dev_t, ino_t>;

std::optional<FileId> id_of(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return std::nullopt;
  return FileId{info.st_dev, info.st_ino};
}

// Training images may be elsewhere where a checkpoint is only evaluated; then those of validation are known at least.
FileLists readable_lists(Config config) {
  if (!file_formats().contains(config.data.format)) return {};
  for (const bool val_only : {false, true}) {
    config.data.val_only = val_only;
    try {
      return file_formats().at(config.data.format)(config, [](const Error&) {});
    } catch (const Error&) {
      continue;
    }
  }
  return {};
}

std::set<FileId> files_of_data(const Config& config) {
  std::set<FileId> ids;
  const auto add = [&](const std::string& path) {
    if (const auto id = path.empty() ? std::nullopt : id_of(path)) ids.insert(*id);
  };
  const DataConfig& data = config.data;
  for (const std::string* path : {&data.labeled, &data.unlabeled, &data.val, &data.classes}) add(*path);
  const FileLists lists = readable_lists(config);
  for (const Split split : kSplits)
    for (const FileEntry& entry : lists[split]) {
      add(entry.image);
      add(entry.label);
    }
  return ids;
}

}  // namespace

std::string FileNames::of(const std::string& id, int64_t index) {
  std::string name = fs::path(id).stem().string();
  while (!taken_.insert(name).second) name += str("_", index);
  return name;
}

void require_replaceable(const std::vector<std::string>& files, const Config& config, const std::string& flag) {
  std::vector<std::pair<std::string, FileId>> there;
  for (const std::string& file : files)
    if (const auto id = id_of(file)) there.emplace_back(file, *id);
  if (there.empty()) return;

  const std::set<FileId> data = files_of_data(config);
  for (const auto& [file, id] : there)
    if (data.count(id) != 0)
      throw Error(ErrorKind::kConfig, "is an image, a label or a list of the data set, and a result would replace it", file,
                  "choose another folder with " + flag);
  std::vector<std::string> foreign;
  for (const auto& [file, id] : there)
    if (has_mark(fs::path(file).extension().string()) && !is_marked(file)) foreign.push_back(file);
  if (!foreign.empty())
    throw Error(ErrorKind::kConfig,
                str("a result would replace this file, which is no earlier result of semiseg",
                    foreign.size() > 1 ? str(", and ", foreign.size() - 1, " more") : ""),
                foreign.front(), "move it away, or choose another folder with " + flag);
}

void require_report(const std::string& path, ReportKind kind) {
  require_writable(path);
  std::error_code none;
  if (!fs::is_regular_file(path, none) || fs::file_size(path, none) == 0) return;
  std::ifstream file(path, std::ios::binary);
  constexpr std::string_view kHtml = "<!doctype html";
  std::string beginning(kHtml.size(), '\0');
  file.read(beginning.data(), static_cast<std::streamsize>(beginning.size()));
  const auto is_json = [&] {
    file.clear();
    file.seekg(0);
    return nlohmann::json::accept(file);
  };
  if (kind == ReportKind::kJson ? !is_json() : lowered(beginning) != kHtml)
    throw Error(ErrorKind::kConfig,
                str("this is no ", kind == ReportKind::kJson ? "JSON" : "HTML", ", and the report would replace it"), path,
                "name another file, or move this one away");
}

void require_writable(const std::string& path) {
  if (fs::is_directory(path)) throw Error(ErrorKind::kConfig, "this is a folder", path, "name a file");
  if (fs::exists(path) && !fs::is_regular_file(path)) return;  // a pipe, opened and closed, would have ended
  const AtomicFile probe(path);
}

}  // namespace semiseg
