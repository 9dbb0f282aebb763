#include "config/checks.h"

#include <algorithm>

#include "config/settings.h"
#include "semiseg/error.h"
#include "semiseg/method.h"

namespace semiseg {

Unread unread(const Config& config, const std::string& key) {
  if (section_of(key) == "semi" && key != "semi.method") {
    const std::string &method = config.semi.method, &teacher = config.semi.teacher;
    if (!method_reads(method, key)) return {{"semi.method"}, "semi.method: " + method};
    if (method_reads(method, "semi.teacher") &&
        ((key == "semi.ema_decay" && teacher != "ema") || (key == "semi.history" && teacher != "history")))
      return {{"semi.method", "semi.teacher"}, "semi.teacher: " + teacher};
  }
  if ((key == "loss.ohem_threshold" || key == "loss.ohem_min_kept") && config.loss.kind != "ohem")
    return {{"loss.kind"}, "loss.kind: " + config.loss.kind};
  if (key == "loss.focal_gamma" && config.loss.kind != "focal") return {{"loss.kind"}, "loss.kind: " + config.loss.kind};
  if (key == "loss.label_smoothing" && config.loss.kind == "focal") return {{"loss.kind"}, "loss.kind: focal"};
  if (key == "model.atrous_rates" && config.model.decoder != "deeplabv3plus")
    return {{"model.decoder"}, "model.decoder: " + config.model.decoder};
  if (key == "semi.class_weights" && config.loss.class_weights == "none")
    return {{"loss.class_weights"}, "loss.class_weights: none"};
  if ((key == "optim.batch_unlabeled" || key == "data.unlabeled_truth") && !reads_unlabeled(config.semi.method))
    return {{"semi.method"}, "semi.method: " + config.semi.method};
  if (key == "data.unlabeled_truth" && config.semi.method == "retrain") return {{"semi.method"}, "semi.method: retrain"};
  if (key == "checkpoint.keep" && config.checkpoint.every_steps == 0)
    return {{"checkpoint.every_steps"}, "checkpoint.every_steps: 0"};
  if ((key == "eval.window" || key == "eval.stride") && config.eval.mode == "whole") return {{"eval.mode"}, "eval.mode: whole"};
  if ((key == "data.size" || key == "data.counts") && config.data.format != "synthetic")
    return {{"data.format"}, "data.format: " + config.data.format};
  if (key == "data.cache" && config.data.format == "synthetic") return {{"data.format"}, "data.format: synthetic"};
  if (key == "optim.momentum" && config.optim.kind == "adamw") return {{"optim.kind"}, "optim.kind: adamw"};
  return {};
}

int layer_of(const Config& config, const std::string& key) {
  const auto found = config.origins.find(key);
  return found == config.origins.end() ? 0 : found->second.layer;
}

void reset(Config& config, const std::string& key) {
  find_setting(key)->reset(config);
  config.origins.erase(key);
}

void contradict(const Config& config, const std::string& key, const std::string& what, const std::string& hint) {
  const auto origin = config.origins.find(key);
  throw Error(ErrorKind::kConfig, what, origin == config.origins.end() ? config.file : origin->second.text(), hint);
}

std::optional<std::pair<int64_t, int64_t>> parse_fraction(const std::string& text) {
  const auto slash = text.find('/');
  if (slash == std::string::npos) return std::nullopt;
  const auto numerator = parse_yaml_number<int64_t>(std::string_view(text).substr(0, slash));
  const auto denominator = parse_yaml_number<int64_t>(std::string_view(text).substr(slash + 1));
  if (!numerator || !denominator) return std::nullopt;
  return std::pair{*numerator, *denominator};
}

namespace {

// A setting that is not read goes back to its default where a later layer decided so, or where to_yaml printed it (an earlier
// version of the program may have read it); it is an error elsewhere.
void settle_unread(Config& config, int text_layer) {
  for (const auto& entry : settings()) {
    if (!config.is_set(entry.key)) continue;
    const Unread reason = unread(config, entry.key);
    if (reason.because.empty()) continue;
    int deciding_layer = 0;
    for (const auto& key : reason.deciding) deciding_layer = std::max(deciding_layer, layer_of(config, key));
    const int layer = layer_of(config, entry.key);
    if (layer >= deciding_layer && layer != text_layer)
      contradict(config, entry.key, entry.key + " is set, but " + reason.because + " does not read it",
                 "remove it, or change " + reason.deciding.back());
    reset(config, entry.key);
  }
}

// The later of optim.epochs and optim.steps counts.
void settle_length(Config& config) {
  if (!config.optim.epochs && !config.optim.steps)
    throw Error(ErrorKind::kConfig, "neither optim.epochs nor optim.steps is set", config.file, "set one of them");
  if (!config.optim.epochs || !config.optim.steps) return;
  const int epochs = layer_of(config, "optim.epochs"), steps = layer_of(config, "optim.steps");
  if (epochs == steps) contradict(config, "optim.steps", "optim.epochs and optim.steps are both set", "remove one of them");
  reset(config, epochs < steps ? "optim.epochs" : "optim.steps");
}

void check_data(const Config& config) {
  const DataConfig& data = config.data;
  if (data.scale[0] > data.scale[1])
    contradict(config, "data.scale", "data.scale is " + yaml_text(data.scale) + ": the first is above the second", "swap them");
  const auto fraction = parse_fraction(data.labeled);
  if (fraction && (fraction->first < 1 || fraction->first > fraction->second))
    contradict(config, "data.labeled", "data.labeled is \"" + data.labeled + "\", not a fraction above 0 and at most 1/1", "");
  if (data.format == "cityscapes" && data.root.empty())
    contradict(config, "data.format", "data.format: cityscapes needs data.root",
               "set it to the folder that holds leftImg8bit and gtFine, such as data.root=/data/cityscapes");
  if (data.format == "list" && data.labeled.empty())
    contradict(config, "data.format", "data.format: list needs data.labeled", "name a list file");
  if (data.format == "list" && fraction)
    contradict(config, "data.labeled",
               "data.labeled is the fraction " + data.labeled + ", but data.format: list has no training images of its own",
               "name a list file");
  if (config.semi.method == "retrain" && data.unlabeled.empty())
    contradict(config, "semi.method",
               "semi.method: retrain learns from label files of the unlabelled images, and data.unlabeled is not set",
               "name a list of images and labels, such as `semiseg pseudo-label` writes");
  if (data.format == "synthetic" || !reads_unlabeled(config.semi.method) || !data.unlabeled.empty()) return;
  const std::string who = "semi.method: " + config.semi.method;
  if (!fraction && data.format != "list" && !data.labeled.empty())
    contradict(config, "data.labeled",
               who + " needs unlabelled images, and data.labeled is \"" + data.labeled + "\", not a fraction that leaves some",
               "write a fraction such as 1/8, or set data.unlabeled to a list file, too");
  if (!fraction)
    contradict(config, "semi.method", who + " needs unlabelled images",
               data.format == "list" ? "name a list file in data.unlabeled"
                                     : "set data.unlabeled to a list file, or data.labeled to a fraction such as 1/8");
  if (fraction->first == fraction->second)
    contradict(config, "data.labeled", who + " needs unlabelled images, and data.labeled: " + data.labeled + " leaves none",
               "take a smaller fraction, or set data.unlabeled");
}

void check_run(const Config& config) {
  const std::string& name = config.run.name;
  if (name.find('/') != std::string::npos || name == "." || name == "..")
    contradict(config, "run.name", "run.name is \"" + name + "\", not the name of a folder", "run.dir takes a path");
  if (config.optim.steps && config.optim.warmup_steps >= *config.optim.steps)
    contradict(config, "optim.warmup_steps",
               str("optim.warmup_steps (", config.optim.warmup_steps, ") is not below optim.steps (", *config.optim.steps, ")"),
               "shorten the warm-up or train longer");
  if (config.semi.method == "self_training" && config.semi.threshold.kind != "fixed")
    contradict(config, "semi.threshold",
               "semi.method: self_training takes a number as semi.threshold, not " + value_text(config, "semi.threshold"),
               "labels are written once, so no threshold can adapt to them");
  const auto& window = config.eval.window.empty() ? config.data.crop : config.eval.window;
  for (size_t side = 0; side < config.eval.stride.size(); ++side)
    if (config.eval.stride[side] > window[side])
      contradict(config, "eval.stride",
                 "eval.stride " + yaml_text(config.eval.stride) + " is larger than the window " + yaml_text(window) +
                     " and would leave gaps",
                 "make it smaller than the window");
}

}  // namespace

void check_together(Config& config, int text_layer) {
  settle_unread(config, text_layer);
  settle_length(config);
  check_data(config);
  check_run(config);
}

}  // namespace semiseg
