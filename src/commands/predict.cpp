#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <filesystem>
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>
#include <set>

#include "commands/command.h"
#include "semiseg/checkpoint.h"
#include "semiseg/device.h"
#include "semiseg/evaluate.h"
#include "semiseg/files.h"
#include "semiseg/log.h"
#include "train_parts.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

std::string extension_of(const std::string& path) {
  std::string extension = fs::path(path).extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(), [](unsigned char c) { return std::tolower(c); });
  return extension;
}

bool is_image(const std::string& path) {
  static const std::set<std::string> known = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"};
  return known.count(extension_of(path)) != 0;
}

bool is_video(const std::string& path) {
  static const std::set<std::string> known = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"};
  return known.count(extension_of(path)) != 0;
}

// Predicts and writes label PNGs and overlays into one folder.
class Writer {
 public:
  Writer(LoadedModel model, EvalOptions options, std::string folder)
      : model_(std::move(model)), options_(std::move(options)), folder_(std::move(folder)) {}

  void operator()(const Tensor& image_HWC, std::string name) {
    if (!names_.insert(name).second)
      throw Error(ErrorKind::kConfig, "two inputs are called \"" + name + "\"", folder_, "predict them into two folders");
    if (count_ == 0) make_folders(folder_);
    const auto label_HW = predict_image(*model_.network, image_HWC, options_).to(at::kCPU, at::kByte);
    write_label_png(folder_ + "/" + name + ".png", label_HW);
    write_image(folder_ + "/" + name + "_overlay.jpg", overlay(image_HWC, label_HW, model_.classes));
    ++count_;
    show_status(str("predicted ", count_, ": ", name));
  }

  int64_t count() const { return count_; }

 private:
  LoadedModel model_;
  EvalOptions options_;
  std::string folder_;
  std::set<std::string> names_;
  int64_t count_ = 0;
};

void predict_video(const std::string& path, Writer& write) {
  cv::VideoCapture video(path);
  if (!video.isOpened())
    throw Error(ErrorKind::kData, "the video cannot be opened", path, "OpenCV here has no decoder for it, or it is damaged");
  cv::Mat frame, rgb;
  int number = 0;
  for (; stop_signal() == 0 && video.read(frame); ++number) {
    cv::cvtColor(frame, rgb, cv::COLOR_BGR2RGB);
    char name[32];
    std::snprintf(name, sizeof(name), "_%06d", number);
    write(at::from_blob(rgb.data, {rgb.rows, rgb.cols, 3}, at::kByte).clone(), fs::path(path).stem().string() + name);
  }
  if (number == 0 && stop_signal() == 0) throw Error(ErrorKind::kData, "no frame of the video could be decoded", path);
}

int run(const Arguments& arguments) {
  const std::string& path = arguments.positional[0];
  install_signal_handlers();
  std::optional<Config> config;
  std::optional<Checkpoint> checkpoint;
  if (arguments.has("config")) {
    config = load_config(arguments.get("config"), arguments.overrides);
  } else if (is_checkpoint(path)) {
    checkpoint = read_checkpoint(path);
    config = parse_config(to_yaml(checkpoint->config), path, arguments.overrides);
  }

  std::vector<std::string> inputs;
  for (size_t i = 1; i < arguments.positional.size(); ++i) {
    const std::string& input = arguments.positional[i];
    if (!fs::exists(input)) throw Error(ErrorKind::kData, "there is no such file or folder", input);
    if (!fs::is_directory(input)) {
      inputs.push_back(input);
      continue;
    }
    const size_t before = inputs.size();
    for (const auto& entry : fs::directory_iterator(input))
      if (is_image(entry.path().string()) || is_video(entry.path().string())) inputs.push_back(entry.path().string());
    if (inputs.size() == before) throw Error(ErrorKind::kData, "there is no image or video in this folder", input);
    std::sort(inputs.begin() + static_cast<long>(before), inputs.end());
  }

  const torch::Device device = resolve_device(config ? config->run.device : "auto");
  const Config* settings = config ? &*config : nullptr;
  LoadedModel model = checkpoint ? load_model(*checkpoint, settings, device) : load_model(path, settings, device);
  checkpoint.reset();
  use_fused_ops(model.config.ops.fused);
  const EvalOptions options = make_eval_options(model.config, device, resolve_bf16(model.config.run.precision, device));
  const std::string& folder = arguments.get("o");
  Writer write(std::move(model), options, folder);

  const Stopwatch watch;
  int broken = 0;
  for (const std::string& input : inputs) {
    if (stop_signal() != 0) return 128 + stop_signal();
    try {
      if (is_video(input))
        predict_video(input, write);
      else
        write(read_image(input), fs::path(input).stem().string());
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kData || inputs.size() == 1) throw;
      log_warning(e.what());  // the other images are still wanted
      ++broken;
    }
  }
  if (stop_signal() != 0) return 128 + stop_signal();
  log_info(str("predicted ", write.count(), " images in ", watch.seconds(), " s; label PNGs and overlays in ", folder));
  if (broken > 0)
    throw Error(ErrorKind::kData, str(broken, " of ", inputs.size(), " inputs could not be read"), folder,
                "they are named above");
  return 0;
}

const bool kRegistered = add_command({
    .name = "predict",
    .synopsis = "CHECKPOINT INPUT... -o DIR [key=value ...]",
    .summary = "predicts images, folders of images, or videos",
    .details =
        R"(For each image NAME.png (class indices) and NAME_overlay.jpg; for each frame of a video NAME_000000.png and so on.

examples:
  semiseg predict runs/first/checkpoints/best.safetensors street.jpg -o out
  semiseg predict best.safetensors /data/camvid/images/val drive.mp4 -o out eval.flip=true
  semiseg predict fpn_from_python.pth street.jpg -o out --config configs/camvid/supervised.yaml data.root=/data/camvid)",
    .flags = {{"o", "DIR", "folder to write to"},
              {"config", "CONFIG", "config of a weights file that is no checkpoint of semiseg"}},
    .min_positional = 2,
    .max_positional = static_cast<size_t>(-1),
    .run = run,
});

}  // namespace
}  // namespace semiseg
