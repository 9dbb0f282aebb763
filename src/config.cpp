#include "semiseg/config.h"

#include <yaml-cpp/yaml.h>

#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "commands/command.h"
#include "parse_number.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/method.h"
#include "semiseg/model.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Names = std::vector<std::string>;

constexpr const char* kDefault = "default";
constexpr const char* kCommandLine = "command line";
constexpr const char* kWhatAConfigNeeds = "a config needs at least data.format, and optim.epochs or optim.steps";
const Names kClassPresets{"cityscapes", "camvid", "synthetic"};

bool contains(const Names& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string join(const Names& parts, const std::string& between = ", ") {
  std::string result;
  for (const auto& part : parts) result += (result.empty() ? "" : between) + part;
  return result;
}

// --- numbers and text as YAML ---

// parse_number, with the plus sign that YAML allows.
template <class T>
std::optional<T> parse_yaml_number(std::string_view text) {
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  return parse_number<T>(text);
}

// The shortest decimal that reads back equal. An exponent comes with a decimal point, as YAML 1.1 readers want it.
std::string yaml_text(double value) {
  char buffer[64];
  const double size = std::abs(value);
  const auto format = value == 0 || (size >= 1e-6 && size < 1e9) ? std::chars_format::fixed : std::chars_format::scientific;
  std::string text(buffer, std::to_chars(buffer, buffer + sizeof buffer, value, format).ptr);
  const auto exponent = text.find('e');
  if (exponent != std::string::npos && text.find('.') == std::string::npos) text.insert(exponent, ".0");
  return text;
}

std::string yaml_text(int64_t value) { return std::to_string(value); }
std::string yaml_text(uint64_t value) { return std::to_string(value); }
std::string yaml_text(bool value) { return value ? "true" : "false"; }

// In double quotes, with YAML's escapes; always one line.
std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      constexpr const char* kHex = "0123456789abcdef";
      result += std::string("\\x") + kHex[(c >> 4) & 15] + kHex[c & 15];
    } else {
      result += c;
    }
  }
  return result + '"';
}

std::string yaml_text(const std::string& value) {
  static const std::string kSafe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/.-+";
  static const Names kSpecial{"true", "false", "yes", "no", "on", "off", "null", "Null", "NULL"};
  const bool plain = !value.empty() && (std::isalpha(static_cast<unsigned char>(value[0])) || value[0] == '/') &&
                     value.find_first_not_of(kSafe) == std::string::npos && !contains(kSpecial, value);
  if (plain) return value;
  return quoted(value);
}

template <class T>
std::string yaml_text(const std::optional<T>& value) {
  return value ? yaml_text(*value) : "null";
}

template <class T>
std::string yaml_text(const std::vector<T>& values) {
  if (values.empty()) return "null";
  Names parts;
  for (const T& value : values) parts.push_back(yaml_text(value));
  return "[" + join(parts) + "]";
}

// A value as messages show it, cut where it is long.
std::string shown(const YAML::Node& value) {
  if (value.IsMap()) return "a mapping";
  if (value.IsNull()) return "empty";
  if (value.IsScalar()) {
    constexpr size_t kLongest = 60;
    const std::string text = value.Scalar();
    const bool number = value.Tag() != "!" && parse_yaml_number<double>(text);
    if (number) return text;
    return quoted(text.size() > kLongest ? text.substr(0, kLongest) + "..." : text);
  }
  constexpr size_t kMost = 6;
  Names parts;
  for (const auto& item : value) {
    if (parts.size() == kMost) {
      parts.push_back("...");
      break;
    }
    parts.push_back(item.IsSequence() ? "[..]" : shown(item));
  }
  return "[" + join(parts) + "]";
}

// --- kinds of values: what they accept, how messages and the schema describe them ---
// parse(): nothing when the value is not of that kind.

bool is_plain(const YAML::Node& value) { return value.IsScalar() && value.Tag() != "!"; }

struct Text {
  std::optional<std::string> parse(const YAML::Node& value) const {
    if (!value.IsScalar() || value.Scalar().find('\0') != std::string::npos) return std::nullopt;
    return value.Scalar();
  }
  std::string describe() const { return "text"; }
  Json schema() const { return {{"type", "string"}}; }
};

struct Choice {
  std::function<Names()> names;

  std::optional<std::string> parse(const YAML::Node& value) const {
    if (!value.IsScalar() || !contains(names(), value.Scalar())) return std::nullopt;
    return value.Scalar();
  }
  std::string describe() const { return "one of " + join(names()); }
  Json schema() const { return {{"enum", names()}}; }
};

Choice one_of(Names names) {
  return {[names = std::move(names)] { return names; }};
}

struct Device {
  std::optional<std::string> parse(const YAML::Node& value) const {
    if (!value.IsScalar()) return std::nullopt;
    const std::string& text = value.Scalar();
    if (text == "auto" || text == "cpu" || text == "cuda") return text;
    if (text.starts_with("cuda:") && text.size() <= 8 && text.size() > 5 &&
        text.find_first_not_of("0123456789", 5) == std::string::npos)
      return text;
    return std::nullopt;
  }
  std::string describe() const { return "auto, cpu, cuda or cuda:N"; }
  Json schema() const { return {{"type", "string"}, {"pattern", "^(auto|cpu|cuda|cuda:[0-9]{1,3})$"}}; }
};

struct Switch {
  std::optional<bool> parse(const YAML::Node& value) const {
    if (!is_plain(value)) return std::nullopt;
    std::string text = value.Scalar();
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    if (text == "true" || text == "yes" || text == "on") return true;
    if (text == "false" || text == "no" || text == "off") return false;
    return std::nullopt;
  }
  std::string describe() const { return "true or false"; }
  Json schema() const { return {{"type", "boolean"}}; }
};

template <class T>
struct Whole {
  T low = 0;
  T high = std::numeric_limits<T>::max();

  std::optional<T> parse(const YAML::Node& value) const {
    const auto number = is_plain(value) ? parse_yaml_number<T>(value.Scalar()) : std::nullopt;
    return number && *number >= low && *number <= high ? number : std::nullopt;
  }
  std::string describe() const {
    const bool open = high == std::numeric_limits<T>::max();
    return open ? str("a whole number of at least ", low) : str("a whole number from ", low, " to ", high);
  }
  Json schema() const {
    Json result{{"type", "integer"}, {"minimum", low}};
    if (high != std::numeric_limits<T>::max()) result["maximum"] = high;
    return result;
  }
};
using Integer = Whole<int64_t>;

struct Real {
  double low = 0;
  bool low_included = true;
  double high = std::numeric_limits<double>::infinity();
  bool high_included = true;

  std::optional<double> parse(const YAML::Node& value) const {
    const auto number = is_plain(value) ? parse_yaml_number<double>(value.Scalar()) : std::nullopt;
    if (!number || !std::isfinite(*number)) return std::nullopt;
    const bool inside = (low_included ? *number >= low : *number > low) && (high_included ? *number <= high : *number < high);
    return inside ? number : std::nullopt;
  }
  std::string describe() const {
    std::string text = "a finite number";
    if (std::isfinite(low)) text += (low_included ? " of at least " : " above ") + yaml_text(low);
    if (std::isfinite(high)) text += (high_included ? " and at most " : " and below ") + yaml_text(high);
    return text;
  }
  Json schema() const {
    Json result{{"type", "number"}};
    if (std::isfinite(low)) result[low_included ? "minimum" : "exclusiveMinimum"] = low;
    if (std::isfinite(high)) result[high_included ? "maximum" : "exclusiveMaximum"] = high;
    return result;
  }
};

constexpr Real kPositive{.low = 0, .low_included = false};
constexpr Real kScale{.low = 0.05, .high = 20};
constexpr Real kNotNegative{.low = 0};
constexpr Real kShare{.low = 0, .high = 1};                                  // [0, 1]
constexpr Real kShareBelowOne{.low = 0, .high = 1, .high_included = false};  // [0, 1)
constexpr Real kAnyReal{.low = -std::numeric_limits<double>::infinity()};

// `count` values of one kind; any number but none where it is 0.
template <class Item>
struct List {
  Item item;
  size_t count = 0;
  using Value = typename decltype(std::declval<Item>().parse(std::declval<YAML::Node>()))::value_type;

  std::optional<std::vector<Value>> parse(const YAML::Node& value) const {
    if (!value.IsSequence() || value.size() == 0 || (count != 0 && value.size() != count)) return std::nullopt;
    std::vector<Value> result;
    for (const auto& element : value) {
      const auto parsed = item.parse(element);
      if (!parsed) return std::nullopt;
      result.push_back(*parsed);
    }
    return result;
  }
  std::string describe() const {
    return (count == 0 ? std::string("a list") : str("a list of ", count)) + ", each " + item.describe();
  }
  Json schema() const {
    Json result{{"type", "array"}, {"items", item.schema()}, {"minItems", std::max<size_t>(count, 1)}};
    if (count != 0) result["maxItems"] = count;
    return result;
  }
};

// One of a few whole numbers.
struct NumberOf {
  std::vector<int64_t> numbers;

  std::optional<int64_t> parse(const YAML::Node& value) const {
    const auto number = Integer{}.parse(value);
    return number && std::find(numbers.begin(), numbers.end(), *number) != numbers.end() ? number : std::nullopt;
  }
  std::string describe() const {
    Names texts;
    for (const int64_t number : numbers) texts.push_back(std::to_string(number));
    return "one of " + join(texts);
  }
  Json schema() const { return {{"enum", numbers}}; }
};

// Height and width in pixels; one number means a square.
struct Sides {
  Integer side;

  std::optional<std::vector<int64_t>> parse(const YAML::Node& value) const {
    if (const auto square = side.parse(value)) return std::vector<int64_t>{*square, *square};
    return List<Integer>{side, 2}.parse(value);
  }
  std::string describe() const { return "one side or [height, width], each " + side.describe(); }
  Json schema() const { return {{"anyOf", {side.schema(), List<Integer>{side, 2}.schema()}}}; }
};

// --- the table of settings ---

struct Setting {
  std::string key, help;
  std::function<void(Config&, const YAML::Node&, const std::string& place)> read;
  std::function<std::string(const Config&)> print;  // as YAML; "null" where there is no value
  std::function<void(Config&)> reset;
  std::function<Json()> schema;
};

[[noreturn]] void reject(const std::string& key, const YAML::Node& value, const std::string& place,
                         const std::string& expected) {
  if (value.IsNull())
    throw Error(ErrorKind::kConfig, key + " has no value", place, "give it " + expected + ", or remove the line");
  throw Error(ErrorKind::kConfig, key + " is " + shown(value) + ", not " + expected, place);
}

template <class Kind>
auto parse_or_throw(const Kind& kind, const std::string& key, const YAML::Node& value, const std::string& place) {
  auto parsed = kind.parse(value);
  if (parsed) return *parsed;
  if constexpr (std::is_same_v<Kind, Choice>) {
    const std::string near = value.IsScalar() ? nearest(value.Scalar(), kind.names()) : "";
    if (!near.empty())
      throw Error(ErrorKind::kConfig, key + " is " + shown(value) + ", not " + kind.describe(), place,
                  "did you mean \"" + near + "\"?");
  }
  reject(key, value, place, kind.describe());
}

template <class Access, class Kind>
Setting setting(std::string key, Access member, Kind kind, std::string help) {
  Setting result;
  result.key = key;
  result.help = std::move(help);
  result.read = [=](Config& config, const YAML::Node& value, const std::string& place) {
    member(config) = parse_or_throw(kind, key, value, place);
  };
  result.print = [=](const Config& config) { return yaml_text(member(config)); };
  result.reset = [=](Config& config) {
    const Config defaults;
    member(config) = member(defaults);
  };
  result.schema = [=] { return kind.schema(); };
  return result;
}

template <class Section, class T>
auto at(Section Config::*section, T Section::*field) {
  return [=](auto& config) -> auto& { return (config.*section).*field; };
}

// A name, or the weights themselves.
Setting class_weights_setting() {
  static const Choice kNames = one_of({"none", "inverse", "median", "enet", "effective"});
  static const List<Real> kWeights{kNotNegative};
  static const std::string kKey = "loss.class_weights";
  Setting result;
  result.key = kKey;
  result.help = "weight of each class in the loss: computed from the labelled pixels, or one number a class";
  result.read = [](Config& config, const YAML::Node& value, const std::string& place) {
    if (value.IsScalar()) {
      config.loss.class_weights = parse_or_throw(kNames, kKey, value, place);
      config.loss.given_weights.clear();
      return;
    }
    const auto weights = parse_or_throw(kWeights, kKey, value, place);
    if (std::all_of(weights.begin(), weights.end(), [](double weight) { return weight == 0; }))
      throw Error(ErrorKind::kConfig, kKey + " gives every class weight 0", place);
    config.loss.class_weights = "given";
    config.loss.given_weights = weights;
  };
  result.print = [](const Config& config) {
    return config.loss.class_weights == "given" ? yaml_text(config.loss.given_weights) : yaml_text(config.loss.class_weights);
  };
  result.reset = [](Config& config) {
    config.loss.class_weights = LossConfig{}.class_weights;
    config.loss.given_weights.clear();
  };
  result.schema = [] { return Json{{"anyOf", {kNames.schema(), kWeights.schema()}}}; };
  return result;
}

// One field of semi.threshold's mapping.
struct ThresholdField {
  std::string name;
  Real range;
  double ThresholdConfig::*field;
  Names kinds;  // that read it
  std::string help;
};

// A number, or a kind with its numbers: 0.95, {kind: quantile, share: 0.8}.
Setting threshold_setting() {
  static const Choice kKinds = one_of({"fixed", "class_adaptive", "quantile"});
  static const std::vector<ThresholdField> kFields{
      {"value", kShare, &ThresholdConfig::value, {"fixed", "class_adaptive"}, "least confidence; class_adaptive: upper bound"},
      {"momentum", kShareBelowOne, &ThresholdConfig::momentum, {"class_adaptive", "quantile"}, "of the running statistics"},
      {"share", kShare, &ThresholdConfig::share, {"quantile"}, "surest share of each class that counts"}};
  static const std::string kKey = "semi.threshold";
  Setting result;
  result.key = kKey;
  result.help = "least confidence of a pseudo-label: a number, or {kind: class_adaptive | quantile, ...}";
  result.read = [](Config& config, const YAML::Node& value, const std::string& place) {
    ThresholdConfig threshold;
    if (!value.IsMap()) {
      const auto number = kShare.parse(value);
      if (!number) reject(kKey, value, place, kShare.describe() + ", or a mapping such as {kind: class_adaptive}");
      threshold.value = *number;
      config.semi.threshold = threshold;
      return;
    }
    if (!value["kind"])
      throw Error(ErrorKind::kConfig, kKey + " has no kind", place, "write {kind: ...}, " + kKinds.describe());
    threshold.kind = parse_or_throw(kKinds, kKey + ".kind", value["kind"], place);
    if (threshold.kind == "class_adaptive") threshold.value = 1;
    Names known;
    for (const auto& field : kFields)
      if (contains(field.kinds, threshold.kind)) known.push_back(field.name);
    for (const auto& item : value) {
      const std::string name = item.first.IsScalar() ? item.first.Scalar() : "";
      if (name == "kind") continue;
      if (!contains(known, name))
        throw Error(ErrorKind::kConfig, kKey + " of kind " + threshold.kind + " does not read " + quoted(name), place,
                    "it reads " + join(known));
      for (const auto& field : kFields)
        if (field.name == name) threshold.*field.field = parse_or_throw(field.range, kKey + "." + name, item.second, place);
    }
    config.semi.threshold = threshold;
  };
  result.print = [](const Config& config) {
    const ThresholdConfig& threshold = config.semi.threshold;
    if (threshold.kind == "fixed") return yaml_text(threshold.value);
    std::string text = "{kind: " + threshold.kind;
    for (const auto& field : kFields)
      if (contains(field.kinds, threshold.kind)) text += ", " + field.name + ": " + yaml_text(threshold.*field.field);
    return text + "}";
  };
  result.reset = [](Config& config) { config.semi.threshold = ThresholdConfig{}; };
  result.schema = [] {
    Json properties{{"kind", kKinds.schema()}};
    for (const auto& field : kFields) {
      properties[field.name] = field.range.schema();
      properties[field.name]["description"] = field.help;
    }
    return Json{{"anyOf",
                 {kShare.schema(),
                  {{"type", "object"}, {"required", {"kind"}}, {"additionalProperties", false}, {"properties", properties}}}}};
  };
  return result;
}

// Every setting, in the order in which they are printed. A key without a dot comes before the sections.
const std::vector<Setting>& settings() {
  using C = Config;
  constexpr int64_t kLargestSide = 16384;
  static const std::vector<Setting> table{
      setting(
          "seed", [](auto& config) -> auto& { return config.seed; },
          Whole<uint64_t>{0, static_cast<uint64_t>(std::numeric_limits<int64_t>::max())},
          "of every random draw: initial weights, splits, crops, dropout"),

      setting("run.name", at(&C::run, &RunConfig::name), Text{},
              "name of the folder under runs/; the config's file name when not given"),
      setting("run.dir", at(&C::run, &RunConfig::dir), Text{}, "the run folder itself; runs/NAME when not given"),
      setting("run.device", at(&C::run, &RunConfig::device), Device{}, "auto takes a GPU where there is one"),
      setting("run.precision", at(&C::run, &RunConfig::precision), one_of({"auto", "fp32", "bf16", "fp16"}),
              "of the network's arithmetic; auto takes bf16 where the device computes it natively, else fp16 on a GPU"),
      setting("run.cuda_graph", at(&C::run, &RunConfig::cuda_graph), one_of({"auto", "off"}),
              "a GPU's step recorded once and started as a whole; auto: where the method's steps allow it, with "
              "optim.accumulate: 1"),
      setting("run.deterministic", at(&C::run, &RunConfig::deterministic), Switch{}, "only deterministic kernels"),
      setting("run.max_hours", at(&C::run, &RunConfig::max_hours), kNotNegative,
              "then the run stops with a checkpoint that --resume goes on from; 0: no limit"),

      setting("ops.fused", at(&C::ops, &OpsConfig::fused), Switch{},
              "one pass from low-resolution logits to losses, pseudo-labels and scores, and on a GPU through normalisation "
              "with what follows it; false: the plain forms, to compare"),

      setting("data.format", at(&C::data, &DataConfig::format), Choice{[] { return datasets().names(); }},
              "how the data lies on disk"),
      setting("data.root", at(&C::data, &DataConfig::root), Text{}, "folder that paths in lists are relative to"),
      setting("data.labeled", at(&C::data, &DataConfig::labeled), Text{},
              "list file of images and labels, or a fraction such as 1/8 of the format's own training images"),
      setting("data.unlabeled", at(&C::data, &DataConfig::unlabeled), Text{}, "list file of images; with a fraction: the rest"),
      setting("data.val", at(&C::data, &DataConfig::val), Text{}, "list file of images and labels"),
      setting("data.classes", at(&C::data, &DataConfig::classes), Text{}, "cityscapes, camvid, synthetic or a YAML file"),
      setting("data.ignore_index", at(&C::data, &DataConfig::ignore_index), Integer{0, 255}, "label value that nothing counts"),
      setting("data.crop", at(&C::data, &DataConfig::crop), Sides{{8, kLargestSide}}, "training crop in pixels"),
      setting("data.scale", at(&C::data, &DataConfig::scale), List<Real>{kScale, 2}, "least and largest random resize"),
      setting("data.flip", at(&C::data, &DataConfig::flip), Switch{}, "mirror half of the crops"),
      setting("data.unlabeled_truth", at(&C::data, &DataConfig::unlabeled_truth), Switch{},
              "the unlabelled images' labels exist: measure pseudo-labels by them, learn nothing from them"),
      setting("data.workers", at(&C::data, &DataConfig::workers), Integer{0, 256},
              "loader threads; results do not depend on it"),
      setting("data.cache", at(&C::data, &DataConfig::cache), Text{},
              "folder that keeps decoded images and labels, so that each file is decoded once"),
      setting("data.mean", at(&C::data, &DataConfig::mean), List<Real>{kAnyReal, 3}, "RGB, subtracted from values in 0..1"),
      setting("data.std", at(&C::data, &DataConfig::std), List<Real>{kPositive, 3}, "RGB, divides after that"),
      setting("data.size", at(&C::data, &DataConfig::size), Sides{{8, kLargestSide}}, "synthetic only: a scene in pixels"),
      setting("data.counts", at(&C::data, &DataConfig::counts), List<Integer>{{0, 1'000'000}, 3},
              "synthetic only: labelled, unlabelled and validation scenes"),

      setting("model.backbone", at(&C::model, &ModelConfig::backbone), Choice{[] { return backbones().names(); }}, "encoder"),
      setting("model.decoder", at(&C::model, &ModelConfig::decoder), Choice{[] { return decoders().names(); }}, "decoder"),
      setting("model.output_stride", at(&C::model, &ModelConfig::output_stride), NumberOf{{8, 16, 32}},
              "of the encoder's coarsest feature; below 32 by dilation"),
      setting("model.atrous_rates", at(&C::model, &ModelConfig::atrous_rates), List<Integer>{{1, 1024}, 3},
              "deeplabv3plus only: dilations of the ASPP"),
      setting("model.weights", at(&C::model, &ModelConfig::weights), Text{}, "initial weights file; random when not given"),
      setting("model.norm", at(&C::model, &ModelConfig::norm), one_of({"batch", "sync", "group"}),
              "normalisation of backbone and deeplabv3plus (fpn's is by groups); group: of an image alone, for small batches "
              "without pretrained weights; sync: over the images of all processes that train together"),
      setting("model.dropout", at(&C::model, &ModelConfig::dropout), kShareBelowOne,
              "share dropped: of channels before the head (fpn), of values after the ASPP (deeplabv3plus)"),
      setting("model.stride_in_1x1", at(&C::model, &ModelConfig::stride_in_1x1), Switch{},
              "bottlenecks stride in their first 1x1 convolution (Caffe, Keras) instead of the 3x3 (torchvision)"),

      setting("loss.kind", at(&C::loss, &LossConfig::kind), one_of({"ce", "ohem", "focal"}), "supervised loss"),
      class_weights_setting(),
      setting("loss.label_smoothing", at(&C::loss, &LossConfig::label_smoothing), kShareBelowOne,
              "share given to all classes alike"),
      setting("loss.logit_adjustment", at(&C::loss, &LossConfig::logit_adjustment), kNotNegative,
              "tau of logits + tau ln p_c, which favours rare classes; 0: off"),
      setting("loss.ohem_threshold", at(&C::loss, &LossConfig::ohem_threshold), kShare,
              "ohem only: pixels at most this sure of their class are kept"),
      setting("loss.ohem_min_kept", at(&C::loss, &LossConfig::ohem_min_kept), kNotNegative,
              "ohem only: at least so many pixels; a share of them up to 1, their number above"),
      setting("loss.focal_gamma", at(&C::loss, &LossConfig::focal_gamma), kNotNegative, "focal only: of (1 - p)^gamma"),

      setting("semi.method", at(&C::semi, &SemiConfig::method), Choice{[] { return methods().names(); }},
              "how unlabelled images are learned from"),
      setting("semi.teacher", at(&C::semi, &SemiConfig::teacher), one_of({"self", "ema", "history"}),
              "network that makes the pseudo-labels"),
      setting("semi.ema_decay", at(&C::semi, &SemiConfig::ema_decay), kShareBelowOne,
              "share of the teacher that stays at each update; supervised: of an average that is evaluated and saved, 0: none"),
      setting("semi.history", at(&C::semi, &SemiConfig::history), Integer{1, 64}, "past models that vote"),
      threshold_setting(),
      setting("semi.mix", at(&C::semi, &SemiConfig::mix), one_of({"none", "cutmix", "classmix"}), "mixing of the strong views"),
      setting("semi.strong_view", at(&C::semi, &SemiConfig::strong_view), one_of({"jitter", "random"}),
              "colours of the strong views: UniMatch's jitter, grey and blur, or AugSeg's random operations"),
      setting("semi.views", at(&C::semi, &SemiConfig::views), Integer{1, 8}, "strong views of each unlabelled image"),
      setting("semi.feature_dropout", at(&C::semi, &SemiConfig::feature_dropout), kShareBelowOne,
              "share of feature channels dropped in a stream of its own; 0: no such stream"),
      setting("semi.align_distribution", at(&C::semi, &SemiConfig::align_distribution), Switch{},
              "draw pseudo-labels towards the labelled pixel share"),
      setting("semi.undo_class_bias", at(&C::semi, &SemiConfig::undo_class_bias), Switch{},
              "pseudo-labels without what loss.class_weights and loss.logit_adjustment add to rare classes"),
      setting("semi.class_weights", at(&C::semi, &SemiConfig::class_weights), Switch{},
              "the unsupervised loss takes loss.class_weights too"),
      setting("semi.normalize", at(&C::semi, &SemiConfig::normalize), one_of({"valid", "accepted"}),
              "pixels that the unsupervised loss is divided by"),
      setting("semi.weight", at(&C::semi, &SemiConfig::weight), kNotNegative, "of the unsupervised loss"),
      setting("semi.contrast_weight", at(&C::semi, &SemiConfig::contrast_weight), kNotNegative, "of the contrastive loss"),
      setting("semi.burn_in_epochs", at(&C::semi, &SemiConfig::burn_in_epochs), Integer{0, 1'000'000},
              "epochs without unsupervised loss"),
      setting("semi.ramp_up_epochs", at(&C::semi, &SemiConfig::ramp_up_epochs), Integer{0, 1'000'000},
              "epochs over which its weight then grows"),

      setting("sampler.rare_class_temperature", at(&C::sampler, &SamplerConfig::rare_class_temperature), kNotNegative,
              "of rare class sampling, .01 in DAFormer: the lower, the more crops of rare classes; 0: off"),

      setting("optim.kind", at(&C::optim, &OptimConfig::kind), one_of({"sgd", "adamw"}), "optimizer"),
      setting("optim.lr", at(&C::optim, &OptimConfig::lr), kPositive, "learning rate of the encoder at its highest"),
      setting("optim.decoder_lr_multiplier", at(&C::optim, &OptimConfig::decoder_lr_multiplier), kPositive,
              "of decoder and head"),
      setting("optim.momentum", at(&C::optim, &OptimConfig::momentum), kShareBelowOne, "of sgd"),
      setting("optim.weight_decay", at(&C::optim, &OptimConfig::weight_decay), kNotNegative, "weight decay"),
      setting("optim.schedule", at(&C::optim, &OptimConfig::schedule), one_of({"poly", "cosine", "constant", "onecycle"}),
              "of the learning rate"),
      setting("optim.warmup_steps", at(&C::optim, &OptimConfig::warmup_steps), Integer{0},
              "steps over which the learning rate rises from 0"),
      setting("optim.clip_grad_norm", at(&C::optim, &OptimConfig::clip_grad_norm), kNotNegative,
              "largest norm of the gradient; 0: off"),
      setting("optim.accumulate", at(&C::optim, &OptimConfig::accumulate), Integer{1, 4096}, "micro-batches per update"),
      setting("optim.batch", at(&C::optim, &OptimConfig::batch), one_of({"given", "auto"}),
              "auto: the largest batch that fits into memory, in the ratio of the two below"),
      setting("optim.batch_labeled", at(&C::optim, &OptimConfig::batch_labeled), Integer{1, 65536},
              "labelled images per micro-batch"),
      setting("optim.batch_unlabeled", at(&C::optim, &OptimConfig::batch_unlabeled), Integer{1, 65536},
              "unlabelled images per micro-batch"),
      setting("optim.epochs", at(&C::optim, &OptimConfig::epochs), Integer{1, 1'000'000},
              "length of the training; or optim.steps"),
      setting("optim.steps", at(&C::optim, &OptimConfig::steps), Integer{1, 1'000'000'000},
              "length of the training in updates; or optim.epochs"),

      setting("eval.every", at(&C::eval, &EvalConfig::every), Integer{1, 1'000'000}, "epochs between evaluations"),
      setting("eval.mode", at(&C::eval, &EvalConfig::mode), one_of({"whole", "sliding"}), "whole images or a sliding window"),
      setting("eval.window", at(&C::eval, &EvalConfig::window), Sides{{8, kLargestSide}},
              "sliding window in pixels; the crop when not given"),
      setting("eval.stride", at(&C::eval, &EvalConfig::stride), Sides{{1, kLargestSide}},
              "of the window; two thirds of it when not given"),
      setting("eval.flip", at(&C::eval, &EvalConfig::flip), Switch{}, "average with the mirrored image's prediction"),
      setting("eval.scales", at(&C::eval, &EvalConfig::scales), List<Real>{kScale}, "sizes whose predictions are averaged"),
      setting("eval.first", at(&C::eval, &EvalConfig::first), Switch{}, "evaluate before the first step too"),
      setting("eval.patience", at(&C::eval, &EvalConfig::patience), Integer{0},
              "evaluated epochs without a better mIoU after which training ends; 0: never"),

      setting("checkpoint.every_steps", at(&C::checkpoint, &CheckpointConfig::every_steps), Integer{0},
              "updates between numbered checkpoints; 0: none"),
      setting("checkpoint.keep", at(&C::checkpoint, &CheckpointConfig::keep), Integer{1}, "numbered checkpoints that stay"),
      setting("checkpoint.best", at(&C::checkpoint, &CheckpointConfig::best), one_of({"miou"}),
              "score that picks best.safetensors"),

      setting("report.every_steps", at(&C::report, &ReportConfig::every_steps), Integer{1}, "updates between losses shown"),
      setting("report.html", at(&C::report, &ReportConfig::html), Switch{}, "report.html, rewritten after every epoch"),
      setting("report.tensorboard", at(&C::report, &ReportConfig::tensorboard), Switch{}, "events for TensorBoard"),
      setting("report.samples", at(&C::report, &ReportConfig::samples), Integer{0, 64},
              "sample pictures of each evaluated epoch; 0: none"),

      setting("distributed.backend", at(&C::distributed, &DistributedConfig::backend), one_of({"auto", "gloo", "nccl"}),
              "how processes that train together talk; auto: nccl between GPUs, else gloo"),
  };
  return table;
}

const Setting* find_setting(const std::string& key) {
  const auto found = std::find_if(settings().begin(), settings().end(), [&](const Setting& entry) { return entry.key == key; });
  return found == settings().end() ? nullptr : &*found;
}

// "optim" of "optim.lr"; "" of "seed".
std::string section_of(const std::string& key) {
  const auto dot = key.find('.');
  return dot == std::string::npos ? "" : key.substr(0, dot);
}

// "lr" of "optim.lr".
std::string leaf_of(const std::string& key) { return key.substr(key.rfind('.') + 1); }

bool is_section(const std::string& name) {
  return !name.empty() &&
         std::any_of(settings().begin(), settings().end(), [&](const Setting& entry) { return section_of(entry.key) == name; });
}

// What other trainers call some settings.
const std::map<std::string, std::string> kUsualNames{{"learning_rate", "optim.lr"},
                                                     {"lr0", "optim.lr"},
                                                     {"batch_size", "optim.batch_labeled"},
                                                     {"num_workers", "data.workers"},
                                                     {"crop_size", "data.crop"},
                                                     {"pretrained", "model.weights"},
                                                     {"num_epochs", "optim.epochs"},
                                                     {"max_epochs", "optim.epochs"},
                                                     {"max_iters", "optim.steps"},
                                                     {"ignore_label", "data.ignore_index"}};

[[noreturn]] void reject_unknown_key(const std::string& key, const std::string& place) {
  Names keys, sections, leaves;
  for (const auto& entry : settings()) {
    const std::string section = section_of(entry.key);
    keys.push_back(entry.key);
    if (!section.empty() && !contains(sections, section)) sections.push_back(section);
    if (section == section_of(key)) leaves.push_back(leaf_of(entry.key));
  }
  std::string near;
  for (const auto& known : keys)  // the right name in the wrong section
    if (near.empty() && leaf_of(known) == leaf_of(key)) near = known;
  if (near.empty() && is_section(section_of(key))) {
    near = nearest(leaf_of(key), leaves);
    if (!near.empty()) near = section_of(key) + "." + near;
  }
  if (near.empty() && kUsualNames.contains(leaf_of(key))) near = kUsualNames.at(leaf_of(key));
  if (near.empty() && !is_section(section_of(key))) {
    near = nearest(key, keys);
    if (near.empty()) near = nearest(section_of(key).empty() ? key : section_of(key), sections);
  }
  std::string hint;
  if (const size_t space = key.find(' '); space != std::string::npos)
    hint = "a colon may be missing: " + leaf_of(key.substr(0, space)) + ": " + key.substr(space + 1);
  else if (!near.empty())
    hint = "did you mean \"" + near + "\"?";
  else if (is_section(section_of(key)))
    hint = "known under " + section_of(key) + ": " + join(leaves);
  else
    hint = "known sections: " + join(sections);
  throw Error(ErrorKind::kConfig, "unknown key " + quoted(key), place, hint);
}

// --- reading layers ---

std::string without_home(const std::string& path) {
  if (path != "~" && !path.starts_with("~/")) return path;
  const char* home = std::getenv("HOME");
  if (home == nullptr) throw Error(ErrorKind::kConfig, "cannot expand ~: HOME is not set", path, "write the whole path");
  return home + path.substr(1);
}

// Applies layers to a config, lowest first.
class Layers {
 public:
  Config config;

  // `shown`: the path as messages name it.
  void add_file(const fs::path& shown, const std::string& asked_from) {
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

  // `folder`: where base files are looked up; nothing where they are not allowed.
  void add_text(const std::string& text, const std::string& where, const std::optional<fs::path>& folder) {
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

  // The last layer.
  void add_overrides(const std::vector<std::string>& overrides) {
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

 private:
  struct Entry {
    std::string key;
    YAML::Node value;
    int line;
  };

  static std::string place_of(const std::string& where, int line) { return Origin{0, where, line}.text(); }

  static bool base_seen(const std::vector<Entry>& entries) {
    return std::any_of(entries.begin(), entries.end(), [](const Entry& entry) { return entry.key == "base"; });
  }

  static std::string first_key(const std::string& section) {
    const auto found = std::find_if(settings().begin(), settings().end(),
                                    [&](const Setting& entry) { return section_of(entry.key) == section; });
    return found->key;
  }

  static YAML::Node parse(const std::string& text, const std::string& where) {
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

  static std::string syntax_hint(const std::string& text, int line) {
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

  static std::string key_text(const YAML::Node& key, const std::string& where) {
    if (key.IsScalar()) return key.Scalar();
    throw Error(ErrorKind::kConfig, "a key is not a word", place_of(where, key.Mark().line + 1), "write \"key: value\"");
  }

  static void add_section(const std::string& section, const YAML::Node& value, int line, const std::string& where,
                          std::vector<Entry>& entries) {
    if (!value.IsMap())
      throw Error(ErrorKind::kConfig, section + " is " + shown(value) + ", not a section with settings", place_of(where, line),
                  "indent its keys below it, such as " + first_key(section));
    for (const auto& item : value)
      add_entry({section + "." + key_text(item.first, where), item.second, item.first.Mark().line + 1}, where, entries);
  }

  static void add_entry(Entry entry, const std::string& where, std::vector<Entry>& entries) {
    const std::string place = place_of(where, entry.line);
    if (find_setting(entry.key) == nullptr) reject_unknown_key(entry.key, place);
    for (const auto& earlier : entries)
      if (earlier.key == entry.key)
        throw Error(ErrorKind::kConfig, str(entry.key, " is set twice, first in line ", earlier.line), place,
                    "remove one of them");
    entries.push_back(std::move(entry));
  }

  void add_bases(const YAML::Node& value, const fs::path& folder, const std::string& where, int line) {
    const std::string place = place_of(where, line);
    const auto add = [&](const YAML::Node& file) {
      if (!file.IsScalar() || file.Scalar().empty()) reject("base", value, place, "a file or a list of files");
      add_file((folder / without_home(file.Scalar())).lexically_normal(), place);
    };
    if (!value.IsSequence()) return add(value);
    for (const auto& file : value) add(file);
  }

  // Lists and quoted words are YAML; anything else is taken as it stands, so that a path needs no quotes.
  static YAML::Node override_value(const std::string& text) {
    if (!text.starts_with('[') && !text.starts_with('{') && !text.starts_with('"') && !text.starts_with('\''))
      return YAML::Node(text);
    try {
      return YAML::Load(text);
    } catch (const YAML::Exception& error) {
      throw Error(ErrorKind::kConfig, "not valid YAML: " + text + ": " + error.msg, kCommandLine);
    }
  }

  void apply(const std::string& key, const YAML::Node& value, const Origin& origin) {
    const Setting* entry = find_setting(key);
    if (entry == nullptr) reject_unknown_key(key, origin.text());
    entry->read(config, value, origin.text());
    if (entry->print(config) == "\"\"")  // "" is how a later layer takes back a path or a name
      config.origins.erase(key);
    else
      config.origins[key] = origin;
  }

  int layer_ = 0;
  Names open_files_;  // canonical paths of the files being read, for circles
};

// --- what the settings mean together ---

// A setting that nothing reads because of the values of others.
struct Unread {
  Names deciding;       // the keys that make it so
  std::string because;  // "" where the setting is read
};

Unread unread(const Config& config, const std::string& key) {
  if (section_of(key) == "semi" && key != "semi.method") {
    const std::string &method = config.semi.method, &teacher = config.semi.teacher;
    if (!method_reads(method, key)) return {{"semi.method"}, "semi.method: " + method};
    if (method_reads(method, "semi.teacher") &&
        ((key == "semi.ema_decay" && teacher != "ema") || (key == "semi.history" && teacher != "history")))
      return {{"semi.method", "semi.teacher"}, "semi.teacher: " + teacher};
  }
  if ((key == "loss.ohem_threshold" || key == "loss.ohem_min_kept") && config.loss.kind != "ohem")
    return {{"loss.kind"}, "loss.kind: " + config.loss.kind};
  if (key == "loss.focal_gamma" && config.loss.kind != "focal") return {{"loss.kind"}, "loss.kind: " + config.loss.kind};
  if (key == "loss.label_smoothing" && config.loss.kind == "focal") return {{"loss.kind"}, "loss.kind: focal"};
  if (key == "model.atrous_rates" && config.model.decoder != "deeplabv3plus")
    return {{"model.decoder"}, "model.decoder: " + config.model.decoder};
  if (key == "semi.class_weights" && config.loss.class_weights == "none")
    return {{"loss.class_weights"}, "loss.class_weights: none"};
  if ((key == "optim.batch_unlabeled" || key == "data.unlabeled_truth") && config.semi.method == "supervised")
    return {{"semi.method"}, "semi.method: supervised"};
  if (key == "data.unlabeled_truth" && config.semi.method == "retrain") return {{"semi.method"}, "semi.method: retrain"};
  if (key == "checkpoint.keep" && config.checkpoint.every_steps == 0)
    return {{"checkpoint.every_steps"}, "checkpoint.every_steps: 0"};
  if ((key == "eval.window" || key == "eval.stride") && config.eval.mode == "whole") return {{"eval.mode"}, "eval.mode: whole"};
  if ((key == "data.size" || key == "data.counts") && config.data.format != "synthetic")
    return {{"data.format"}, "data.format: " + config.data.format};
  if (key == "data.cache" && config.data.format == "synthetic") return {{"data.format"}, "data.format: synthetic"};
  if (key == "optim.momentum" && config.optim.kind == "adamw") return {{"optim.kind"}, "optim.kind: adamw"};
  return {};
}

int layer_of(const Config& config, const std::string& key) {
  const auto found = config.origins.find(key);
  return found == config.origins.end() ? 0 : found->second.layer;
}

std::string place_of(const Config& config, const std::string& key) {
  const auto found = config.origins.find(key);
  return found == config.origins.end() ? config.file : found->second.text();
}

void reset(Config& config, const std::string& key) {
  find_setting(key)->reset(config);
  config.origins.erase(key);
}

[[noreturn]] void contradict(const Config& config, const std::string& key, const std::string& what, const std::string& hint) {
  throw Error(ErrorKind::kConfig, what, place_of(config, key), hint);
}

// A setting that is not read goes back to its default where a later layer decided so, or where to_yaml printed it (an earlier
// version of the program may have read it); it is an error elsewhere.
void settle_unread(Config& config, int text_layer) {
  for (const auto& entry : settings()) {
    if (!config.is_set(entry.key)) continue;
    const Unread reason = unread(config, entry.key);
    if (reason.because.empty()) continue;
    int deciding_layer = 0;
    for (const auto& key : reason.deciding) deciding_layer = std::max(deciding_layer, layer_of(config, key));
    const int layer = layer_of(config, entry.key);
    if (layer >= deciding_layer && layer != text_layer)
      contradict(config, entry.key, entry.key + " is set, but " + reason.because + " does not read it",
                 "remove it, or change " + reason.deciding.back());
    reset(config, entry.key);
  }
}

// The later of optim.epochs and optim.steps counts.
void settle_length(Config& config) {
  if (!config.optim.epochs && !config.optim.steps)
    throw Error(ErrorKind::kConfig, "neither optim.epochs nor optim.steps is set", config.file, "set one of them");
  if (!config.optim.epochs || !config.optim.steps) return;
  const int epochs = layer_of(config, "optim.epochs"), steps = layer_of(config, "optim.steps");
  if (epochs == steps) contradict(config, "optim.steps", "optim.epochs and optim.steps are both set", "remove one of them");
  reset(config, epochs < steps ? "optim.epochs" : "optim.steps");
}

// numerator / denominator of text such as "1/8".
std::optional<std::pair<int64_t, int64_t>> parse_fraction(const std::string& text) {
  const auto slash = text.find('/');
  if (slash == std::string::npos) return std::nullopt;
  const auto numerator = parse_yaml_number<int64_t>(std::string_view(text).substr(0, slash));
  const auto denominator = parse_yaml_number<int64_t>(std::string_view(text).substr(slash + 1));
  if (!numerator || !denominator) return std::nullopt;
  return std::pair{*numerator, *denominator};
}

void check_data(const Config& config) {
  const DataConfig& data = config.data;
  if (data.scale[0] > data.scale[1])
    contradict(config, "data.scale", "data.scale is " + yaml_text(data.scale) + ": the first is above the second", "swap them");
  const auto fraction = parse_fraction(data.labeled);
  if (fraction && (fraction->first < 1 || fraction->first > fraction->second))
    contradict(config, "data.labeled", "data.labeled is \"" + data.labeled + "\", not a fraction above 0 and at most 1/1", "");
  if (data.format == "cityscapes" && data.root.empty())
    contradict(config, "data.format", "data.format: cityscapes needs data.root",
               "set it to the folder that holds leftImg8bit and gtFine, such as data.root=/data/cityscapes");
  if (data.format == "list" && data.labeled.empty())
    contradict(config, "data.format", "data.format: list needs data.labeled", "name a list file");
  if (data.format == "list" && fraction)
    contradict(config, "data.labeled",
               "data.labeled is the fraction " + data.labeled + ", but data.format: list has no training images of its own",
               "name a list file");
  if (config.semi.method == "retrain" && data.unlabeled.empty())
    contradict(config, "semi.method",
               "semi.method: retrain learns from label files of the unlabelled images, and data.unlabeled is not set",
               "name a list of images and labels, such as `semiseg pseudo-label` writes");
  if (data.format == "synthetic" || config.semi.method == "supervised" || !data.unlabeled.empty()) return;
  const std::string who = "semi.method: " + config.semi.method;
  if (!fraction)
    contradict(config, "semi.method", who + " needs unlabelled images",
               data.format == "list" ? "name a list file in data.unlabeled"
                                     : "set data.unlabeled to a list file, or data.labeled to a fraction such as 1/8");
  if (fraction->first == fraction->second)
    contradict(config, "data.labeled", who + " needs unlabelled images, and data.labeled: " + data.labeled + " leaves none",
               "take a smaller fraction, or set data.unlabeled");
}

void check_together(const Config& config) {
  const std::string& name = config.run.name;
  if (name.find('/') != std::string::npos || name == "." || name == "..")
    contradict(config, "run.name", "run.name is \"" + name + "\", not the name of a folder", "run.dir takes a path");
  if (config.optim.steps && config.optim.warmup_steps >= *config.optim.steps)
    contradict(config, "optim.warmup_steps",
               str("optim.warmup_steps (", config.optim.warmup_steps, ") is not below optim.steps (", *config.optim.steps, ")"),
               "shorten the warm-up or train longer");
  const auto& window = config.eval.window.empty() ? config.data.crop : config.eval.window;
  for (size_t side = 0; side < config.eval.stride.size(); ++side)
    if (config.eval.stride[side] > window[side])
      contradict(config, "eval.stride",
                 "eval.stride " + yaml_text(config.eval.stride) + " is larger than the window " + yaml_text(window) +
                     " and would leave gaps",
                 "make it smaller than the window");
}

// --- paths ---

std::string& list_path(Config& config, const std::string& key) {
  if (key == "data.labeled") return config.data.labeled;
  return key == "data.unlabeled" ? config.data.unlabeled : config.data.val;
}

const Names kLists{"data.labeled", "data.unlabeled", "data.val"};

// Makes the paths that were set by files or the command line absolute. `text_layer`: settings of that layer came from to_yaml,
// hold absolute paths already, and their files may lie on another machine; 0 where there is no such layer.
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

// A method's own defaults hold where the layer that names the method, or a later one, does not set the key: semi.method=augseg
// on the command line means AugSeg, whatever a preset of FixMatch says.
void apply_method_defaults(Config& config) {
  const int method_layer = layer_of(config, "semi.method");
  for (const auto& [key, text] : settings_of_method(config.semi.method).defaults) {
    if (config.is_set(key) && layer_of(config, key) >= method_layer) continue;
    reset(config, key);
    find_setting(key)->read(config, YAML::Load(text), "semi.method: " + config.semi.method);
  }
}

void finish(Config& config, int text_layer) {
  if (!config.is_set("data.format"))
    throw Error(ErrorKind::kConfig, "data.format is not set", config.file, "set it to one of " + join(datasets().names()));
  apply_method_defaults(config);
  if (config.model.decoder == "deeplabv3plus") {
    if (!config.is_set("model.output_stride")) config.model.output_stride = 16;
    if (config.model.output_stride == 32)
      contradict(config, "model.output_stride", "model.decoder: deeplabv3plus does not work at model.output_stride 32",
                 "set it to 16 or 8");
  }
  settle_unread(config, text_layer);
  settle_length(config);
  check_data(config);
  check_together(config);
  Paths(config, text_layer).resolve();
}

std::string print_yaml(const Config& config, bool with_origins) {
  struct Line {
    std::string text, comment;
  };
  std::vector<Line> lines;
  std::string section;
  const auto& method_defaults = settings_of_method(config.semi.method).defaults;
  for (const auto& entry : settings()) {
    const std::string value = entry.print(config);
    if (value == "null" || !unread(config, entry.key).because.empty()) continue;
    if (section_of(entry.key) != section) lines.push_back({(section = section_of(entry.key)) + ":", ""});
    const auto origin = config.origins.find(entry.key);
    lines.push_back({(section.empty() ? "" : "  ") + leaf_of(entry.key) + ": " + value,
                     "# " + (origin != config.origins.end()     ? origin->second.text()
                             : method_defaults.count(entry.key) ? "default of " + config.semi.method
                                                                : kDefault)});
  }
  constexpr size_t kWidest = 60;  // a long path does not push all comments to the right
  size_t width = 0;
  for (const auto& line : lines)
    if (line.text.size() <= kWidest) width = std::max(width, line.text.size());
  std::string result;
  for (const auto& line : lines) {
    result += line.text;
    if (with_origins && !line.comment.empty())
      result += std::string(line.text.size() < width ? width - line.text.size() : 0, ' ') + "  " + line.comment;
    result += '\n';
  }
  return result;
}

}  // namespace

std::string Origin::text() const { return line == 0 ? file : str(file, ":", line); }

Config load_config(const std::string& path, const std::vector<std::string>& overrides) {
  Layers layers;
  layers.config.file = path;
  layers.add_file(path, "");
  layers.add_overrides(overrides);
  Config& config = layers.config;
  if (config.run.name.empty()) config.run.name = fs::path(path).stem().string();
  finish(config, 0);
  return config;
}

Config parse_config(const std::string& yaml, const std::string& where, const std::vector<std::string>& overrides) {
  constexpr int kTextLayer = 1;
  Layers layers;
  layers.add_text(yaml, where, std::nullopt);
  const Config stored = layers.config;
  layers.add_overrides(overrides);
  Config& config = layers.config;
  finish(config, kTextLayer);
  // Lists that lay under the old root move with it where they are found under the new one.
  if (config.data.root != stored.data.root && !stored.data.root.empty()) {
    for (const auto& key : kLists) {
      std::string& list = list_path(config, key);
      if (layer_of(config, key) != kTextLayer || !list.starts_with(stored.data.root + "/")) continue;
      const std::string moved = config.data.root + list.substr(stored.data.root.size());
      if (fs::is_regular_file(moved)) list = moved;
    }
  }
  return config;
}

std::string to_yaml(const Config& config) { return print_yaml(config, false); }
std::string to_yaml_with_origins(const Config& config) { return print_yaml(config, true); }

std::string config_schema() {
  Json definitions, properties;
  properties["base"] = {{"description", "file or files to inherit from, relative to this file"},
                        {"anyOf", {{{"type", "string"}}, {{"type", "array"}, {"items", {{"type", "string"}}}}}}};
  for (const auto& entry : settings()) {
    const std::string section = section_of(entry.key);
    Json definition = entry.schema();
    definition["description"] = entry.help;
    const std::string value = entry.print(Config{});
    if (value != "null" && value != "\"\"") {
      // Numbers, switches and lists of numbers print as JSON; text prints without quotes.
      const Json parsed = Json::parse(value, nullptr, false);
      definition["default"] = parsed.is_discarded() ? Json(value) : parsed;
    }
    definitions[entry.key] = std::move(definition);
    const Json reference{{"$ref", "#/$defs/" + entry.key}};
    if (section.empty()) {
      properties[entry.key] = reference;
      continue;
    }
    Json& group = properties[section];
    group["type"] = "object";
    group["additionalProperties"] = false;
    group["properties"][leaf_of(entry.key)] = reference;
  }
  for (const auto& entry : settings())  // dotted keys are accepted too
    if (!section_of(entry.key).empty()) properties[entry.key] = {{"$ref", "#/$defs/" + entry.key}};
  const Json schema{{"$schema", "https://json-schema.org/draft/2020-12/schema"},
                    {"title", "semiseg config"},
                    {"type", "object"},
                    {"additionalProperties", false},
                    {"properties", properties},
                    {"$defs", definitions}};
  return schema.dump(2) + "\n";
}

std::vector<std::string> setting_keys() {
  Names keys;
  for (const auto& entry : settings()) keys.push_back(entry.key);
  return keys;
}

std::vector<std::string> differing_keys(const Config& a, const Config& b) {
  Names keys;
  for (const auto& entry : settings())
    if (entry.print(a) != entry.print(b)) keys.push_back(entry.key);
  return keys;
}

std::string value_text(const Config& config, const std::string& key) {
  const Setting* entry = find_setting(key);
  if (entry == nullptr) throw std::out_of_range("no setting is called " + key);
  return entry->print(config);
}

}  // namespace semiseg
