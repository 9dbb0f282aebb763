// Which format a weights file has, and how its tensors find their place in a network.
#include "semiseg/weights.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <string_view>

#include "semiseg/error.h"
#include "weights/pickle.h"
#include "weights/torch_file.h"

namespace semiseg {
namespace {

// A candidate for how the file's names map to the network's: `prefix` is replaced by `target`.
struct Naming {
  std::string prefix, target;

  std::optional<std::string> map(const std::string& name) const {
    if (!name.starts_with(prefix)) return std::nullopt;
    return target + name.substr(prefix.size());
  }
};

constexpr size_t kMaxNamings = 64;

std::vector<Naming> candidate_namings(const StateDict& weights) {
  std::vector<Naming> namings{{"", ""}, {"", "encoder."}};
  const auto add = [&](const Naming& naming) {
    const bool known = std::any_of(namings.begin(), namings.end(), [&](const Naming& other) {
      return other.prefix == naming.prefix && other.target == naming.target;
    });
    if (!known && namings.size() < kMaxNamings) namings.push_back(naming);
  };
  for (const auto& [name, unused] : weights) {
    for (const std::string_view stem : {"decoder.p5.weight", "segmentation_head.0.weight", "conv1.weight"}) {
      if (!name.ends_with(stem)) continue;
      const std::string prefix = name.substr(0, name.size() - stem.size());
      if (!prefix.empty() && prefix.back() != '.') continue;
      if (stem != "conv1.weight") {
        add({prefix, ""});
      } else if (weights.count(prefix + "layer1.0.conv1.weight") != 0) {
        add({prefix, "encoder."});
        if (prefix.ends_with("encoder.")) add({prefix.substr(0, prefix.size() - std::strlen("encoder.")), ""});
      }
    }
  }
  return namings;
}

std::string shape_text(const Tensor& tensor) { return semiseg::str(tensor.sizes()); }

}  // namespace

StateDict read_weights(const std::string& path) {
  std::error_code unused;
  if (!std::filesystem::exists(path, unused)) throw Error(ErrorKind::kCheckpoint, "no such file", path, "check model.weights");
  if (!std::filesystem::is_regular_file(path, unused))
    throw Error(ErrorKind::kCheckpoint, "not a file", path, "name the weights file itself");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(ErrorKind::kCheckpoint, "cannot be opened", path, "check its permissions");
  std::string start(256, '\0');
  file.read(start.data(), static_cast<std::streamsize>(start.size()));
  start.resize(static_cast<size_t>(file.gcount()));
  file.close();

  const auto unfit = [&](const std::string& what, const std::string& hint) {
    return Error(ErrorKind::kCheckpoint, what, path, hint);
  };
  if (start.empty()) throw unfit("the file is empty", "copy or download it again");
  // First, because the low bytes of a safetensors' header length may be anything, another format's magic number included. No
  // header is as long as 4 GB, so the high ones are 0.
  if (start.size() > 8 && start.compare(4, 5, std::string("\0\0\0\0{", 5)) == 0) return read_safetensors(path).tensors;
  if (start.starts_with("PK")) return read_torch_zip(path);
  if (start[0] == '\x80') {
    if (start.substr(0, 32).find(kLegacyMagic) != std::string::npos) return read_torch_legacy(path);
    throw unfit("a pickle that torch.save did not write",
                "save it with torch.save(model.state_dict(), FILE) or as .safetensors");
  }
  if (start.starts_with("version https://git-lfs"))
    throw unfit("a Git LFS pointer, not the weights themselves", "fetch them with: git lfs pull");
  const size_t visible = start.find_first_not_of(" \t\r\n");
  if (visible != std::string::npos && start[visible] == '<')
    throw unfit("a web page, not weights", "the download failed or needs a login: download the file again");
  throw unfit("not a weights file that is known here, or damaged",
              "safetensors and torch.save's files (zip and legacy) are read");
}

LoadSummary load_weights(Segmenter& model, const StateDict& weights, const std::string& where) {
  std::map<std::string, Tensor> own;
  for (const auto& item : model.named_parameters()) own[item.key()] = item.value();
  for (const auto& item : model.named_buffers()) own[item.key()] = item.value();

  Naming naming;
  int64_t most = 0;
  for (const Naming& candidate : candidate_namings(weights)) {
    int64_t matches = 0;
    for (const auto& [name, unused] : weights)
      if (const auto mapped = candidate.map(name)) matches += own.count(*mapped) != 0;
    if (matches > most) {
      most = matches;
      naming = candidate;
    }
  }
  if (most == 0) {
    std::string names;
    size_t count = 0;
    for (auto it = weights.begin(); it != weights.end() && count < 3; ++it, ++count)
      names += (names.empty() ? "" : ", ") + shown(it->first);
    throw Error(ErrorKind::kCheckpoint,
                "none of its " + std::to_string(weights.size()) + " tensors (" + names + ", ...) is of this network", where,
                "torchvision's and segmentation_models_pytorch's ResNet names are known; see model.backbone");
  }

  LoadSummary summary;
  summary.stripped_prefix = naming.prefix;
  std::vector<std::pair<Tensor, Tensor>> copies;  // to, from; made only when all is well
  std::set<std::string> found;
  // Beside the weights a checkpoint of ours holds what training goes on with (checkpoint.h).
  const bool is_checkpoint =
      std::any_of(weights.begin(), weights.end(), [](const auto& item) { return item.first.starts_with("optimizer."); });
  const auto is_of_network = [](const std::string& name) {
    return name.starts_with("encoder.") || name.starts_with("decoder.") || name.starts_with("segmentation_head.");
  };
  for (const auto& [name, value] : weights) {
    const auto mapped = naming.map(name);
    const auto target = mapped ? own.find(*mapped) : own.end();
    if (target == own.end()) {
      const bool classifier = mapped && (*mapped == "encoder.fc.weight" || *mapped == "encoder.fc.bias");
      if (!classifier && (!is_checkpoint || is_of_network(name))) summary.unexpected.push_back(name);
      continue;
    }
    found.insert(*mapped);
    const Tensor& to = target->second;
    if (value.sizes() != to.sizes()) {
      const bool other_classes = mapped->starts_with("segmentation_head.") && value.dim() == to.dim() && to.dim() > 0 &&
                                 value.sizes().slice(1) == to.sizes().slice(1);
      if (!other_classes)
        throw Error(ErrorKind::kCheckpoint,
                    "tensor " + shown(name) + " has shape " + shape_text(value) + ", the network's has " + shape_text(to),
                    where, "set model.backbone and model.decoder to those of the weights");
      summary.reinitialized.push_back(*mapped);
      continue;
    }
    if (value.is_floating_point() != to.is_floating_point())
      throw Error(ErrorKind::kCheckpoint,
                  str("tensor ", shown(name), " is of type ", c10::toString(value.scalar_type()), ", not ",
                      c10::toString(to.scalar_type())),
                  where, "save the weights as floating-point numbers");
    const Tensor converted = value.to(at::kCPU, to.scalar_type());
    if (converted.is_floating_point() && !at::isfinite(converted).all().item<bool>())
      throw Error(ErrorKind::kCheckpoint, "tensor " + shown(name) + " holds NaN or infinite values", where,
                  "use weights from before training diverged");
    copies.emplace_back(to, converted);
  }
  for (const auto& [name, unused] : own)
    if (found.count(name) == 0 && !name.ends_with("num_batches_tracked"))
      summary.missing.push_back(name);  // absent before PyTorch 0.4.1
  at::NoGradGuard no_grad;
  for (auto& [to, from] : copies) to.copy_(from);
  summary.loaded = static_cast<int64_t>(copies.size());
  std::sort(summary.reinitialized.begin(), summary.reinitialized.end());
  return summary;
}

}  // namespace semiseg
