// The program: picks a command, and is the only place where exceptions end.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "commands/command.h"
#include "commands/failure.h"
#include "commands/launch.h"
#include "semiseg/train.h"

int main(int argc, char** argv) {
  try {
    semiseg::remember_command_line(argc, argv);
    return semiseg::run_command_line(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& e) {
    const semiseg::Failure failure = semiseg::describe_failure(e);
    std::fflush(stdout);
    std::fprintf(stderr, "%s%s\n", semiseg::error_prefix(failure.exit_code), failure.message.c_str());
    return failure.exit_code;
  }
}
