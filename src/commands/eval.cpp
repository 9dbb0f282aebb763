#include <ATen/ATen.h>

#include "commands/command.h"
#include "commands/config_file.h"
#include "commands/network_file.h"
#include "commands/written_ids.h"
#include "image_file.h"
#include "output_files.h"
#include "semiseg/checkpoint.h"
#include "semiseg/device.h"
#include "semiseg/evaluate.h"
#include "semiseg/files.h"
#include "semiseg/log.h"
#include "semiseg/report.h"
#include "train_parts.h"

namespace semiseg {
namespace {

// The label PNG of each validation image.
std::vector<std::string> prediction_files(const Dataset& data, const std::string& folder) {
  std::vector<std::string> files;
  FileNames names;
  for (int64_t index = 0; index < data.size(Split::kVal); ++index)
    files.push_back(folder + "/" + names.of(data.id(Split::kVal, index), index) + ".png");
  return files;
}

int run(const Arguments& arguments) {
  if (arguments.has("ids") && !arguments.has("predictions"))
    throw Error(ErrorKind::kConfig, "--ids is of the PNGs of --predictions, which is not given", "--ids");
  if (arguments.has("json")) require_report(arguments.get("json"), ReportKind::kJson);
  const std::string path = network_file(arguments.positional[0]);
  install_signal_handlers();
  Config config;
  std::optional<Checkpoint> checkpoint;
  if (arguments.positional.size() > 1) {
    config = load_config(config_file(arguments.positional[1]), arguments.overrides);
  } else {
    if (!is_checkpoint(path)) load_model(path, nullptr, torch::kCPU);  // says what is missing or wrong
    checkpoint = read_checkpoint(path);
    config = config_of(*checkpoint, arguments.overrides);
  }
  config.data.val_only = true;

  use_fused_ops(config.ops.fused);
  const torch::Device device = resolve_device(config.run.device);
  const Precision precision = resolve_precision(config.run.precision, device);
  const LoadedModel model = checkpoint ? load_model(*checkpoint, &config, device) : load_model(path, &config, device);
  checkpoint.reset();
  const auto data = open_dataset(config);
  require_fitting_classes(model, data->classes(), path);
  if (arguments.positional.size() == 1) require_same_classes(model.classes, data->classes(), path);

  std::function<void(int64_t, const Tensor&)> write;
  const auto ids = written_ids(arguments, data->classes().label_ids);
  const Tensor ids_V = at::tensor(std::vector<int64_t>(ids.begin(), ids.end()));
  if (arguments.has("predictions")) {
    const std::string folder = arguments.get("predictions");
    const std::vector<std::string> files = prediction_files(*data, folder);
    require_replaceable(files, config, "--predictions");
    make_folders(folder);
    write = [ids_V, files](int64_t index, const Tensor& prediction_HW) {
      const auto label_HW = ids_V.index_select(0, prediction_HW.to(at::kCPU).flatten()).view_as(prediction_HW);
      write_result_png(files[static_cast<size_t>(index)], label_HW.to(at::kByte));
    };
  }
  log_info(str("evaluating ", path, " on ", data->size(Split::kVal), " images, ", describe_device(device), ", ",
               precision_name(precision)));
  const auto scores = evaluate(
      *model.network, *data, Split::kVal, make_eval_options(config, device), [] { return stop_signal() != 0; }, write);
  if (!scores) {
    log_warning(why_stopped(stop_signal()) + " before all images were evaluated: there are no scores");
    return exit_code_of(stop_signal());
  }
  log_info(score_table(*scores, data->classes().names));
  if (arguments.has("json")) write_file(arguments.get("json"), to_json(*scores) + "\n");
  return 0;
}

const bool kRegistered = add_command({
    .name = "eval",
    .synopsis = "CHECKPOINT [CONFIG.yaml] [key=value ...]",
    .summary = "scores a checkpoint on the validation images",
    .details = R"(examples:
  semiseg eval runs/first                           its checkpoints/best.safetensors
  semiseg eval best.safetensors data.root=/data/camvid data.val=splits/val.txt
  semiseg eval best.safetensors eval.mode=sliding eval.flip=true eval.scales=[0.75,1,1.25]
  semiseg eval fpn_from_python.pth configs/camvid/supervised.yaml data.root=/data/camvid
  semiseg eval best.safetensors --predictions out --ids label --json scores.json)",
    .flags = {{"predictions", "DIR", "write each image's prediction as a label PNG"},
              {"ids", "train|label", "values of those PNGs: class indices, or Cityscapes' label ids"},
              {"json", "FILE", "write the scores as JSON"}},
    .min_positional = 1,
    .max_positional = 2,
    .run = run,
});

}  // namespace
}  // namespace semiseg
