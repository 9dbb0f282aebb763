// What lies below a folder.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

namespace semiseg {

// Every regular file below `folder`, sorted. Links to folders are followed, and no folder is entered twice, so that they may go
// in circles; nor is one where `enters` says false. Throws std::filesystem::filesystem_error where a folder cannot be read.
std::vector<std::filesystem::path> files_below(const std::filesystem::path& folder,
                                               const std::function<bool(const std::filesystem::path&)>& enters = {});

}  // namespace semiseg
