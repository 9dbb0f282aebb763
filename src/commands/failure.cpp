#include "commands/failure.h"

#include <ATen/ATen.h>

#include <filesystem>

#include "memory.h"
#include "semiseg/error.h"

namespace semiseg {
namespace {

constexpr const char* kMemoryHint =
    "out of memory; lower optim.batch_labeled, optim.batch_unlabeled or data.crop, and for large images set eval.mode=sliding";

// LibTorch's messages carry a stack trace behind the first lines.
std::string one_line(std::string message) {
  message = message.substr(0, message.find("\nException raised from"));
  for (char& c : message)
    if (c == '\n' || c == '\r') c = ' ';
  return message;
}

}  // namespace

Failure describe_failure(const std::exception& exception) {
  const std::string what = one_line(exception.what());
  if (const auto* error = dynamic_cast<const Error*>(&exception)) return {error->exit_code(), what};
  if (is_out_of_memory(exception)) return {static_cast<int>(ErrorKind::kMemory), kMemoryHint};
  if (const auto* error = dynamic_cast<const std::filesystem::filesystem_error*>(&exception))
    return {static_cast<int>(ErrorKind::kDisk), error->path1().string() + ": " + error->code().message()};
  return {1, "internal error: " + what};
}

}  // namespace semiseg
