#include "config/layers.h"

#include <algorithm>

#include "config/paths.h"
#include "config/settings.h"
#include "config/text.h"
#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWhatAConfigNeeds = "a config needs at least data.format, and optim.epochs or optim.steps";

struct Entry {
  std::string key;
  YAML::Node value;
  int line;
};

std::string place_of(const std::string& where, int line) { return Origin{0, where, line}.text(); }

bool base_seen(const std::vector<Entry>& entries) {
  return std::any_of(entries.begin(), entries.end(), [](const Entry& entry) { return entry.key == "base"; });
}

std::string first_key(const std::string& section) {
  const auto found = std::find_if(settings().begin(), settings().end(),
                                  [&](const ConfigSetting& entry) { return section_of(entry.key) == section; });
  return found->key;
}

std::string syntax_hint(const std::string& text, int line) {
  size_t begin = 0;
  for (int i = 1; i < line && begin != std::string::npos; ++i) {
    begin = text.find('\n', begin);
    if (begin != std::string::npos) ++begin;
  }
  if (begin == std::string::npos) return "";
  const std::string content = text.substr(begin, text.find('\n', begin) - begin);
  const auto indent = content.substr(0, content.find_first_not_of(" \t"));
  return indent.find('\t') != std::string::npos ? "indent with spaces, not tabs" : "check indentation, colons and quotes";
}

YAML::Node parse(const std::string& text, const std::string& where) {
  const auto nul = text.find('\0');
  const bool utf16 = text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff");
  if (nul != std::string::npos || utf16)
    throw Error(ErrorKind::kConfig, "is not a text file in UTF-8", where, "a config is YAML text");
  std::vector<YAML::Node> documents;
  try {
    documents = YAML::LoadAll(text);
  } catch (const YAML::Exception& error) {
    const int line = std::max(error.mark.line, 0) + 1;
    throw Error(ErrorKind::kConfig, "not valid YAML: " + error.msg, place_of(where, line), syntax_hint(text, line));
  }
  std::erase_if(documents, [](const YAML::Node& document) { return document.IsNull(); });
  if (documents.empty()) throw Error(ErrorKind::kConfig, "is empty", where, kWhatAConfigNeeds);
  if (documents.size() > 1)
    throw Error(ErrorKind::kConfig, "holds more than one YAML document", where, "remove the lines with ---");
  const YAML::Node& root = documents.front();
  if (!root.IsMap())
    throw Error(ErrorKind::kConfig, "does not hold settings", place_of(where, root.Mark().line + 1),
                "write lines such as \"seed: 1\"");
  if (root.size() == 0) throw Error(ErrorKind::kConfig, "is empty", where, kWhatAConfigNeeds);
  return root;
}

std::string key_text(const YAML::Node& key, const std::string& where) {
  if (key.IsScalar()) return key.Scalar();
  throw Error(ErrorKind::kConfig, "a key is not a word", place_of(where, key.Mark().line + 1), "write \"key: value\"");
}

void add_entry(Entry entry, const std::string& where, std::vector<Entry>& entries) {
  const std::string place = place_of(where, entry.line);
  if (find_setting(entry.key) == nullptr) reject_unknown_key(entry.key, place);
  for (const auto& earlier : entries)
    if (earlier.key == entry.key)
      throw Error(ErrorKind::kConfig, str(entry.key, " is set twice, first in line ", earlier.line), place,
                  "remove one of them");
  entries.push_back(std::move(entry));
}

void add_section(const std::string& section, const YAML::Node& value, int line, const std::string& where,
                 std::vector<Entry>& entries) {
  if (!value.IsMap())
    throw Error(ErrorKind::kConfig, section + " is " + shown(value) + ", not a section with settings", place_of(where, line),
                "indent its keys below it, such as " + first_key(section));
  for (const auto& item : value)
    add_entry({section + "." + key_text(item.first, where), item.second, item.first.Mark().line + 1}, where, entries);
}

// Lists and quoted words are YAML; anything else is taken as it stands, so that a path needs no quotes.
YAML::Node override_value(const std::string& text) {
  if (!text.starts_with('[') && !text.starts_with('{') && !text.starts_with('"') && !text.starts_with('\''))
    return YAML::Node(text);
  try {
    return YAML::Load(text);
  } catch (const YAML::Exception& error) {
    throw Error(ErrorKind::kConfig, "not valid YAML: " + text + ": " + error.msg, kCommandLine);
  }
}

}  // namespace

void Layers::add_file(const fs::path& shown, const std::string& asked_from) {
  const std::string name = shown.string();
  std::error_code ignored;
  if (!fs::exists(shown, ignored))
    throw Error(ErrorKind::kConfig, (asked_from.empty() ? "no such config file: " : "no such base file: ") + name, asked_from,
                asked_from.empty() ? "" : "base files are relative to the file that names them");
  if (fs::is_directory(shown, ignored))
    throw Error(ErrorKind::kConfig, "is a folder, not a config file", name, "name a YAML file in it");
  const std::string identity = fs::weakly_canonical(shown, ignored).string();
  if (contains(open_files_, identity))
    throw Error(ErrorKind::kConfig, "base files inherit from each other in a circle through " + name, asked_from,
                "remove one of the base lines");
  open_files_.push_back(identity);
  add_text(read_file(name), name, shown.parent_path());
  open_files_.pop_back();
}

void Layers::add_text(const std::string& text, const std::string& where, const std::optional<fs::path>& folder) {
  const YAML::Node root = parse(text, where);
  std::vector<Entry> entries;
  for (const auto& item : root) {
    const std::string key = key_text(item.first, where);
    const int line = item.first.Mark().line + 1;
    if (key == "base") {
      if (!folder) throw Error(ErrorKind::kConfig, "base files cannot be used here", place_of(where, line));
      if (base_seen(entries)) throw Error(ErrorKind::kConfig, "base is set twice", place_of(where, line), "write a list");
      entries.push_back({key, item.second, line});
    } else if (is_section(key)) {
      add_section(key, item.second, line, where, entries);
    } else {
      add_entry({key, item.second, line}, where, entries);
    }
  }
  for (const auto& entry : entries)
    if (entry.key == "base") add_bases(entry.value, *folder, where, entry.line);
  ++layer_;
  for (const auto& entry : entries)
    if (entry.key != "base") apply(entry.key, entry.value, {layer_, where, entry.line});
}

void Layers::add_overrides(const std::vector<std::string>& overrides) {
  ++layer_;
  for (const auto& word : overrides) {
    const auto equals = word.find('=');
    if (equals == std::string::npos || equals == 0)
      throw Error(ErrorKind::kConfig, quoted(word) + " is not key=value", kCommandLine, "for example optim.lr=0.01");
    const std::string key = word.substr(0, equals), text = word.substr(equals + 1);
    if (key == "base") throw Error(ErrorKind::kConfig, "base can only be set in a config file", kCommandLine);
    if (is_section(key))
      throw Error(ErrorKind::kConfig, key + " is a section, not a setting", kCommandLine,
                  "set one of its keys, such as " + first_key(key) + "=...");
    apply(key, override_value(text), {layer_, kCommandLine, 0});
  }
}

void Layers::add_bases(const YAML::Node& value, const fs::path& folder, const std::string& where, int line) {
  const std::string place = place_of(where, line);
  const auto add = [&](const YAML::Node& file) {
    if (!file.IsScalar() || file.Scalar().empty()) reject("base", value, place, "a file or a list of files");
    add_file((folder / without_home(file.Scalar())).lexically_normal(), place);
  };
  if (!value.IsSequence()) return add(value);
  for (const auto& file : value) add(file);
}

void Layers::apply(const std::string& key, const YAML::Node& value, const Origin& origin) {
  const ConfigSetting* entry = find_setting(key);
  if (entry == nullptr) reject_unknown_key(key, origin.text());
  entry->read(config, value, origin.text());
  if (entry->print(config) == "\"\"")  // "" is how a later layer takes back a path or a name
    config.origins.erase(key);
  else
    config.origins[key] = origin;
}

}  // namespace semiseg
