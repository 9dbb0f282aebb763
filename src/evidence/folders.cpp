// Folders of label and prediction files, paired by name.
#include <ATen/ATen.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <map>
#include <optional>
#include <set>

#include "colour_labels.h"
#include "evidence/evidence.h"
#include "folder_walk.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/metrics.h"
#include "spelling.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kCityscapesLabelIds = 34;

struct LabelFile {
  std::string path, relative, stem, core;  // core: the stem without what data sets and programs append
};

std::string core_of(std::string stem) {
  static const std::vector<std::string> appended{
      "_gtFine", "_gtCoarse", "_labelTrainIds", "_labelIds",   "_leftImg8bit", "_label", "_labels",
      "_gt",     "_mask",     "_pred",          "_prediction", "_trainIds",    "_L"};
  for (bool again = true; again;) {
    again = false;
    for (const std::string& suffix : appended)
      if (stem.size() > suffix.size() && stem.ends_with(suffix)) {
        stem.resize(stem.size() - suffix.size());
        again = true;
      }
  }
  return stem;
}

std::vector<LabelFile> label_files(const std::string& dir, const std::string& flag) {
  if (!fs::is_directory(dir)) throw Error(ErrorKind::kConfig, "\"" + dir + "\" is no folder", flag);
  std::vector<LabelFile> files;
  int64_t jpegs = 0;
  for (const fs::path& path : files_below(dir)) {
    const std::string extension = lowered(path.extension().string()), stem = path.stem().string();
    jpegs += extension == ".jpg" || extension == ".jpeg";
    if (extension != ".png" && extension != ".bmp" && extension != ".tif" && extension != ".tiff") continue;
    if (stem.ends_with("_color") || stem.ends_with("_instanceIds") || stem.ends_with("_overlay")) continue;  // pictures
    files.push_back({path.string(), path.lexically_relative(dir).replace_extension().string(), stem, core_of(stem)});
  }
  std::map<std::string, std::set<std::string>> stems_of;  // by core
  for (const LabelFile& file : files) stems_of[file.core].insert(file.stem);
  // Cityscapes keeps both kinds of ids side by side: the train ids are meant. Some programs put the image beside its
  // prediction.
  const auto is_double = [&](const LabelFile& file) {
    const bool ids = file.stem.ends_with("_labelIds"), image = file.stem.ends_with("_leftImg8bit");
    const auto& stems = stems_of.at(file.core);
    return (ids || image) && std::any_of(stems.begin(), stems.end(), [&](const std::string& other) {
             return ids ? other.ends_with("_labelTrainIds") : other != file.stem;
           });
  };
  std::vector<LabelFile> kept;
  std::copy_if(files.begin(), files.end(), std::back_inserter(kept), [&](const LabelFile& file) { return !is_double(file); });
  if (kept.empty())
    throw Error(ErrorKind::kData, "there is no label file (PNG)", dir,
                jpegs > 0 ? str("it holds ", jpegs, " JPEGs, which do not keep class ids: write predictions as PNG") : "");
  return kept;
}

// Label and prediction of one image: by path within the folders, else by file name, else by its core; only where one fits.
std::vector<std::pair<LabelFile, LabelFile>> pair_files(const std::vector<LabelFile>& labels,
                                                        const std::vector<LabelFile>& predictions,
                                                        std::vector<std::string>* unpaired) {
  std::vector<std::map<std::string, std::vector<const LabelFile*>>> label_by(3), prediction_by(3);
  static constexpr std::string LabelFile::*kKeys[] = {&LabelFile::relative, &LabelFile::stem, &LabelFile::core};
  for (size_t level = 0; level < 3; ++level) {
    for (const LabelFile& file : labels) label_by[level][file.*kKeys[level]].push_back(&file);
    for (const LabelFile& file : predictions) prediction_by[level][file.*kKeys[level]].push_back(&file);
  }
  std::vector<std::pair<LabelFile, LabelFile>> pairs;
  for (const LabelFile& prediction : predictions) {
    const LabelFile* label = nullptr;
    for (size_t level = 0; level < 3 && label == nullptr; ++level) {
      const std::string& key = prediction.*kKeys[level];
      const auto found = label_by[level].find(key);
      if (found == label_by[level].end()) continue;
      if (found->second.size() == 1 && prediction_by[level].at(key).size() == 1)
        label = found->second.front();
      else if (level == 2)
        throw Error(ErrorKind::kData,
                    "more than one label or prediction is called \"" + key + "\", such as " + found->second.front()->path,
                    prediction.path, "give folders in which the pairs have equal names");
    }
    if (label == nullptr)
      unpaired->push_back(prediction.path);
    else
      pairs.emplace_back(*label, prediction);
  }
  return pairs;
}

}  // namespace

Evidence read_folders(const std::string& label_dir, const std::string& prediction_dir, const std::string& classes_name,
                      bool predicts_label_ids) {
  const auto labels = label_files(label_dir, "--labels"), predictions = label_files(prediction_dir, "--predictions");
  std::vector<std::string> unpaired;
  const auto pairs = pair_files(labels, predictions, &unpaired);
  if (pairs.empty())
    throw Error(ErrorKind::kData, "no prediction has the name of a label", predictions.front().path,
                "a label is called, say, " + labels.front().path);
  std::optional<ClassSet> classes;
  ColourMap colours;
  if (!classes_name.empty()) {
    classes = load_classes(classes_name, kIgnore);
    colours = load_colours(classes_name);
  }
  if (predicts_label_ids && (!classes || classes->label_ids.empty()))
    throw Error(ErrorKind::kConfig, "these classes have no Cityscapes label ids", "--ids label", "give --classes cityscapes");
  const auto read = [&](const LabelFile& file, bool has_label_ids) {
    Tensor values_HW;
    if (is_colour_label(file.path)) {
      const Tensor image_HWC = read_image(file.path);
      // Ids, written three times?
      const bool grey =
          image_HWC.select(2, 0).equal(image_HWC.select(2, 1)) && image_HWC.select(2, 0).equal(image_HWC.select(2, 2));
      if (colours.empty() && !grey)
        throw Error(ErrorKind::kData, "a label in colours", file.path,
                    "give the file that says which class has which colour: --classes FILE");
      try {
        if (!colours.empty()) return map_colours(image_HWC, colours, file.path);
      } catch (const Error&) {
        if (!grey) throw;
      }
      values_HW = image_HWC.select(2, 0).contiguous();
    } else {
      values_HW = read_label_values(file.path);
    }
    if (!classes) return values_HW;
    const bool label_ids = (has_label_ids || file.stem.ends_with("_labelIds")) && !classes->label_ids.empty();
    if (!label_ids && !classes->label_ids.empty()) {
      const auto most = values_HW.masked_fill(values_HW == kIgnore, 0).max().item<int64_t>();
      if (most >= classes->size() && most < kCityscapesLabelIds)
        throw Error(
            ErrorKind::kData, str("label value ", most, " is no train id"), file.path,
            "Cityscapes' label ids are read from files whose names end in _labelIds, and as predictions with --ids label");
    }
    return map_label(values_HW, label_ids ? cityscapes_label_ids_to_classes() : classes->value_to_class, file.path);
  };

  Evidence evidence;
  ConfusionMatrix matrix(256, torch::kCPU);
  for (const auto& [label, prediction] : pairs) {
    const Tensor label_HW = read(label, false), prediction_HW = read(prediction, predicts_label_ids);
    if (label_HW.sizes() != prediction_HW.sizes())
      throw Error(ErrorKind::kData,
                  str("is ", prediction_HW.size(0), " x ", prediction_HW.size(1), " (H x W), its label ", label_HW.size(0),
                      " x ", label_HW.size(1)),
                  prediction.path, "compare predictions at the labels' size: " + label.path);
    matrix.add(prediction_HW, label_HW);
  }
  auto counts_KK = matrix.counts();
  counts_KK.select(0, kIgnore).zero_();
  const int64_t unpredicted = counts_KK.select(1, kIgnore).sum().item<int64_t>();
  counts_KK.select(1, kIgnore).zero_();
  const auto occurs_K = counts_KK.sum(0).add(counts_KK.sum(1)).gt(0);
  int64_t K = classes ? classes->size() : 0;
  for (int64_t c = 0; c < kIgnore; ++c)
    if (occurs_K[c].item<bool>()) K = std::max(K, c + 1);
  if (counts_KK.sum().item<int64_t>() == 0)
    throw Error(ErrorKind::kData, "the labels and predictions have no pixel in common that counts", label_dir);
  counts_KK = counts_KK.narrow(0, 0, K).narrow(1, 0, K).contiguous();

  EpochRecord record;
  record.epoch = 1;
  record.val = scores_of(counts_KK);
  evidence.history = {record};
  if (classes) evidence.class_names = classes->names;
  const auto have = [](size_t count, const std::string& noun) {
    return counted(static_cast<int64_t>(count), noun) + (count == 1 ? " has" : " have");
  };
  evidence.notes.push_back(counted(static_cast<int64_t>(pairs.size()), "pair") + " of labels and predictions");
  if (!unpaired.empty())
    evidence.notes.push_back(have(unpaired.size(), "prediction") + " no label, such as " + unpaired.front());
  if (labels.size() > pairs.size()) evidence.notes.push_back(have(labels.size() - pairs.size(), "label") + " no prediction");
  if (unpredicted > 0) {
    const auto labelled = static_cast<double>(counts_KK.sum().item<int64_t>() + unpredicted);
    evidence.notes.push_back(str(unpredicted, " labelled pixels",
                                 format(" (%.2f %%)", 100 * static_cast<double>(unpredicted) / labelled),
                                 " are 255 in the predictions and not counted: the scores are those of the others"));
  }
  return evidence;
}

}  // namespace semiseg
