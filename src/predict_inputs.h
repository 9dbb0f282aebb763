// What `semiseg predict` is to read, and what it calls the results.
#pragma once

#include <string>
#include <vector>

namespace semiseg {

// By its ending.
bool is_image_name(const std::string& path);

struct PredictInput {
  std::string path;
  bool video = false;
  std::string name;  // of the results, below the output folder and without ending: "street", "frankfurt/000001"
};

// Images and videos that the words of the command line name, in order, each once:
//   a file     as it is; its name is the file's
//   a folder   all in it and in its folders, sorted; names keep the folders. Hidden ones and `output` are passed over
//   a pattern  of * ? [] and ** (any number of folders), where no such file exists; sorted
// A name that is taken gets -2, -3, ...: results of several inputs never share a file. Throws Error(kData) where a word names
// nothing, and Error(kConfig) where a result would replace an input.
std::vector<PredictInput> find_inputs(const std::vector<std::string>& words, const std::string& output);

// Files in `output` that the results of these inputs are written to, with or without overlays and confidence maps. How many
// frames a video has is not known beforehand: of those, the ones that are there now.
std::vector<std::string> result_files(const std::vector<PredictInput>& inputs, const std::string& output, bool overlays,
                                      bool confidences);

}  // namespace semiseg
