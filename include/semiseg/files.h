// Every file a run writes goes through here, so that a kill or a full disk never leaves half a file behind.
// All functions throw Error(kDisk) with the path, the system's reason and, for a full disk, the space needed.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace semiseg {

// Whether a file survives a crash of the machine once it is committed, at the price of waiting for the disk; what can be made
// anew need not.
enum class Durability { kAtOnce, kAfterAWhile };

// A file being written beside its final place: bytes go to `path` + ".tmp-PID"; commit() syncs the file, renames it onto `path`
// and syncs the folder (kAfterAWhile: renames only). Destroyed without commit(), it removes what it wrote. A link stays: what
// it leads to is replaced. What is no regular file (a device, a pipe) and what is this process's stdout is written to at once.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void commit(Durability durability = Durability::kAtOnce);

 private:
  std::string path_, temporary_;  // temporary_: "" where bytes go to path_ at once
  int fd_ = -1;
};

// The same for a file that a library writes by its name: it writes to temporary(), which ends as `path` does, and is done with
// it before commit().
class AtomicPath {
 public:
  explicit AtomicPath(std::string path);
  ~AtomicPath();
  AtomicPath(const AtomicPath&) = delete;
  AtomicPath& operator=(const AtomicPath&) = delete;

  const std::string& temporary() const { return temporary_; }
  void commit();

 private:
  std::string path_, temporary_;
};

void write_file(const std::string& path, std::string_view bytes);  // atomic

// A new file that grows while others read it, such as a log of events. A piece that cannot be written whole is taken back; one
// that a kill of the process interrupts may be left incomplete.
class AppendFile {
 public:
  explicit AppendFile(std::string path);  // throws, too, where there is such a file already
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view bytes);

 private:
  std::string path_;
  int fd_ = -1;
  int64_t size_ = 0;
};

void make_folders(const std::string& path);

// Reads a whole file.
std::string read_file(const std::string& path);

// Absolute, without . and .. and without a slash at its end.
std::string absolute_path(const std::string& path);

void remove_file(const std::string& path);  // one that is not there is no error

// Removes temporary files of killed processes in `folder`.
void remove_stale_temporaries(const std::string& folder);

// Holds an exclusive lock on a run folder for its lifetime; throws Error(kConfig) naming the process that has it.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace semiseg
