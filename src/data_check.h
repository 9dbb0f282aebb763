// The data before training: sizes, classes and copies of its images, and what is wrong or suspicious.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "facts_cache.h"
#include "semiseg/config.h"
#include "semiseg/dataset.h"

namespace semiseg {

enum class Severity {
  kProblem,  // training or evaluation would stop there
  kWarning,  // it would run, and probably not as meant
  kNote,
};

struct Finding {
  Severity severity = Severity::kProblem;
  std::string kind;  // a few words, the same for findings that are alike: "truncated PNG"
  std::string message;
  std::vector<std::string> files;  // all that it is about
};

// What the files of one list hold.
struct SplitFacts {
  using Size = std::pair<int64_t, int64_t>;  // H, W

  int64_t images = 0;
  std::map<Size, int64_t> sizes;           // of readable images
  std::map<std::string, int64_t> stored;   // "PNG RGB 8-bit"; images
  int64_t labels = 0;                      // readable ones
  std::vector<int64_t> pixels, images_of;  // [K] pixels of each class, and in how many images it is
  int64_t ignored = 0;                     // pixels

  int64_t counted() const;                  // pixels of all classes
  double share(int64_t class_index) const;  // of the counted pixels
};

struct DataReport {
  ClassSet classes;
  std::array<SplitFacts, 3> splits;  // by Split
  std::vector<Finding> findings;     // problems first
  int64_t files = 0;                 // images and labels, each once
  bool stopped = false;              // by `stop`: what is told is not all

  const SplitFacts& operator[](Split split) const { return splits[static_cast<size_t>(split)]; }
  int64_t count(Severity severity) const;
};

// Reads every image and label that config.data names, with data.workers threads; what `cache` knows is not read again. Never
// changes data. `progress` (may be empty) is told after each image how many of how many are done, by any thread but one at a
// time; `stop` is asked before each image. Throws what keeps it from knowing the images at all, such as a missing list.
DataReport check_data(const Config& config, FactsCache& cache,
                      const std::function<void(int64_t done, int64_t total)>& progress = {},
                      const std::function<bool()>& stop = {});

}  // namespace semiseg
