// "did you mean".
#pragma once

#include <string>
#include <vector>

namespace semiseg {

// The known word that is closest to `word` by edit distance, or "" where none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& known);

}  // namespace semiseg
