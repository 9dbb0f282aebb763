// The pixels of common PNG files, several times faster than by libpng: inflated in one go by libdeflate.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace semiseg {

// What a walk over the chunks found.
struct PngLayout {
  int64_t height = 0, width = 0;
  int channels = 0;  // as stored; a palette's indices are one channel
  // 8 bits a channel, not interlaced, no transparent colour, and nothing that only libpng knows how to treat.
  bool plain = false;
  bool palette = false;
  std::vector<std::string_view> data;  // the contents of the IDAT chunks
};

// Writes the first `columns` pixels of each of the first `rows` rows, channels as stored, tightly packed. False where the data
// is damaged: libpng finds the same and has the words for it. Each thread keeps two buffers, of a file's and of an image's
// size. REQUIRES: layout.plain; checksums of the chunks are right; 0 < rows <= height, 0 < columns <= width.
bool decode_plain_png(const PngLayout& layout, int64_t rows, int64_t columns, uint8_t* out);

}  // namespace semiseg
