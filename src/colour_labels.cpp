#include "colour_labels.h"

#include <ATen/ATen.h>

#include <array>
#include <fstream>

#include "image_header.h"
#include "semiseg/error.h"

namespace semiseg {

bool is_colour_label(const std::string& path) {
  std::array<char, 64> start{};
  std::ifstream file(path, std::ios::binary);
  file.read(start.data(), start.size());
  const ImageHeader header = read_image_header({start.data(), static_cast<size_t>(file.gcount())});
  return (header.format == "PNG" || header.format == "BMP") && header.channels >= 3 && header.bits == 8;
}

std::string bad_colour_text(uint32_t colour, int64_t row, int64_t column, const ColourMap& colours) {
  const uint32_t red = colour >> 16, green = colour >> 8 & 255, blue = colour & 255;
  std::string text = str("colour [", red, ", ", green, ", ", blue, "] at row ", row, ", column ", column);
  const auto found = colours.find(colour);
  if (found != colours.end() && found->second == kTwoClasses) return text + " is that of two classes";
  text += " is that of no class";
  // A label of class indices that was saved in three channels.
  if (red == green && green == blue && red < 32) text += " (class indices belong into a PNG of one channel)";
  return text;
}

Tensor map_colours(const Tensor& label_HWC, const ColourMap& colours, const std::string& path) {
  const Tensor label = label_HWC.contiguous();
  const int64_t H = label.size(0), W = label.size(1);
  Tensor class_HW = at::empty({H, W}, at::TensorOptions().dtype(at::kByte));
  const uint8_t* pixel = label.const_data_ptr<uint8_t>();
  uint8_t* classes = class_HW.data_ptr<uint8_t>();
  // Neighbours mostly have one colour.
  uint32_t last_colour = 0;
  int16_t last_class = -1;
  for (int64_t i = 0; i < H * W; ++i, pixel += 3) {
    const uint32_t colour = static_cast<uint32_t>(pixel[0]) << 16 | static_cast<uint32_t>(pixel[1]) << 8 | pixel[2];
    if (colour != last_colour || last_class < 0) {
      const auto found = colours.find(colour);
      if (found == colours.end() || found->second < 0)
        throw Error(ErrorKind::kData, bad_colour_text(colour, i / W, i % W, colours), path, kColourHint);
      last_colour = colour;
      last_class = found->second;
    }
    classes[i] = static_cast<uint8_t>(last_class);
  }
  return class_HW;
}

}  // namespace semiseg
