#include "commands/network_file.h"

#include <filesystem>

#include "semiseg/error.h"
#include "semiseg/log.h"

namespace semiseg {

namespace fs = std::filesystem;

std::string network_file(const std::string& file_or_run) {
  if (!fs::is_directory(file_or_run)) return file_or_run;
  for (const char* name : {"best", "last"}) {
    const fs::path file = fs::path(file_or_run) / "checkpoints" / (std::string(name) + ".safetensors");
    if (!fs::exists(file)) continue;
    log_info("taking " + file.string());
    return file.string();
  }
  throw Error(ErrorKind::kCheckpoint, "the folder holds no checkpoints/best.safetensors", file_or_run,
              "name a run folder, a checkpoint or a weights file");
}

}  // namespace semiseg
