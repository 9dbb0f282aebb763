// Class presets and class files.
#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <optional>
#include <regex>
#include <set>
#include <sstream>

#include "colour_labels.h"
#include "config/text.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "utf8.h"

namespace semiseg {
namespace {

using Colour = std::array<uint8_t, 3>;

struct PresetClass {
  const char* name;
  Colour colour;
  uint8_t label_id;
};

// cityscapesScripts, helpers/labels.py, in the order of its train ids.
constexpr PresetClass kCityscapes[] = {
    {"road", {128, 64, 128}, 7},
    {"sidewalk", {244, 35, 232}, 8},
    {"building", {70, 70, 70}, 11},
    {"wall", {102, 102, 156}, 12},
    {"fence", {190, 153, 153}, 13},
    {"pole", {153, 153, 153}, 17},
    {"traffic light", {250, 170, 30}, 19},
    {"traffic sign", {220, 220, 0}, 20},
    {"vegetation", {107, 142, 35}, 21},
    {"terrain", {152, 251, 152}, 22},
    {"sky", {70, 130, 180}, 23},
    {"person", {220, 20, 60}, 24},
    {"rider", {255, 0, 0}, 25},
    {"car", {0, 0, 142}, 26},
    {"truck", {0, 0, 70}, 27},
    {"bus", {0, 60, 100}, 28},
    {"train", {0, 80, 100}, 31},
    {"motorcycle", {0, 0, 230}, 32},
    {"bicycle", {119, 11, 32}, 33},
};
constexpr int kCityscapesLabelIds = 34;  // 0..33; the licence plate's -1 is stored as 255

// The 11 classes and colours of SegNet (arXiv 1511.00561).
constexpr PresetClass kCamvid[] = {
    {"sky", {128, 128, 128}, 0},    {"building", {128, 0, 0}, 0},    {"pole", {192, 192, 128}, 0},
    {"road", {128, 64, 128}, 0},    {"pavement", {60, 40, 222}, 0},  {"tree", {128, 128, 0}, 0},
    {"sign", {192, 128, 128}, 0},   {"fence", {64, 64, 128}, 0},     {"car", {64, 0, 128}, 0},
    {"pedestrian", {64, 64, 0}, 0}, {"bicyclist", {0, 128, 192}, 0},
};

void add_colour(ColourMap& colours, const Colour& colour, int16_t meaning) {
  const uint32_t key = static_cast<uint32_t>(colour[0]) << 16 | static_cast<uint32_t>(colour[1]) << 8 | colour[2];
  const auto [entry, is_new] = colours.try_emplace(key, meaning);
  if (!is_new && entry->second != meaning) entry->second = kTwoClasses;
}

// A class index must stay below kIgnore.
constexpr int64_t kMaxClasses = kIgnore;

void ignore_value(ClassSet& classes, int64_t value, const std::string& where) {
  const int16_t taken = classes.value_to_class[value];
  if (taken >= 0 && taken != kIgnore)
    throw Error(ErrorKind::kConfig, str("label value ", value, " is both class \"", classes.names[taken], "\" and ignored"),
                where, "choose another data.ignore_index or class id");
  classes.value_to_class[value] = kIgnore;
}

template <size_t N>
ClassSet preset(const PresetClass (&table)[N], bool with_label_ids) {
  ClassSet classes;
  classes.value_to_class.fill(-1);
  for (const PresetClass& entry : table) {
    classes.value_to_class[classes.names.size()] = static_cast<int16_t>(classes.names.size());
    classes.names.push_back(entry.name);
    classes.colours.push_back(entry.colour);
    if (with_label_ids) classes.label_ids.push_back(entry.label_id);
  }
  return classes;
}

// A colour for a class that names none: the bits of its number spread over the channels, as Pascal VOC's palette does.
Colour palette_colour(int64_t index) {
  Colour colour{};
  for (int64_t bits = index + 1, shift = 7; bits > 0; bits >>= 3, --shift)
    for (int c = 0; c < 3; ++c) colour[c] = static_cast<uint8_t>(colour[c] | ((bits >> c & 1) << shift));
  return colour;
}

// What counts nothing, by the names that it has in tables of classes.
const std::regex& void_names() {
  static const std::regex names(R"(\s*(void|unlabell?ed|ignored?)\s*)", std::regex::icase);
  return names;
}

// What a data set's colour table says, as a class file of as many lines: "R G B name" a line, as CamVid has it, or "name,R,G,B"
// below a first line of titles. Classes keep their order; void and unlabelled pixels are ignored. Nothing for any other text.
std::optional<std::string> class_file_of_table(const std::string& text) {
  static const std::regex kColourFirst(R"(\s*(\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(.*\S)\s*)"),
      kNameFirst(R"(\s*(.*\S)\s*[,;\t]\s*(\d+)[\s,;]+(\d+)[\s,;]+(\d+)\s*)");
  std::string classes = "{classes: [", ignored;
  std::istringstream lines(text);
  int64_t number = 0, found = 0;
  for (std::string line; std::getline(lines, line); classes += "\n") {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos || line[0] == '#') continue;
    std::smatch parts;
    const bool colour_first = std::regex_match(line, parts, kColourFirst);
    if (!colour_first && !std::regex_match(line, parts, kNameFirst)) {
      if (number == 1) continue;  // titles
      return std::nullopt;
    }
    const size_t red = colour_first ? 1 : 2;
    const std::string name = parts[colour_first ? 4 : 1];
    const std::string rgb = "[" + parts[red].str() + ", " + parts[red + 1].str() + ", " + parts[red + 2].str() + "]";
    ++found;
    if (std::regex_match(name, void_names())) {
      ignored += (ignored.empty() ? "" : ", ") + rgb;
      continue;
    }
    classes += "{name: " + quoted(name) + ", colour: " + rgb + "},";
  }
  if (found == 0) return std::nullopt;
  return classes + "], ignore: [" + ignored + "]}";
}

// The same of names alone, one a line in the order of their ids, or of "id,name" or "name,id" lines, below titles or not. A
// name alone does not end in a number of its own: that would be an id among lines that have none.
std::optional<std::string> class_file_of_names(const std::string& text) {
  static const std::string kName = R"(([^\d\s,;\[{-][^,;\t]*?)\s*)",
                           kTitle = R"(((\w+_)?id|index|value|names?|class(es)?|labels?))";
  static const std::regex kIdFirst(R"(\s*(\d+)[\s,;]+)" + kName), kNameFirst(R"(\s*)" + kName + R"([\s,;]+(\d+)\s*)"),
      kNameAlone(R"(\s*)" + kName), kNumberBehind(R"(.*\s\d+\s*)"),
      kTitles(R"(\s*)" + kTitle + R"((\s*[,;\t].*|\s+)" + kTitle + R"(\s*)?\s*)", std::regex::icase);
  // A class file has colons, a list of images dots and slashes; and what is no text has other characters.
  const auto is_other = [](char c) {
    return std::iscntrl(static_cast<unsigned char>(c)) != 0 ? c != '\n' && c != '\r' && c != '\t'
                                                            : std::string_view(":\"./\\").find(c) != std::string_view::npos;
  };
  if (std::any_of(text.begin(), text.end(), is_other)) return std::nullopt;
  std::string with_ids, names, ignored_ids, ignored_names;
  bool all_with_ids = true, all_names = true;
  int64_t number = 0, index = 0;
  const auto add = [](const std::string& name, const std::string& id, std::string* classes, std::string* ignored) {
    if (std::regex_match(name, void_names()))
      *ignored += (ignored->empty() ? "" : ", ") + id;
    else
      *classes += "{name: " + quoted(name) + ", id: " + id + "},";
  };
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line); with_ids += "\n", names += "\n") {
    const bool may_be_titles = number++ == 0 && std::regex_match(line, kTitles);
    if (line.find_first_not_of(" \t\r") == std::string::npos || line[0] == '#' || may_be_titles) continue;
    std::smatch parts;
    if (std::regex_match(line, parts, kIdFirst))
      add(parts[2], parts[1], &with_ids, &ignored_ids);
    else if (std::regex_match(line, parts, kNameFirst))
      add(parts[1], parts[2], &with_ids, &ignored_ids);
    else
      all_with_ids = false;
    if (std::regex_match(line, parts, kNameAlone) && !std::regex_match(line, kNumberBehind))
      add(parts[1], str(index++), &names, &ignored_names);
    else
      all_names = false;
  }
  const auto has_class = [](const std::string& classes) { return classes.find('{') != std::string::npos; };
  if (all_with_ids && has_class(with_ids)) return "{classes: [" + with_ids + "], ignore: [" + ignored_ids + "]}";
  if (all_names && has_class(names)) return "{classes: [" + names + "], ignore: [" + ignored_names + "]}";
  return std::nullopt;
}

class ClassFile {
 public:
  explicit ClassFile(const std::string& path) : path_(path) {
    classes_.value_to_class.fill(-1);
    YAML::Node root;
    try {
      const std::string text = semiseg::read_file(path);
      const auto table = class_file_of_table(text);
      root = YAML::Load((table ? table : class_file_of_names(text)).value_or(text));
    } catch (const YAML::Exception& error) {
      throw Error(ErrorKind::kConfig, "not valid YAML: " + error.msg, str(path, ":", error.mark.line + 1));
    } catch (const Error& error) {
      throw Error(ErrorKind::kConfig, error.problem(), path, "see data.classes");
    }
    if (!root.IsMap())
      fail(root, "a class file starts with \"classes:\"",
           "such as classes: [{name: road}, {name: sky}]; names alone, one a line, do too");
    known_keys(root, {"classes", "ignore"});
    if (!root["classes"]) fail(root, "no \"classes:\" list");
    read_classes(root["classes"]);
    if (root["ignore"]) read_ignored(root["ignore"]);
  }

  ClassSet take() { return std::move(classes_); }
  ColourMap take_colours() { return std::move(colours_); }

 private:
  [[noreturn]] void fail(const YAML::Node& at, const std::string& problem, const std::string& hint = "") const {
    const int line = at.Mark().line;
    throw Error(ErrorKind::kConfig, problem, line < 0 ? path_ : str(path_, ":", line + 1), hint);
  }

  void known_keys(const YAML::Node& map, const std::vector<std::string>& known) const {
    std::set<std::string> seen;
    for (const auto& entry : map) {
      const std::string key = entry.first.Scalar();
      std::string list;
      for (const auto& name : known) list += (list.empty() ? "" : ", ") + name;
      if (std::find(known.begin(), known.end(), key) == known.end())
        fail(entry.first, "unknown key \"" + key + "\"", "known: " + list);
      if (!seen.insert(key).second) fail(entry.first, "key \"" + key + "\" is given twice");
    }
  }

  int64_t byte_value(const YAML::Node& node, const std::string& what) const {
    int64_t value = -1;
    if (!node.IsScalar() || !YAML::convert<int64_t>::decode(node, value) || value < 0 || value > 255)
      fail(node, str(what, " must be a whole number in 0..255", node.IsScalar() ? ", not \"" + node.Scalar() + "\"" : ""));
    return value;
  }

  void read_classes(const YAML::Node& list) {
    if (!list.IsSequence() || list.size() == 0) fail(list, "\"classes\" must be a list with at least one class");
    if (static_cast<int64_t>(list.size()) > kMaxClasses) fail(list, str("more than ", kMaxClasses, " classes"));
    for (const auto& node : list) read_class(node);
  }

  void read_class(const YAML::Node& node) {
    const int64_t index = classes_.size();
    if (!node.IsMap()) fail(node, "a class is written as {name: road, colour: [128, 64, 128], id: 0}");
    known_keys(node, {"name", "colour", "color", "id"});
    const YAML::Node name = node["name"];
    if (!name || !name.IsScalar() || name.Scalar().empty()) fail(node, "a class needs a name");
    if (!is_utf8(name.Scalar())) fail(name, "a class name must be UTF-8");  // as every file that will hold it is
    if (std::count(classes_.names.begin(), classes_.names.end(), name.Scalar()) != 0)
      fail(name, "class \"" + name.Scalar() + "\" is listed twice");

    const YAML::Node id = node["id"];
    const int64_t value = id ? byte_value(id, "id") : index;
    int16_t& slot = classes_.value_to_class[value];
    if (slot >= 0) fail(id ? id : node, str("id ", value, " is already class \"", classes_.names[slot], "\""));
    slot = static_cast<int16_t>(index);

    Colour colour = palette_colour(index);
    if (const YAML::Node given = node["colour"] ? node["colour"] : node["color"]) {
      colour = read_colour(given);
      add_colour(colours_, colour, static_cast<int16_t>(index));
    }
    classes_.names.push_back(name.Scalar());
    classes_.colours.push_back(colour);
  }

  Colour read_colour(const YAML::Node& node) const {
    if (!node.IsSequence() || node.size() != 3) fail(node, "colour must be three numbers: [red, green, blue]");
    Colour colour{};
    for (size_t c = 0; c < 3; ++c) colour[c] = static_cast<uint8_t>(byte_value(node[c], "colour"));
    return colour;
  }

  void read_ignored(const YAML::Node& list) {
    if (!list.IsSequence()) fail(list, "\"ignore\" must be a list of label values, such as [255], or colours: [[0, 0, 0]]");
    for (const auto& node : list) {
      if (node.IsSequence())
        add_colour(colours_, read_colour(node), static_cast<int16_t>(kIgnore));
      else
        ignore_value(classes_, byte_value(node, "ignore"), str(path_, ":", node.Mark().line + 1));
    }
  }

  std::string path_;
  ClassSet classes_;
  ColourMap colours_;
};

}  // namespace

ClassSet load_classes(const std::string& name, int64_t ignore_index) {
  ClassSet classes;
  if (name == "cityscapes" || name == "synthetic") {
    classes = preset(kCityscapes, true);
  } else if (name == "camvid") {
    classes = preset(kCamvid, false);
  } else if (name.empty()) {
    throw Error(ErrorKind::kConfig, "data.classes is not set", "",
                "name a preset (camvid, cityscapes, synthetic) or a class file");
  } else if (!std::filesystem::is_regular_file(name)) {
    throw Error(ErrorKind::kConfig, "data.classes: \"" + name + "\" is neither a preset nor a file", "",
                "presets: camvid, cityscapes, synthetic");
  } else {
    classes = ClassFile(name).take();
  }
  if (ignore_index < 0 || ignore_index > 255)
    throw Error(ErrorKind::kConfig, str("data.ignore_index must be in 0..255, not ", ignore_index), "",
                "it is a value of 8-bit label files");
  ignore_value(classes, ignore_index, "data.ignore_index");
  return classes;
}

ColourMap load_colours(const std::string& name) {
  ColourMap colours;
  const auto add_preset = [&](const auto& table) {
    int16_t index = 0;
    for (const PresetClass& entry : table) add_colour(colours, entry.colour, index++);
    add_colour(colours, {0, 0, 0}, static_cast<int16_t>(kIgnore));  // void, in both
  };
  if (name == "cityscapes" || name == "synthetic")
    add_preset(kCityscapes);
  else if (name == "camvid")
    add_preset(kCamvid);
  else
    colours = ClassFile(name).take_colours();
  return colours;
}

std::array<int16_t, 256> cityscapes_label_ids_to_classes() {
  std::array<int16_t, 256> map;
  map.fill(-1);
  std::fill_n(map.begin(), kCityscapesLabelIds, static_cast<int16_t>(kIgnore));
  map[255] = kIgnore;
  int16_t index = 0;
  for (const PresetClass& entry : kCityscapes) map[entry.label_id] = index++;
  return map;
}

}  // namespace semiseg
