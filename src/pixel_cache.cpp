#include "pixel_cache.h"

#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <libdeflate.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>

#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/log.h"
#include "semiseg/random.h"

namespace semiseg {

// The file that an entry is of, as it is now.
struct PixelCache::Source {
  std::string path;  // absolute
  bool is_label = false;
  uint64_t size = 0;
  int64_t changed_ns = 0;
};

namespace {

constexpr char kMagic[8] = {'s', 'e', 'm', 'i', 's', 'e', 'g', '1'};
constexpr size_t kAlignment = 64;

// Begins an entry; the source's path follows, then, aligned, the pixels. Numbers are in the machine's byte order: on one of the
// other order, `header_checksum` is wrong.
struct Header {
  char magic[8] = {};
  uint64_t source_size = 0;
  int64_t source_changed_ns = 0;
  int64_t H = 0, W = 0;
  uint32_t kind = 0;
  uint32_t path_bytes = 0;
  uint32_t pixels_checksum = 0;
  uint32_t header_checksum = 0;  // of the header with 0 here, and of the path
};
static_assert(sizeof(Header) == 56);

uint32_t checksum(const void* data, size_t bytes, uint32_t before = 0) { return libdeflate_crc32(before, data, bytes); }

uint32_t header_checksum(Header header, std::string_view path) {
  header.header_checksum = 0;
  return checksum(path.data(), path.size(), checksum(&header, sizeof(header)));
}

size_t pixels_begin(size_t path_bytes) { return (sizeof(Header) + path_bytes + kAlignment - 1) / kAlignment * kAlignment; }

int64_t nanoseconds(const timespec& time) { return int64_t{1'000'000'000} * time.tv_sec + time.tv_nsec; }

// A file in memory; written to, only the memory changes.
class Mapping {
 public:
  Mapping(int fd, size_t bytes)
      : bytes_(bytes), data_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0)) {}
  ~Mapping() {
    if (ok()) ::munmap(data_, bytes_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  bool ok() const { return data_ != MAP_FAILED; }
  char* data() const { return static_cast<char*>(data_); }

 private:
  size_t bytes_;
  void* data_;
};

struct Descriptor {
  int fd = -1;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

// Whether a file is an entry that is not complete: other files may lie in the folder.
bool is_temporary(std::string_view name) {
  constexpr size_t kDigits = 16;
  const std::string_view rest = name.substr(std::min(kDigits, name.size()));
  return name.find_first_not_of("0123456789abcdef") == kDigits &&
         (rest.starts_with(".image.tmp-") || rest.starts_with(".label.tmp-"));
}

// Files of killed processes: one that is still written to is younger.
void remove_old_temporaries(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  const auto an_hour_ago = fs::file_time_type::clock::now() - std::chrono::hours(1);
  for (const auto& file : fs::directory_iterator(folder, error)) {
    if (!is_temporary(file.path().filename().string())) continue;
    const auto changed = fs::last_write_time(file.path(), error);
    if (!error && changed < an_hour_ago) fs::remove(file.path(), error);
  }
}

}  // namespace

PixelCache::PixelCache(std::string folder) : folder_(std::move(folder)) {
  make_folders(folder_);
  remove_old_temporaries(folder_);
}

CachedPixels PixelCache::get(const std::string& path, bool is_label, const std::function<CachedPixels()>& decode) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return decode();  // which says what is wrong with it
  const Source source{absolute_path(path), is_label, static_cast<uint64_t>(info.st_size), nanoseconds(info.st_mtim)};
  const std::string entry = entry_of(source);
  CachedPixels found = find(source, entry);
  if (found.pixels.defined()) return found;
  found = decode();
  if (writable_) store(source, entry, found);
  return found;
}

std::string PixelCache::entry_of(const Source& source) const {
  return folder_ +
         format("/%016llx.%s", static_cast<unsigned long long>(hash_name(source.path)), source.is_label ? "label" : "image");
}

CachedPixels PixelCache::find(const Source& source, const std::string& entry) {
  const Descriptor file{::open(entry.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat info {};
  if (file.fd < 0 || ::fstat(file.fd, &info) != 0) return {};
  const auto bytes = static_cast<size_t>(info.st_size);
  const auto damaged = [&] {
    log_warning(str("cache entry ", entry, " is damaged; made anew from ", source.path));
    return CachedPixels{};
  };
  if (bytes < sizeof(Header)) return damaged();
  const auto mapping = std::make_shared<Mapping>(file.fd, bytes);
  if (!mapping->ok()) return {};

  Header header;
  std::memcpy(&header, mapping->data(), sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0 || header.path_bytes > bytes - sizeof(header)) return damaged();
  const std::string_view path(mapping->data() + sizeof(header), header.path_bytes);
  if (header_checksum(header, path) != header.header_checksum) return damaged();
  if (path != source.path || header.source_size != source.size || header.source_changed_ns != source.changed_ns) {
    log_info(str("cache entry ", entry, " is out of date; made anew from ", source.path));
    return {};
  }
  const int64_t channels = source.is_label ? 1 : 3;
  char* pixels = mapping->data() + pixels_begin(header.path_bytes);
  const auto count = static_cast<size_t>(header.H * header.W * channels);
  if (bytes != pixels_begin(header.path_bytes) + count) return damaged();

  const FileId id{info.st_ino, nanoseconds(info.st_mtim)};
  bool verified = false;
  {
    const std::lock_guard lock(mutex_);
    const auto known = verified_.find(entry);
    verified = known != verified_.end() && known->second == id;
  }
  if (!verified) {
    if (checksum(pixels, count) != header.pixels_checksum) return damaged();
    const std::lock_guard lock(mutex_);
    verified_[entry] = id;
  }
  const std::vector<int64_t> shape =
      source.is_label ? std::vector<int64_t>{header.H, header.W} : std::vector<int64_t>{header.H, header.W, channels};
  return {static_cast<CachedKind>(header.kind), at::from_blob(
                                                    pixels, shape, [mapping](void*) {}, at::TensorOptions().dtype(at::kByte))};
}

void PixelCache::store(const Source& source, const std::string& entry, const CachedPixels& pixels) {
  {
    const std::lock_guard lock(mutex_);
    if (!in_work_.insert(entry).second) return;
  }
  const std::shared_ptr<void> at_end(nullptr, [&](void*) {
    const std::lock_guard lock(mutex_);
    in_work_.erase(entry);
  });
  try {
    const Tensor packed = pixels.pixels.contiguous();
    const auto count = static_cast<size_t>(packed.numel());
    Header header;
    std::memcpy(header.magic, kMagic, sizeof(kMagic));
    header.source_size = source.size;
    header.source_changed_ns = source.changed_ns;
    header.H = packed.size(0);
    header.W = packed.size(1);
    header.kind = static_cast<uint32_t>(pixels.kind);
    header.path_bytes = static_cast<uint32_t>(source.path.size());
    header.pixels_checksum = checksum(packed.const_data_ptr<uint8_t>(), count);
    header.header_checksum = header_checksum(header, source.path);
    std::string start(pixels_begin(source.path.size()), '\0');
    std::memcpy(start.data(), &header, sizeof(header));
    std::memcpy(start.data() + sizeof(header), source.path.data(), source.path.size());
    AtomicFile file(entry);
    file.write(start.data(), start.size());
    file.write(packed.const_data_ptr<uint8_t>(), count);
    file.commit(Durability::kAfterAWhile);
  } catch (const Error& error) {
    if (writable_.exchange(false))
      log_warning(
          str("data.cache takes no more entries: ", error.what(), "; images that are not there are decoded every time"));
  }
}

}  // namespace semiseg
