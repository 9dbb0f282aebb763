// Values as YAML text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "parse_number.h"

namespace semiseg {

using Names = std::vector<std::string>;

bool contains(const Names& names, const std::string& name);
std::string join(const Names& parts, const std::string& between = ", ");

// parse_number, with the plus sign that YAML allows.
template <class T>
std::optional<T> parse_yaml_number(std::string_view text) {
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  return parse_number<T>(text);
}

// The shortest decimal that reads back equal. An exponent comes with a decimal point, as YAML 1.1 readers want it.
std::string yaml_text(double value);
std::string yaml_text(int64_t value);
std::string yaml_text(uint64_t value);
std::string yaml_text(bool value);
std::string yaml_text(const std::string& value);

// In double quotes, with YAML's escapes; always one line.
std::string quoted(const std::string& text);

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

}  // namespace semiseg
