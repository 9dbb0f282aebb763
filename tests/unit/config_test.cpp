#include "semiseg/config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "semiseg/error.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

// The shortest config that is complete.
const std::string kLeast = "data: {format: synthetic}\noptim: {epochs: 2}\n";

class ConfigTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) / (std::string("semiseg_config_") + test->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  std::string write(const std::string& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return path(name);
  }

  Config load(const std::string& text, const Words& overrides = {}) const {
    return load_config(write("config.yaml", text), overrides);
  }

  fs::path folder_;
};

// The message of the Error(kConfig) that `action` throws; a test failure where it throws none.
template <class Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

void expect_contains(const std::string& text, const Words& parts) {
  for (const auto& part : parts) EXPECT_NE(text.find(part), std::string::npos) << "no \"" << part << "\" in: " << text;
}

TEST_F(ConfigTest, DefaultsAndName) {
  const Config config = load_config(write("my_run.yaml", kLeast), {});
  EXPECT_EQ(config.run.name, "my_run");
  EXPECT_EQ(config.run.dir, "");
  EXPECT_EQ(config.file, path("my_run.yaml"));
  EXPECT_EQ(config.optim.epochs, 2);
  EXPECT_FALSE(config.optim.steps);
  EXPECT_EQ(config.optim.lr, 0.01);
  EXPECT_TRUE(config.is_set("optim.epochs"));
  EXPECT_FALSE(config.is_set("optim.lr"));
}

TEST_F(ConfigTest, EveryWayToWriteAValue) {
  const std::string text =
      "\xef\xbb\xbf"  // byte order mark
      "seed: 9223372036854775807\r\n"
      "data.format: synthetic\r\n"  // dotted
      "data:\r\n"                   // and nested
      "  crop: 256\r\n"
      "  size: [96, 192]\r\n"
      "  flip: No\r\n"
      "  mean: [0, -.5, 1e-3]\r\n"
      "run: {name: 12, device: \"cuda:1\"}\r\n"
      "loss: {class_weights: [1, 2.5, 0]}\r\n"
      "optim: {steps: 10, lr: +1e-2}\r\n";
  const Config config = load(text);
  EXPECT_EQ(config.seed, 9223372036854775807ULL);
  EXPECT_EQ(config.data.crop, (std::vector<int64_t>{256, 256}));
  EXPECT_EQ(config.data.size, (std::vector<int64_t>{96, 192}));
  EXPECT_FALSE(config.data.flip);
  EXPECT_EQ(config.data.mean, (std::vector<double>{0, -0.5, 0.001}));
  EXPECT_EQ(config.run.name, "12");
  EXPECT_EQ(config.run.device, "cuda:1");
  EXPECT_EQ(config.loss.class_weights, "given");
  EXPECT_EQ(config.loss.given_weights, (std::vector<double>{1, 2.5, 0}));
  EXPECT_EQ(config.optim.steps, 10);
  EXPECT_EQ(config.optim.lr, 0.01);
}

TEST_F(ConfigTest, Overrides) {
  const std::string text = kLeast + "loss: {class_weights: [1, 2]}\n";
  const Config config = load(text, {"data.crop=[64,128]", "loss.class_weights=enet", "run.name=a: b #1", "optim.lr=1",
                                    "optim.lr=2", "eval.mode=sliding", "eval.window=64"});
  EXPECT_EQ(config.data.crop, (std::vector<int64_t>{64, 128}));
  EXPECT_EQ(config.loss.class_weights, "enet");
  EXPECT_TRUE(config.loss.given_weights.empty());
  EXPECT_EQ(config.run.name, "a: b #1");  // no YAML inside a plain word
  EXPECT_EQ(config.optim.lr, 2);          // the last one counts
  EXPECT_EQ(config.eval.window, (std::vector<int64_t>{64, 64}));
  EXPECT_EQ(load(kLeast, {"loss.class_weights=[1,2]"}).loss.given_weights, (std::vector<double>{1, 2}));
}

TEST_F(ConfigTest, LaterLayersWinAndOriginsSayWhich) {
  write("base/a.yaml", "seed: 1\noptim:\n  lr: 0.1\n  weight_decay: 0.5\n");
  write("base/b.yaml", "base: a.yaml\noptim:\n  lr: 0.2\n  momentum: 0.5\n");
  write("base/c.yaml", "optim.momentum: 0.6\n");
  const std::string file = write("top.yaml", "base:\n  - base/b.yaml\n  - base/c.yaml\nseed: 4\n" + kLeast);
  const Config config = load_config(file, {"seed=5"});
  EXPECT_EQ(config.seed, 5U);
  EXPECT_EQ(config.optim.lr, 0.2);
  EXPECT_EQ(config.optim.momentum, 0.6);
  EXPECT_EQ(config.optim.weight_decay, 0.5);
  EXPECT_EQ(config.origins.at("seed").text(), "command line");
  EXPECT_EQ(config.origins.at("optim.lr").text(), path("base/b.yaml") + ":3");
  EXPECT_EQ(config.origins.at("optim.momentum").text(), path("base/c.yaml") + ":1");
  EXPECT_EQ(config.origins.at("optim.weight_decay").text(), path("base/a.yaml") + ":4");
  EXPECT_EQ(config.origins.at("optim.epochs").text(), file + ":6");
  EXPECT_LT(config.origins.at("optim.lr").layer, config.origins.at("optim.momentum").layer);
  expect_contains(to_yaml_with_origins(config), {"# command line\n", "# default\n", "# " + path("base/b.yaml") + ":3\n"});
  EXPECT_EQ(to_yaml(config).find('#'), std::string::npos);
}

TEST_F(ConfigTest, PrintedConfigReadsBackEqual) {
  const std::string classes = write("my classes.yaml", "classes: []\n");
  const std::string text =
      "semi: {method: fixmatch, teacher: ema, ema_decay: 0.1}\nrun.name: \"a \\\"b\\\": \\\\ #\\t\"\n"
      "data.classes: my classes.yaml\nmodel.weights: w.pth\neval: {mode: sliding, window: [64, 96], stride: 32}\n" +
      kLeast;
  Config config = load(text);
  EXPECT_EQ(config.data.classes, classes);
  EXPECT_EQ(config.model.weights, path("w.pth"));
  config.optim.lr = std::nextafter(0.1, 1.0);
  config.optim.weight_decay = 1.0 / 3;
  config.optim.clip_grad_norm = std::numeric_limits<double>::max();
  config.semi.weight = std::numeric_limits<double>::denorm_min();
  config.loss.class_weights = "given";
  config.loss.given_weights = {0.1 + 0.2, 1e-7, 5};
  for (const std::string& printed : {to_yaml(config), to_yaml_with_origins(config)}) {
    SCOPED_TRACE(printed);
    const Config parsed = parse_config(printed, "checkpoint", {});
    EXPECT_EQ(differing_keys(config, parsed), Words{});
    EXPECT_EQ(parsed.optim.lr, config.optim.lr);
    EXPECT_EQ(parsed.optim.clip_grad_norm, config.optim.clip_grad_norm);
    EXPECT_EQ(parsed.semi.weight, config.semi.weight);
    EXPECT_EQ(parsed.loss.given_weights, config.loss.given_weights);
    EXPECT_EQ(parsed.run.name, "a \"b\": \\ #\t");
    EXPECT_EQ(to_yaml(load_config(write("again.yaml", printed), {})), to_yaml(config));
  }
}

TEST_F(ConfigTest, ParsedConfigNeedsNoFilesButOverridesDo) {
  const std::string text =
      "data: {format: list, root: /elsewhere/data, labeled: /elsewhere/data/l.txt, val: /elsewhere/v.txt}\noptim.steps: 3\n";
  const Config config = parse_config(text, "last.safetensors", {"optim.lr=0.5"});
  EXPECT_EQ(config.data.labeled, "/elsewhere/data/l.txt");
  EXPECT_EQ(config.optim.lr, 0.5);
  EXPECT_EQ(config.file, "");
  EXPECT_EQ(config.origins.at("optim.lr").text(), "command line");

  expect_contains(message_of([&] { parse_config(text, "last.safetensors", {"data.val=no_such.txt"}); }),
                  {"command line: data.val", "/no_such.txt"});
  expect_contains(message_of([&] { parse_config("seed: x\n", "last.safetensors", {}); }), {"last.safetensors:1: seed"});
  expect_contains(message_of([&] { parse_config("base: a.yaml\n", "last.safetensors", {}); }), {"last.safetensors:1: base"});

  // What an earlier version printed and this one does not read is no error.
  EXPECT_FALSE(parse_config(text + "optim.batch_unlabeled: 7\n", "last.safetensors", {}).is_set("optim.batch_unlabeled"));

  // The list that lies under the new root follows; the other stays.
  write("l.txt", "");
  const Config moved = parse_config(text, "last.safetensors", {"data.root=" + folder_.string()});
  EXPECT_EQ(moved.data.labeled, path("l.txt"));
  EXPECT_EQ(moved.data.val, "/elsewhere/v.txt");
}

TEST_F(ConfigTest, ListsBesideTheFileThenUnderTheRoot) {
  write("configs/lists/labeled.txt", "");
  write("data/lists/labeled.txt", "");
  write("data/lists/unlabeled.txt", "");
  write("configs/base/val.txt", "");
  write("configs/base/base.yaml", "data: {val: val.txt, format: list}\n");
  const std::string file = write("configs/top.yaml",
                                 "base: base/base.yaml\ndata: {labeled: lists/labeled.txt, unlabeled: lists/unlabeled.txt}\n"
                                 "optim.steps: 5\n");
  const Config config = load_config(file, {"data.root=" + path("data")});
  EXPECT_EQ(config.data.labeled, path("configs/lists/labeled.txt"));
  EXPECT_EQ(config.data.unlabeled, path("data/lists/unlabeled.txt"));
  EXPECT_EQ(config.data.val, path("configs/base/val.txt"));  // beside the file that sets it
  EXPECT_EQ(config.data.root, path("data"));
  write("data/classes.yaml", "classes: [{name: road}]\n");
  EXPECT_EQ(load_config(file, {"data.root=" + path("data"), "data.classes=classes.yaml"}).data.classes,
            path("data/classes.yaml"));

  expect_contains(message_of([&] { load_config(file, {"data.root=" + path("nowhere")}); }),
                  {"top.yaml:2: data.unlabeled: no such list file: \"lists/unlabeled.txt\"",
                   path("configs/lists/unlabeled.txt"), path("nowhere/lists/unlabeled.txt")});
  EXPECT_EQ(load_config(file, {"data.unlabeled="}).data.root, path("configs"));  // without data.root: the config's folder
}

TEST_F(ConfigTest, PathsAreRelativeToTheirFile) {
  write("base/base.yaml", "data: {root: ../data, format: cityscapes}\nmodel.weights: w.pth\noptim.epochs: 1\n");
  const std::string file = write("top.yaml", "base: base/base.yaml\n");
  const Config config = load_config(file, {});
  EXPECT_EQ(config.data.root, path("data"));
  EXPECT_EQ(config.model.weights, path("base/w.pth"));
  EXPECT_EQ(load_config(file, {"data.root=x"}).data.root, (fs::current_path() / "x").string());
  EXPECT_EQ(load_config(file, {"data.root=x", "data.cache=y"}).data.cache, (fs::current_path() / "y").string());
  ASSERT_NE(std::getenv("HOME"), nullptr);
  EXPECT_EQ(load_config(file, {"data.root=~/x"}).data.root, std::string(std::getenv("HOME")) + "/x");
  EXPECT_EQ(load_config(file, {"data.classes=camvid"}).data.classes, "camvid");
}

TEST_F(ConfigTest, UnreadSettingsOfEarlierLayersGoBackToTheirDefaults) {
  const std::string fixmatch =
      write("fixmatch.yaml", "semi: {method: fixmatch, threshold: 0.5, teacher: ema, ema_decay: 0.5, weight: 3}\n" + kLeast);
  const Config supervised = load_config(fixmatch, {"semi.method=supervised"});
  EXPECT_EQ(supervised.semi.threshold.value, SemiConfig{}.threshold.value);
  EXPECT_EQ(supervised.semi.teacher, SemiConfig{}.teacher);
  EXPECT_FALSE(supervised.is_set("semi.threshold"));
  EXPECT_EQ(to_yaml(supervised).find("threshold"), std::string::npos);

  const Config mean_teacher = load_config(fixmatch, {"semi.method=mean_teacher"});
  EXPECT_EQ(mean_teacher.semi.ema_decay, 0.5);
  EXPECT_EQ(mean_teacher.semi.weight, 3);
  EXPECT_FALSE(mean_teacher.is_set("semi.threshold"));
  EXPECT_EQ(load_config(fixmatch, {"semi.teacher=self"}).semi.ema_decay, SemiConfig{}.ema_decay);

  // Unread because of the teacher, which the later layer's method is the first to read.
  const std::string averaged = write("averaged.yaml", "semi: {method: mean_teacher, ema_decay: 0.5}\n" + kLeast);
  EXPECT_EQ(load_config(averaged, {"semi.method=fixmatch"}).semi.ema_decay, SemiConfig{}.ema_decay);

  const std::string sliding = write("sliding.yaml", "eval: {mode: sliding, window: 64}\n" + kLeast);
  EXPECT_TRUE(load_config(sliding, {"eval.mode=whole"}).eval.window.empty());
  const std::string momentum = write("momentum.yaml", "optim: {epochs: 1, momentum: 0.5}\ndata.format: synthetic\n");
  EXPECT_EQ(load_config(momentum, {"optim.kind=adamw"}).optim.momentum, OptimConfig{}.momentum);
}

TEST_F(ConfigTest, AThresholdIsANumberOrAKindWithItsNumbers) {
  const std::string fixmatch = kLeast + "semi: {method: fixmatch}\n";
  EXPECT_EQ(load(fixmatch).semi.threshold.kind, "fixed");
  EXPECT_EQ(load(fixmatch, {"semi.threshold=0.5"}).semi.threshold.value, 0.5);
  const Config quantile = load(fixmatch, {"semi.threshold={kind: quantile, share: 0.3}"});
  EXPECT_EQ(quantile.semi.threshold.kind, "quantile");
  EXPECT_EQ(quantile.semi.threshold.share, 0.3);
  EXPECT_EQ(quantile.semi.threshold.momentum, ThresholdConfig{}.momentum);
  EXPECT_EQ(value_text(quantile, "semi.threshold"), "{kind: quantile, momentum: 0.999, share: 0.3}");
  const Config again = parse_config(to_yaml(quantile), "again", {});
  EXPECT_TRUE(differing_keys(quantile, again).empty());
  const Config adaptive = load(kLeast + "semi:\n  method: fixmatch\n  threshold:\n    kind: class_adaptive\n    value: 0.9\n");
  EXPECT_EQ(adaptive.semi.threshold.kind, "class_adaptive");
  EXPECT_EQ(adaptive.semi.threshold.value, 0.9);
  EXPECT_EQ(load(fixmatch, {"semi.threshold={kind: class_adaptive}"}).semi.threshold.value, 1);
  for (const auto& [text, parts] : std::vector<std::pair<std::string, Words>>{
           {"{share: 0.3}", {"semi.threshold has no kind", "fixed, class_adaptive, quantile"}},
           {"{kind: quantil}", {"semi.threshold.kind is \"quantil\"", "did you mean \"quantile\"?"}},
           {"{kind: quantile, value: 0.3}", {"kind quantile does not read \"value\"", "momentum, share"}},
           {"{kind: quantile, share: 2}", {"semi.threshold.share is 2"}},
           {"high", {"semi.threshold is \"high\""}}})
    expect_contains(message_of([&, text = text] { load(fixmatch, {"semi.threshold=" + text}); }), parts);
}

TEST_F(ConfigTest, AMethodBringsItsOwnDefaults) {
  const Config unimatch = load(kLeast + "semi: {method: unimatch}\n");
  EXPECT_EQ(unimatch.semi.views, 2);
  EXPECT_EQ(unimatch.semi.feature_dropout, 0.5);
  EXPECT_FALSE(unimatch.is_set("semi.views"));
  expect_contains(to_yaml_with_origins(unimatch), {"# default of unimatch"});
  EXPECT_EQ(load(kLeast + "semi: {method: unimatch, views: 3}\n").semi.views, 3);
  // A method named later is itself, whatever an earlier preset says; what is not part of its definition stays.
  const std::string fixmatch = kLeast + "semi: {method: fixmatch, threshold: 0.8, weight: 3}\n";
  const Config augseg = load(fixmatch, {"semi.method=augseg"});
  EXPECT_EQ(augseg.semi.threshold.value, 0);
  EXPECT_EQ(augseg.semi.strong_view, "random");
  EXPECT_EQ(augseg.semi.weight, 3);
  EXPECT_EQ(load(fixmatch, {"semi.method=augseg", "semi.threshold=0.7"}).semi.threshold.value, 0.7);
  EXPECT_TRUE(differing_keys(augseg, parse_config(to_yaml(augseg), "again", {})).empty());
}

TEST_F(ConfigTest, DeepLabTakesAnOutputStrideOfItsOwn) {
  EXPECT_EQ(load(kLeast).model.output_stride, 32);
  EXPECT_EQ(load(kLeast, {"model.decoder=deeplabv3plus"}).model.output_stride, 16);
  EXPECT_EQ(load(kLeast, {"model.decoder=deeplabv3plus", "model.output_stride=8"}).model.output_stride, 8);
  expect_contains(message_of([&] {
                    load(kLeast, {"model.decoder=deeplabv3plus", "model.output_stride=32"});
                  }),
                  {"model.output_stride", "16 or 8"});
  expect_contains(message_of([&] { load(kLeast, {"model.output_stride=12"}); }), {"one of 8, 16, 32"});
}

TEST_F(ConfigTest, LaterLengthReplacesTheEarlier) {
  const Config config = load(kLeast, {"optim.steps=7"});
  EXPECT_FALSE(config.optim.epochs);
  EXPECT_EQ(config.optim.steps, 7);
  EXPECT_FALSE(config.is_set("optim.epochs"));
}

TEST_F(ConfigTest, BadFiles) {
  struct Case {
    std::string text;
    Words parts;
  };
  const std::string city = "data: {format: cityscapes, root: r}\noptim.epochs: 1\n";
  const std::vector<Case> cases{
      // YAML
      {"", {"bad.yaml: is empty", "data.format"}},
      {"# only a comment\n", {"bad.yaml: is empty"}},
      {"{}\n", {"bad.yaml: is empty"}},
      {"seed: 1\noptim: [1, 2\ndata: x\n", {"bad.yaml:", "not valid YAML"}},
      {"seed: 1\noptim:\n\tlr: 1\n", {"bad.yaml:3: not valid YAML", "spaces, not tabs"}},
      {"just words\n", {"bad.yaml:1: does not hold settings"}},
      {"- seed: 1\n", {"bad.yaml:1: does not hold settings"}},
      {"seed: 1\n---\nseed: 2\n", {"bad.yaml: holds more than one YAML document"}},
      {std::string("PK\0\0", 4), {"bad.yaml: is not a text file"}},
      {"? [a, b]\n: 1\n", {"bad.yaml:1: a key is not a word"}},
      // keys
      {kLeast + "optim.learning_rte: 1\n", {"bad.yaml:3: unknown key \"optim.learning_rte\""}},
      {"data:\n  format: synthetic\n  crops: 3\n", {"bad.yaml:3: unknown key \"data.crops\"; did you mean \"data.crop\"?"}},
      {"optim:\n  learning_rate: 1\n", {"bad.yaml:2: unknown key \"optim.learning_rate\"; did you mean \"optim.lr\"?"}},
      {"batch_size: 4\n", {"bad.yaml:1: unknown key \"batch_size\"; did you mean \"optim.batch_labeled\"?"}},
      {"optim:\n  zzz: 1\n", {"bad.yaml:2: unknown key \"optim.zzz\"; known under optim: ", "lr"}},
      {"optim: {epochs 3}\n", {"bad.yaml:1: unknown key \"optim.epochs 3\"; a colon may be missing: epochs: 3"}},
      {"lr: 1\n", {"bad.yaml:1: unknown key \"lr\"; did you mean \"optim.lr\"?"}},
      {"optm:\n  lr: 1\n", {"bad.yaml:1: unknown key \"optm\"; did you mean \"optim\"?"}},
      {"model:\n  lr: 1\n", {"bad.yaml:2: unknown key \"model.lr\"; did you mean \"optim.lr\"?"}},
      {"seed: 1\ndata:\n  crop: 64\n  flip: true\n  crop: 32\n", {"bad.yaml:5: data.crop is set twice, first in line 3"}},
      {"optim.lr: 1\noptim: {lr: 2}\n", {"bad.yaml:2: optim.lr is set twice, first in line 1"}},
      {"optim: 3\n", {"bad.yaml:1: optim is 3, not a section"}},
      {"optim:\ndata:\n", {"bad.yaml:1: optim is empty, not a section"}},
      // values
      {"optim:\n  lr: fast\n", {"bad.yaml:2: optim.lr is \"fast\", not a finite number above 0"}},
      {"optim:\n  lr: \"0.1\"\n", {"bad.yaml:2: optim.lr is \"0.1\", not a finite number"}},
      {"optim:\n  lr: -1\n", {"bad.yaml:2: optim.lr is -1, not a finite number above 0"}},
      {"optim:\n  lr: 0\n", {"bad.yaml:2: optim.lr is 0, not"}},
      {"optim:\n  lr: .nan\n", {"bad.yaml:2: optim.lr is", ".nan", "not a finite number"}},
      {"optim:\n  lr: inf\n", {"bad.yaml:2: optim.lr is inf, not a finite number"}},
      {"optim:\n  lr: 1e999\n", {"bad.yaml:2: optim.lr is", "1e999", "not a finite number"}},
      {"optim:\n  lr:\n", {"bad.yaml:2: optim.lr has no value"}},
      {"optim:\n  lr: {a: 1}\n", {"bad.yaml:2: optim.lr is a mapping, not"}},
      {"optim:\n  epochs: 1.5\n", {"bad.yaml:2: optim.epochs is 1.5, not a whole number from 1"}},
      {"optim:\n  epochs: 0\n", {"bad.yaml:2: optim.epochs is 0, not a whole number from 1"}},
      {"seed: -1\n", {"bad.yaml:1: seed is -1, not a whole number from 0 to 9223372036854775807"}},
      {"seed: 9223372036854775808\n", {"bad.yaml:1: seed is 9223372036854775808, not"}},
      {"data.flip: 2\n", {"bad.yaml:1: data.flip is 2, not true or false"}},
      {"data.crop: [64, 64, 64]\n", {"bad.yaml:1: data.crop is [64, 64, 64], not one side or [height, width]"}},
      {"data.crop: 0\n", {"bad.yaml:1: data.crop is 0, not"}},
      {"data.crop: []\n", {"bad.yaml:1: data.crop is [], not"}},
      {"data.ignore_index: 256\n", {"bad.yaml:1: data.ignore_index is 256, not a whole number from 0 to 255"}},
      {"data.std: [1, 1, 0]\n", {"bad.yaml:1: data.std is [1, 1, 0], not a list of 3"}},
      {"data.scale: [0, 1]\n", {"bad.yaml:1: data.scale is [0, 1], not"}},
      {"semi.threshold: 1.5\n", {"bad.yaml:1: semi.threshold is 1.5, not a finite number of at least 0 and at most 1"}},
      {"semi.method: fixmach\n", {"bad.yaml:1: semi.method is \"fixmach\", not one of", "did you mean \"fixmatch\"?"}},
      {"model.backbone: vit\n", {"bad.yaml:1: model.backbone is \"vit\", not one of", "resnet18"}},
      {"data.format: coco\n", {"bad.yaml:1: data.format is \"coco\", not one of", "cityscapes"}},
      {"run.device: gpu\n", {"bad.yaml:1: run.device is \"gpu\", not auto, cpu, cuda or cuda:N"}},
      {"run.precision: fp64\n", {"bad.yaml:1: run.precision is \"fp64\", not one of auto, fp32, bf16, fp16"}},
      {"loss.class_weights: some\n", {"bad.yaml:1: loss.class_weights is \"some\", not one of", "enet"}},
      {"loss.class_weights: [1, -2]\n", {"bad.yaml:1: loss.class_weights is [1, -2], not a list"}},
      {"loss.class_weights: [0, 0]\n", {"bad.yaml:1: loss.class_weights gives every class weight 0"}},
      // bases
      {"seed: 1\nbase: none.yaml\n", {"bad.yaml:2: no such base file: ", "none.yaml"}},
      {"base: bad.yaml\n", {"bad.yaml:1: base files inherit from each other in a circle"}},
      {"base: {a: 1}\n", {"bad.yaml:1: base is a mapping, not a file or a list of files"}},
      {"base: [[x]]\n", {"bad.yaml:1: base is", "not a file or a list of files"}},
      {"base: .\n", {"is a folder, not a config file"}},
      // contradictions
      {"optim.epochs: 1\n", {"bad.yaml: data.format is not set", "synthetic"}},
      {"data.format: synthetic\n", {"bad.yaml: neither optim.epochs nor optim.steps is set"}},
      {kLeast + "optim.steps: 3\n", {"bad.yaml:3: optim.epochs and optim.steps are both set"}},
      {kLeast + "semi.threshold: 0.5\n", {"bad.yaml:3: semi.threshold is set, but semi.method: supervised does not read it"}},
      {kLeast + "semi: {method: mean_teacher, mix: none}\n", {"bad.yaml:3: semi.mix is set, but semi.method: mean_teacher"}},
      {kLeast + "semi: {method: fixmatch, ema_decay: 0.9}\n", {"bad.yaml:3: semi.ema_decay is set, but semi.teacher: self"}},
      {kLeast + "semi: {method: fixmatch, class_weights: true}\n",
       {"bad.yaml:3: semi.class_weights is set, but loss.class_weights: none"}},
      {"data: {format: synthetic, unlabeled: /dev/null, unlabeled_truth: true}\noptim.epochs: 1\nsemi.method: retrain\n",
       {"bad.yaml:1: data.unlabeled_truth is set, but semi.method: retrain"}},
      {kLeast + "model.atrous_rates: [6, 12, 18]\n", {"bad.yaml:3: model.atrous_rates is set, but model.decoder: fpn"}},
      {kLeast + "eval.window: 64\n", {"bad.yaml:3: eval.window is set, but eval.mode: whole"}},
      {kLeast + "eval: {mode: sliding, window: 64, stride: 65}\n",
       {"bad.yaml:3: eval.stride [65, 65] is larger than the window"}},
      {city + "data.counts: [1, 1, 1]\n", {"bad.yaml:3: data.counts is set, but data.format: cityscapes"}},
      {"data.format: synthetic\noptim: {epochs: 1, kind: adamw, momentum: 0.5}\n",
       {"bad.yaml:2: optim.momentum is set, but optim.kind: adamw"}},
      {"data.format: synthetic\noptim: {steps: 5, warmup_steps: 5}\n",
       {"bad.yaml:2: optim.warmup_steps (5) is not below optim.steps (5)"}},
      {kLeast + "data.scale: [2, 1]\n", {"bad.yaml:3: data.scale is [2, 1]: the first is above the second"}},
      {kLeast + "run.name: a/b\n", {"bad.yaml:3: run.name is \"a/b\", not the name of a folder"}},
      // data
      {"data.format: cityscapes\noptim.epochs: 1\n", {"bad.yaml:1: data.format: cityscapes needs data.root"}},
      {"data.format: list\noptim.epochs: 1\n", {"bad.yaml:1: data.format: list needs data.labeled"}},
      {"data: {format: list, labeled: 1/8}\noptim.epochs: 1\n",
       {"bad.yaml:1: data.labeled is the fraction 1/8, but data.format: list"}},
      {city + "data.labeled: 9/8\n", {"bad.yaml:3: data.labeled is \"9/8\", not a fraction"}},
      {city + "data.labeled: 0/8\n", {"bad.yaml:3: data.labeled is \"0/8\", not a fraction"}},
      {city + "data.labeled: 0.125\n", {"bad.yaml:3: data.labeled: no such list file", "a fraction is written 1/8"}},
      {city + "data.val: v.txt\n",
       {"bad.yaml:3: data.val: no such list file: \"v.txt\"; looked for ", "/v.txt and ", "/r/v.txt"}},
      {city + "data.val: v.txt\n", {"/r) is no folder"}},
      {city + "data.val: .\n", {"bad.yaml:3: data.val: \".\" is a folder, not a list file", "semiseg init"}},
      {city + "semi.method: fixmatch\n", {"bad.yaml:3: semi.method: fixmatch needs unlabelled images"}},
      {city + "semi.method: fixmatch\ndata.labeled: 1/1\n",
       {"bad.yaml:4: semi.method: fixmatch needs unlabelled images", "leaves none"}},
      {kLeast + "data.classes: kitti\n", {"bad.yaml:3: data.classes is \"kitti\", neither a preset", "camvid"}},
  };
  for (const auto& [text, parts] : cases) {
    SCOPED_TRACE(text);
    const std::string file = write("bad.yaml", text);
    expect_contains(message_of([&] { load_config(file, {}); }), parts);
  }
}

TEST_F(ConfigTest, BadOverrides) {
  const std::vector<std::pair<std::string, Words>> cases{
      {"optim.lr", {"command line: \"optim.lr\" is not key=value"}},
      {"=3", {"command line: \"=3\" is not key=value"}},
      {"optim.lrr=1", {"command line: unknown key \"optim.lrr\"; did you mean \"optim.lr\"?"}},
      {"optim=1", {"command line: optim is a section, not a setting"}},
      {"base=x.yaml", {"command line: base can only be set in a config file"}},
      {"optim.lr=", {"command line: optim.lr is", "not a finite number above 0"}},
      {"optim.lr=1 2", {"command line: optim.lr is \"1 2\", not"}},
      {"data.crop=[1,", {"command line: not valid YAML"}},
      {"run.name=[a]", {"command line: run.name is [\"a\"], not text"}},
      {"data.cache=x", {"command line: data.cache is set, but data.format: synthetic does not read it"}},
      {"semi.threshold=0.5", {"command line: semi.threshold is set, but semi.method: supervised does not read it"}},
  };
  const std::string file = write("good.yaml", kLeast);
  for (const auto& [word, parts] : cases) {
    SCOPED_TRACE(word);
    expect_contains(message_of([&] { load_config(file, {word}); }), parts);
  }
}

TEST_F(ConfigTest, MissingFilesAndCircles) {
  expect_contains(message_of([&] { load_config(path("none.yaml"), {}); }), {"no such config file: ", path("none.yaml")});
  expect_contains(message_of([&] { load_config(folder_.string(), {}); }), {"is a folder, not a config file"});
  write("a.yaml", "base: b.yaml\n");
  write("b.yaml", "seed: 1\nbase: [./a.yaml]\n");
  expect_contains(message_of([&] { load_config(path("a.yaml"), {}); }), {"b.yaml:2: ", "circle"});
  // The same base twice is no circle.
  write("d.yaml", "seed: 1\n");
  write("c.yaml", "base: d.yaml\noptim.lr: 1\n");
  EXPECT_EQ(load_config(write("twice.yaml", "base: [c.yaml, d.yaml]\n" + kLeast), {}).seed, 1U);
}

TEST_F(ConfigTest, DifferingKeysAndValueText) {
  const Config a = load(kLeast);
  Config b = a;
  EXPECT_EQ(differing_keys(a, b), Words{});
  b.seed = 3;
  b.optim.lr = std::nextafter(a.optim.lr, 1.0);
  b.optim.steps = 5;
  b.loss.class_weights = "given";
  b.loss.given_weights = {1, 0.5};
  EXPECT_EQ(differing_keys(a, b), (Words{"seed", "loss.class_weights", "optim.lr", "optim.steps"}));
  EXPECT_EQ(value_text(b, "loss.class_weights"), "[1, 0.5]");
  EXPECT_EQ(value_text(a, "optim.steps"), "null");
  EXPECT_EQ(value_text(a, "data.crop"), "[256, 256]");
  EXPECT_EQ(value_text(a, "data.root"), "\"\"");
  EXPECT_EQ(value_text(a, "optim.weight_decay"), "0.0001");
  EXPECT_THROW(value_text(a, "optim.lrr"), std::out_of_range);
}

TEST_F(ConfigTest, Schema) {
  const auto schema = nlohmann::json::parse(config_schema());
  EXPECT_EQ(schema.at("$schema"), "https://json-schema.org/draft/2020-12/schema");
  const auto& definitions = schema.at("$defs");
  EXPECT_EQ(definitions.at("optim.lr").at("type"), "number");
  EXPECT_EQ(definitions.at("optim.lr").at("exclusiveMinimum"), 0.0);
  EXPECT_EQ(definitions.at("optim.lr").at("default"), 0.01);
  EXPECT_EQ(definitions.at("data.crop").at("default"), (nlohmann::json{256, 256}));
  EXPECT_EQ(definitions.at("loss.class_weights").at("anyOf").size(), 2U);
  const auto methods = definitions.at("semi.method").at("enum").get<Words>();
  EXPECT_NE(std::find(methods.begin(), methods.end(), "fixmatch"), methods.end());
  // Each key of a config, nested and dotted, leads to its definition; nothing else is allowed.
  EXPECT_EQ(schema.at("additionalProperties"), false);
  size_t settings = 0;
  for (const auto& [key, definition] : definitions.items()) {
    ++settings;
    EXPECT_FALSE(definition.at("description").get<std::string>().empty()) << key;
    const auto dot = key.find('.');
    EXPECT_EQ(schema.at("properties").at(key).at("$ref"), "#/$defs/" + key);
    if (dot == std::string::npos) continue;
    const auto& section = schema.at("properties").at(key.substr(0, dot));
    EXPECT_EQ(section.at("properties").at(key.substr(dot + 1)).at("$ref"), "#/$defs/" + key);
  }
  EXPECT_GT(settings, 50U);
}

TEST_F(ConfigTest, PresetsLoad) {
  const fs::path presets = fs::path(SEMISEG_SOURCE_DIR) / "configs";
  for (const char* name : {"splits/1_8/labeled.txt", "splits/1_8/unlabeled.txt", "splits/val.txt"}) write(name, "");
  size_t loaded = 0;
  for (const char* folder : {"cityscapes", "camvid", "synthetic"}) {
    for (const auto& entry : fs::directory_iterator(presets / folder)) {
      SCOPED_TRACE(entry.path().string());
      Words overrides;
      if (std::string(folder) != "synthetic") overrides.push_back("data.root=" + folder_.string());
      const Config config = load_config(entry.path().string(), overrides);
      EXPECT_EQ(config.run.name, entry.path().stem().string());
      // Each preset of a method is named after it.
      const std::set<std::string> others{"base", "demo", "balanced"};
      if (others.count(config.run.name) == 0) {
        EXPECT_EQ(config.semi.method, config.run.name);
      }
      EXPECT_EQ(differing_keys(config, parse_config(to_yaml(config), "printed", {})), Words{});
      ++loaded;
    }
  }
  EXPECT_EQ(loaded, 18U);
  for (const char* folder : {"studies", "studies/cures"})
    for (const auto& entry : fs::directory_iterator(presets / folder))
      if (entry.is_regular_file()) {
        EXPECT_NO_THROW(load_config(entry.path().string(), {})) << entry.path();
      }
}

}  // namespace
}  // namespace semiseg
