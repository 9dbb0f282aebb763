// What the settings mean together: which are read, and which contradict each other.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "config/text.h"
#include "semiseg/config.h"

namespace semiseg {

// A setting that nothing reads because of the values of others.
struct Unread {
  Names deciding;       // the keys that make it so
  std::string because;  // "" where the setting is read
};
Unread unread(const Config& config, const std::string& key);

// The layer that set a key, counted from 1; 0 where it has its default.
int layer_of(const Config& config, const std::string& key);
// Back to the default.
void reset(Config& config, const std::string& key);
// Throws Error(kConfig) at the place where `key` was set.
[[noreturn]] void contradict(const Config& config, const std::string& key, const std::string& what, const std::string& hint);

// numerator / denominator of text such as "1/8".
std::optional<std::pair<int64_t, int64_t>> parse_fraction(const std::string& text);

// Sets back what a later layer made useless and throws Error(kConfig) for what is useless or contrary in one layer.
// `text_layer`: as in paths.h.
void check_together(Config& config, int text_layer);

}  // namespace semiseg
