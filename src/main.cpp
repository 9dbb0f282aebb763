// The program: picks a command, and is the only place where exceptions end.
#include <ATen/ATen.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "commands/command.h"
#include "semiseg/error.h"
#include "semiseg/train.h"

namespace {

// One line, whatever the message: LibTorch's carry a stack trace behind the first.
int fail(int code, std::string message) {
  message = message.substr(0, message.find("\nException raised from"));
  for (char& c : message)
    if (c == '\n' || c == '\r') c = ' ';
  std::fflush(stdout);
  std::fprintf(stderr, "semiseg: error: %s\n", message.c_str());
  return code;
}

bool is_out_of_memory(const std::string& message) {
  return message.find("can't allocate memory") != std::string::npos || message.find("out of memory") != std::string::npos;
}

constexpr int kMemory = static_cast<int>(semiseg::ErrorKind::kMemory);
constexpr const char* kMemoryHint = "out of memory; lower optim.batch_labeled, optim.batch_unlabeled or data.crop";

}  // namespace

int main(int argc, char** argv) {
  try {
    semiseg::remember_command_line(argc, argv);
    return semiseg::run_command_line(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const semiseg::Error& e) {
    return fail(e.exit_code(), e.what());
  } catch (const std::bad_alloc&) {
    return fail(kMemory, kMemoryHint);
  } catch (const c10::Error& e) {
    if (is_out_of_memory(e.what())) return fail(kMemory, kMemoryHint);
    return fail(1, std::string("internal error: ") + e.what_without_backtrace());
  } catch (const std::exception& e) {
    return fail(1, std::string("internal error: ") + e.what());
  }
}
