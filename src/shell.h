// Commands that a user is to copy into a shell.
#pragma once

#include <algorithm>
#include <cctype>
#include <string>

namespace semiseg {

// `word` as a shell must be given it; as it is where nothing in it is special there.
inline std::string shell_quoted(const std::string& word) {
  const auto is_plain = [](unsigned char c) {
    return std::isalnum(c) != 0 || c >= 0x80 || std::string("_-./,:=+@%").find(static_cast<char>(c)) != std::string::npos;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), is_plain)) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace semiseg
