// The program: picks a command, and is the only place where exceptions end.
#include <malloc.h>

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "commands/command.h"
#include "commands/failure.h"
#include "semiseg/train.h"

namespace {

// Each step frees what the next one needs again. By default large blocks go back to the system in between and come back as
// zeroed pages, one fault each; kept, they cost nothing.
void keep_freed_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
#endif
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  try {
    semiseg::remember_command_line(argc, argv);
    return semiseg::run_command_line(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& e) {
    const semiseg::Failure failure = semiseg::describe_failure(e);
    std::fflush(stdout);
    std::fprintf(stderr, "semiseg: error: %s\n", failure.message.c_str());
    return failure.exit_code;
  }
}
