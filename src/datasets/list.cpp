// Any data set, named image by image in list files.
#include "datasets/file_list.h"

namespace semiseg {
namespace {

FileLists list_files(const Config& config, const OnProblem& on_problem) {
  const DataConfig& data = config.data;
  if (data.classes.empty())
    throw Error(ErrorKind::kConfig, "data.classes is not set", config.file,
                "name a preset (camvid, cityscapes) or a class file");
  FileLists lists;
  lists.classes = load_classes(data.classes, data.ignore_index);
  lists.colours = load_colours(data.classes);
  const std::string* const names[] = {&data.labeled, &data.unlabeled, &data.val};
  for (const Split split : kSplits) {
    const std::string& list = *names[static_cast<size_t>(split)];
    if (data.val_only && split != Split::kVal) continue;
    const bool labelled = split != Split::kUnlabeled || reads_unlabeled_labels(config);
    if (!list.empty()) lists[split] = read_list(list, data.root, split, labelled, on_problem);
  }
  return lists;
}

const bool kRegistered = add_file_format("list", list_files);

}  // namespace
}  // namespace semiseg
