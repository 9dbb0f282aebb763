// Words that users write: "did you mean", and in whatever case.
#pragma once

#include <string>
#include <vector>

namespace semiseg {

// The known word that is closest to `word` by edit distance, whatever the case of letters, or "" where none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& known);

// ASCII letters in lower case.
std::string lowered(std::string text);

}  // namespace semiseg
