// The machine that this process runs on, and its clock, as files of a run tell them.
#pragma once

#include <cstdint>
#include <ctime>
#include <string>

namespace semiseg {

std::string host_name();
bool process_exists(int64_t pid);        // on this machine
std::string utc_text(std::time_t time);  // 2026-01-31T23:59:59Z
std::string utc_now();

}  // namespace semiseg
