#include "semiseg/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <random>
#include <utility>

#include "semiseg/error.h"

namespace semiseg {
namespace {

constexpr const char* kTemporary = ".tmp-";
constexpr int kMostLinks = 40;  // from one to the next, as the system follows them

[[noreturn]] void fail(const std::string& action, const std::string& path, int error) {
  const char* hint = "";
  if (error == ENOSPC || error == EDQUOT) hint = "free space on this disk; nothing already written is lost";
  if (error == EACCES || error == EPERM || error == EROFS)
    hint = "check who may read and write there, or choose another folder";
  throw Error(ErrorKind::kDisk, "cannot " + action + ": " + std::strerror(error), path, hint);
}

std::string folder_of(const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

// A rename is durable only when the folder that holds the name is synced too.
void sync_folder(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail("open the folder", folder, errno);
  const int result = ::fsync(fd), error = errno;
  ::close(fd);
  if (result != 0 && error != EINVAL) fail("sync the folder", folder, error);
}

struct FailedWrite {
  size_t bytes;  // that were still to be written
  int error;
};

std::optional<FailedWrite> write_all(int fd, const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(fd, at, bytes);
    if (written < 0) {
      if (errno == EINTR) continue;
      return FailedWrite{bytes, errno};
    }
    at += written;
    bytes -= static_cast<size_t>(written);
  }
  return std::nullopt;
}

// Two processes that share a folder may have one number: each is the first of its container, say.
std::string temporary_name(const std::string& path) {
  static const std::string drawn = std::to_string(std::random_device{}());
  return path + kTemporary + std::to_string(::getpid()) + drawn;
}

}  // namespace

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  struct stat there {};
  struct stat out {};
  const bool exists = ::stat(path_.c_str(), &there) == 0;
  if (exists && ::fstat(STDOUT_FILENO, &out) == 0 && there.st_dev == out.st_dev && there.st_ino == out.st_ino) {
    std::fflush(stdout);
    fd_ = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);  // opened anew, it would write over what it holds
  } else if (exists && !S_ISREG(there.st_mode) && !S_ISDIR(there.st_mode)) {
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    namespace fs = std::filesystem;
    for (int link = 0; link < kMostLinks; ++link) {
      std::error_code error;
      const fs::path target = fs::read_symlink(path_, error);
      if (error) break;  // no link
      path_ = (fs::path(path_).parent_path() / target).string();
    }
    temporary_ = temporary_name(path_);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  }
  if (fd_ < 0) fail("create the file", path_, errno);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t bytes) {
  if (const auto failed = write_all(fd_, data, bytes)) fail(str("write ", failed->bytes, " bytes"), path_, failed->error);
}

void AtomicFile::commit(Durability durability) {
  if (temporary_.empty()) {
    if (::close(std::exchange(fd_, -1)) != 0) fail("write the file", path_, errno);
    return;
  }
  if (durability == Durability::kAtOnce && ::fsync(fd_) != 0) fail("sync the file", path_, errno);
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    fail("put the file in its place", path_, error);
  }
  if (durability == Durability::kAtOnce) sync_folder(folder_of(path_));
}

AtomicPath::AtomicPath(std::string path)
    : path_(std::move(path)), temporary_(temporary_name(path_) + std::filesystem::path(path_).extension().string()) {}

AtomicPath::~AtomicPath() { ::unlink(temporary_.c_str()); }

void AtomicPath::commit() {
  const int fd = ::open(temporary_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("open the file", path_, errno);
  const int synced = ::fsync(fd), error = errno;
  ::close(fd);
  if (synced != 0) fail("sync the file", path_, error);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("put the file in its place", path_, errno);
  sync_folder(folder_of(path_));
}

AppendFile::AppendFile(std::string path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("create the file", path_, errno);
}

AppendFile::~AppendFile() { ::close(fd_); }

void AppendFile::append(std::string_view bytes) {
  if (const auto failed = write_all(fd_, bytes.data(), bytes.size())) {
    if (::ftruncate(fd_, size_) != 0) fail("take back what was written to the file", path_, errno);
    fail(str("write ", failed->bytes, " bytes"), path_, failed->error);
  }
  size_ += static_cast<int64_t>(bytes.size());
}

void write_file(const std::string& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
}

void make_folders(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) fail("create the folder", path, error.value());
}

std::string read_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("open the file", path, errno);
  struct stat info {};
  if (::fstat(fd, &info) != 0 || S_ISDIR(info.st_mode)) {
    ::close(fd);
    fail("read the file", path, EISDIR);
  }
  std::string bytes(static_cast<size_t>(info.st_size) + 1, '\0');  // the extra byte meets the end of the file
  size_t filled = 0;
  for (;;) {
    if (filled == bytes.size()) bytes.resize(bytes.size() + 4096);  // grew since, or a pipe
    const ssize_t got = ::read(fd, bytes.data() + filled, bytes.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const int error = errno;
      ::close(fd);
      fail("read the file", path, error);
    }
    if (got == 0) break;
    filled += static_cast<size_t>(got);
  }
  ::close(fd);
  bytes.resize(filled);
  return bytes;
}

std::string absolute_path(const std::string& path) {
  const auto whole = std::filesystem::absolute(path).lexically_normal();
  return (whole.has_filename() ? whole : whole.parent_path()).string();
}

void remove_file(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) fail("remove the file", path, errno);
}

void remove_stale_temporaries(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    if (entry.path().filename().string().find(kTemporary) != std::string::npos) std::filesystem::remove(entry.path(), error);
}

FolderLock::FolderLock(const std::string& folder) {
  const std::string path = folder + "/.lock";
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("create the lock", path, errno);
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    char owner[32] = {};
    const ssize_t length = ::read(fd_, owner, sizeof(owner) - 1);
    ::close(fd_);
    fd_ = -1;
    throw Error(ErrorKind::kConfig, str("the run folder is in use by process ", length > 0 ? owner : "?"), folder,
                "wait for that process or stop it");
  }
  const std::string pid = std::to_string(::getpid());
  if (::ftruncate(fd_, 0) != 0 || ::write(fd_, pid.data(), pid.size()) < 0) {
    const int error = errno;
    ::close(fd_);
    fail("write the lock", path, error);
  }
}

FolderLock::~FolderLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace semiseg
