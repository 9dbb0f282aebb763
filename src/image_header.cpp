#include "image_header.h"

#include <cstdint>
#include <optional>

namespace semiseg {
namespace {

// Numbers at places of a file; 0 beyond its end.
class Bytes {
 public:
  Bytes(std::string_view bytes, bool little) : bytes_(bytes), little_(little) {}

  uint8_t byte(size_t at) const { return at < bytes_.size() ? static_cast<uint8_t>(bytes_[at]) : uint8_t{0}; }
  uint32_t number(size_t at, size_t count) const {
    uint32_t value = 0;
    for (size_t i = 0; i < count; ++i) value = value << 8 | byte(at + (little_ ? count - 1 - i : i));
    return value;
  }

 private:
  std::string_view bytes_;
  bool little_;
};

// The first value of a tag in the first directory of a TIFF file, which is what EXIF is too (TIFF 6.0, section 2).
std::optional<uint32_t> tiff_value(std::string_view tiff, uint32_t tag) {
  const Bytes file(tiff, tiff.substr(0, 2) == "II");
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

void read_jpeg(std::string_view jpeg, ImageHeader& header) {
  const Bytes file(jpeg, /*little=*/false);
  // Segments up to the first scan (ITU T.81, annex B).
  for (size_t at = 2; at + 4 <= jpeg.size() && file.byte(at) == 0xff && file.byte(at + 1) != 0xda;
       at += 2 + file.number(at + 2, 2)) {
    const uint8_t marker = file.byte(at + 1);
    if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc) {
      header.bits = file.byte(at + 4);
      header.H = static_cast<int>(file.number(at + 5, 2));
      header.W = static_cast<int>(file.number(at + 7, 2));
      header.channels = file.byte(at + 9);
    }
    constexpr uint32_t kOrientation = 0x0112;
    if (marker == 0xe1 && jpeg.substr(at + 4, 6) == std::string_view("Exif\0\0", 6))
      header.rotated = tiff_value(jpeg.substr(at + 10), kOrientation).value_or(1) > 1;
  }
}

}  // namespace

ImageHeader read_image_header(std::string_view bytes) {
  ImageHeader header;
  const auto starts = [&](std::string_view magic) { return bytes.substr(0, magic.size()) == magic; };
  const Bytes file(bytes, /*little=*/true);
  if (starts("\x89PNG\r\n\x1a\n")) {
    header.format = "PNG";
    const Bytes big(bytes, /*little=*/false);
    header.W = static_cast<int>(big.number(16, 4));
    header.H = static_cast<int>(big.number(20, 4));
    header.bits = file.byte(24);
    const int colour = file.byte(25);  // 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha
    header.palette = colour == 3;
    header.channels = header.palette ? 1 : 1 + (colour & 2) + (colour & 4) / 4;
  } else if (starts("\xff\xd8\xff")) {
    header.format = "JPEG";
    read_jpeg(bytes, header);
  } else if (starts("BM")) {
    header.format = "BMP";
    const int bits = file.byte(28);  // of a pixel
    header.palette = bits <= 8;
    header.channels = header.palette ? 1 : bits / 8;
    header.bits = header.palette ? bits : 8;
  } else if (starts(std::string_view("II*\0", 4)) || starts(std::string_view("MM\0*", 4))) {
    header.format = "TIFF";
    constexpr uint32_t kBitsPerSample = 258, kPhotometric = 262, kSamplesPerPixel = 277, kPalette = 3;
    header.bits = static_cast<int>(tiff_value(bytes, kBitsPerSample).value_or(1));
    header.channels = static_cast<int>(tiff_value(bytes, kSamplesPerPixel).value_or(1));
    header.palette = tiff_value(bytes, kPhotometric) == kPalette;
  } else if (starts("RIFF") && bytes.substr(8, 4) == "WEBP") {
    header.format = "WebP";
    header.bits = 8;
  }
  return header;
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
  return text;
}

}  // namespace semiseg
