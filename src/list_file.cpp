#include "list_file.h"

#include "semiseg/error.h"

namespace semiseg {

std::string list_column(const std::string& path) {
  const bool plain = path.find_first_of(" \t\r,") == std::string::npos && path.front() != '"';
  if (path.find('\n') != std::string::npos || (!plain && path.find('"') != std::string::npos))
    throw Error(ErrorKind::kData, "this path cannot be written in a list", path, "rename the file or its folder");
  return plain ? path : "\"" + path + "\"";
}

}  // namespace semiseg
