// Kinds of values: what they accept, how messages and the schema describe them.
#pragma once

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/text.h"
#include "semiseg/error.h"
#include "spelling.h"

namespace semiseg::kinds {

// parse(): nothing when the value is not of that kind.

inline bool is_plain(const YAML::Node& value) { return value.IsScalar() && value.Tag() != "!"; }

struct Text {
  std::optional<std::string> parse(const YAML::Node& value) const {
    if (!value.IsScalar() || value.Scalar().find('\0') != std::string::npos) return std::nullopt;
    return value.Scalar();
  }
  std::string describe() const { return "text"; }
  nlohmann::ordered_json schema() const { return {{"type", "string"}}; }
};

struct Choice {
  std::function<Names()> names;

  std::optional<std::string> parse(const YAML::Node& value) const {
    if (!value.IsScalar() || !contains(names(), value.Scalar())) return std::nullopt;
    return value.Scalar();
  }
  std::string describe() const { return "one of " + join(names()); }
  nlohmann::ordered_json schema() const { return {{"enum", names()}}; }
};

inline Choice one_of(Names names) {
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
  nlohmann::ordered_json schema() const { return {{"type", "string"}, {"pattern", "^(auto|cpu|cuda|cuda:[0-9]{1,3})$"}}; }
};

struct Switch {
  std::optional<bool> parse(const YAML::Node& value) const {
    if (!is_plain(value)) return std::nullopt;
    const std::string text = lowered(value.Scalar());
    if (text == "true" || text == "yes" || text == "on") return true;
    if (text == "false" || text == "no" || text == "off") return false;
    return std::nullopt;
  }
  std::string describe() const { return "true or false"; }
  nlohmann::ordered_json schema() const { return {{"type", "boolean"}}; }
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
  nlohmann::ordered_json schema() const {
    nlohmann::ordered_json result{{"type", "integer"}, {"minimum", low}};
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
  nlohmann::ordered_json schema() const {
    nlohmann::ordered_json result{{"type", "number"}};
    if (std::isfinite(low)) result[low_included ? "minimum" : "exclusiveMinimum"] = low;
    if (std::isfinite(high)) result[high_included ? "maximum" : "exclusiveMaximum"] = high;
    return result;
  }
};

inline constexpr Real kPositive{.low = 0, .low_included = false};
inline constexpr Real kScale{.low = 0.05, .high = 20};
inline constexpr Real kNotNegative{.low = 0};
inline constexpr Real kShare{.low = 0, .high = 1};                                  // [0, 1]
inline constexpr Real kShareBelowOne{.low = 0, .high = 1, .high_included = false};  // [0, 1)
inline constexpr Real kAnyReal{.low = -std::numeric_limits<double>::infinity()};

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
  nlohmann::ordered_json schema() const {
    nlohmann::ordered_json result{{"type", "array"}, {"items", item.schema()}, {"minItems", std::max<size_t>(count, 1)}};
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
  nlohmann::ordered_json schema() const { return {{"enum", numbers}}; }
};

// Height and width in pixels; one number means a square.
struct Sides {
  Integer side;

  std::optional<std::vector<int64_t>> parse(const YAML::Node& value) const {
    if (const auto square = side.parse(value)) return std::vector<int64_t>{*square, *square};
    return List<Integer>{side, 2}.parse(value);
  }
  std::string describe() const { return "one side or [height, width], each " + side.describe(); }
  nlohmann::ordered_json schema() const { return {{"anyOf", {side.schema(), List<Integer>{side, 2}.schema()}}}; }
};

}  // namespace semiseg::kinds
