// The machine that this process runs on, and its clock, as files of a run tell them.
#pragma once

#include <string>

namespace semiseg {

std::string host_name();
std::string utc_now();  // 2026-01-31T23:59:59Z

}  // namespace semiseg
