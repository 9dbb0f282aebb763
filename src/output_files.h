// Files that a command is to write, looked at before its work begins.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "semiseg/config.h"

namespace semiseg {

// File names of images without folder and ending, each given out once: images of one name in two folders do not collide.
class FileNames {
 public:
  std::string of(const std::string& id, int64_t index);

 private:
  std::set<std::string> taken_;
};

// Throws Error(kConfig) where one of `files` is there and is not for results to replace: an image, a label or a list that the
// config names, as far as its lists can be read here, or a picture without the mark of results (result_mark.h). `flag` is what
// names the folder to write to: "-o".
void require_replaceable(const std::vector<std::string>& files, const Config& config, const std::string& flag);

// Throws where no file can be written at `path`: Error(kConfig) for a folder, else Error(kDisk) as writing would. `path` stays
// as it is.
void require_writable(const std::string& path);
// The same for a report, and Error(kConfig) where a file is there that is no JSON, or no HTML: a checkpoint, a config, a list.
enum class ReportKind { kJson, kHtml };
void require_report(const std::string& path, ReportKind kind);

}  // namespace semiseg
