#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace semiseg {

// Whether the bytes are text that JSON can hold, as every file of a run is.
inline bool is_utf8(const std::string& text) {
  try {
    nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

}  // namespace semiseg
