#include "config/settings.h"

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "config/kinds.h"
#include "config/text.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/method.h"
#include "semiseg/model.h"
#include "spelling.h"

namespace semiseg {

std::string shown(const YAML::Node& value) {
  if (value.IsMap()) return "a mapping";
  if (value.IsNull()) return "empty";
  if (value.IsScalar()) {
    constexpr size_t kLongest = 60;
    const std::string text = value.Scalar();
    const bool number = value.Tag() != "!" && parse_yaml_number<double>(text);
    if (number) return text;
    return quoted(text.size() > kLongest ? text.substr(0, kLongest) + "..." : text);
  }
  constexpr size_t kMost = 6;
  Names parts;
  for (const auto& item : value) {
    if (parts.size() == kMost) {
      parts.push_back("...");
      break;
    }
    parts.push_back(item.IsSequence() ? "[..]" : shown(item));
  }
  return "[" + join(parts) + "]";
}

void reject(const std::string& key, const YAML::Node& value, const std::string& place, const std::string& expected) {
  if (value.IsNull())
    throw Error(ErrorKind::kConfig, key + " has no value", place, "give it " + expected + ", or remove the line");
  throw Error(ErrorKind::kConfig, key + " is " + shown(value) + ", not " + expected, place);
}

using namespace kinds;

namespace {

using Json = nlohmann::ordered_json;

// What other trainers call some settings.
const std::map<std::string, std::string> kUsualNames{{"learning_rate", "optim.lr"},
                                                     {"lr0", "optim.lr"},
                                                     {"batch_size", "optim.batch_labeled"},
                                                     {"num_workers", "data.workers"},
                                                     {"crop_size", "data.crop"},
                                                     {"pretrained", "model.weights"},
                                                     {"num_epochs", "optim.epochs"},
                                                     {"max_epochs", "optim.epochs"},
                                                     {"max_iters", "optim.steps"},
                                                     {"ignore_label", "data.ignore_index"}};

template <class Kind>
auto parse_or_throw(const Kind& kind, const std::string& key, const YAML::Node& value, const std::string& place) {
  auto parsed = kind.parse(value);
  if (parsed) return *parsed;
  if constexpr (std::is_same_v<Kind, Choice>) {
    const std::string near = value.IsScalar() ? nearest(value.Scalar(), kind.names()) : "";
    if (!near.empty())
      throw Error(ErrorKind::kConfig, key + " is " + shown(value) + ", not " + kind.describe(), place,
                  "did you mean \"" + near + "\"?");
  }
  reject(key, value, place, kind.describe());
}

template <class Access, class Kind>
ConfigSetting setting(std::string key, Access member, Kind kind, std::string help) {
  ConfigSetting result;
  result.key = key;
  result.help = std::move(help);
  result.read = [=](Config& config, const YAML::Node& value, const std::string& place) {
    member(config) = parse_or_throw(kind, key, value, place);
  };
  result.print = [=](const Config& config) { return yaml_text(member(config)); };
  result.reset = [=](Config& config) {
    const Config defaults;
    member(config) = member(defaults);
  };
  result.schema = [=] { return kind.schema(); };
  return result;
}

template <class Section, class T>
auto at(Section Config::*section, T Section::*field) {
  return [=](auto& config) -> auto& { return (config.*section).*field; };
}

// A name, or the weights themselves.
ConfigSetting class_weights_setting() {
  static const Choice kNames = one_of({"none", "inverse", "median", "enet", "effective"});
  static const List<Real> kWeights{kNotNegative};
  static const std::string kKey = "loss.class_weights";
  ConfigSetting result;
  result.key = kKey;
  result.help = "weight of each class in the loss: computed from the labelled pixels, or one number a class";
  result.read = [](Config& config, const YAML::Node& value, const std::string& place) {
    if (value.IsScalar()) {
      config.loss.class_weights = parse_or_throw(kNames, kKey, value, place);
      config.loss.given_weights.clear();
      return;
    }
    const auto weights = parse_or_throw(kWeights, kKey, value, place);
    if (std::all_of(weights.begin(), weights.end(), [](double weight) { return weight == 0; }))
      throw Error(ErrorKind::kConfig, kKey + " gives every class weight 0", place);
    config.loss.class_weights = "given";
    config.loss.given_weights = weights;
  };
  result.print = [](const Config& config) {
    return config.loss.class_weights == "given" ? yaml_text(config.loss.given_weights) : yaml_text(config.loss.class_weights);
  };
  result.reset = [](Config& config) {
    config.loss.class_weights = LossConfig{}.class_weights;
    config.loss.given_weights.clear();
  };
  result.schema = [] { return Json{{"anyOf", {kNames.schema(), kWeights.schema()}}}; };
  return result;
}

// One field of semi.threshold's mapping.
struct ThresholdField {
  std::string name;
  Real range;
  double ThresholdConfig::*field;
  Names kinds;  // that read it
  std::string help;
};

// A number, or a kind with its numbers: 0.95, {kind: quantile, share: 0.8}.
ConfigSetting threshold_setting() {
  static const Choice kKinds = one_of({"fixed", "class_adaptive", "quantile"});
  static const std::vector<ThresholdField> kFields{
      {"value", kShare, &ThresholdConfig::value, {"fixed", "class_adaptive"}, "least confidence; class_adaptive: upper bound"},
      {"momentum", kShareBelowOne, &ThresholdConfig::momentum, {"class_adaptive", "quantile"}, "of the running statistics"},
      {"share", kShare, &ThresholdConfig::share, {"quantile"}, "surest share of each class that counts"}};
  static const std::string kKey = "semi.threshold";
  ConfigSetting result;
  result.key = kKey;
  result.help = "least confidence of a pseudo-label: a number, or {kind: class_adaptive | quantile, ...}";
  result.read = [](Config& config, const YAML::Node& value, const std::string& place) {
    ThresholdConfig threshold;
    if (!value.IsMap()) {
      const auto number = kShare.parse(value);
      if (!number) reject(kKey, value, place, kShare.describe() + ", or a mapping such as {kind: class_adaptive}");
      threshold.value = *number;
      config.semi.threshold = threshold;
      return;
    }
    if (!value["kind"])
      throw Error(ErrorKind::kConfig, kKey + " has no kind", place, "write {kind: ...}, " + kKinds.describe());
    threshold.kind = parse_or_throw(kKinds, kKey + ".kind", value["kind"], place);
    if (threshold.kind == "class_adaptive") threshold.value = 1;
    Names known;
    for (const auto& field : kFields)
      if (contains(field.kinds, threshold.kind)) known.push_back(field.name);
    for (const auto& item : value) {
      const std::string name = item.first.IsScalar() ? item.first.Scalar() : "";
      if (name == "kind") continue;
      if (!contains(known, name))
        throw Error(ErrorKind::kConfig, kKey + " of kind " + threshold.kind + " does not read " + quoted(name), place,
                    "it reads " + join(known));
      for (const auto& field : kFields)
        if (field.name == name) threshold.*field.field = parse_or_throw(field.range, kKey + "." + name, item.second, place);
    }
    config.semi.threshold = threshold;
  };
  result.print = [](const Config& config) {
    const ThresholdConfig& threshold = config.semi.threshold;
    if (threshold.kind == "fixed") return yaml_text(threshold.value);
    std::string text = "{kind: " + threshold.kind;
    for (const auto& field : kFields)
      if (contains(field.kinds, threshold.kind)) text += ", " + field.name + ": " + yaml_text(threshold.*field.field);
    return text + "}";
  };
  result.reset = [](Config& config) { config.semi.threshold = ThresholdConfig{}; };
  result.schema = [] {
    Json properties{{"kind", kKinds.schema()}};
    for (const auto& field : kFields) {
      properties[field.name] = field.range.schema();
      properties[field.name]["description"] = field.help;
    }
    return Json{{"anyOf",
                 {kShare.schema(),
                  {{"type", "object"}, {"required", {"kind"}}, {"additionalProperties", false}, {"properties", properties}}}}};
  };
  return result;
}

}  // namespace

const std::vector<ConfigSetting>& settings() {
  using C = Config;
  constexpr int64_t kLargestSide = 16384;
  static const std::vector<ConfigSetting> table{
      setting(
          "seed", [](auto& config) -> auto& { return config.seed; },
          Whole<uint64_t>{0, static_cast<uint64_t>(std::numeric_limits<int64_t>::max())},
          "of every random draw: initial weights, splits, crops, dropout"),

      setting("run.name", at(&C::run, &RunConfig::name), Text{},
              "name of the folder under runs/; the config's file name when not given"),
      setting("run.dir", at(&C::run, &RunConfig::dir), Text{}, "the run folder itself; runs/NAME when not given"),
      setting("run.device", at(&C::run, &RunConfig::device), Device{}, "auto takes a GPU where there is one"),
      setting("run.precision", at(&C::run, &RunConfig::precision), one_of({"auto", "fp32", "bf16", "fp16"}),
              "of the network's arithmetic; auto takes bf16 where the device computes it natively, else fp16 on a GPU"),
      setting("run.cuda_graph", at(&C::run, &RunConfig::cuda_graph), one_of({"auto", "off"}),
              "a GPU's step recorded once and started as a whole; auto: where the method's steps allow it, with "
              "optim.accumulate: 1"),
      setting("run.deterministic", at(&C::run, &RunConfig::deterministic), Switch{}, "only deterministic kernels"),
      setting("run.max_hours", at(&C::run, &RunConfig::max_hours), kNotNegative,
              "then the run stops with a checkpoint that --resume goes on from; 0: no limit"),

      setting("ops.fused", at(&C::ops, &OpsConfig::fused), Switch{},
              "one pass from low-resolution logits to losses, pseudo-labels and scores, and on a GPU through normalisation "
              "with what follows it; false: the plain forms, to compare"),

      setting("data.format", at(&C::data, &DataConfig::format), Choice{[] { return datasets().names(); }},
              "how the data lies on disk"),
      setting("data.root", at(&C::data, &DataConfig::root), Text{}, "folder that paths in lists are relative to"),
      setting("data.labeled", at(&C::data, &DataConfig::labeled), Text{},
              "list file of images and labels, or a fraction such as 1/8 of the format's own training images"),
      setting("data.unlabeled", at(&C::data, &DataConfig::unlabeled), Text{}, "list file of images; with a fraction: the rest"),
      setting("data.val", at(&C::data, &DataConfig::val), Text{}, "list file of images and labels"),
      setting("data.classes", at(&C::data, &DataConfig::classes), Text{}, "cityscapes, camvid, synthetic or a class file"),
      setting("data.ignore_index", at(&C::data, &DataConfig::ignore_index), Integer{0, 255}, "label value that nothing counts"),
      setting("data.crop", at(&C::data, &DataConfig::crop), Sides{{8, kLargestSide}}, "training crop in pixels"),
      setting("data.scale", at(&C::data, &DataConfig::scale), List<Real>{kScale, 2}, "least and largest random resize"),
      setting("data.flip", at(&C::data, &DataConfig::flip), Switch{}, "mirror half of the crops"),
      setting("data.unlabeled_truth", at(&C::data, &DataConfig::unlabeled_truth), Switch{},
              "the unlabelled images' labels exist: measure pseudo-labels by them, learn nothing from them"),
      setting("data.workers", at(&C::data, &DataConfig::workers), Integer{0, 256},
              "loader threads; results do not depend on it"),
      setting("data.cache", at(&C::data, &DataConfig::cache), Text{},
              "folder that keeps decoded images and labels, so that each file is decoded once"),
      setting("data.mean", at(&C::data, &DataConfig::mean), List<Real>{kAnyReal, 3}, "RGB, subtracted from values in 0..1"),
      setting("data.std", at(&C::data, &DataConfig::std), List<Real>{kPositive, 3}, "RGB, divides after that"),
      setting("data.size", at(&C::data, &DataConfig::size), Sides{{8, kLargestSide}}, "synthetic only: a scene in pixels"),
      setting("data.counts", at(&C::data, &DataConfig::counts), List<Integer>{{0, 1'000'000}, 3},
              "synthetic only: labelled, unlabelled and validation scenes"),

      setting("model.backbone", at(&C::model, &ModelConfig::backbone), Choice{[] { return backbones().names(); }}, "encoder"),
      setting("model.decoder", at(&C::model, &ModelConfig::decoder), Choice{[] { return decoders().names(); }}, "decoder"),
      setting("model.output_stride", at(&C::model, &ModelConfig::output_stride), NumberOf{{8, 16, 32}},
              "of the encoder's coarsest feature; below 32 by dilation"),
      setting("model.atrous_rates", at(&C::model, &ModelConfig::atrous_rates), List<Integer>{{1, 1024}, 3},
              "deeplabv3plus only: dilations of the ASPP"),
      setting("model.weights", at(&C::model, &ModelConfig::weights), Text{}, "initial weights file; random when not given"),
      setting("model.norm", at(&C::model, &ModelConfig::norm), one_of({"batch", "sync", "group"}),
              "normalisation of backbone and deeplabv3plus (fpn's is by groups); group: of an image alone, for small batches "
              "without pretrained weights; sync: over the images of all processes that train together"),
      setting("model.dropout", at(&C::model, &ModelConfig::dropout), kShareBelowOne,
              "share dropped: of channels before the head (fpn), of values after the ASPP (deeplabv3plus)"),
      setting("model.stride_in_1x1", at(&C::model, &ModelConfig::stride_in_1x1), Switch{},
              "bottlenecks stride in their first 1x1 convolution (Caffe, Keras) instead of the 3x3 (torchvision)"),

      setting("loss.kind", at(&C::loss, &LossConfig::kind), one_of({"ce", "ohem", "focal"}), "supervised loss"),
      class_weights_setting(),
      setting("loss.label_smoothing", at(&C::loss, &LossConfig::label_smoothing), kShareBelowOne,
              "share given to all classes alike"),
      setting("loss.logit_adjustment", at(&C::loss, &LossConfig::logit_adjustment), kNotNegative,
              "tau of logits + tau ln p_c, which favours rare classes; 0: off"),
      setting("loss.ohem_threshold", at(&C::loss, &LossConfig::ohem_threshold), kShare,
              "ohem only: pixels at most this sure of their class are kept"),
      setting("loss.ohem_min_kept", at(&C::loss, &LossConfig::ohem_min_kept), kNotNegative,
              "ohem only: at least so many pixels; a share of them up to 1, their number above"),
      setting("loss.focal_gamma", at(&C::loss, &LossConfig::focal_gamma), kNotNegative, "focal only: of (1 - p)^gamma"),

      setting("semi.method", at(&C::semi, &SemiConfig::method), Choice{[] { return methods().names(); }},
              "how unlabelled images are learned from"),
      setting("semi.teacher", at(&C::semi, &SemiConfig::teacher), one_of({"self", "ema", "twin", "history"}),
              "network that makes the pseudo-labels"),
      setting("semi.ema_decay", at(&C::semi, &SemiConfig::ema_decay), kShareBelowOne,
              "share of the teacher that stays at each update; supervised: of an average that is evaluated and saved, 0: none"),
      setting("semi.history", at(&C::semi, &SemiConfig::history), Integer{1, 64},
              "past models that vote; prevmatch: that are kept, of which one to three vote"),
      threshold_setting(),
      setting("semi.mix", at(&C::semi, &SemiConfig::mix), one_of({"none", "cutmix", "classmix"}), "mixing of the strong views"),
      setting("semi.strong_view", at(&C::semi, &SemiConfig::strong_view), one_of({"jitter", "random"}),
              "colours of the strong views: UniMatch's jitter, grey and blur, or AugSeg's random operations"),
      setting("semi.views", at(&C::semi, &SemiConfig::views), Integer{1, 8}, "strong views of each unlabelled image"),
      setting("semi.feature_dropout", at(&C::semi, &SemiConfig::feature_dropout), kShareBelowOne,
              "share of feature channels dropped in a stream of its own, 0: no such stream; unimatch_v2: share of images whose "
              "strong views have channels dropped"),
      setting("semi.align_distribution", at(&C::semi, &SemiConfig::align_distribution), Switch{},
              "draw pseudo-labels towards the labelled pixel share"),
      setting("semi.undo_class_bias", at(&C::semi, &SemiConfig::undo_class_bias), Switch{},
              "pseudo-labels without what loss.class_weights and loss.logit_adjustment add to rare classes"),
      setting("semi.class_weights", at(&C::semi, &SemiConfig::class_weights), Switch{},
              "the unsupervised loss takes loss.class_weights too"),
      setting("semi.normalize", at(&C::semi, &SemiConfig::normalize), one_of({"valid", "accepted"}),
              "pixels that the unsupervised loss is divided by"),
      setting("semi.weight", at(&C::semi, &SemiConfig::weight), kNotNegative, "of the unsupervised loss"),
      setting("semi.contrast_weight", at(&C::semi, &SemiConfig::contrast_weight), kNotNegative, "of the contrastive loss"),
      setting("semi.burn_in_epochs", at(&C::semi, &SemiConfig::burn_in_epochs), Integer{0, 1'000'000},
              "epochs without unsupervised loss"),
      setting("semi.ramp_up_epochs", at(&C::semi, &SemiConfig::ramp_up_epochs), Integer{0, 1'000'000},
              "epochs over which its weight then grows"),

      setting("sampler.rare_class_temperature", at(&C::sampler, &SamplerConfig::rare_class_temperature), kNotNegative,
              "of rare class sampling, .01 in DAFormer: the lower, the more crops of rare classes; 0: off"),

      setting("optim.kind", at(&C::optim, &OptimConfig::kind), one_of({"sgd", "adamw"}), "optimizer"),
      setting("optim.lr", at(&C::optim, &OptimConfig::lr), kPositive, "learning rate of the encoder at its highest"),
      setting("optim.decoder_lr_multiplier", at(&C::optim, &OptimConfig::decoder_lr_multiplier), kPositive,
              "of decoder and head"),
      setting("optim.momentum", at(&C::optim, &OptimConfig::momentum), kShareBelowOne, "of sgd"),
      setting("optim.weight_decay", at(&C::optim, &OptimConfig::weight_decay), kNotNegative, "weight decay"),
      setting("optim.schedule", at(&C::optim, &OptimConfig::schedule), one_of({"poly", "cosine", "constant", "onecycle"}),
              "of the learning rate"),
      setting("optim.warmup_steps", at(&C::optim, &OptimConfig::warmup_steps), Integer{0},
              "steps over which the learning rate rises from 0"),
      setting("optim.clip_grad_norm", at(&C::optim, &OptimConfig::clip_grad_norm), kNotNegative,
              "largest norm of the gradient; 0: off"),
      setting("optim.accumulate", at(&C::optim, &OptimConfig::accumulate), Integer{1, 4096}, "micro-batches per update"),
      setting("optim.batch", at(&C::optim, &OptimConfig::batch), one_of({"given", "auto"}),
              "auto: the largest batch that fits into memory, in the ratio of the two below"),
      setting("optim.batch_labeled", at(&C::optim, &OptimConfig::batch_labeled), Integer{1, 65536},
              "labelled images per micro-batch"),
      setting("optim.batch_unlabeled", at(&C::optim, &OptimConfig::batch_unlabeled), Integer{1, 65536},
              "unlabelled images per micro-batch"),
      setting("optim.epochs", at(&C::optim, &OptimConfig::epochs), Integer{1, 1'000'000},
              "length of the training; or optim.steps"),
      setting("optim.steps", at(&C::optim, &OptimConfig::steps), Integer{1, 1'000'000'000},
              "length of the training in updates; or optim.epochs"),

      setting("eval.every", at(&C::eval, &EvalConfig::every), Integer{1, 1'000'000}, "epochs between evaluations"),
      setting("eval.mode", at(&C::eval, &EvalConfig::mode), one_of({"whole", "sliding"}), "whole images or a sliding window"),
      setting("eval.window", at(&C::eval, &EvalConfig::window), Sides{{8, kLargestSide}},
              "sliding window in pixels; the crop when not given"),
      setting("eval.stride", at(&C::eval, &EvalConfig::stride), Sides{{1, kLargestSide}},
              "of the window; two thirds of it when not given"),
      setting("eval.flip", at(&C::eval, &EvalConfig::flip), Switch{}, "average with the mirrored image's prediction"),
      setting("eval.scales", at(&C::eval, &EvalConfig::scales), List<Real>{kScale}, "sizes whose predictions are averaged"),
      setting("eval.first", at(&C::eval, &EvalConfig::first), Switch{}, "evaluate before the first step too"),
      setting("eval.patience", at(&C::eval, &EvalConfig::patience), Integer{0},
              "evaluated epochs without a better mIoU after which training ends; 0: never"),

      setting("checkpoint.every_steps", at(&C::checkpoint, &CheckpointConfig::every_steps), Integer{0},
              "updates between numbered checkpoints; 0: none"),
      setting("checkpoint.keep", at(&C::checkpoint, &CheckpointConfig::keep), Integer{1}, "numbered checkpoints that stay"),
      setting("checkpoint.best", at(&C::checkpoint, &CheckpointConfig::best), one_of({"miou"}),
              "score that picks best.safetensors"),

      setting("report.every_steps", at(&C::report, &ReportConfig::every_steps), Integer{1}, "updates between losses shown"),
      setting("report.html", at(&C::report, &ReportConfig::html), Switch{}, "report.html, rewritten after every epoch"),
      setting("report.tensorboard", at(&C::report, &ReportConfig::tensorboard), Switch{}, "events for TensorBoard"),
      setting("report.samples", at(&C::report, &ReportConfig::samples), Integer{0, 64},
              "sample pictures of each evaluated epoch; 0: none"),

      setting("distributed.backend", at(&C::distributed, &DistributedConfig::backend), one_of({"auto", "gloo", "nccl"}),
              "how processes that train together talk; auto: nccl between GPUs, else gloo"),
  };
  return table;
}

const ConfigSetting* find_setting(const std::string& key) {
  const auto found =
      std::find_if(settings().begin(), settings().end(), [&](const ConfigSetting& entry) { return entry.key == key; });
  return found == settings().end() ? nullptr : &*found;
}

std::string section_of(const std::string& key) {
  const auto dot = key.find('.');
  return dot == std::string::npos ? "" : key.substr(0, dot);
}

std::string leaf_of(const std::string& key) { return key.substr(key.rfind('.') + 1); }

bool is_section(const std::string& name) {
  return !name.empty() && std::any_of(settings().begin(), settings().end(),
                                      [&](const ConfigSetting& entry) { return section_of(entry.key) == name; });
}

void reject_unknown_key(const std::string& key, const std::string& place) {
  Names keys, sections, leaves;
  for (const auto& entry : settings()) {
    const std::string section = section_of(entry.key);
    keys.push_back(entry.key);
    if (!section.empty() && !contains(sections, section)) sections.push_back(section);
    if (section == section_of(key)) leaves.push_back(leaf_of(entry.key));
  }
  std::string near;
  for (const auto& known : keys)  // the right name in the wrong section
    if (near.empty() && leaf_of(known) == leaf_of(key)) near = known;
  if (near.empty() && is_section(section_of(key))) {
    near = nearest(leaf_of(key), leaves);
    if (!near.empty()) near = section_of(key) + "." + near;
  }
  if (near.empty() && kUsualNames.contains(leaf_of(key))) near = kUsualNames.at(leaf_of(key));
  if (near.empty() && !is_section(section_of(key))) {
    near = nearest(key, keys);
    if (near.empty()) near = nearest(section_of(key).empty() ? key : section_of(key), sections);
  }
  std::string hint;
  if (const size_t space = key.find(' '); space != std::string::npos)
    hint = "a colon may be missing: " + leaf_of(key.substr(0, space)) + ": " + key.substr(space + 1);
  else if (!near.empty())
    hint = "did you mean \"" + near + "\"?";
  else if (is_section(section_of(key)))
    hint = "known under " + section_of(key) + ": " + join(leaves);
  else
    hint = "known sections: " + join(sections);
  throw Error(ErrorKind::kConfig, "unknown key " + quoted(key), place, hint);
}

}  // namespace semiseg
