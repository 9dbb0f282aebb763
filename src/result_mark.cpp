#include "result_mark.h"

#include <libdeflate.h>

#include <fstream>
#include <string_view>

namespace semiseg {
namespace {

// PNG specification, sections 5 and 11.3.4: a chunk is the length of its content, its type, the content, and their CRC; this
// one's content is a keyword, NUL, and a text.
constexpr std::string_view kSignature("\x89PNG\r\n\x1a\n", 8), kMark("tEXtSoftware\0semiseg", 20);
constexpr size_t kTypeBytes = 4;

void mark_png(std::vector<uint8_t>& png) {
  constexpr size_t kBehindHeader = 8 + 12 + 13;  // signature, IHDR
  std::vector<uint8_t> chunk;
  const auto add_number = [&](uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) chunk.push_back(static_cast<uint8_t>(value >> shift));
  };
  add_number(static_cast<uint32_t>(kMark.size() - kTypeBytes));
  chunk.insert(chunk.end(), kMark.begin(), kMark.end());
  add_number(libdeflate_crc32(0, kMark.data(), kMark.size()));
  png.insert(png.begin() + kBehindHeader, chunk.begin(), chunk.end());
}

bool is_marked_png(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes(kSignature.size(), '\0');
  const auto read = [&](size_t count) {
    bytes.resize(count);
    return static_cast<bool>(file.read(bytes.data(), static_cast<std::streamsize>(count)));
  };
  if (!read(kSignature.size()) || bytes != kSignature) return false;
  while (read(4 + kTypeBytes)) {
    uint32_t length = 0;
    for (size_t i = 0; i < 4; ++i) length = length << 8 | static_cast<uint8_t>(bytes[i]);
    const std::string type = bytes.substr(4);
    if (type == "IDAT") return false;
    if (type == kMark.substr(0, kTypeBytes) && length == kMark.size() - kTypeBytes) {
      if (!read(length)) return false;
      if (bytes == kMark.substr(kTypeBytes)) return true;
      length = 0;
    }
    constexpr std::streamoff kCrc = 4;
    file.seekg(static_cast<std::streamoff>(length) + kCrc, std::ios::cur);
  }
  return false;
}

// JPEG (ITU T.81, annex B): segments of FF, a letter, and a length of two bytes that counts itself; pixels begin with FF DA.
constexpr std::string_view kComment("\xff\xfe\0\x09semiseg", 11);
constexpr size_t kStart = 2, kSegmentHead = 4;

void mark_jpeg(std::vector<uint8_t>& jpeg) {
  size_t behind = kStart;
  if (jpeg.size() > kStart + kSegmentHead && jpeg[2] == 0xff && jpeg[3] == 0xe0)  // JFIF's own segment comes first
    behind += 2 + static_cast<size_t>(jpeg[4] << 8 | jpeg[5]);
  jpeg.insert(jpeg.begin() + static_cast<std::ptrdiff_t>(behind), kComment.begin(), kComment.end());
}

bool is_marked_jpeg(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes(kStart, '\0');
  if (!file.read(bytes.data(), kStart) || bytes != "\xff\xd8") return false;
  for (;;) {
    bytes.resize(kSegmentHead);
    if (!file.read(bytes.data(), kSegmentHead) || bytes[0] != '\xff' || bytes[1] == '\xda') return false;
    const size_t length = static_cast<size_t>(static_cast<uint8_t>(bytes[2]) << 8 | static_cast<uint8_t>(bytes[3]));
    if (length < 2) return false;
    std::string content(length - 2, '\0');
    if (!file.read(content.data(), static_cast<std::streamsize>(content.size()))) return false;
    if (bytes + content == kComment) return true;
  }
}

}  // namespace

bool has_mark(const std::string& extension) { return extension == ".png" || extension == ".jpg"; }

void mark_result(const std::string& extension, std::vector<uint8_t>& bytes) {
  if (extension == ".png")
    mark_png(bytes);
  else
    mark_jpeg(bytes);
}

bool is_marked(const std::string& path) { return path.ends_with(".png") ? is_marked_png(path) : is_marked_jpeg(path); }

}  // namespace semiseg
