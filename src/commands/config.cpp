#include "semiseg/config.h"

#include <iostream>

#include "commands/command.h"
#include "semiseg/error.h"

namespace semiseg {
namespace {

int run(const Arguments& arguments) {
  if (arguments.has("schema")) {
    std::cout << config_schema();
    return 0;
  }
  if (arguments.positional.empty())
    throw Error(ErrorKind::kConfig, "config needs a config file", "",
                "for example: semiseg config configs/synthetic/demo.yaml");
  std::cout << to_yaml_with_origins(load_config(arguments.positional.front(), arguments.overrides));
  return 0;
}

const bool kRegistered = add_command({
    .name = "config",
    .synopsis = "CONFIG.yaml [key=value ...]",
    .summary = "prints the resolved config with where each value came from",
    .details = R"(examples:
  semiseg config configs/synthetic/demo.yaml optim.lr=0.02
  semiseg config --schema > schema.json             for editors that complete and check YAML)",
    .flags = {{"schema", "", "print a JSON schema of config files instead"}},
    .min_positional = 0,
    .max_positional = 1,
    .run = run,
});

}  // namespace
}  // namespace semiseg
