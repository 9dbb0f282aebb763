// status.json, for those who look at runs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace semiseg {

// What an older version did not write, or wrote as another type, is nothing, 0 or "".
struct RunStatus {
  std::string state, phase, message;
  int64_t epoch = 0, step = 0, total_steps = 0;
  std::optional<int64_t> total_epochs;
  int64_t images = 0, of = 0;  // of the evaluation or the pseudo-labelling in hand
  std::optional<double> seconds_left, images_per_s, data_wait, lr, loss, loss_supervised, loss_unsupervised;
  int64_t pid = 0;
  std::string host;
  std::optional<int64_t> active, updated;  // seconds since 1970
};

// Reads status.json's text; nothing where it is no status.
std::optional<RunStatus> parse_status(const std::string& json);

}  // namespace semiseg
