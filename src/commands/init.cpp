#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "commands/command.h"
#include "config/text.h"
#include "folder_walk.h"
#include "list_file.h"
#include "predict_inputs.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/log.h"
#include "shell.h"
#include "spelling.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

// Images of a folder and of those below it, sorted, by their way from it and without ending: "frankfurt/000001".
using Images = std::map<std::string, fs::path>;
// The same where files may differ in their ending alone.
using ImageGroups = std::map<std::string, std::vector<fs::path>>;

// What lies in the folder `other` below `folder` is passed over.
ImageGroups groups_below(const std::string& folder, const std::string& flag, const std::string& other = "") {
  if (!fs::is_directory(folder)) throw Error(ErrorKind::kData, "there is no such folder", flag + ": " + folder);
  ImageGroups groups;
  const fs::path root = absolute_path(folder);
  const auto is_hidden = [](const fs::path& path) { return path.filename().string()[0] == '.'; };
  const auto enters = [&](const fs::path& below) {
    std::error_code none;
    return !is_hidden(below) && !fs::equivalent(below, other, none);
  };
  for (const fs::path& file : files_below(root, enters))
    if (!is_hidden(file) && is_image_name(file.string()))
      groups[file.lexically_relative(root).replace_extension().string()].push_back(file);
  if (groups.empty()) throw Error(ErrorKind::kData, "there is no image in this folder", flag + ": " + folder);
  return groups;
}

std::string names_of(const std::vector<fs::path>& files) {
  std::string names;
  for (const fs::path& file : files) names += (names.empty() ? "" : ", ") + file.filename().string();
  return names;
}

Images without_doubles(const ImageGroups& groups, const std::string& where) {
  Images images;
  for (const auto& [name, files] : groups) {
    if (files.size() > 1)
      throw Error(ErrorKind::kData, "files share the name \"" + name + "\": " + names_of(files), where,
                  "keep one of them there");
    images[name] = files.front();
  }
  return images;
}

// The label of an image: of the same name, or of the only name that goes on with a suffix such as "_L" or "-mask".
const fs::path* label_of(const std::string& image, const Images& labels) {
  if (const auto same = labels.find(image); same != labels.end()) return &same->second;
  const fs::path* found = nullptr;
  for (auto label = labels.lower_bound(image); label != labels.end() && label->first.starts_with(image); ++label) {
    const auto next = static_cast<unsigned char>(label->first[image.size()]);
    if (std::isalnum(next) != 0 || next == '/') continue;  // of another image
    if (found != nullptr)
      throw Error(ErrorKind::kData,
                  "two labels may belong to the image \"" + image + "\": " + found->filename().string() + " and " +
                      label->second.filename().string(),
                  "--labels", "keep the labels of one kind in a folder of their own");
    found = &label->second;
  }
  return found;
}

// An image and its label; "" where it has none.
struct Entry {
  fs::path image, label;
};
struct Entries {
  std::vector<Entry> entries;         // sorted by name
  std::vector<fs::path> lone_labels;  // that belong to no image
};

Entries pair_folders(const std::string& image_folder, const std::string& label_folder) {
  const Images images = without_doubles(groups_below(image_folder, "--images", label_folder), "--images: " + image_folder);
  const Images labels = without_doubles(groups_below(label_folder, "--labels", image_folder), "--labels: " + label_folder);
  Entries found;
  std::set<fs::path> used;
  for (const auto& [name, image] : images) {
    const fs::path* label = label_of(name, labels);
    if (label != nullptr && fs::equivalent(image, *label))
      throw Error(ErrorKind::kData, "image and label are the same file", image.string(), "see --images and --labels");
    found.entries.push_back({image, label == nullptr ? fs::path() : *label});
    if (label != nullptr) used.insert(*label);
  }
  if (used.empty())
    throw Error(ErrorKind::kData,
                str("of ", counted(static_cast<int64_t>(images.size()), "image"), " and ",
                    counted(static_cast<int64_t>(labels.size()), "label"), " none belong together by their names, such as \"",
                    images.begin()->first, "\" and \"", labels.begin()->first, "\""),
                "--labels", "name a label as its image, or so with a suffix: street.jpg, street.png or street_mask.png");
  for (const auto& [name, label] : labels)
    if (used.count(label) == 0) found.lone_labels.push_back(label);
  return found;
}

// The name of the image whose label is called so in the folder of the images; "" where it is none.
std::string image_name(const std::string& label) {
  for (const std::string ending : {"_mask", "_masks", "_label", "_labels", "_gt", "_L", "-mask", "-label", "-labels", "-gt"})
    if (label.size() > ending.size() && label.ends_with(ending)) return label.substr(0, label.size() - ending.size());
  return "";
}

// Of one folder for both: an image and a label that ends in _mask or the like, or a lossy image and a label of one name.
Entries pair_one_folder(const std::string& folder) {
  const std::string where = "--images and --labels: " + folder;
  const char* const hint =
      "images and labels need folders of their own, or names that tell them apart: street.jpg and street.png, or "
      "street_mask.png";
  const ImageGroups groups = groups_below(folder, "--images");
  ImageGroups labels_of;
  Entries found;
  for (const auto& [name, files] : groups) {
    const std::string image = image_name(name);
    if (groups.count(image) != 0)
      labels_of[image].insert(labels_of[image].end(), files.begin(), files.end());
    else if (!image.empty() && !name.ends_with("_L"))  // which an image of a left camera has
      found.lone_labels.insert(found.lone_labels.end(), files.begin(), files.end());
  }
  const auto is_lossy = [](const fs::path& file) {
    const std::string ending = lowered(file.extension().string());
    return ending == ".jpg" || ending == ".jpeg" || ending == ".webp";
  };
  bool paired = false, by_ending = false;
  for (const auto& [name, files] : groups) {
    const std::string image = image_name(name);
    if (groups.count(image) != 0 || (!image.empty() && !name.ends_with("_L"))) continue;
    const auto labels = labels_of.find(name);
    std::vector<fs::path> all = files;
    if (labels != labels_of.end()) all.insert(all.end(), labels->second.begin(), labels->second.end());
    if (all.size() > 2 || (files.size() == 2 && is_lossy(files[0]) == is_lossy(files[1])))
      throw Error(ErrorKind::kData, "it cannot be told which of these is the image and which its label: " + names_of(all),
                  where, hint);
    if (files.size() == 2 && !is_lossy(all[0])) std::swap(all[0], all[1]);
    found.entries.push_back({all[0], all.size() == 2 ? all[1] : fs::path()});
    paired = paired || all.size() == 2;
    by_ending = by_ending || files.size() == 2;
  }
  // Where a PNG is the label of a JPEG, one that is alone has lost its image.
  if (by_ending)
    std::erase_if(found.entries, [&](const Entry& entry) {
      const bool lone = entry.label.empty() && !is_lossy(entry.image);
      if (lone) found.lone_labels.push_back(entry.image);
      return lone;
    });
  if (!paired) throw Error(ErrorKind::kData, "no label can be told from an image there", where, hint);
  return found;
}

struct Lists {
  std::vector<std::string> labeled, unlabeled, val;  // lines
  fs::path first_image;                              // of the labelled ones
};

// Up to five parts of the sorted labelled images give their ends to validation: so do all scenes of a long drive, and frames
// that follow each other stay together, but at the few places where the lists meet. Few images come from fewer places, two at
// least from each. REQUIRES: two lines.
void split(const std::vector<std::string>& lines, double val_share, Lists* lists) {
  constexpr size_t kParts = 5;
  const size_t n = lines.size();
  const auto wanted = static_cast<size_t>(std::llround(val_share * static_cast<double>(n)));
  const size_t val = std::clamp<size_t>(wanted, 1, n - 1), parts = std::clamp<size_t>(val / 2, 1, kParts);
  for (size_t part = 0; part < parts; ++part) {
    const size_t begin = part * n / parts, end = (part + 1) * n / parts;
    const size_t share = (part + 1) * val / parts - part * val / parts, first = end - std::min(share, end - begin);
    for (size_t i = begin; i < end; ++i) (i < first ? lists->labeled : lists->val).push_back(lines[i]);
  }
}

Lists find_lists(const Arguments& arguments, double val_share) {
  const std::string &images = arguments.get("images"), &labels = arguments.get("labels");
  std::error_code none;
  const Entries found = fs::equivalent(images, labels, none) ? pair_one_folder(images) : pair_folders(images, labels);
  Lists lists;
  std::set<fs::path> listed(found.lone_labels.begin(), found.lone_labels.end());
  std::vector<std::string> pairs;
  for (const auto& [image, label] : found.entries) {
    listed.insert(image);
    if (label.empty()) {
      lists.unlabeled.push_back(list_column(image.string()));
      continue;
    }
    listed.insert(label);
    if (pairs.empty()) lists.first_image = image;
    pairs.push_back(list_column(image.string()) + " " + list_column(label.string()));
  }
  if (pairs.size() < 2)
    throw Error(ErrorKind::kData, "only one image has a label, " + lists.first_image.filename().string(), "--labels",
                "two labelled images are needed: one to learn from, one for validation");
  if (!found.lone_labels.empty())
    log_warning(str(found.lone_labels.size(), " of the labels belong to no image in ", arguments.get("images")));
  split(pairs, val_share, &lists);
  if (arguments.has("unlabeled")) {
    const std::string& more = arguments.get("unlabeled");
    ImageGroups groups = groups_below(more, "--unlabeled");
    for (auto& [name, files] : groups) std::erase_if(files, [&](const fs::path& file) { return listed.count(file) != 0; });
    std::erase_if(groups, [](const auto& group) { return group.second.empty(); });
    for (const auto& [name, image] : without_doubles(groups, "--unlabeled: " + more))
      lists.unlabeled.push_back(list_column(image.string()));
  }
  return lists;
}

// The largest multiple of 32 that fits into the image, 512 at most.
int64_t crop_of(const fs::path& image) {
  constexpr int64_t kMost = 512, kStep = 32;
  const Tensor image_HWC = read_image(image.string());
  const int64_t side = std::min(image_HWC.size(0), image_HWC.size(1));
  return std::clamp(side / kStep * kStep, kStep, kMost);
}

std::string config_text(const Lists& lists, const std::string& classes) {
  const bool semi = !lists.unlabeled.empty();
  std::string text = "# Made by `semiseg init`. Every setting: semiseg config --reference\ndata:\n  format: list\n";
  text += "  labeled: train.txt        # beside this file\n";
  if (semi) text += "  unlabeled: unlabeled.txt\n";
  text += "  val: val.txt\n  classes: " + quoted(classes) + str("\n  crop: ", crop_of(lists.first_image), "\n\n");
  text +=
      "model:\n  backbone: resnet50\n  # weights: resnet50.pth   # ImageNet weights help much; models/README.md makes the "
      "file\n\n";
  text += "loss: {class_weights: enet}   # rare classes count more\n";
  // The parts of configs/camvid/balanced.yaml, but for an average as long as for runs of thousands of steps.
  text += semi ? "semi:\n  method: fixmatch\n  teacher: ema            # the average of past networks makes the pseudo-labels\n"
                 "  threshold: 0.7          # least confidence of those that count\n"
                 "  class_weights: true     # weigh them as labels are weighed,\n"
                 "  undo_class_bias: true   # but make them without what the weights add to rare classes\n\n"
               : "semi: {method: supervised}\n\n";
  text += str("optim: {lr: 0.01, batch_labeled: 4, ", semi ? "batch_unlabeled: 4, " : "", "epochs: 60}\n");
  return text;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

double share_of(const Arguments& arguments) {
  if (!arguments.has("val")) return 0.2;
  const std::string& text = arguments.get("val");
  double share = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), share);
  if (error != std::errc() || end != text.data() + text.size() || !(share > 0 && share < 1))
    throw Error(ErrorKind::kConfig, "\"" + text + "\" is no number between 0 and 1", "--val",
                "0.2 keeps a fifth for validation");
  return share;
}

int run(const Arguments& arguments) {
  if (!arguments.overrides.empty())
    throw Error(ErrorKind::kConfig, "init takes no key=value settings", arguments.overrides[0],
                "set it in the config that it writes");
  const fs::path dir = absolute_path(arguments.positional[0]);
  const fs::path config = dir / (dir.filename().string() + ".yaml");
  for (const fs::path& file : {config, dir / "train.txt", dir / "val.txt", dir / "unlabeled.txt"})
    if (fs::exists(file))
      throw Error(ErrorKind::kConfig, "the file exists", file.string(), "remove it, or name another folder");
  // A preset stays a name; a file is found wherever the config goes.
  std::string classes = arguments.get("classes");
  if (fs::exists(classes) && !fs::is_directory(classes)) classes = absolute_path(classes);
  load_classes(classes, /*ignore_index=*/255);
  const Lists lists = find_lists(arguments, share_of(arguments));
  const std::string text = config_text(lists, classes);

  make_folders(dir.string());
  write_file((dir / "train.txt").string(), joined(lists.labeled));
  write_file((dir / "val.txt").string(), joined(lists.val));
  if (!lists.unlabeled.empty()) write_file((dir / "unlabeled.txt").string(), joined(lists.unlabeled));
  write_file(config.string(), text);
  const std::string shown = shell_quoted((fs::path(arguments.positional[0]) / config.filename()).string());
  log_info(str("wrote ", shown, " and lists: ", lists.labeled.size(), " labelled, ", lists.val.size(), " validation, ",
               lists.unlabeled.size(), " unlabelled images; then:\n  semiseg check ", shown, "\n  semiseg train ", shown,
               " --dry-run"));
  return 0;
}

const bool kRegistered = add_command({
    .name = "init",
    .synopsis = "DIR --images DIR --labels DIR --classes FILE [--unlabeled DIR] [--val SHARE]",
    .summary = "writes lists and a config for folders of images and labels",
    .details = R"(examples:
  semiseg init street --images photos --labels masks --classes classes.yaml --unlabeled more_photos
  semiseg init camvid --images CamVid/train --labels CamVid/train_labels --classes CamVid/class_dict.csv --val 0.1

Writes DIR/train.txt, val.txt, unlabeled.txt and DIR/DIR.yaml, which is meant to be edited. A label has the name of its image, or
goes on with a suffix (street.jpg and street.png or street_L.png); folders are read with all below them. In one folder for both, a
JPEG belongs to the PNG of its name, and any image to the one that goes on with _mask, _label, _gt or _L. Images without a label
count as unlabelled. Validation takes its share from up to five places of the sorted names, in one piece each, so that frames of a
drive that follow each other stay in one list. Nothing is copied, and no file is replaced.)",
    .flags = {{"images", "DIR", "images, with and without labels"},
              {"labels", "DIR", "label files"},
              {"classes", "FILE", "class file (docs/own_data.md), or a preset such as cityscapes"},
              {"unlabeled", "DIR", "more images without labels"},
              {"val", "SHARE", "of the labelled images for validation (0.2)"}},
    .min_positional = 1,
    .max_positional = 1,
    .run = run,
});

}  // namespace
}  // namespace semiseg
