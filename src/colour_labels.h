// Labels that are pictures: every class is a colour, and no pixel is taken for a class that has nearly its colour.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "semiseg/types.h"

namespace semiseg {

// 0xRRGGBB -> class index, kIgnore, or kTwoClasses.
using ColourMap = std::unordered_map<uint32_t, int16_t>;
inline constexpr int16_t kTwoClasses = -2;  // have this colour, so it stands for neither

// The colours of a preset or a class file as load_classes takes them; of a file only those that it gives, and those among its
// ignored values. REQUIRES: load_classes(name, ...) does not throw.
ColourMap load_colours(const std::string& name);

// Whether the file is an 8-bit picture of three or four channels; PNG and BMP alone, as JPEG changes colours. Reads only its
// beginning. False for a file that cannot be read.
bool is_colour_label(const std::string& path);

// uint8 [H, W, 3] -> uint8 [H, W] classes. Throws Error(kData) with file, pixel and colour for one that the map does not have.
Tensor map_colours(const Tensor& label_HWC, const ColourMap& colours, const std::string& path);
// The same in words: what is wrong with a colour at a pixel.
std::string bad_colour_text(uint32_t colour, int64_t row, int64_t column, const ColourMap& colours);
inline constexpr const char* kColourHint =
    "colours of classes, and [red, green, blue] under \"ignore\", stand in the class file (data.classes)";

}  // namespace semiseg
