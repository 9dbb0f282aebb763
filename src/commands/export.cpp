#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "commands/command.h"
#include "commands/config_file.h"
#include "commands/network_file.h"
#include "export/graph.h"
#include "export/onnx.h"
#include "export/torchscript.h"
#include "fold.h"
#include "output_files.h"
#include "semiseg/checkpoint.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/loader.h"
#include "semiseg/log.h"
#include "semiseg/ops.h"
#include "semiseg/random.h"
#include "spelling.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;
using graph::Output;
using Json = nlohmann::ordered_json;

// Difference from the network's own output that rounding may make; of the largest logit where that is above 1.
constexpr double kTolerance = 1e-4;

enum class Format { kSafetensors, kTorchScript, kOnnx };

Format format_of(const std::string& path) {
  const std::string extension = lowered(fs::path(path).extension().string());
  if (extension == ".safetensors") return Format::kSafetensors;
  if (extension == ".pt") return Format::kTorchScript;
  if (extension == ".onnx") return Format::kOnnx;
  throw Error(ErrorKind::kConfig, "the file's ending does not say what to write", path,
              "end it with .safetensors (weights for Python), .pt (TorchScript) or .onnx");
}

Output output_of(const Arguments& arguments, Format format) {
  if (!arguments.has("output")) return Output::kLogits;
  const std::string& name = arguments.get("output");
  if (format == Format::kSafetensors)
    throw Error(ErrorKind::kConfig, "a .safetensors file holds weights, which have no output", "--output", "leave it out");
  for (const Output output : {Output::kLogits, Output::kLowResolution, Output::kClasses})
    if (name == graph::output_name(output)) return output;
  throw Error(ErrorKind::kConfig, "\"" + name + "\" is not known", "--output", "known: logits, low_resolution, classes");
}

void require_free(const std::string& path, const std::string& checkpoint, bool overwrite) {
  require_writable(path);
  if (!fs::exists(path)) return;
  std::error_code error;
  if (fs::equivalent(path, checkpoint, error))
    throw Error(ErrorKind::kConfig, "this is the checkpoint itself", path, "choose another name");
  if (!overwrite) throw Error(ErrorKind::kConfig, "the file exists", path, "choose another name, or add --overwrite");
}

LoadedModel load(const std::string& path, const Arguments& arguments) {
  const bool settings = arguments.positional.size() > 1 || !arguments.overrides.empty();
  if (is_checkpoint(path) && settings)
    throw Error(ErrorKind::kConfig, "a checkpoint holds its own settings, and export reads no others", path,
                "leave out the config and key=value");
  if (arguments.positional.size() < 2) return load_model(path, nullptr, torch::kCPU);
  const Config config = load_config(config_file(arguments.positional[1]), arguments.overrides);
  return load_model(path, &config, torch::kCPU);
}

// What a program needs to know besides the weights.
Json describe(const LoadedModel& model, bool folded) {
  const ModelConfig& settings = model.config.model;
  Json info = {{"producer", "semiseg"},
               {"classes", model.classes.names},
               {"colours", model.classes.colours},
               {"mean", model.config.data.mean},
               {"std", model.config.data.std},
               {"input", "RGB, (value / 255 - mean) / std, float32 [N, 3, H, W]"},
               {"model",
                {{"backbone", settings.backbone},
                 {"decoder", settings.decoder},
                 {"output_stride", settings.output_stride},
                 {"stride_in_1x1", settings.stride_in_1x1}}},
               {"batch_norm_folded", folded}};
  if (!model.classes.label_ids.empty()) info["label_ids"] = model.classes.label_ids;
  return info;
}

// For formats whose metadata are texts: everything but a text as JSON.
std::map<std::string, std::string> as_texts(const Json& info) {
  std::map<std::string, std::string> texts;
  for (const auto& [key, value] : info.items()) texts[key] = value.is_string() ? value.get<std::string>() : value.dump();
  return texts;
}

Tensor noise(const std::vector<int64_t>& sizes) {
  auto image_BCHW = at::empty(sizes);
  Random random(0, Purpose::kInit, hash_name("export"));
  float* values = image_BCHW.data_ptr<float>();
  for (int64_t i = 0; i < image_BCHW.numel(); ++i) values[i] = static_cast<float>(random.normal());
  return image_BCHW;
}

// The images that the exported network is tried on: the picture, or noise of several sizes and batches.
std::vector<Tensor> trial_images(const Arguments& arguments, const DataConfig& data) {
  if (!arguments.has("image")) return {noise({1, 3, 64, 96}), noise({2, 3, 75, 101}), noise({1, 3, 33, 160})};
  return {normalize(read_image(arguments.get("image")).unsqueeze(0), data.mean, data.std).contiguous()};
}

// Logits as evaluation makes them: at stride 4 of the padded image, or at the image's size.
Tensor low_resolution_logits(Segmenter& network, const Tensor& image_BCHW) {
  at::NoGradGuard no_grad;
  return network.forward(pad_sides(image_BCHW));
}
Tensor logits(Segmenter& network, const Tensor& image_BCHW) {
  const int64_t H = image_BCHW.size(2), W = image_BCHW.size(3);
  return upsample_logits(low_resolution_logits(network, image_BCHW), padded_side(H), padded_side(W))
      .narrow(2, 0, H)
      .narrow(3, 0, W);
}

std::string size_text(const Tensor& tensor) {
  std::string text;
  for (const int64_t size : tensor.sizes()) text += (text.empty() ? "" : "x") + std::to_string(size);
  return text;
}

// Says how far the exported network is from the trained one. Throws where that is more than rounding, which is never the
// user's fault.
void compare(const std::vector<Tensor>& images, const std::vector<Tensor>& trained, const std::vector<Tensor>& exported) {
  double difference = 0, largest = 0;
  int64_t equal = 0, pixels = 0;
  std::string sizes;
  for (size_t i = 0; i < images.size(); ++i) {
    sizes += (sizes.empty() ? "" : ", ") + size_text(images[i]);
    if (exported[i].sizes() != trained[i].sizes())
      throw std::logic_error("export: logits " + size_text(exported[i]) + " instead of " + size_text(trained[i]));
    const auto raise = [](double* most, const Tensor& x) {
      const double largest_of_x = x.abs().max().item<double>();
      if (!(largest_of_x <= *most)) *most = largest_of_x;  // so, too, where it is no number
    };
    raise(&difference, exported[i] - trained[i]);
    raise(&largest, trained[i]);
    equal += exported[i].argmax(1).eq(trained[i].argmax(1)).sum().item<int64_t>();
    pixels += images[i].numel() / images[i].size(1);
  }
  if (!std::isfinite(largest))
    throw Error(ErrorKind::kCheckpoint, "the trained network gives logits that are no finite numbers, on " + sizes, "",
                "take an earlier checkpoint, or another --image");
  if (!(difference <= kTolerance * std::max(1.0, largest)))
    throw std::logic_error(str("export: the logits differ by ", difference, " from the trained network's on ", sizes));
  log_info(
      format("checked: logits differ by at most %.1e (the largest is %.1f), %.3f %% of the pixels get the same class; on %s",
             difference, largest, 100.0 * static_cast<double>(equal) / static_cast<double>(pixels), sizes.c_str()));
}

// For checks of other runtimes: image.0, logits.0, image.1, ...
void write_reference(const std::string& path, const std::vector<Tensor>& images, const std::vector<Tensor>& outputs,
                     Output output) {
  StateDict tensors;
  for (size_t i = 0; i < images.size(); ++i) {
    tensors[str("image.", i)] = images[i];
    tensors[str(graph::output_name(output), ".", i)] = outputs[i];
  }
  write_safetensors(path, tensors, {});
}

std::string output_text(Output output, int64_t num_classes) {
  switch (output) {
    case Output::kLogits:
      return str("logits, float32 [N, ", num_classes, ", H, W]");
    case Output::kLowResolution:
      return str("low_resolution, float32 logits [N, ", num_classes,
                 ", h, w]; h and w are H and W rounded up to 32, divided by 4");
    case Output::kClasses:
      return "classes, int64 [N, H, W]";
  }
  throw std::logic_error("output_text: no such output");
}

int run(const Arguments& arguments) {
  const std::string checkpoint = network_file(arguments.positional[0]);
  const std::string& path = arguments.get("o");
  const Format format = format_of(path);
  const Output output = output_of(arguments, format);
  require_free(path, checkpoint, arguments.has("overwrite"));
  if (arguments.has("reference")) {
    require_free(arguments.get("reference"), checkpoint, arguments.has("overwrite"));
    if (fs::absolute(arguments.get("reference")).lexically_normal() == fs::absolute(path).lexically_normal())
      throw Error(ErrorKind::kConfig, "-o and --reference name one file", path, "choose another name for --reference");
  }

  const LoadedModel model = load(checkpoint, arguments);
  Segmenter& network = *model.network;
  const std::vector<Tensor> images = trial_images(arguments, model.config.data);
  std::vector<Tensor> trained, exported, outputs;
  for (const Tensor& image_BCHW : images) {
    trained.push_back(logits(network, image_BCHW));
    outputs.push_back(output == Output::kLogits          ? trained.back()
                      : output == Output::kLowResolution ? low_resolution_logits(network, image_BCHW)
                                                         : trained.back().argmax(1));
  }
  const bool fold = arguments.has("fold");
  if (fold) fold_batch_norms(network);

  const graph::Graph graph = graph::record(network);
  const Json info = describe(model, fold);
  const std::string script = to_torchscript(graph, Output::kLogits, info.dump());
  compare(images, trained, run_torchscript(script, images));

  std::string kind;
  if (format == Format::kSafetensors) {
    kind = "weights";
    StateDict tensors = graph.parameters;
    tensors.insert(graph.buffers.begin(), graph.buffers.end());
    auto metadata = as_texts(info);
    metadata["format"] = "pt";  // what Python's readers ask for
    write_safetensors(path, tensors, metadata);
  } else if (format == Format::kTorchScript) {
    kind = "TorchScript";
    write_file(path, output == Output::kLogits ? script : to_torchscript(graph, output, info.dump()));
  } else {
    kind = str("ONNX, opset ", kOnnxOpset);
    write_file(path, to_onnx(graph, output, as_texts(info)));
  }
  log_info(str("wrote ", path, ": ", kind, semiseg::format(", %.1f MB", static_cast<double>(fs::file_size(path)) / 1e6),
               fold ? ", batch normalisation folded" : ""));
  if (format != Format::kSafetensors) {
    log_info("  input   image, float32 [N, 3, H, W] of any size: RGB, (value / 255 - mean) / std with mean " +
             info["mean"].dump() + " and std " + info["std"].dump());
    log_info("  output  " + output_text(output, network.num_classes()));
  }
  if (arguments.has("reference")) {
    write_reference(arguments.get("reference"), images, outputs, output);
    log_info("wrote " + arguments.get("reference") + ": images and what semiseg makes of them, to check a runtime with");
  }
  return 0;
}

const bool kRegistered = add_command({
    .name = "export",
    .synopsis = "CHECKPOINT [CONFIG.yaml] -o FILE [--fold] [--output logits|low_resolution|classes]",
    .summary = "writes a network for Python, TorchScript or ONNX",
    .details =
        R"(FILE's ending says what it becomes:
  .safetensors   the weights alone, under the names of torchvision and segmentation_models_pytorch
  .pt            TorchScript: torch.jit.load in Python, torch::jit::load in C++
  .onnx          ONNX of opset 17 with free batch, height and width

.pt and .onnx take an image [N, 3, H, W] of any size, pad it as `semiseg eval` does, and give logits at its size. Class names,
colours, mean and std lie in the metadata (.pt: the extra file semiseg.json). The written network is run against the trained one
first, on noise or on --image.

examples:
  semiseg export runs/first/checkpoints/best.safetensors -o street.onnx --fold
  semiseg export best.safetensors -o street.pt --image street.jpg
  semiseg export best.safetensors -o street.onnx --output classes --reference check.safetensors
  python tools/check/export.py street.onnx --reference check.safetensors      # in another runtime
  semiseg export fpn_from_python.pth configs/camvid/supervised.yaml -o weights.safetensors data.root=/data/camvid)",
    .flags = {{"o", "FILE", "file to write"},
              {"fold", "", "put batch normalisation into the convolutions: fewer operations, the same logits to rounding"},
              {"output", "NAME", "logits (default), low_resolution (at stride 4) or classes"},
              {"image", "FILE", "a picture to run the networks against each other on"},
              {"reference", "FILE", "write input and output of semiseg's own network as .safetensors"},
              {"overwrite", "", "replace files that exist"}},
    .min_positional = 1,
    .max_positional = 2,
    .run = run,
});

}  // namespace
}  // namespace semiseg
