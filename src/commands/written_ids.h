// What `--ids train|label` of `eval`, `predict` and `diagnose` asks for.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "commands/command.h"

namespace semiseg {

// Whether it is given as `label`. Throws Error(kConfig).
bool wants_label_ids(const Arguments& arguments);

// Class index -> value in the label PNGs that are written: itself, or with `--ids label` the label id of raw Cityscapes.
// `label_ids`: of the classes; empty where they have none. Throws Error(kConfig).
std::array<uint8_t, 256> written_ids(const Arguments& arguments, const std::vector<uint8_t>& label_ids);

}  // namespace semiseg
