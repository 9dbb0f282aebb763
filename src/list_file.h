// Lists of images and labels, as data.labeled, data.unlabeled and data.val name them.
#pragma once

#include <string>

namespace semiseg {

// A path as a column of a list, quoted where it must be. Throws Error(kData) for one that no list can hold.
std::string list_column(const std::string& path);

}  // namespace semiseg
