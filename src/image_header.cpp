#include "image_header.h"

#include <algorithm>
#include <cstdint>
#include <optional>

#include "semiseg/error.h"

namespace semiseg {
namespace {

// The bytes of a file, held in memory or read a block at a time: headers are asked for in many small pieces close together.
class Source {
 public:
  explicit Source(std::string_view whole) : held_(whole) {}
  explicit Source(std::istream& file) : file_(&file) {}

  // Zeros beyond the end.
  std::string text(size_t at, size_t count) {
    if (file_ != nullptr && (at < begin_ || at + count > begin_ + held_.size())) read(at, count);
    std::string text(count, '\0');
    if (at >= begin_ && at - begin_ < held_.size()) held_.substr(at - begin_, count).copy(text.data(), count);
    return text;
  }

 private:
  void read(size_t at, size_t count) {
    constexpr size_t kBlock = 4096;
    block_.resize(std::max(count, kBlock));
    file_->clear();
    file_->seekg(static_cast<std::streamoff>(at));
    file_->read(block_.data(), static_cast<std::streamsize>(block_.size()));
    held_ = std::string_view(block_).substr(0, static_cast<size_t>(file_->gcount()));
    begin_ = at;
  }

  std::istream* file_ = nullptr;
  std::string block_;
  std::string_view held_;  // what stands at begin_
  size_t begin_ = 0;
};

// Numbers and text at places of a file, or of the part that begins at `begin`; 0 beyond its end.
class Bytes {
 public:
  Bytes(Source& file, bool little, size_t begin = 0) : file_(file), little_(little), begin_(begin) {}

  std::string text(size_t at, size_t count) const { return file_.text(begin_ + at, count); }
  uint8_t byte(size_t at) const { return static_cast<uint8_t>(text(at, 1)[0]); }
  uint32_t number(size_t at, size_t count) const {
    const std::string bytes = text(at, count);
    uint32_t value = 0;
    for (size_t i = 0; i < count; ++i) value = value << 8 | static_cast<uint8_t>(bytes[little_ ? count - 1 - i : i]);
    return value;
  }

 private:
  Source& file_;
  bool little_;
  size_t begin_;
};

// The first value of a tag in the first directory of a TIFF file, which is what EXIF is too (TIFF 6.0, section 2).
std::optional<uint32_t> tiff_value(Source& source, size_t begin, uint32_t tag) {
  const Bytes file(source, source.text(begin, 2) == "II", begin);
  const size_t directory = file.number(4, 4);
  for (size_t entry = directory + 2, left = file.number(directory, 2); left > 0; --left, entry += 12) {
    if (file.number(entry, 2) != tag) continue;
    constexpr uint32_t kShort = 3;
    if (file.number(entry + 2, 2) != kShort) return file.number(entry + 8, 4);
    // Up to two numbers of 16 bits stand in the entry itself.
    const bool within = file.number(entry + 4, 4) <= 2;
    return file.number(within ? entry + 8 : file.number(entry + 8, 4), 2);
  }
  return std::nullopt;
}

void read_jpeg(Source& source, ImageHeader& header) {
  const Bytes file(source, /*little=*/false);
  // Segments up to the first scan (ITU T.81, annex B).
  for (size_t at = 2; file.byte(at) == 0xff && file.byte(at + 1) != 0xda; at += 2 + file.number(at + 2, 2)) {
    const uint8_t marker = file.byte(at + 1);
    if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc) {
      header.bits = file.byte(at + 4);
      header.H = static_cast<int>(file.number(at + 5, 2));
      header.W = static_cast<int>(file.number(at + 7, 2));
      header.channels = file.byte(at + 9);
    }
    constexpr uint32_t kOrientation = 0x0112;
    if (marker == 0xe1 && file.text(at + 4, 6) == std::string_view("Exif\0\0", 6))
      header.rotated = tiff_value(source, at + 10, kOrientation).value_or(1) > 1;
  }
}

// Of its info header, or of the older core header.
void read_bmp(const Bytes& file, ImageHeader& header) {
  const size_t info = file.number(14, 4);
  const bool core = info == 12;
  const int bits = static_cast<int>(file.number(core ? 24 : 28, 2));  // of a pixel
  header.bits = std::min(bits, 8);
  header.channels = bits <= 8 ? 1 : bits / 8;
  header.palette = bits < 8;
  if (bits != 8) return;
  const size_t entry = core ? 3 : 4, used = core ? 0 : file.number(46, 4),
               entries = used == 0 ? 256 : std::min<size_t>(used, 256);
  const std::string colours = file.text(14 + info, entry * entries);
  for (size_t i = 0; i < entries; ++i)
    for (size_t c = 0; c < 3; ++c) header.palette = header.palette || static_cast<uint8_t>(colours[entry * i + c]) != i;
}

ImageHeader read_header(Source source) {
  ImageHeader header;
  const Bytes file(source, /*little=*/true);
  const std::string start = file.text(0, 12);
  const auto starts = [&](std::string_view magic) { return start.starts_with(magic); };
  if (starts("\x89PNG\r\n\x1a\n")) {
    header.format = "PNG";
    const Bytes big(source, /*little=*/false);
    header.W = static_cast<int>(big.number(16, 4));
    header.H = static_cast<int>(big.number(20, 4));
    header.bits = file.byte(24);
    const int colour = file.byte(25);  // 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha
    header.palette = colour == 3;
    header.channels = header.palette ? 1 : 1 + (colour & 2) + (colour & 4) / 4;
  } else if (starts("\xff\xd8\xff")) {
    header.format = "JPEG";
    read_jpeg(source, header);
  } else if (starts("BM")) {
    header.format = "BMP";
    read_bmp(file, header);
  } else if (starts(std::string_view("II*\0", 4)) || starts(std::string_view("MM\0*", 4))) {
    header.format = "TIFF";
    constexpr uint32_t kBitsPerSample = 258, kPhotometric = 262, kSamplesPerPixel = 277, kWhiteIsZero = 0, kPalette = 3;
    const auto value = [&](uint32_t tag) { return tiff_value(source, 0, tag); };
    header.bits = static_cast<int>(value(kBitsPerSample).value_or(1));
    header.channels = static_cast<int>(value(kSamplesPerPixel).value_or(1));
    header.palette = value(kPhotometric) == kPalette;
    header.inverted = value(kPhotometric) == kWhiteIsZero;
  } else if (starts("RIFF") && start.substr(8) == "WEBP") {
    header.format = "WebP";
    header.bits = 8;
  }
  return header;
}

}  // namespace

ImageHeader read_image_header(std::string_view bytes) { return read_header(Source(bytes)); }

ImageHeader read_image_header(std::istream& file) { return read_header(Source(file)); }

void require_readable(const ImageHeader& header, const std::string& path) {
  const int channels = header.channels, bits = header.bits;
  const bool readable = channels >= 1 && channels <= 4 && (bits == 8 || bits == 16 || (bits == 1 && channels == 1));
  if (header.format == "TIFF" && !readable)
    throw Error(ErrorKind::kData, "TIFF with " + counted(channels, "channel") + " of " + counted(bits, "bit"), path,
                "1 to 4 channels of 8 or 16 bits are read");
}

std::string ImageHeader::text() const {
  std::string text = format.empty() ? "unknown format" : format;
  constexpr const char* kChannels[] = {"", " grey", " grey+alpha", " RGB", " RGBA"};
  if (palette)
    text += " palette";
  else if (channels >= 0 && channels <= 4)
    text += kChannels[channels];
  else
    text += " " + std::to_string(channels) + " channels";
  if (bits > 0) text += " " + std::to_string(bits) + "-bit";
  if (inverted) text += ", 0 is white";
  return text;
}

}  // namespace semiseg
