// report: writes a run's report.html and its pictures anew.
#include <cstdio>
#include <filesystem>

#include "commands/command.h"
#include "reports/html/page.h"
#include "reports/pictures.h"
#include "semiseg/error.h"

namespace semiseg {
namespace {

int run(const Arguments& arguments) {
  std::string dir = arguments.positional[0];
  while (dir.size() > 1 && dir.back() == '/') dir.pop_back();
  if (!std::filesystem::is_directory(dir)) throw Error(ErrorKind::kConfig, "there is no such run folder", dir);
  const RunRecord record = read_run(dir);
  rewrite_pictures(record);
  std::printf("%s\n", write_report(record).c_str());
  return 0;
}

const bool kRegistered = add_command({
    .name = "report",
    .synopsis = "RUN",
    .summary = "rewrites a run's report.html and pictures from what its folder holds",
    .details = R"(examples:
  semiseg report runs/first
  xdg-open $(semiseg report runs/first)             writes it and opens it in the browser

The page is one file with everything in it: it may be sent by mail or opened without a network. While a run goes on it is
rewritten after every epoch, unless report.html is false. confusion_matrix.png and results.png are drawn again, too; sample pictures,
which need the network, stay as they are.)",
    .flags = {},
    .min_positional = 1,
    .max_positional = 1,
    .run = run,
});

}  // namespace
}  // namespace semiseg
