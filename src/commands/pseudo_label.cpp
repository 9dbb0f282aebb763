#include <charconv>
#include <filesystem>

#include "commands/command.h"
#include "commands/config_file.h"
#include "commands/network_file.h"
#include "pseudo_label_files.h"
#include "semiseg/log.h"
#include "semiseg/method.h"
#include "semiseg/train.h"

namespace semiseg {
namespace {

double threshold_of(const std::string& text) {
  double threshold = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), threshold);
  if (error != std::errc() || end != text.data() + text.size() || !(threshold >= 0 && threshold <= 1))
    throw Error(ErrorKind::kConfig, "\"" + text + "\" is no number from 0 to 1", "--threshold");
  return threshold;
}

// The config's own where its method reads one.
double threshold_of(const SemiConfig& semi) {
  if (!method_reads(semi.method, "semi.threshold")) return 0;
  if (semi.threshold.kind != "fixed")
    throw Error(ErrorKind::kConfig, "label files are made by one confidence for all classes",
                "semi.threshold: {kind: " + semi.threshold.kind + "}", "give --threshold T, from 0 to 1");
  return semi.threshold.value;
}

// "A,B,.."
std::vector<std::string> files_of(const std::string& text) {
  std::vector<std::string> files;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    files.push_back(text.substr(at, end - at));
    if (!std::filesystem::is_regular_file(files.back()))
      throw Error(ErrorKind::kCheckpoint, "no such file: \"" + files.back() + "\"", "--checkpoints",
                  "name checkpoints with commas between them and no spaces");
    at = end + 1;
  }
  return files;
}

int run(const Arguments& arguments) {
  install_signal_handlers();
  Config config = load_config(config_file(arguments.positional[1]), arguments.overrides);
  PseudoLabelJob job;
  job.checkpoint = network_file(arguments.positional[0]);
  job.threshold = arguments.has("threshold") ? threshold_of(arguments.get("threshold")) : threshold_of(config.semi);
  job.undo_class_bias = config.semi.undo_class_bias;
  job.may_hold_others = true;
  job.earlier = arguments.has("checkpoints") ? files_of(arguments.get("checkpoints")) : earlier_checkpoints(job.checkpoint);
  config.semi.method = "supervised";  // labels that the unlabelled list may name are not read
  if (write_pseudo_labels(job, config, arguments.get("o"))) return 0;
  log_info(why_stopped(stop_signal()) + "; what is labelled is kept: the same command goes on from there");
  return exit_code_of(stop_signal());
}

const bool kRegistered = add_command({
    .name = "pseudo-label",
    .synopsis = "CHECKPOINT CONFIG.yaml -o DIR [--threshold T] [--checkpoints A,B,..] [key=value ...]",
    .summary = "writes labels for the unlabelled images",
    .details =
        R"(DIR/labels/NAME.png       values as in the data set's label files; data.ignore_index (255) where it is less sure than T
DIR/reliability.csv       each image's reliability, share of pixels with a label, mean confidence; the best first
DIR/list.txt              "image label" lines for data.labeled or data.unlabeled (semi.method=retrain); all images
DIR/reliable.txt, rest.txt  the same of the more reliable half and of the other one
DIR/images/NAME.png       of data.format: synthetic alone, which has no files; read the lists with data.format=list then

Labels and lists there of an earlier call are replaced; others are left alone, with an error.

Reliability (ST++): mean IoU of the predictions of earlier checkpoints with CHECKPOINT's own. Without --checkpoints they are the
step_*.safetensors beside it; where there are none, it is the mean confidence.

semi.undo_class_bias=true takes out of the predictions what the class weights or the logit adjustment of each checkpoint's own training
add to rare classes: labels for a training that weighs them again.

examples:
  semiseg pseudo-label runs/first/checkpoints/best.safetensors configs/camvid/fixmatch.yaml -o labels data.root=/data/camvid
  semiseg pseudo-label last.safetensors config.yaml -o labels --threshold 0.9 --checkpoints a.safetensors,b.safetensors
  semiseg train config.yaml semi.method=retrain data.unlabeled=labels/reliable.txt)",
    .flags = {{"o", "DIR", "folder to write to"},
              {"threshold", "T", "least confidence of a label; semi.threshold where the config's method reads one, else 0"},
              {"checkpoints", "A,B,..", "earlier checkpoints that reliability is measured by"}},
    .min_positional = 2,
    .max_positional = 2,
    .run = run,
});

}  // namespace
}  // namespace semiseg
