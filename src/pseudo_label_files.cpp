#include "pseudo_label_files.h"

#include <ATen/ATen.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "image_file.h"
#include "list_file.h"
#include "output_files.h"
#include "semiseg/checkpoint.h"
#include "semiseg/device.h"
#include "semiseg/evaluate.h"
#include "semiseg/files.h"
#include "semiseg/loader.h"
#include "semiseg/log.h"
#include "semiseg/loss.h"
#include "semiseg/train.h"
#include "train_parts.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTableHeader = "image,reliability,accepted,confidence\n";  // of reliability.csv
constexpr const char* kLists[] = {"/list.txt", "/reliable.txt", "/rest.txt"};

// Values that stand for classes in label files: uint8 [256], by class index and kIgnore.
Tensor values_of_classes(const ClassSet& classes, int64_t ignore_index) {
  const auto values = at::full({256}, ignore_index, at::kByte);
  uint8_t* of_class = values.data_ptr<uint8_t>();
  for (int value = 255; value >= 0; --value) {
    const int16_t index = classes.value_to_class[static_cast<size_t>(value)];
    if (index >= 0 && index != kIgnore) of_class[index] = static_cast<uint8_t>(value);
  }
  return values;
}

// One image of reliability.csv.
struct ImageScores {
  double reliability, accepted, confidence;
};

// progress.csv: the scores of the images whose labels are written, in the order of the list. A process that finds it goes on
// behind them, where it is of the same job.
class ProgressFile {
 public:
  ProgressFile(const std::string& path, const std::string& job) {
    std::string text = job + "\n";
    if (fs::is_regular_file(path)) {
      const std::string found = read_file(path);
      if (found.starts_with(text)) take(found.substr(text.size()));
      remove_file(path);
    }
    for (const ImageScores& scores : done_) text += line(scores);
    file_.emplace(path);
    file_->append(text);
  }

  const std::vector<ImageScores>& done() const { return done_; }
  void add(const ImageScores& scores) { file_->append(line(scores)); }

 private:
  static std::string line(const ImageScores& scores) {
    return format("%.17g,%.17g,%.17g\n", scores.reliability, scores.accepted, scores.confidence);
  }

  // Up to a line that is not whole: the process may have been killed while it wrote it.
  void take(const std::string& lines) {
    for (size_t at = 0, end = lines.find('\n'); end != std::string::npos; at = end + 1, end = lines.find('\n', at)) {
      ImageScores scores{};
      if (std::sscanf(lines.substr(at, end - at).c_str(), "%lf,%lf,%lf", &scores.reliability, &scores.accepted,
                      &scores.confidence) != 3)
        return;
      done_.push_back(scores);
    }
  }

  std::vector<ImageScores> done_;
  std::optional<AppendFile> file_;
};

// All that the labels depend on, in one line.
std::string identity_of(const PseudoLabelJob& job, const Config& config, const Dataset& data) {
  nlohmann::json all = {{"threshold", job.threshold},
                        {"undo_class_bias", job.undo_class_bias},
                        {"settings", to_yaml(config)},
                        {"networks", nlohmann::json::array()}};
  const auto add = [&](const std::string& path) {
    all["networks"].push_back({path, fs::file_size(path), fs::last_write_time(path).time_since_epoch().count()});
  };
  add(job.checkpoint);
  if (!job.newest.empty()) add(job.newest);
  for (const std::string& path : job.earlier) add(path);
  for (int64_t index = 0; index < data.size(Split::kUnlabeled); ++index)
    all["images"].push_back(data.id(Split::kUnlabeled, index));
  return all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// class_HW: uint8, on the host.
void write_label(const std::string& path, const Tensor& class_HW, const Tensor& values) {
  write_result_png(path, values.index_select(0, class_HW.flatten().to(at::kLong)).view_as(class_HW));
}

// Refuses a folder where files would be replaced, or mixed with, that no earlier call has written.
void require_own_folder(const std::string& root, const Config& config) {
  std::vector<std::string> files;
  for (const char* part : {"/labels", "/images"}) {
    std::error_code none;
    if (part == std::string("/images") && !is_drawn(config)) continue;
    for (const auto& entry : fs::directory_iterator(root + part, none))
      if (entry.path().extension() == ".png") files.push_back(entry.path().string());
  }
  for (const char* list : kLists) files.push_back(root + list);
  const std::string table = root + "/reliability.csv";
  files.push_back(table);
  require_replaceable(files, config, "-o");

  // Lists do not say who wrote them: the table does, which is there whenever they are.
  const bool own = fs::is_regular_file(table) && read_file(table).starts_with(kTableHeader);
  for (const std::string& file : files)
    if (!own && fs::path(file).extension() != ".png" && fs::exists(file))
      throw Error(ErrorKind::kConfig, "pseudo-label would replace this file, and has not written it", file,
                  "move it away, or choose another folder with -o");
}

// The network of a checkpoint, without what the class weights and the logit adjustment of its own training add to classes.
LoadedModel load_without_class_bias(const std::string& path, const Config& config, torch::Device device) {
  if (!is_checkpoint(path))
    throw Error(ErrorKind::kConfig, path + ": a weights file does not say by which class weights its network was trained",
                "semi.undo_class_bias: true", "give a checkpoint of semiseg, or set it to false");
  const Checkpoint trained = read_checkpoint(path);
  LoadedModel model = load_model(trained, &config, device);
  const SupervisedLoss loss(trained.config.loss, trained.state.class_weights, trained.state.label_share, device);
  if (const auto bias_K = loss.class_bias_K(); bias_K.defined()) model.network->take_from_logits(bias_K);
  return model;
}

}  // namespace

bool is_drawn(const Config& config) { return config.data.format == "synthetic"; }

bool write_split(const Dataset& data, Split split, const Config& config, const std::string& folder) {
  make_folders(folder + "/images");
  make_folders(folder + "/labels");
  const Tensor values = values_of_classes(data.classes(), config.data.ignore_index);
  FileNames names;
  std::string list;
  OrderedReader reader(data, split, config.data.workers);
  for (int64_t index = 0; index < data.size(split); ++index) {
    if (stop_signal() != 0) return false;
    const Sample sample = reader.next();
    const std::string name = names.of(sample.id, index) + ".png";
    const std::string image = folder + "/images/" + name, label = folder + "/labels/" + name;
    write_result_png(image, sample.image_HWC);
    write_label(label, sample.label_HW, values);
    list += list_column(image) + " " + list_column(label) + "\n";
  }
  write_file(folder + ".txt", list);
  return true;
}

bool write_pseudo_labels(const PseudoLabelJob& job, const Config& config, const std::string& folder) {
  use_fused_ops(config.ops.fused);
  const torch::Device device = resolve_device(config.run.device);
  const Precision precision = resolve_precision(config.run.precision, device);
  const EvalOptions options = make_eval_options(config, device);
  const auto data = open_dataset(config);
  const int64_t count = data->size(Split::kUnlabeled), K = data->classes().size();
  if (count == 0) throw Error(ErrorKind::kData, "there is no unlabelled image", "data.unlabeled", "name a list of images");
  const std::string root = absolute_path(folder);
  if (job.may_hold_others) require_own_folder(root, config);

  const auto load = [&](const std::string& path) {
    const LoadedModel model =
        job.undo_class_bias ? load_without_class_bias(path, config, device) : load_model(path, &config, device);
    require_fitting_classes(model, data->classes(), path);
    return model.network;
  };
  const auto labeler = load(job.checkpoint);
  std::vector<std::shared_ptr<Segmenter>> earlier;
  for (const std::string& path : job.earlier) earlier.push_back(load(path));
  const auto newest = earlier.empty() || job.newest.empty() ? labeler : load(job.newest);
  log_info(str("pseudo-labels of ", count, " images by ", job.checkpoint, ", reliability by ",
               earlier.empty() ? "mean confidence" : str("agreement with ", earlier.size(), " earlier checkpoints"), ", ",
               describe_device(device), ", ", precision_name(precision)));

  make_folders(root + "/labels");
  if (is_drawn(config)) make_folders(root + "/images");
  for (const char* list : kLists) remove_file(root + list);
  remove_file(root + "/reliability.csv");

  const std::string progress_path = root + "/progress.csv";
  std::optional<ProgressFile> progress;
  progress.emplace(progress_path, identity_of(job, config, *data));
  const auto done = static_cast<int64_t>(progress->done().size());
  if (done > 0) log_info(str(done, " of them are labelled already"));

  struct Row {
    std::string id, line;
    ImageScores scores;
  };
  std::vector<Row> rows;
  std::string list;
  const Tensor values = values_of_classes(data->classes(), config.data.ignore_index);
  ConfusionMatrix agreement(K, device), truth(K, device);
  int64_t with_truth = 0;  // images of this call; those that an earlier one has labelled are not read again
  FileNames names;
  double accepted_sum = 0;
  const Stopwatch watch;
  OrderedReader reader(*data, Split::kUnlabeled, config.data.workers, /*first=*/done);
  for (int64_t index = 0; index < count; ++index) {
    // A time limit leaves room for one image, so that a chain of short jobs gets ahead.
    if (const int signal = stop_signal(); signal != 0 && (signal != SIGALRM || index > done)) return false;
    if (job.progress) job.progress(index, count);
    const std::string id = data->id(Split::kUnlabeled, index), name = names.of(id, index) + ".png";
    const std::string label = root + "/labels/" + name;
    std::string image = absolute_path((fs::path(config.data.root) / id).string());
    if (is_drawn(config)) image = root + "/images/" + name;
    Row row{id, list_column(image) + " " + list_column(label) + "\n", {}};

    if (index < done) {
      row.scores = progress->done()[static_cast<size_t>(index)];
    } else {
      const Sample sample = reader.next();
      const Prediction prediction = predict_with_confidence(*labeler, sample.image_HWC, options);
      const auto class_HW = prediction.class_BHW[0], confidence_HW = prediction.confidence_BHW[0];
      const auto accepted_HW = confidence_HW >= job.threshold;
      if (is_drawn(config)) write_result_png(image, sample.image_HWC);
      write_label(label, at::where(accepted_HW, class_HW, kIgnore).to(at::kByte).to(at::kCPU), values);

      row.scores.accepted = accepted_HW.to(at::kFloat).mean().item<double>();
      row.scores.confidence = confidence_HW.mean().item<double>();
      row.scores.reliability = earlier.empty() ? row.scores.confidence : 0;
      if (!earlier.empty()) {
        const auto newest_HW = newest == labeler ? class_HW : predict_image(*newest, sample.image_HWC, options);
        for (const auto& network : earlier) {
          agreement.reset();
          agreement.add(predict_image(*network, sample.image_HWC, options), newest_HW);
          row.scores.reliability += agreement.scores().miou / static_cast<double>(earlier.size());
        }
      }
      if (sample.label_HW.defined()) {
        ++with_truth;
        truth.add(class_HW, at::where(accepted_HW, sample.label_HW.to(device, at::kLong), kIgnore));
      }
      progress->add(row.scores);
    }
    accepted_sum += row.scores.accepted;
    list += row.line;
    rows.push_back(std::move(row));
    show_status(str("pseudo-labels ", index + 1, "/", count, ": ", name));
  }

  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.scores.reliability > b.scores.reliability; });
  std::string table = kTableHeader, reliable, rest;
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    table +=
        list_column(row.id) + format(",%.6f,%.6f,%.6f\n", row.scores.reliability, row.scores.accepted, row.scores.confidence);
    (i < (rows.size() + 1) / 2 ? reliable : rest) += row.line;
  }
  write_file(root + "/reliability.csv", table);
  write_file(root + "/reliable.txt", reliable);
  if (!rest.empty()) write_file(root + "/rest.txt", rest);
  write_file(root + "/list.txt", list);
  progress.reset();
  remove_file(progress_path);

  const double seconds = watch.seconds();
  log_info(format("pseudo-labels of %lld images in %.1f s (%.2f images/s), %.1f%% of the pixels at confidence >= %g; in ",
                  static_cast<long long>(count - done), seconds, static_cast<double>(count - done) / std::max(seconds, 1e-9),
                  100 * accepted_sum / static_cast<double>(count), job.threshold) +
           root);
  constexpr double kNearlyNone = 0.005;
  if (accepted_sum < kNearlyNone * static_cast<double>(count))
    log_warning(
        "almost no pixel has a label: a training with these files learns nothing of them; set a lower --threshold "
        "(semi.threshold of self_training)");
  if (with_truth > 0)
    log_info(str("pseudo-labels of ", with_truth, " images against the true labels:\n") +
             score_table(truth.scores(), data->classes().names));
  return true;
}

std::vector<std::string> earlier_checkpoints(const std::string& checkpoint) {
  std::vector<std::string> earlier;
  if (!is_checkpoint(checkpoint)) return earlier;
  const int64_t reached = read_checkpoint(checkpoint).state.step;
  const fs::path folder = fs::absolute(checkpoint).parent_path();
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().stem().string(), number = name.substr(name.find('_') + 1);
    int64_t step = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), step);
    const bool numbered = error == std::errc() && name == numbered_name(step) && entry.path().extension() == ".safetensors";
    if (numbered && step < reached) earlier.push_back(entry.path().string());
  }
  std::sort(earlier.begin(), earlier.end());
  return earlier;
}

}  // namespace semiseg
