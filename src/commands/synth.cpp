// synth: a synthetic street data set in the Cityscapes layout.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <mutex>
#include <regex>
#include <thread>

#include "commands/command.h"
#include "datasets/parallel.h"
#include "datasets/synthetic.h"
#include "parse_number.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/log.h"
#include "shell.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCity = "synth";
constexpr const char* kKinds[] = {"leftImg8bit", "gtFine"};
constexpr const char* kSplitFolders[] = {"train", "val"};

[[noreturn]] void usage(const std::string& problem, const std::string& where, const std::string& hint = "") {
  throw Error(ErrorKind::kConfig, problem, where, hint);
}

int64_t whole_number(std::string_view text, const std::string& flag, int64_t low, int64_t high) {
  const auto value = parse_number<int64_t>(text);
  if (!value || *value < low || *value > high) usage(str("\"", text, "\" is no whole number in ", low, "..", high), flag);
  return *value;
}

struct Settings {
  fs::path root;
  int64_t train = 200, val = 40, H = 256, W = 512;
  uint64_t seed = 0;
};

Settings settings_of(const Arguments& arguments) {
  constexpr int64_t kMost = 999999;  // six digits in a file name
  Settings settings;
  settings.root = arguments.positional.at(0);
  if (!arguments.overrides.empty())
    usage("synth takes no key=value settings", arguments.overrides[0], "see `semiseg synth --help`");
  if (arguments.has("train")) settings.train = whole_number(arguments.get("train"), "--train", 1, kMost);
  if (arguments.has("val")) settings.val = whole_number(arguments.get("val"), "--val", 1, kMost);
  if (arguments.has("seed"))
    settings.seed =
        static_cast<uint64_t>(whole_number(arguments.get("seed"), "--seed", 0, std::numeric_limits<int64_t>::max()));
  if (arguments.has("size")) {
    const std::string& size = arguments.get("size");
    const size_t times = size.find('x');
    if (times == std::string::npos) usage("\"" + size + "\" is no size", "--size", "write HxW, such as 256x512");
    settings.H = whole_number(std::string_view(size).substr(0, times), "--size", 32, 8192);
    settings.W = whole_number(std::string_view(size).substr(times + 1), "--size", 32, 8192);
  }
  return settings;
}

// Whether write_scenes() calls files in kind/SPLIT/CITY so, or leaves such when it is killed.
bool is_scene_file(const std::string& kind, const std::string& name) {
  static const std::regex kImage(std::string(kCity) + R"(_\d{6}_000000_leftImg8bit\.png(\.tmp-\d+)?)"),
      kLabel(std::string(kCity) + R"(_\d{6}_000000_gtFine_label(TrainIds|Ids)\.png(\.tmp-\d+)?)");
  return std::regex_match(name, kind == kKinds[0] ? kImage : kLabel);
}

// The folder may be absent or empty, or hold what an earlier `synth` wrote, which is removed. Anything else stays untouched.
void prepare(const fs::path& root) {
  if (fs::exists(root) && !fs::is_directory(root)) usage("is a file, not a folder", root.string());
  std::vector<fs::path> earlier;
  const auto allow_only = [&](const fs::path& folder, const auto& is_ours) {
    if (!fs::is_directory(folder)) return;
    for (const auto& child : fs::directory_iterator(folder))
      if (!is_ours(child.path().filename().string()))
        usage("the folder holds other things, such as " + child.path().string(), root.string(),
              "name an empty or a new folder");
  };
  const auto one_of = [](const auto& names) {
    return [&names](const std::string& name) { return std::find(std::begin(names), std::end(names), name) != std::end(names); };
  };
  allow_only(root, one_of(kKinds));
  for (const char* kind : kKinds) {
    allow_only(root / kind, one_of(kSplitFolders));
    for (const char* split : kSplitFolders) {
      allow_only(root / kind / split, [](const std::string& name) { return name == kCity; });
      allow_only(root / kind / split / kCity, [&](const std::string& name) { return is_scene_file(kind, name); });
      earlier.push_back(root / kind / split / kCity);
    }
  }
  for (const fs::path& folder : earlier) {
    if (fs::is_directory(folder) && !fs::is_empty(folder))
      log_info("replacing the scenes of an earlier `synth` in " + folder.string());
    fs::remove_all(folder);
    make_folders(folder.string());
  }
}

Tensor to_label_ids(const Tensor& label_HW, const ClassSet& classes) {
  Tensor ids_HW = at::zeros_like(label_HW);  // 0: unlabeled
  const uint8_t* label = label_HW.const_data_ptr<uint8_t>();
  uint8_t* ids = ids_HW.data_ptr<uint8_t>();
  for (int64_t i = 0; i < label_HW.numel(); ++i)
    if (label[i] != kIgnore) ids[i] = classes.label_ids[label[i]];
  return ids_HW;
}

void write_scenes(const Settings& settings, const ClassSet& classes, const std::string& split, int64_t count) {
  const fs::path images = settings.root / kKinds[0] / split / kCity, labels = settings.root / kKinds[1] / split / kCity;
  std::mutex mutex;
  int64_t written = 0;
  const auto write = [&](int64_t index, int64_t) {
    const Sample scene = draw_scene(settings.seed, split == "val", index, settings.H, settings.W);
    char name[64];
    std::snprintf(name, sizeof(name), "%s_%06lld_000000_", kCity, static_cast<long long>(index));
    write_label_png((labels / (std::string(name) + "gtFine_labelTrainIds.png")).string(), scene.label_HW);
    write_label_png((labels / (std::string(name) + "gtFine_labelIds.png")).string(), to_label_ids(scene.label_HW, classes));
    write_image((images / (std::string(name) + "leftImg8bit.png")).string(), scene.image_HWC);
    const std::lock_guard lock(mutex);
    show_status(str(split, ": ", ++written, " of ", count, " scenes"));
  };
  for_each_index(count, std::thread::hardware_concurrency(), write);
  log_info(str("wrote ", count, " ", split, " scenes of ", settings.H, " x ", settings.W, " to ", images.string()));
}

int run(const Arguments& arguments) {
  const Settings settings = settings_of(arguments);
  prepare(settings.root);
  const ClassSet classes = load_classes("synthetic", kIgnore);
  write_scenes(settings, classes, "train", settings.train);
  write_scenes(settings, classes, "val", settings.val);
  log_info("train on it:\n  semiseg train configs/synthetic/demo.yaml data.format=cityscapes data.root=" +
           shell_quoted(absolute_path(settings.root.string())) + " data.labeled=1/4 run.name=synth");
  return 0;
}

const bool kRegistered = add_command({
    "synth",
    "DIR [--train N] [--val N] [--size HxW] [--seed S]",
    "writes a synthetic street data set in the Cityscapes layout",
    "The scenes are the same for the same seed on every machine. Those of an earlier call in DIR are replaced.\n\n"
    "  semiseg synth /tmp/street --train 400 --val 80 --size 256x512\n"
    "  semiseg check configs/synthetic/demo.yaml data.format=cityscapes data.root=/tmp/street "
    "data.labeled=1/4",
    {{"train", "N", "training scenes (200)"},
     {"val", "N", "validation scenes (40)"},
     {"size", "HxW", "height and width of a scene (256x512)"},
     {"seed", "S", "another seed draws other scenes (0)"}},
    1,
    1,
    run,
});

}  // namespace
}  // namespace semiseg
