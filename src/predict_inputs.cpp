#include "predict_inputs.h"

#include <fnmatch.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <set>
#include <span>

#include "semiseg/error.h"
#include "semiseg/files.h"
#include "spelling.h"
#include "video_file.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

// The folder without links on its way, as far as it exists.
fs::path real_folder(const fs::path& folder) {
  const fs::path absolute = absolute_path(folder.empty() ? "." : folder.string());
  std::error_code error;
  const fs::path real = fs::weakly_canonical(absolute, error);
  return error ? absolute : real;
}

// A file that is a link stays itself: writing replaces the link.
fs::path real_place(const fs::path& file) { return real_folder(file.parent_path()) / file.filename(); }

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder.empty() ? "." : folder, error))
    if (entry.path().filename().string()[0] != '.') entries.push_back(folder / entry.path().filename());
  if (error) throw Error(ErrorKind::kData, "the folder cannot be read: " + error.message(), folder.string());
  std::sort(entries.begin(), entries.end());
  return entries;
}

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

bool has_wildcard(const std::string& text) { return text.find_first_of("*?[") != std::string::npos; }

// Paths below `base` that the parts of a pattern match.
void match(const fs::path& base, std::span<const std::string> parts, std::vector<fs::path>* found) {
  if (parts.empty()) {
    found->push_back(base);
    return;
  }
  const auto rest = parts.subspan(1);
  if (parts[0] == "**") {
    match(base, rest, found);
    if (rest.empty()) return;  // folders are read with all that is in them
    for (const fs::path& entry : entries_of(base))
      if (is_folder(entry) && !fs::is_symlink(entry)) match(entry, parts, found);
  } else if (!has_wildcard(parts[0])) {
    std::error_code error;
    const fs::path path = base / parts[0];
    if (fs::exists(path, error) && (rest.empty() || is_folder(path))) match(path, rest, found);
  } else {
    for (const fs::path& entry : entries_of(base))
      if (::fnmatch(parts[0].c_str(), entry.filename().c_str(), 0) == 0 && (rest.empty() || is_folder(entry)))
        match(entry, rest, found);
  }
}

std::vector<fs::path> match_pattern(const std::string& pattern) {
  std::vector<std::string> parts;
  for (const fs::path& part : fs::path(pattern).relative_path()) parts.push_back(part.string());
  std::vector<fs::path> found;
  match(fs::path(pattern).root_path(), parts, &found);
  return found;
}

// Gathers inputs and names them.
class Inputs {
 public:
  explicit Inputs(const std::string& output) : output_(real_folder(output)) {}

  // Adds what a file or folder holds; returns how many inputs that is, with those that were known before.
  size_t add(const fs::path& path) {
    if (!is_folder(path)) {
      add_file(path, "");
      return 1;
    }
    std::set<fs::path> visited;
    return is_output(path) ? 0 : add_folder(path, "", &visited);
  }

  bool is_output(const fs::path& folder) const { return real_folder(folder) == output_; }

  std::vector<PredictInput> take() {
    for (const PredictInput& input : inputs_) {
      const std::vector<const char*> endings =
          input.video ? std::vector{"_000000.png", "_overlay.mp4", "_overlay.avi", "_confidence.mp4", "_confidence.avi"}
                      : std::vector{".png", "_overlay.jpg", "_confidence.png"};
      for (const char* ending : endings)
        if (known_.count(real_place(output_ / (input.name + ending))))
          throw Error(ErrorKind::kConfig, "the results of " + input.path + " would replace an input",
                      (output_ / (input.name + ending)).string(), "name another folder with -o");
    }
    return std::move(inputs_);
  }

 private:
  void add_file(const fs::path& path, const fs::path& folder_of_results) {
    if (std::error_code none; fs::is_fifo(path, none) || fs::is_socket(path, none))
      throw Error(ErrorKind::kConfig, "is a pipe, not an image or a video", path.string(), "write it to a file first");
    if (!known_.insert(real_place(path)).second) return;
    const bool video = is_video_name(path.string());
    inputs_.push_back({path.string(), video, free_name((folder_of_results / path.stem()).string(), video)});
  }

  // `inside` is the way from the folder that the user named; `visited`: links may go in circles.
  size_t add_folder(const fs::path& folder, const fs::path& inside, std::set<fs::path>* visited) {
    if (!visited->insert(real_folder(folder)).second) return 0;
    size_t count = 0;
    for (const fs::path& entry : entries_of(folder)) {
      if (is_folder(entry)) {
        if (!is_output(entry)) count += add_folder(entry, inside / entry.filename(), visited);
      } else if (is_image_name(entry.string()) || is_video_name(entry.string())) {
        add_file(entry, inside);
        ++count;
      }
    }
    return count;
  }

  // Files that results of an input may have, by their stems; "#" stands for the six digits of a frame.
  static std::vector<std::string> stems(const std::string& name, bool video) {
    std::vector<std::string> result = {name, name + "_overlay", name + "_confidence"};
    if (video) {
      result[0] = name + "_#";
      return result;
    }
    const size_t end = name.find_last_not_of("0123456789");
    if (end != std::string::npos && name[end] == '_' && name.size() - end > 6) result.push_back(name.substr(0, end + 1) + "#");
    return result;
  }

  std::string free_name(const std::string& wanted, bool video) {
    std::string name = wanted;
    int& number = next_number_[{wanted, video}];  // of thousands of frames that are all called rgb.png
    if (number > 2) name += "-" + std::to_string(number - 1);
    for (number = std::max(number, 2);; ++number) {
      const auto files = stems(name, video);
      // Two images may both look like frames of one video that is not there.
      const auto& others = video ? stems_ : file_stems_;
      if (std::none_of(files.begin(), files.end(), [&](const std::string& stem) { return others.count(stem) != 0; })) {
        stems_.insert(files.begin(), files.end());
        file_stems_.insert(files.begin(), video ? files.end() : files.begin() + 3);
        return name;
      }
      name = wanted + "-" + std::to_string(number);
    }
  }

  fs::path output_;
  std::vector<PredictInput> inputs_;
  std::set<fs::path> known_;
  std::map<std::pair<std::string, bool>, int> next_number_;
  std::set<std::string> stems_;       // of all that was named so far
  std::set<std::string> file_stems_;  // the same without the frames that an image looks like
};

}  // namespace

bool is_image_name(const std::string& path) {
  static const std::set<std::string> known = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"};
  return known.count(lowered(fs::path(path).extension().string())) != 0;
}

std::vector<PredictInput> find_inputs(const std::vector<std::string>& words, const std::string& output) {
  Inputs inputs(output);
  for (const std::string& word : words) {
    std::error_code error;
    if (fs::exists(word, error)) {
      if (is_folder(word) && inputs.is_output(word))
        throw Error(ErrorKind::kConfig, "the folder to read is the folder to write to", word,
                    "name another one with -o: results would be read as images");
      if (inputs.add(word) == 0) throw Error(ErrorKind::kData, "there is no image or video in this folder", word);
    } else if (has_wildcard(word)) {
      size_t count = 0;
      for (const fs::path& path : match_pattern(word))
        if (is_folder(path) || is_image_name(path.string()) || is_video_name(path.string())) count += inputs.add(path);
      if (count == 0) throw Error(ErrorKind::kData, "no image or video matches this pattern", word);
    } else {
      throw Error(ErrorKind::kData, "there is no such file or folder", word);
    }
  }
  return inputs.take();
}

std::vector<std::string> result_files(const std::vector<PredictInput>& inputs, const std::string& output, bool overlays,
                                      bool confidences) {
  std::vector<std::string> files;
  for (const PredictInput& input : inputs) {
    const fs::path stem = fs::path(output) / input.name;
    const auto add = [&](const std::string& ending) { files.push_back(stem.string() + ending); };
    if (!input.video) {
      add(".png");
      if (overlays) add("_overlay.jpg");
      if (confidences) add("_confidence.png");
      continue;
    }
    for (const std::string ending : {".mp4", ".avi"}) {
      if (overlays) add("_overlay" + ending);
      if (confidences) add("_confidence" + ending);
    }
    const std::string begin = stem.filename().string() + "_";
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(stem.parent_path(), none)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with(begin)) continue;
      const size_t end = std::min(name.find_first_not_of("0123456789", begin.size()), name.size());
      const std::string ending = name.substr(end);
      if (end - begin.size() >= 6 &&
          (ending == ".png" || (overlays && ending == "_overlay.png") || (confidences && ending == "_confidence.png")))
        files.push_back(entry.path().string());
    }
  }
  return files;
}

}  // namespace semiseg
