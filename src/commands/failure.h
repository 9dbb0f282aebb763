// How an exception ends the process: its exit code and its one line, for stderr and for status.json alike.
#pragma once

#include <exception>
#include <string>

namespace semiseg {

struct Failure {
  int exit_code;
  std::string message;
};

// LibTorch's out-of-memory errors and std::bad_alloc are 5, errors of the file system 6, what nobody foresaw 1.
Failure describe_failure(const std::exception& exception);

}  // namespace semiseg
