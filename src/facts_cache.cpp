#include "facts_cache.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/random.h"

namespace semiseg {
namespace {

using Json = nlohmann::json;

constexpr const char* kFormat = "semiseg facts 2";  // the first line; then an entry a line

}  // namespace

FactsCache::FactsCache(std::string path, bool fresh) : path_(std::move(path)) {
  if (fresh || path_.empty() || ::access(path_.c_str(), R_OK) != 0) return;
  try {
    load();
  } catch (const std::exception&) {
    entries_.clear();  // torn or of another version: made anew
  }
}

void FactsCache::load() {
  std::istringstream lines(read_file(path_));
  std::string line;
  if (!std::getline(lines, line) || line != kFormat) return;
  while (std::getline(lines, line)) {
    const Json json = Json::parse(line);
    Entry entry;
    entry.stamp = {json.at(2), json.at(3)};
    FileFacts& facts = entry.facts;
    facts.H = json.at(4);
    facts.W = json.at(5);
    facts.stored = json.at(6);
    facts.rotated = json.at(7);
    facts.warning = json.at(11);
    facts.colours = json.at(12);
    facts.content = json.at(8);
    facts.contrast = json.at(9);
    for (const Json& value : json.at(10)) facts.values.push_back({value.at(0), value.at(1), value.at(2)});
    entry.kept = true;
    entries_.emplace(Key{json.at(0), json.at(1)}, std::move(entry));
  }
}

bool FactsCache::stamp_of(const std::string& file, Stamp* stamp) {
  struct stat info {};
  // A file that may not be read is to be told of, whatever is known of it.
  if (::stat(file.c_str(), &info) != 0 || ::access(file.c_str(), R_OK) != 0) return false;
  // The inode's own time too: a file that is moved here keeps its time of change.
  const auto ns_of = [](const timespec& time) { return int64_t{1'000'000'000} * time.tv_sec + time.tv_nsec; };
  *stamp = {static_cast<uint64_t>(info.st_size), std::max(ns_of(info.st_mtim), ns_of(info.st_ctim))};
  return true;
}

FileFacts FactsCache::get(const std::string& file, bool is_label, const std::function<FileFacts()>& read) {
  const Key key{absolute_path(file), is_label};
  Stamp stamp;
  const bool has_stamp = stamp_of(file, &stamp);  // before reading: a change meanwhile makes the entry stale
  {
    const std::lock_guard lock(mutex_);
    const auto entry = entries_.find(key);
    if (has_stamp && entry != entries_.end() && entry->second.stamp == stamp) {
      found_ += entry->second.kept;
      entry->second.kept = false;  // a file that two lists name is one
      return entry->second.facts;
    }
    ++read_;
  }
  FileFacts facts = read();
  if (has_stamp) {
    const std::lock_guard lock(mutex_);
    entries_[key] = {stamp, facts, /*kept=*/false};
  }
  return facts;
}

void FactsCache::save() {
  const std::lock_guard lock(mutex_);
  if (path_.empty() || read_ == 0) return;
  std::string text = std::string(kFormat) + "\n";
  for (const auto& [key, entry] : entries_) {
    Stamp now;
    if (!stamp_of(key.first, &now) || now != entry.stamp) continue;
    const FileFacts& facts = entry.facts;
    Json values = Json::array();
    for (const ValueCount& value : facts.values) values.push_back({value.value, value.pixels, value.first});
    const Json json = {key.first, key.second,    entry.stamp.size, entry.stamp.changed_ns, facts.H,
                       facts.W,   facts.stored,  facts.rotated,    facts.content,          facts.contrast,
                       values,    facts.warning, facts.colours};
    text += json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) + "\n";
  }
  make_folders(std::filesystem::path(path_).parent_path().string());
  AtomicFile file(path_);
  file.write(text.data(), text.size());
  file.commit(Durability::kAfterAWhile);
}

std::string facts_path(const std::string& root) {
  if (root.empty()) return "";
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  std::string folder;
  if (cache != nullptr && cache[0] == '/')  // others are to be ignored (XDG Base Directory Specification)
    folder = cache;
  else if (home != nullptr && home[0] == '/')
    folder = std::string(home) + "/.cache";
  else
    return "";
  return folder + format("/semiseg/check-%016llx.jsonl", static_cast<unsigned long long>(hash_name(absolute_path(root))));
}

}  // namespace semiseg
