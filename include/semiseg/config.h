// The settings of a run: typed, checked, each with the place its value came from.
//
// A config is read from YAML (`base:` files first, then the file itself), then `key=value` overrides. Every setting is bound
// once, in src/config/settings.cpp, with its range and help text: parsing, printing, the JSON schema and the check on resume
// all walk that one list.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace semiseg {

struct RunConfig {
  std::string name;                 // the folder under runs/; the config's file name when not given
  std::string dir;                  // the run folder itself; runs/NAME when not given
  std::string device = "auto";      // auto | cpu | cuda | cuda:N
  std::string precision = "auto";   // fp32 | bf16 | fp16 | auto (device.h)
  std::string cuda_graph = "auto";  // auto | off
  bool deterministic = true;        // only deterministic kernels; without meaning on the CPU, which always is
  double max_hours = 0;             // then the run stops with a checkpoint; 0: no limit
};

struct OpsConfig {
  bool fused = true;  // one pass from low-resolution logits to losses, pseudo-labels and scores (ops.h)
};

struct DataConfig {
  std::string format;                   // cityscapes | list | synthetic
  std::string root;                     // folder that list paths are relative to; the folder of the config when not given
  std::string labeled;                  // a list file, or a fraction such as 1/8 of the format's own training images
  std::string unlabeled;                // a list file; with a fraction: the rest
  std::string val;                      // a list file
  std::string classes;                  // cityscapes | camvid | a YAML file; the format's own when not given
  int64_t ignore_index = 255;           // the label value that nothing counts
  std::vector<int64_t> crop{256, 256};  // H, W of a training crop; one number means a square
  std::vector<double> scale{0.5, 2.0};  // range of the random resize
  bool flip = true;                     // mirror half of the crops
  bool unlabeled_truth = false;         // labels of the unlabelled images exist: measure pseudo-labels, never learn from them
  int64_t workers = 2;                  // loader threads; results do not depend on it
  std::string cache;                    // folder for decoded images and labels; none when not given
  std::vector<double> mean{0.485, 0.456, 0.406};
  std::vector<double> std{0.229, 0.224, 0.225};
  bool val_only = false;  // no setting: `eval` sets it, so that training images need not be there
  // synthetic only
  std::vector<int64_t> size{128, 256};       // H, W of a scene
  std::vector<int64_t> counts{64, 192, 32};  // labelled, unlabelled and validation scenes
};

struct ModelConfig {
  std::string backbone = "resnet50";
  std::string decoder = "fpn";
  int64_t output_stride = 32;  // of the encoder's coarsest feature: 32, or 16 or 8 by dilation; deeplabv3plus: 16 or 8
  std::vector<int64_t> atrous_rates{12, 24, 36};  // of deeplabv3plus
  std::string weights;                            // a weights file, Python's or ours; random initialisation when not given
  std::string norm = "batch";                     // batch | sync | group: of backbone and deeplabv3plus; fpn has groups
  double dropout = 0.2;                           // of whole channels, before the head
  bool stride_in_1x1 =
      false;  // the strided convolution of a bottleneck is its first 1x1 (Caffe, Keras), not its 3x3 (torchvision)
};

struct LossConfig {
  std::string kind = "ce";             // ce | ohem | focal
  std::string class_weights = "none";  // none | inverse | median | enet | effective | given
  std::vector<double> given_weights;   // set by `loss.class_weights: [..]`, then class_weights is "given"
  double label_smoothing = 0.0;
  double logit_adjustment = 0.0;  // tau of logits + tau ln p_c (arXiv 2007.07314); 0: off
  double ohem_threshold = 0.7;    // pixels at most this sure of their class are kept
  double ohem_min_kept = 0.156;   // at least so many of them: a share of the pixels, or their number where above 1
  double focal_gamma = 2.0;       // of (1 - p_y)^gamma (arXiv 1708.02002)
};

// When a pseudo-label counts.
struct ThresholdConfig {
  std::string kind = "fixed";  // fixed | class_adaptive | quantile
  double value = 0.95;         // fixed: least confidence; class_adaptive: upper bound of every class's threshold
  double momentum = 0.999;     // class_adaptive, quantile: share of the running statistics that stays at each step
  double share = 0.8;          // quantile: the surest share of each class's pixels that counts
};

struct SemiConfig {
  std::string method = "supervised";
  std::string teacher = "self";  // self | ema | twin | history
  double ema_decay = 0.996;
  int64_t history = 3;  // past models that vote with teacher: history
  ThresholdConfig threshold;
  std::string mix = "cutmix";          // none | cutmix | classmix
  std::string strong_view = "jitter";  // jitter (UniMatch's) | random (AugSeg's: one to three of eleven operations)
  int64_t views = 1;                   // strong views of each unlabelled image
  double feature_dropout = 0.0;  // share of feature channels dropped in a further stream that learns the same labels; 0: none.
                                 // unimatch_v2: share of images whose strong views have channels dropped
  bool align_distribution = false;  // pseudo-labels are drawn towards the labelled pixel share
  bool undo_class_bias = false;     // pseudo-labels of the probabilities without class weights and logit adjustment
  bool class_weights = false;       // the unsupervised loss takes the supervised one's class weights
  std::string normalize = "valid";  // the unsupervised loss is divided by: valid (all but padding) | accepted
  double weight = 1.0;              // of the unsupervised loss
  double contrast_weight = 1.0;     // u2pl: of the contrastive loss
  int64_t burn_in_epochs = 0;       // epochs without unsupervised loss
  int64_t ramp_up_epochs = 0;       // then epochs over which its weight grows as exp(-5 (1 - t)^2)
};

struct SamplerConfig {
  double rare_class_temperature = 0.0;  // of DAFormer's rare class sampling of labelled crops; 0: off
};

struct OptimConfig {
  std::string kind = "sgd";  // sgd | adamw
  double lr = 0.01;          // of the encoder
  double decoder_lr_multiplier = 1.0;
  double momentum = 0.9;
  double weight_decay = 1e-4;
  std::string schedule = "poly";  // poly | cosine | constant | onecycle
  int64_t warmup_steps = 0;
  double clip_grad_norm = 0.0;  // 0: off
  int64_t accumulate = 1;       // micro-batches per update
  std::string batch = "given";  // given | auto: before training, the largest batch that fits into memory is looked for
  int64_t batch_labeled = 4;    // images per micro-batch
  int64_t batch_unlabeled = 4;
  std::optional<int64_t> epochs, steps;  // exactly one is set
};

struct EvalConfig {
  int64_t every = 1;              // epochs
  std::string mode = "whole";     // whole | sliding
  std::vector<int64_t> window{};  // H, W; the crop when not given
  std::vector<int64_t> stride{};  // H, W; two thirds of the window when not given
  bool flip = false;
  std::vector<double> scales{1.0};
  bool first = false;    // also before the first step
  int64_t patience = 0;  // evaluated epochs without a better mIoU, after which training ends; 0: never
};

struct CheckpointConfig {
  int64_t every_steps = 0;  // numbered checkpoints; 0: only at the end of an epoch (last) and at the best (best)
  int64_t keep = 2;         // numbered ones that stay
  std::string best = "miou";
};

struct ReportConfig {
  int64_t every_steps = 10;  // how often losses are read from the device and shown
  bool html = true;          // report.html, rewritten after every epoch
  bool tensorboard = true;   // events for TensorBoard
  int64_t samples = 4;       // sample pictures of each evaluated epoch; 0: none
};

struct DistributedConfig {
  std::string backend = "auto";  // auto | gloo | nccl: how processes that train together talk (distributed.h)
};

// Where a value was set.
struct Origin {
  int layer = 0;     // 0 default, then base files in order, the file itself, the command line last
  std::string file;  // "default", a path, or "command line"
  int line = 0;      // 0 where there is none
  std::string text() const;
};

struct Config {
  uint64_t seed = 0;
  RunConfig run;
  OpsConfig ops;
  DataConfig data;
  ModelConfig model;
  LossConfig loss;
  SemiConfig semi;
  SamplerConfig sampler;
  OptimConfig optim;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  ReportConfig report;
  DistributedConfig distributed;

  std::map<std::string, Origin> origins;  // by dotted key; a key that is absent has its default
  std::string file;                       // the config's path, or "" when it came from a checkpoint

  // True when the key was set anywhere but by its default.
  bool is_set(const std::string& key) const { return origins.count(key) != 0; }
};

// Reads `path` and applies `key=value` overrides. Throws Error(kConfig) with file, line, key, value and the nearest known key.
// The result holds absolute paths: lists are looked up beside the file that names them, beside the config itself, then under
// data.root.
Config load_config(const std::string& path, const std::vector<std::string>& overrides);

// The same from text that to_yaml wrote (a checkpoint's metadata). `where` is what messages call it.
Config parse_config(const std::string& yaml, const std::string& where, const std::vector<std::string>& overrides);

// The resolved config as YAML that load_config reads back to the same values.
std::string to_yaml(const Config& config);
// The same with a comment after each value that says where it came from.
std::string to_yaml_with_origins(const Config& config);
// JSON schema (draft 2020-12) of a config file, with the registered names as enumerations.
std::string config_schema();

// All dotted keys, in file order.
std::vector<std::string> setting_keys();
// Dotted keys in which two configs differ, in file order.
std::vector<std::string> differing_keys(const Config& a, const Config& b);
// One value as YAML prints it. Throws std::out_of_range for an unknown key.
std::string value_text(const Config& config, const std::string& key);

}  // namespace semiseg
