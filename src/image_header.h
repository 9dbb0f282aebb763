// What an image file says of itself, before any pixel is decoded.
#pragma once

#include <string>
#include <string_view>

namespace semiseg {

struct ImageHeader {
  std::string format;  // PNG, JPEG, BMP, TIFF or WebP; "" for what is none of them
  int H = 0, W = 0;    // as stored; 0 where the bytes do not say
  int channels = 0;    // as stored, 1 of a palette; 0 where the header does not say
  int bits = 0;        // of a channel; 0 where the header does not say
  bool palette = false;
  bool rotated = false;  // EXIF asks viewers to turn or mirror the image

  std::string text() const;  // "PNG RGB 8-bit"
};

// Never throws: of a damaged file it tells what is there.
ImageHeader read_image_header(std::string_view bytes);

}  // namespace semiseg
