#include "commands/config_file.h"

#include <filesystem>

#include "semiseg/log.h"

namespace semiseg {

namespace fs = std::filesystem;

std::string find_config(const std::string& file) {
  std::error_code error;
  if (fs::exists(file, error) || !file.starts_with("configs/")) return file;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  for (const char* folder : {"../share/semiseg", ".."}) {
    const fs::path preset = (program.parent_path() / folder / file).lexically_normal();
    if (fs::is_regular_file(preset, error)) return preset.string();
  }
  return file;
}

std::string config_file(const std::string& file) {
  const std::string found = find_config(file);
  if (found != file) log_info("taking " + found);
  return found;
}

}  // namespace semiseg
