// Numbers that users type.
#pragma once

#include <charconv>
#include <optional>
#include <string_view>

namespace semiseg {

// The whole of `text` as a number; nothing when it is none or does not fit. `nan` and `inf` are read as such.
template <class T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace semiseg
