// TIFF files of any number of channels and bits, which OpenCV does not write.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace semiseg {

// Little-endian and uncompressed, with the directory behind the pixels, where most programs write it (TIFF 6.0). `photometric`:
// 0 grey with white as 0, 1 grey, 2 RGB, 3 palette.
inline std::string tiff(uint32_t H, uint32_t W, uint32_t channels, uint32_t bits, uint32_t photometric,
                        std::string pixels = "") {
  pixels.resize(H * ((W * channels * bits + 7) / 8));
  std::string bytes("II*\0", 4);
  const auto put = [&](uint32_t value, int count) {
    for (int i = 0; i < count; ++i) bytes += static_cast<char>(value >> 8 * i);
  };
  constexpr uint32_t kShort = 3, kLong = 4, kPixels = 8;
  const uint32_t directory = kPixels + static_cast<uint32_t>(pixels.size());
  put(directory, 4);
  bytes += pixels;
  std::vector<std::array<uint32_t, 4>> entries{// tag, type, count, value or place
                                               {256, kLong, 1, W},
                                               {257, kLong, 1, H},
                                               {258, kShort, channels, bits},
                                               {259, kShort, 1, 1},
                                               {262, kShort, 1, photometric},
                                               {273, kLong, 1, kPixels},
                                               {277, kShort, 1, channels},
                                               {278, kLong, 1, H},
                                               {279, kLong, 1, static_cast<uint32_t>(pixels.size())}};
  if (channels == 2) entries[2][3] = bits | bits << 16;
  if (channels > 2) entries[2][3] = directory + 2 + 12 * static_cast<uint32_t>(entries.size()) + 4;  // behind the directory
  put(static_cast<uint32_t>(entries.size()), 2);
  for (const auto& [tag, type, count, value] : entries) put(tag, 2), put(type, 2), put(count, 4), put(value, 4);
  put(0, 4);
  if (channels > 2)
    for (uint32_t c = 0; c < channels; ++c) put(bits, 2);
  return bytes;
}

}  // namespace semiseg
