#include "commands/written_ids.h"

#include <algorithm>
#include <numeric>

#include "semiseg/error.h"

namespace semiseg {

bool wants_label_ids(const Arguments& arguments) {
  const std::string ids = arguments.has("ids") ? arguments.get("ids") : "train";
  if (ids != "train" && ids != "label")
    throw Error(ErrorKind::kConfig, "\"" + ids + "\" is not known", "--ids", "known: train, label");
  return ids == "label";
}

std::array<uint8_t, 256> written_ids(const Arguments& arguments, const std::vector<uint8_t>& label_ids) {
  std::array<uint8_t, 256> table{};
  std::iota(table.begin(), table.end(), uint8_t{0});
  if (!wants_label_ids(arguments)) return table;
  if (label_ids.empty())
    throw Error(ErrorKind::kConfig, "these classes have no Cityscapes label ids", "--ids label", "leave it out");
  std::copy(label_ids.begin(), label_ids.end(), table.begin());
  return table;
}

}  // namespace semiseg
