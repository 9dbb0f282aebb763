// The argument CONFIG of commands.
#pragma once

#include <string>

namespace semiseg {

// The file itself; or where there is none and it is called configs/..., the preset of that name that came with this program: in
// ../share/semiseg from it where it is installed, in the source tree where it is not.
std::string find_config(const std::string& file);
// The same; the log says where another file is taken.
std::string config_file(const std::string& file);

}  // namespace semiseg
