// What is known of each file of a data set, kept between checks, so that only files that changed are read again.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace semiseg {

// One value of a label file: as stored, or 0xRRGGBB of a label that is a picture.
struct ValueCount {
  uint32_t value = 0;
  int64_t pixels = 0;
  int64_t first = 0;  // the first such pixel, counted row by row
};

// What reading a whole image or label shows, whatever the classes are.
struct FileFacts {
  int64_t H = 0, W = 0;
  std::string stored;              // "PNG RGB 8-bit"
  std::string warning;             // of the decoder: data that it passed over
  bool rotated = false;            // EXIF asks viewers to turn or mirror the image
  uint64_t content = 0;            // of an image: hash of its pixels
  double contrast = 0;             // of an image: standard deviation, the largest of the channels, in 0..255
  bool colours = false;            // of a label: values are colours
  std::vector<ValueCount> values;  // of a label, in rising order
};

// An entry belongs to a path, size and time of change. Thread-safe.
class FactsCache {
 public:
  // Reads the file where there is one and `fresh` does not say to begin anew; one that is damaged counts as empty. `path` ""
  // keeps nothing.
  explicit FactsCache(std::string path, bool fresh = false);

  // The facts as kept, or those that `read` gives; throws what it throws, and keeps nothing then.
  FileFacts get(const std::string& file, bool is_label, const std::function<FileFacts()>& read);
  // Writes the cache, without entries of files that are no longer as they were. Throws Error(kDisk).
  void save();

  const std::string& path() const { return path_; }
  int64_t found() const { return found_; }  // how many get() knew from an earlier check
  int64_t read() const { return read_; }

 private:
  struct Stamp {
    uint64_t size = 0;
    int64_t changed_ns = 0;
    bool operator==(const Stamp&) const = default;
  };
  struct Entry {
    Stamp stamp;
    FileFacts facts;
    bool kept = false;  // from an earlier check
  };
  using Key = std::pair<std::string, bool>;  // absolute path, is a label

  static bool stamp_of(const std::string& file, Stamp* stamp);
  void load();

  std::string path_;
  std::mutex mutex_;
  std::map<Key, Entry> entries_;
  int64_t found_ = 0, read_ = 0;
};

// Where the facts of data under `root` are kept: within $XDG_CACHE_HOME/semiseg, else ~/.cache/semiseg; "" where neither is
// known, or without a root.
std::string facts_path(const std::string& root);

}  // namespace semiseg
