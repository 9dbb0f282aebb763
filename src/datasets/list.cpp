// Any data set, named image by image in list files.
#include "datasets/file_list.h"

namespace semiseg {
namespace {

FileLists list_files(const Config& config, const OnProblem& on_problem) {
  const DataConfig& data = config.data;
  if (data.classes.empty())
    throw Error(ErrorKind::kConfig, "data.classes is not set", config.file,
                "name a preset (camvid, cityscapes) or a YAML file");
  if (is_fraction(data.labeled))
    throw Error(ErrorKind::kConfig, "data.labeled is a fraction (" + data.labeled + "), of no list", config.file,
                "data.format list has no training images of its own; name a list file");
  if (data.labeled.empty() && data.unlabeled.empty() && data.val.empty())
    throw Error(ErrorKind::kConfig, "data.format list needs list files", config.file,
                "set data.labeled and data.val to files with \"image label\" lines");

  FileLists lists;
  lists.classes = load_classes(data.classes, data.ignore_index);
  const std::string* const names[] = {&data.labeled, &data.unlabeled, &data.val};
  for (const Split split : kSplits) {
    const std::string& list = *names[static_cast<size_t>(split)];
    if (!list.empty()) lists[split] = read_list(list, data.root, split, on_problem);
  }
  return lists;
}

const bool kRegistered = add_file_format("list", list_files);

}  // namespace
}  // namespace semiseg
