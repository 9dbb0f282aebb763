#include "semiseg/predictor.h"

#include <ATen/ATen.h>

#include <cstring>
#include <opencv2/imgproc.hpp>

#include "memory.h"
#include "semiseg/checkpoint.h"
#include "semiseg/device.h"
#include "semiseg/evaluate.h"
#include "train_parts.h"

namespace semiseg {
namespace {

std::vector<SegmentationClass> described(const ClassSet& set) {
  std::vector<SegmentationClass> classes;
  for (size_t c = 0; c < set.names.size(); ++c) {
    const auto [red, green, blue] = set.colours[c];
    classes.push_back({set.names[c], {blue, green, red}, std::nullopt});
    if (!set.label_ids.empty()) classes.back().label_id = set.label_ids[c];
  }
  return classes;
}

LoadedModel load(const std::string& path, const PredictorOptions& options) {
  std::optional<Config> config;
  if (!options.config.empty()) config = load_config(options.config, options.settings);
  if (!is_checkpoint(path))
    return load_model(path, config ? &*config : nullptr, resolve_device(config ? config->run.device : "cpu"));
  const Checkpoint checkpoint = read_checkpoint(path);
  if (!config) config = config_of(checkpoint, options.settings);
  return load_model(checkpoint, &*config, resolve_device(config->run.device));
}

Tensor to_rgb(const cv::Mat& image) {
  if (image.empty())
    throw Error(ErrorKind::kData, "the image is empty", "", "cv::imread gives such for a file that it cannot read");
  if (image.dims != 2 || image.type() != CV_8UC3)
    throw Error(ErrorKind::kData, "the image has type " + cv::typeToString(image.type()) + ", not 8-bit BGR (CV_8UC3)", "",
                "cv::imread(path) gives such, cv::cvtColor makes it from grey or BGRA");
  Tensor image_HWC = at::empty({image.rows, image.cols, 3}, at::TensorOptions().dtype(at::kByte));
  cv::Mat rgb(image.rows, image.cols, CV_8UC3, image_HWC.data_ptr<uint8_t>());
  cv::cvtColor(image, rgb, cv::COLOR_BGR2RGB);
  return image_HWC;
}

// A tensor [H, W] of the device as a matrix that owns its memory.
cv::Mat to_mat(const Tensor& values_HW, int type) {
  const Tensor host_HW = values_HW.to(at::kCPU).contiguous();
  cv::Mat values(static_cast<int>(host_HW.size(0)), static_cast<int>(host_HW.size(1)), type);
  std::memcpy(values.data, host_HW.const_data_ptr(), host_HW.nbytes());
  return values;
}

// Runs `work`; what LibTorch throws for want of memory becomes ours.
template <class Work>
auto with_clear_errors(const Work& work) {
  constexpr const char* kHint = "set eval.mode=sliding, take smaller images or fewer at once, or another run.device";
  try {
    return work();
  } catch (const std::exception& error) {
    if (!is_out_of_memory(error)) throw;
    throw Error(ErrorKind::kMemory, "out of memory", "", kHint);
  }
}

}  // namespace

struct Predictor::Network {
  LoadedModel model;
  EvalOptions options;
  std::vector<SegmentationClass> classes;
  bool confidence = false;

  // Work that is queued on the device, uint8 and float32 [H, W].
  struct Queued {
    Tensor class_HW, confidence_HW;
  };

  Queued queue(const cv::Mat& image) const {
    const Tensor image_HWC = to_rgb(image);
    if (!confidence) return {predict_image(*model.network, image_HWC, options).to(at::kByte), {}};
    const Prediction prediction = predict_with_confidence(*model.network, image_HWC, options);
    return {prediction.class_BHW.squeeze(0).to(at::kByte), prediction.confidence_BHW.squeeze(0).to(at::kFloat)};
  }

  Segmentation fetch(const Queued& queued) const {
    return {to_mat(queued.class_HW, CV_8UC1), confidence ? to_mat(queued.confidence_HW, CV_32FC1) : cv::Mat()};
  }
};

Predictor::Predictor(const std::string& checkpoint, const PredictorOptions& options) {
  auto network = std::make_unique<Network>();
  network->model = load(checkpoint, options);
  const Config& config = network->model.config;
  const torch::Device device = resolve_device(config.run.device);
  use_fused_ops(config.ops.fused);
  network->options = make_eval_options(config, device);
  network->classes = described(network->model.classes);
  network->confidence = options.confidence;
  network_ = std::move(network);
}

Predictor::~Predictor() = default;
Predictor::Predictor(Predictor&&) noexcept = default;
Predictor& Predictor::operator=(Predictor&&) noexcept = default;

Segmentation Predictor::predict(const cv::Mat& image) const {
  return with_clear_errors([&] { return network_->fetch(network_->queue(image)); });
}

std::vector<Segmentation> Predictor::predict(const std::vector<cv::Mat>& images) const {
  return with_clear_errors([&] {
    std::vector<Network::Queued> queued;
    for (const cv::Mat& image : images) queued.push_back(network_->queue(image));
    std::vector<Segmentation> results;
    for (const Network::Queued& result : queued) results.push_back(network_->fetch(result));
    return results;
  });
}

const std::vector<SegmentationClass>& Predictor::classes() const { return network_->classes; }
const Config& Predictor::config() const { return network_->model.config; }

std::string Predictor::description() const {
  const ModelConfig& model = config().model;
  return str(model.backbone, " + ", model.decoder, ", ", classes().size(), " classes, ",
             describe_device(network_->options.device), ", ", precision_name(network_->options.precision));
}

cv::Mat load_image(const std::string& path) {
  Tensor image_HWC = read_image(path).contiguous();
  const cv::Mat rgb(static_cast<int>(image_HWC.size(0)), static_cast<int>(image_HWC.size(1)), CV_8UC3,
                    image_HWC.data_ptr<uint8_t>());
  cv::Mat bgr;
  cv::cvtColor(rgb, bgr, cv::COLOR_RGB2BGR);
  return bgr;
}

std::vector<double> class_shares(const cv::Mat& classes, size_t count) {
  std::vector<double> shares(count, 0.0);
  for (int y = 0; y < classes.rows; ++y) {
    const uint8_t* row = classes.ptr<uint8_t>(y);
    for (int x = 0; x < classes.cols; ++x)
      if (row[x] < count) shares[row[x]] += 1;
  }
  for (double& share : shares) share /= static_cast<double>(std::max<size_t>(1, classes.total()));
  return shares;
}

}  // namespace semiseg
