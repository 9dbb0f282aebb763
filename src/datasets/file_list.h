// What the formats that read files share: list files, the entries they name, and the data set made of them.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "colour_labels.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/registry.h"

namespace semiseg {

inline constexpr std::array<Split, 3> kSplits{Split::kLabeled, Split::kUnlabeled, Split::kVal};

struct FileEntry {
  std::string id;            // the image as listed
  std::string image, label;  // paths; no label for an unlabelled image, unless its truth is known
  bool label_ids = false;    // the label holds Cityscapes' labelIds
};

struct FileLists {
  ClassSet classes;
  ColourMap colours;  // of labels that are pictures; empty where the format has none
  std::array<std::vector<FileEntry>, 3> of_split;

  std::vector<FileEntry>& operator[](Split split) { return of_split[static_cast<size_t>(split)]; }
  const std::vector<FileEntry>& operator[](Split split) const { return of_split[static_cast<size_t>(split)]; }
};

// Called for each thing that is wrong with an entry, which is then left out. A data set throws the error; `check` collects it.
using OnProblem = std::function<void(const Error&)>;

// The formats that read files, so that `check` can go on after a broken entry.
Registry<FileLists(const Config&, const OnProblem&)>& file_formats();
// Registers a format here and in datasets().
bool add_file_format(const std::string& name, Registry<FileLists(const Config&, const OnProblem&)>::Factory read);

// "1/8", as opposed to the path of a list.
bool is_fraction(const std::string& text);

// One line of a list: the columns between spaces, tabs or a comma; "..." holds a path with such characters; # starts a comment.
// `where` (file:line) is for messages.
std::vector<std::string> split_list_line(const std::string& line, const std::string& where);

// Reads a list: "image label" a line where it is `labelled`, else "image", whose further column is allowed and never used.
// Paths are relative to `root` unless absolute. Reports, with file and line, what is malformed, missing or listed twice; throws
// Error(kData) when the list cannot be read or is empty. `find_label` may replace a label path by another name of the same
// label.
std::vector<FileEntry> read_list(
    const std::string& list, const std::string& root, Split split, bool labelled, const OnProblem& on_problem,
    const std::function<void(FileEntry&)>& find_label = [](FileEntry&) {});

bool is_file(const std::string& path);

// What the values in an entry's label file stand for, as ClassSet::value_to_class says it.
const std::array<int16_t, 256>& value_map(const FileLists& lists, const FileEntry& entry);
// The label of an entry as classes, from the values in its file. Throws Error(kData).
Tensor read_label(const FileLists& lists, const FileEntry& entry, const Tensor& values_HW);
// Throws Error(kData) naming both files and sizes where the image is not of its label's size.
void check_same_size(const FileEntry& entry, int64_t H, int64_t W, int64_t label_H, int64_t label_W);

// Images that two splits share, by path.
struct Overlap {
  Split first, second;
  int64_t count = 0;
  std::string example;
};
std::vector<Overlap> find_overlaps(const FileLists& lists);
std::string overlap_text(const Overlap& overlap);

}  // namespace semiseg
