// Scripts of tools/ that read back with Python packages what semiseg has written.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>

namespace semiseg {

inline const std::string kPython = SEMISEG_SOURCE_DIR "/.venv/bin/python";

// Why a test that needs this package is to be skipped, or nothing.
inline std::optional<std::string> missing_python(const std::string& package) {
  if (!std::filesystem::exists(kPython)) return "there is no " + kPython;
  const std::string check =
      kPython + " -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec(\"" + package + "\") is None)' 2>/dev/null";
  if (std::system(check.c_str()) != 0) return "the Python package " + package + " is missing; bash tools/test.sh installs it";
  return std::nullopt;
}

// Runs "tools/check/SCRIPT.py ARGUMENTS" and returns the JSON that it prints.
inline nlohmann::json run_python(const std::string& words) {
  FILE* pipe = ::popen((kPython + " " SEMISEG_SOURCE_DIR "/" + words).c_str(), "r");
  std::string output;
  char text[4096];
  while (const size_t got = std::fread(text, 1, sizeof(text), pipe)) output.append(text, got);
  if (::pclose(pipe) != 0) throw std::runtime_error(words + " failed: " + output);
  return nlohmann::json::parse(output);
}

}  // namespace semiseg
