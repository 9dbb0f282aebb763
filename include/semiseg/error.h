// The one exception type of semiseg, and how its messages are put together.
#pragma once

#include <cstdint>
#include <cstdio>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace semiseg {

// What went wrong, as the exit code of the process (a contract with scripts that call semiseg).
enum class ErrorKind {
  kConfig = 2,      // usage or configuration
  kData = 3,        // an image, a label or a list
  kNonFinite = 4,   // training became NaN or infinite
  kMemory = 5,      // out of memory, host or device
  kDisk = 6,        // disk full, file system, permissions
  kCheckpoint = 7,  // a checkpoint or weights file that is not valid
  kPeer = 8,        // a peer process failed
};

// Thrown where the cause is known best, caught in main, printed as one line:
//   semiseg: error: WHERE: WHAT; HINT
class Error : public std::runtime_error {
 public:
  // where: a file, file:line, or key; may be empty. hint: what the user can do about it; may be empty.
  Error(ErrorKind kind, std::string what, std::string where = "", std::string hint = "")
      : std::runtime_error((where.empty() ? "" : where + ": ") + what + (hint.empty() ? "" : "; " + hint)),
        kind_(kind),
        problem_(std::move(what)),
        where_(std::move(where)),
        hint_(std::move(hint)) {}

  ErrorKind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }
  const std::string& problem() const { return problem_; }
  const std::string& where() const { return where_; }
  const std::string& hint() const { return hint_; }

 private:
  ErrorKind kind_;
  std::string problem_, where_, hint_;
};

// Concatenates its arguments as operator<< prints them.
template <class... Parts>
std::string str(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// "1 file", "3 files".
inline std::string counted(int64_t count, const std::string& noun) { return str(count, " ", noun, count == 1 ? "" : "s"); }

// snprintf into a string; what is longer than 511 characters is cut.
std::string format(const char* pattern, auto... values) {
  char text[512];
  std::snprintf(text, sizeof(text), pattern, values...);
  return text;
}

}  // namespace semiseg
