// Cityscapes as it is unpacked: ROOT/leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and ROOT/gtFine/SPLIT/CITY/NAME_gtFine_*.png,
// where * is labelTrainIds (made by cityscapesScripts) or labelIds (as shipped).
#include <filesystem>

#include "datasets/file_list.h"
#include "semiseg/log.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

constexpr const char* kImageEnd = "_leftImg8bit.png";
constexpr const char* kTrainIdsEnd = "_labelTrainIds.png";
constexpr const char* kLabelIdsEnd = "_labelIds.png";
constexpr const char* kLayoutHint = "data.root must hold leftImg8bit/{train,val}/CITY and gtFine/{train,val}/CITY";

std::string replace_end(const std::string& text, std::string_view end, const std::string& by) {
  return text.substr(0, text.size() - end.size()) + by;
}

std::vector<fs::path> sorted_children(const fs::path& folder) {
  std::vector<fs::path> children;
  std::error_code error;
  for (const auto& child : fs::directory_iterator(folder, error)) children.push_back(child.path());
  if (error) throw Error(ErrorKind::kData, "cannot read the folder: " + error.message(), folder.string(), kLayoutHint);
  std::sort(children.begin(), children.end());
  return children;
}

class Reader {
 public:
  Reader(const Config& config, const OnProblem& on_problem)
      : data_(config.data),
        truth_(reads_unlabeled_labels(config)),
        seed_(config.seed),
        root_(data_.root.empty() ? "." : data_.root),
        on_problem_(on_problem) {}

  FileLists read() {
    FileLists lists;
    const std::string classes = data_.classes.empty() ? "cityscapes" : data_.classes;
    lists.classes = load_classes(classes, data_.ignore_index);
    own_classes_ = !lists.classes.label_ids.empty();
    if (!fs::is_directory(root_))
      throw Error(ErrorKind::kData, "data.root is not a folder", root_.string(),
                  "set data.root to the unpacked Cityscapes folder");

    if (data_.val_only) {
      // eval: the training images may be elsewhere.
    } else if (data_.labeled.empty() || is_fraction(data_.labeled)) {
      std::vector<FileEntry> train = folder_entries("train");
      if (is_fraction(data_.labeled)) {
        std::vector<bool> is_labelled(train.size());
        for (const int64_t index : nested_split(static_cast<int64_t>(train.size()), data_.labeled, seed_))
          is_labelled[index] = true;
        for (size_t i = 0; i < train.size(); ++i)
          lists[is_labelled[i] ? Split::kLabeled : Split::kUnlabeled].push_back(std::move(train[i]));
      } else {
        lists[Split::kLabeled] = std::move(train);
      }
      lists[Split::kLabeled] = with_labels(std::move(lists[Split::kLabeled]));
      if (truth_ && data_.unlabeled.empty()) lists[Split::kUnlabeled] = with_labels(std::move(lists[Split::kUnlabeled]));
      for (FileEntry& entry : lists[Split::kUnlabeled])
        if (!truth_) entry.label.clear();
    } else {
      lists[Split::kLabeled] = listed(data_.labeled, Split::kLabeled);
    }
    if (!data_.val_only && !data_.unlabeled.empty()) lists[Split::kUnlabeled] = listed(data_.unlabeled, Split::kUnlabeled);
    lists[Split::kVal] = data_.val.empty() ? with_labels(folder_entries("val")) : listed(data_.val, Split::kVal);

    if (replaced_ > 0)
      log_info(str("the lists name ", replaced_, " *", kTrainIdsEnd, " files that do not exist; the *", kLabelIdsEnd,
                   " files beside them are mapped instead"));
    return lists;
  }

 private:
  // The images of ROOT/leftImg8bit/`split`, sorted by city and name, with the label each should have.
  std::vector<FileEntry> folder_entries(const std::string& split) const {
    const fs::path folder = fs::path("leftImg8bit") / split;
    if (!fs::is_directory(root_ / folder))
      throw Error(ErrorKind::kData, "folder not found", (root_ / folder).string(), kLayoutHint);
    std::vector<FileEntry> entries;
    for (const fs::path& city : sorted_children(root_ / folder)) {
      if (!fs::is_directory(city)) continue;
      for (const fs::path& image : sorted_children(city)) {
        if (!image.filename().string().ends_with(kImageEnd)) continue;
        const std::string name = replace_end(image.filename().string(), kImageEnd, std::string("_gtFine") + kTrainIdsEnd);
        FileEntry entry;
        entry.id = (folder / city.filename() / image.filename()).string();
        entry.image = image.string();
        entry.label = (root_ / "gtFine" / split / city.filename() / name).string();
        entries.push_back(std::move(entry));
      }
    }
    if (entries.empty())
      throw Error(ErrorKind::kData, str("no CITY/*", kImageEnd, " in this folder"), (root_ / folder).string(), kLayoutHint);
    return entries;
  }

  std::vector<FileEntry> with_labels(std::vector<FileEntry> entries) const {
    std::vector<FileEntry> complete;
    for (FileEntry& entry : entries) {
      const std::string train_ids = entry.label;
      find_label(entry);
      if (is_file(entry.label)) {
        complete.push_back(std::move(entry));
      } else {
        on_problem_(Error(ErrorKind::kData, "no label for this image: neither " + train_ids + " nor *" + kLabelIdsEnd,
                          entry.image, kLayoutHint));
      }
    }
    return complete;
  }

  std::vector<FileEntry> listed(const std::string& list, Split split) {
    return read_list(list, root_.string(), split, split != Split::kUnlabeled || truth_, on_problem_,
                     [this](FileEntry& entry) { replaced_ += find_label(entry); });
  }

  // Where the train ids do not exist but the label ids do, takes these. True when it did.
  bool find_label(FileEntry& entry) const {
    bool replaced = false;
    if (entry.label.ends_with(kTrainIdsEnd) && !is_file(entry.label)) {
      const std::string label_ids = replace_end(entry.label, kTrainIdsEnd, kLabelIdsEnd);
      replaced = is_file(label_ids);
      if (replaced) entry.label = label_ids;
    }
    // Other classes than Cityscapes' own say themselves what the stored values mean.
    entry.label_ids = own_classes_ && entry.label.ends_with(kLabelIdsEnd);
    return replaced;
  }

  const DataConfig& data_;
  bool truth_;  // labels of unlabelled images are read
  uint64_t seed_;
  fs::path root_;
  const OnProblem& on_problem_;
  bool own_classes_ = true;
  int64_t replaced_ = 0;
};

FileLists cityscapes_files(const Config& config, const OnProblem& on_problem) { return Reader(config, on_problem).read(); }

const bool kRegistered = add_file_format("cityscapes", cityscapes_files);

}  // namespace
}  // namespace semiseg
