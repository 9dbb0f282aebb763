#include "commands/network_file.h"

#include <filesystem>

#include "semiseg/error.h"
#include "semiseg/log.h"
#include "shell.h"

namespace semiseg {

namespace fs = std::filesystem;

std::string did_you_mean_run(const std::string& word, const std::string& flag) {
  const std::string run = "runs/" + word;
  return !word.empty() && fs::is_directory(run) ? "did you mean " + flag + shell_quoted(run) + "?" : "";
}

std::string network_file(const std::string& file_or_run) {
  if (!fs::exists(file_or_run))
    throw Error(ErrorKind::kCheckpoint, "there is no such checkpoint, run folder or weights file", file_or_run,
                did_you_mean_run(file_or_run));
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
