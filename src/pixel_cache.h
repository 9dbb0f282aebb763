// Decoded images and labels on disk (data.cache), memory-mapped: a file is decoded once, not once an epoch.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>

#include "semiseg/types.h"

namespace semiseg {

enum class CachedKind : uint32_t { kLabel, kImage, kReducibleImage };

struct CachedPixels {
  CachedKind kind = CachedKind::kLabel;
  Tensor pixels;  // uint8 [H, W] or [H, W, 3]
};

// An entry belongs to a source file's path, size and time of change, and carries a checksum, which is compared when this
// process reads the entry first. One that does not match is made anew, and the log says so in a line. Entries appear by rename,
// so processes may share a folder. Where nothing can be written (a full disk, no permission) the log says so once, and what is
// there is still read. Thread-safe.
class PixelCache {
 public:
  // Makes the folder. Throws Error(kDisk) where it cannot.
  explicit PixelCache(std::string folder);

  // The pixels of the file as cached, or those that `decode` gives, which are then stored. Throws what `decode` throws.
  // Images and labels are apart, so that one file may serve as both. Mapped pixels may be written to: that changes neither the
  // file nor later readings.
  CachedPixels get(const std::string& path, bool is_label, const std::function<CachedPixels()>& decode);

 private:
  struct Source;
  struct FileId {
    uint64_t inode = 0;
    int64_t changed_ns = 0;
    bool operator==(const FileId&) const = default;
  };

  std::string entry_of(const Source& source) const;
  CachedPixels find(const Source& source, const std::string& entry);
  void store(const Source& source, const std::string& entry, const CachedPixels& pixels);

  const std::string folder_;
  std::atomic<bool> writable_ = true;
  std::mutex mutex_;
  std::unordered_map<std::string, FileId> verified_;  // entries whose checksum was right
  std::set<std::string> in_work_;                     // entries that some thread is writing
};

}  // namespace semiseg
