// What an image file says of itself, before any pixel is decoded.
#pragma once

#include <istream>
#include <string>
#include <string_view>

namespace semiseg {

struct ImageHeader {
  std::string format;     // PNG, JPEG, BMP, TIFF or WebP; "" for what is none of them
  int H = 0, W = 0;       // as stored; 0 where the bytes do not say
  int channels = 0;       // as stored, 1 of a palette; 0 where the header does not say
  int bits = 0;           // of a channel; 0 where the header does not say
  bool palette = false;   // not where a BMP's is that of 8-bit grey
  bool inverted = false;  // TIFF: 0 is white, which decoders turn round
  bool rotated = false;   // EXIF asks viewers to turn or mirror the image

  std::string text() const;  // "PNG RGB 8-bit"
};

// Reads of the file what is needed, wherever it stands. Never throws: of a damaged file it tells what is there.
ImageHeader read_image_header(std::istream& file);
ImageHeader read_image_header(std::string_view bytes);

// Throws Error(kData) for a TIFF of more channels, or of other bits, than the decoder takes.
void require_readable(const ImageHeader& header, const std::string& path);

}  // namespace semiseg
