// The program: picks a command, and is the only place where exceptions end.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "commands/command.h"
#include "commands/failure.h"
#include "commands/launch.h"
#include "semiseg/error.h"
#include "semiseg/train.h"

namespace {

// What was printed must have arrived where it goes to a file; who reads a pipe may have had enough, and a terminal may be gone.
void require_told() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  struct stat to {};
  const bool is_file =
      ::fstat(STDOUT_FILENO, &to) == 0 && (S_ISREG(to.st_mode) || S_ISCHR(to.st_mode)) && ::isatty(STDOUT_FILENO) == 0;
  if (is_file)
    throw semiseg::Error(semiseg::ErrorKind::kDisk, "what was to be printed could not be written", "standard output",
                         "is the disk full?");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    semiseg::remember_command_line(argc, argv);
    const std::vector<std::string> words(argv + 1, argv + argc);
    const int code = semiseg::run_command_line(words);
    const bool trains = !words.empty() && words[0] == "train";  // what it is for is in the run folder
    if (code == 0 && !trains) require_told();
    return code;
  } catch (const std::exception& e) {
    const semiseg::Failure failure = semiseg::describe_failure(e);
    std::fflush(stdout);
    std::fprintf(stderr, "%s%s\n", semiseg::error_prefix(failure.exit_code), failure.message.c_str());
    return failure.exit_code;
  }
}
