#include "config/text.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

namespace semiseg {

bool contains(const Names& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string join(const Names& parts, const std::string& between) {
  std::string result;
  for (const auto& part : parts) result += (result.empty() ? "" : between) + part;
  return result;
}

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

}  // namespace semiseg
