// The mark of pictures that are results, by which they are told from a user's own when they are made anew.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace semiseg {

// Whether pictures with this ending (".png", ".jpg") carry a mark.
bool has_mark(const std::string& extension);
// Puts "Software: semiseg" (a tEXt chunk) behind the header of a PNG, "semiseg" (a comment) behind that of a JPEG. REQUIRES:
// has_mark(extension), and `bytes` is a whole file.
void mark_result(const std::string& extension, std::vector<uint8_t>& bytes);
// Whether a file has this mark before its pixels. False, too, where it cannot be read.
bool is_marked(const std::string& path);

}  // namespace semiseg
