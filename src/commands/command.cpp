#include "commands/command.h"

#include <algorithm>
#include <cctype>
#include <cstdio>

#include "semiseg/error.h"
#include "spelling.h"

namespace semiseg {
namespace {

std::map<std::string, Command>& commands() {
  static std::map<std::string, Command> registered;
  return registered;
}

std::string dashed(const std::string& flag) { return (flag.size() == 1 ? "-" : "--") + flag; }

// "optim.lr=0.01" but not "data/a=b.png".
bool is_override(const std::string& word) {
  const size_t equals = word.find('=');
  return equals != std::string::npos && equals > 0 &&
         std::all_of(word.begin(), word.begin() + static_cast<long>(equals),
                     [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.'; });
}

void print_overview() {
  std::string text = "semiseg " SEMISEG_VERSION
                     ": semi-supervised semantic segmentation\n\n"
                     "usage: semiseg VERB [CONFIG.yaml] [key=value ...] [--flag ...]\n\n";
  for (const auto& [name, command] : commands()) {
    char line[160];
    std::snprintf(line, sizeof(line), "  %-12s %s\n", name.c_str(), command.summary.c_str());
    text += line;
  }
  text +=
      "\nA first run, a look at its scores, and going on after a stop:\n"
      "  semiseg train configs/synthetic/demo.yaml\n"
      "  semiseg eval runs/demo/checkpoints/best.safetensors\n"
      "  semiseg train --resume runs/demo\n\n"
      "`semiseg VERB --help` shows a verb's flags and examples; every setting can be given as key=value (`optim.lr=0.02`).\n";
  std::fputs(text.c_str(), stdout);
}

void print_help(const Command& command) {
  std::string text = command.summary + "\n\nusage: semiseg " + command.name + " " + command.synopsis + "\n";
  if (!command.flags.empty()) text += "\n";
  for (const Flag& flag : command.flags) {
    char line[240];
    std::snprintf(line, sizeof(line), "  %-24s %s\n",
                  (dashed(flag.name) + (flag.value_name.empty() ? "" : " " + flag.value_name)).c_str(), flag.help.c_str());
    text += line;
  }
  std::fputs((text + "\n" + command.details + "\n").c_str(), stdout);
}

[[noreturn]] void usage_error(const std::string& problem, const std::string& hint) {
  throw Error(ErrorKind::kConfig, problem, "", hint);
}

}  // namespace

const std::string& Arguments::get(const std::string& flag) const {
  const auto found = flags.find(flag);
  if (found == flags.end()) usage_error("the flag " + dashed(flag) + " is missing", "see --help");
  return found->second;
}

bool add_command(Command command) {
  const std::string name = command.name;
  return commands().emplace(name, std::move(command)).second;
}

int run_command_line(const std::vector<std::string>& words) {
  if (words.size() == 2 && words[0] == "help" && words[1][0] != '-') return run_command_line({words[1], "--help"});
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    print_overview();
    return 0;
  }
  if (words[0] == "--version") {
    std::fputs("semiseg " SEMISEG_VERSION " (" SEMISEG_COMMIT ")\n", stdout);
    return 0;
  }
  const auto found = commands().find(words[0]);
  if (found == commands().end()) {
    std::vector<std::string> names;
    for (const auto& [name, unused] : commands()) names.push_back(name);
    const std::string guess = nearest(words[0], names);
    usage_error("unknown verb \"" + words[0] + "\"",
                guess.empty() ? "`semiseg --help` lists them" : "did you mean \"" + guess + "\"?");
  }
  const Command& command = found->second;

  Arguments arguments;
  for (size_t i = 1; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--help" || word == "-h") {
      print_help(command);
      return 0;
    }
    if (word.empty()) usage_error("`semiseg " + command.name + "` got an empty word", "is a shell variable not set?");
    if (word.size() < 2 || word[0] != '-') {
      (is_override(word) ? arguments.overrides : arguments.positional).push_back(word);
      continue;
    }
    std::string name = word.substr(word[1] == '-' ? 2 : 1), value;
    const size_t equals = name.find('=');
    if (equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    std::vector<std::string> names;
    for (const Flag& flag : command.flags) names.push_back(flag.name);
    const auto flag = std::find_if(command.flags.begin(), command.flags.end(), [&](const Flag& f) { return f.name == name; });
    if (flag == command.flags.end()) {
      const std::string guess = nearest(name, names);
      usage_error("unknown flag " + word + " of `semiseg " + command.name + "`",
                  guess.empty() ? "see `semiseg " + command.name + " --help`" : "did you mean " + dashed(guess) + "?");
    }
    if (flag->value_name.empty()) {
      if (equals != std::string::npos) usage_error("the flag " + dashed(name) + " takes no value", "");
    } else if (equals == std::string::npos) {
      if (i + 1 >= words.size()) usage_error("the flag " + dashed(name) + " needs a value: " + flag->value_name, "");
      value = words[++i];
    }
    if (!flag->value_name.empty() && value.empty())
      usage_error("the flag " + dashed(name) + " has an empty value", "is a shell variable not set?");
    arguments.flags[name] = value;
  }
  if (arguments.positional.size() < command.min_positional || arguments.positional.size() > command.max_positional)
    usage_error(str("`semiseg ", command.name, "` got ", arguments.positional.size(), " file arguments"),
                "usage: semiseg " + command.name + " " + command.synopsis);
  return command.run(arguments);
}

}  // namespace semiseg
