// What a verb of the command line is made of. Each verb is one file that ends in `const bool kRegistered =
// add_command({...});`.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace semiseg {

// The words after the verb, sorted by kind.
struct Arguments {
  std::vector<std::string> positional;       // files and folders
  std::vector<std::string> overrides;        // key=value
  std::map<std::string, std::string> flags;  // without dashes; "" for a switch

  bool has(const std::string& flag) const { return flags.count(flag) != 0; }
  // Throws Error(kConfig) when the flag was not given.
  const std::string& get(const std::string& flag) const;
};

struct Flag {
  std::string name;        // "json", typed as --json; a single letter is typed with one dash
  std::string value_name;  // "FILE"; empty for a switch
  std::string help;
};

struct Command {
  std::string name;
  std::string synopsis;  // after the verb: "CONFIG.yaml [key=value ...]"
  std::string summary;   // one line
  std::string details;   // examples and remarks, printed by `semiseg VERB --help`
  std::vector<Flag> flags;
  size_t min_positional = 0, max_positional = 0;  // checked before `run`
  std::function<int(const Arguments&)> run;       // returns the exit code
};

bool add_command(Command command);

// Parses the command line, runs the verb and returns its exit code. Throws Error(kConfig) for a wrong usage, with the nearest
// known verb or flag.
int run_command_line(const std::vector<std::string>& words);

}  // namespace semiseg
