#include <algorithm>
#include <deque>
#include <filesystem>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "commands/command.h"
#include "commands/config_file.h"
#include "commands/network_file.h"
#include "commands/written_ids.h"
#include "image_file.h"
#include "output_files.h"
#include "predict_inputs.h"
#include "semiseg/files.h"
#include "semiseg/log.h"
#include "semiseg/overlay.h"
#include "semiseg/predictor.h"
#include "thread_pool.h"
#include "train_parts.h"
#include "video_file.h"

namespace semiseg {
namespace {

struct Wanted {
  bool overlay = true, legend = true, confidence = false;
  std::array<uint8_t, 256> ids{};  // class index -> written value
};

// Frames as a video, or as PNGs where there is no encoder.
class FramesOut {
 public:
  FramesOut(std::string stem, std::string name, double frames_per_s, cv::Size size)
      : stem_(std::move(stem)), name_(std::move(name)), video_(VideoFile::create(stem_ + name_, frames_per_s, size)) {
    if (!video_) log_warning(stem_ + name_ + ": OpenCV here has no video encoder, so each frame becomes a PNG");
  }

  void add(const cv::Mat& frame) {
    if (video_)
      video_->add(frame);
    else
      write_picture(stem_ + format("_%06d", count_) + name_ + ".png", frame);
    ++count_;
  }

  void finish() {
    if (video_) log_info("wrote " + video_->commit());
  }

 private:
  std::string stem_, name_;
  std::unique_ptr<VideoFile> video_;
  int count_ = 0;
};

// Reads ahead, predicts, and writes behind. The network runs on the calling thread in the order of the inputs; at most
// `depth_` images are read and not predicted, and as many predicted and not written.
class PredictionRun {
 public:
  PredictionRun(const Predictor& predictor, Wanted wanted, std::string folder)
      : predictor_(predictor),
        wanted_(std::move(wanted)),
        folder_(std::move(folder)),
        ids_(1, 256, CV_8UC1, wanted_.ids.data()),
        workers_(std::max<int64_t>(1, predictor.config().data.workers)),
        depth_(static_cast<size_t>(workers_) + 2),
        pool_(workers_) {}

  // Ends early where a signal says so. A broken input is told and passed over, but where it is the only one.
  void run(const std::vector<PredictInput>& inputs) {
    std::vector<std::future<cv::Mat>> images(inputs.size());
    size_t ahead = 0;
    for (size_t i = 0; i < inputs.size() && stop_signal() == 0; ++i, ++begun_) {
      for (; ahead < inputs.size() && ahead <= i + depth_; ++ahead)
        if (!inputs[ahead].video) images[ahead] = pool_.submit([path = inputs[ahead].path] { return load_image(path); });
      show_progress(inputs, i);
      try {
        if (inputs[i].video)
          predict_video(inputs[i]);
        else
          predict_image(inputs[i], images[i]);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kData || inputs.size() == 1) throw;
        log_warning(error.what());
        ++broken_;
      }
    }
    wait_for_writing(0);
  }

  int64_t begun() const { return begun_; }  // inputs
  int64_t broken() const { return broken_; }

  std::string summary() const {
    const double seconds = std::max(watch_.seconds(), 1e-9);
    const auto percent = [&](double part) { return format("%.0f %%", 100 * part / seconds); };
    return str("predicted ", count_, count_ == 1 ? " image" : " images", format(" in %.1f s, ", seconds),
               format("%.2f images/s", static_cast<double>(count_) / seconds), " (network ", percent(predicting_),
               " of the time, waiting for reading ", percent(reading_), ", for writing ", percent(writing_), "); results in ",
               folder_);
  }

 private:
  std::string stem_of(const PredictInput& input) const {
    const auto stem = std::filesystem::path(folder_) / input.name;
    make_folders(stem.parent_path().string());
    return stem.string();
  }

  template <class Work>
  auto timed(double* seconds, const Work& work) {
    const Stopwatch watch;
    auto result = work();
    *seconds += watch.seconds();
    return result;
  }

  // Until at most `left` results wait; throws what writing threw.
  void wait_for_writing(size_t left) {
    const Stopwatch watch;
    for (; pending_.size() > left; pending_.pop_front()) pending_.front().get();
    writing_ += watch.seconds();
  }

  void write(ThreadPool* pool, std::function<void()> task) {
    wait_for_writing(depth_);
    pending_.push_back(pool->submit(std::move(task)));
  }

  void write_label(const std::string& path, const cv::Mat& classes) const {
    cv::Mat values;
    cv::LUT(classes, ids_, values);
    write_picture(path, values);
  }

  void predict_image(const PredictInput& input, std::future<cv::Mat>& future) {
    const cv::Mat image = timed(&reading_, [&] { return future.get(); });
    const Segmentation result = timed(&predicting_, [&] { return predictor_.predict(image); });
    ++count_;
    write(&pool_, [this, image, result, stem = stem_of(input)] {
      write_label(stem + ".png", result.classes);
      if (wanted_.overlay) {
        OverlayPainter painter(predictor_.classes(), {.legend = wanted_.legend});
        write_picture(stem + "_overlay.jpg", painter.paint(image, result.classes));
      }
      if (wanted_.confidence) write_picture(stem + "_confidence.png", paint_confidence(result.confidence));
    });
  }

  void predict_video(const PredictInput& input) {
    VideoReader video(input.path);
    const std::string stem = stem_of(input);
    OverlayPainter painter(predictor_.classes(), {.legend = wanted_.legend, .steady = true});
    std::unique_ptr<FramesOut> overlays, confidences;
    const auto add = [&](std::unique_ptr<FramesOut>& out, const char* name, const cv::Mat& picture) {
      if (!out) out = std::make_unique<FramesOut>(stem, name, video.frames_per_s(), picture.size());
      out->add(picture);
    };
    ThreadPool reader(1), in_order(1);  // last: their tasks use the above
    int64_t frames = 0;
    auto next = reader.submit([&] { return video.next(); });
    while (stop_signal() == 0) {
      const std::optional<cv::Mat> image = timed(&reading_, [&] { return next.get(); });
      if (!image) break;
      next = reader.submit([&] { return video.next(); });
      const Segmentation result = timed(&predicting_, [&] { return predictor_.predict(*image); });
      write(&pool_, [this, classes = result.classes, path = stem + format("_%06d.png", static_cast<int>(frames))] {
        write_label(path, classes);
      });
      if (wanted_.overlay || wanted_.confidence)
        write(&in_order, [&, image, result] {
          if (wanted_.overlay) add(overlays, "_overlay", painter.paint(*image, result.classes));
          if (wanted_.confidence) add(confidences, "_confidence", paint_confidence(result.confidence));
        });
      ++frames;
      ++count_;
      show_status(str(input.name, ": frame ", frames, video.frames() > 0 ? str(" of ", video.frames()) : "",
                      format(", %.2f images/s", static_cast<double>(count_) / watch_.seconds())));
    }
    wait_for_writing(0);
    if (stop_signal() != 0) return;
    if (overlays) overlays->finish();
    if (confidences) confidences->finish();
    if (frames + 1 + video.frames() / 50 < video.frames())
      log_warning(str(input.path, ": ended after ", frames, " of the ", video.frames(), " frames that it announces"));
  }

  void show_progress(const std::vector<PredictInput>& inputs, size_t i) const {
    const double rate = static_cast<double>(i) / std::max(watch_.seconds(), 1e-9);
    show_status(str("predicting ", i + 1, " of ", inputs.size(),
                    i > 0 ? format(", %.2f a second, %.0f s left", rate, static_cast<double>(inputs.size() - i) / rate) : "",
                    ": ", inputs[i].path));
  }

  const Predictor& predictor_;
  Wanted wanted_;
  const std::string folder_;
  const cv::Mat ids_;
  const int64_t workers_;
  const size_t depth_;
  const Stopwatch watch_;
  double reading_ = 0, predicting_ = 0, writing_ = 0;  // seconds of the calling thread
  int64_t count_ = 0, begun_ = 0, broken_ = 0;
  std::deque<std::future<void>> pending_;
  ThreadPool pool_;  // last: its tasks use the others
};

// One line about inputs whose results cannot have their own name.
void tell_new_names(const std::vector<PredictInput>& inputs) {
  const PredictInput* first = nullptr;
  int64_t count = 0;
  for (const PredictInput& input : inputs) {
    if (std::filesystem::path(input.name).filename() == std::filesystem::path(input.path).stem()) continue;
    if (count++ == 0) first = &input;
  }
  if (count == 1) log_info(str("the name of ", first->path, " is taken: its results are called ", first->name));
  if (count > 1)
    log_info(str("the names of ", count, " inputs are taken; the results of ", first->path, " are called ", first->name,
                 ", and so on"));
}

int run(const Arguments& arguments) {
  install_signal_handlers();
  const std::string& folder = arguments.get("o");
  const std::vector<PredictInput> inputs = find_inputs({arguments.positional.begin() + 1, arguments.positional.end()}, folder);
  Wanted wanted{.overlay = !arguments.has("no-overlay"),
                .legend = !arguments.has("no-legend"),
                .confidence = arguments.has("confidence")};
  const Predictor predictor(network_file(arguments.positional[0]),
                            {.config = arguments.has("config") ? config_file(arguments.get("config")) : "",
                             .settings = arguments.overrides,
                             .confidence = wanted.confidence});
  std::vector<uint8_t> label_ids;
  for (const SegmentationClass& one : predictor.classes())
    if (one.label_id) label_ids.push_back(static_cast<uint8_t>(*one.label_id));
  wanted.ids = written_ids(arguments, label_ids);
  log_info(str("predicting ", inputs.size(), inputs.size() == 1 ? " input: " : " inputs: ", predictor.description()));
  tell_new_names(inputs);
  require_replaceable(result_files(inputs, folder, wanted.overlay, wanted.confidence), predictor.config(), "-o");

  PredictionRun prediction(predictor, wanted, folder);
  prediction.run(inputs);
  log_info(prediction.summary());
  if (stop_signal() != 0) {
    log_warning(str(why_stopped(stop_signal()), "; of ", counted(static_cast<int64_t>(inputs.size()), "input"), " ",
                    prediction.begun(), prediction.begun() == 1 ? " was" : " were", " begun"));
    return exit_code_of(stop_signal());
  }
  if (prediction.broken() > 0)
    throw Error(ErrorKind::kData, str(prediction.broken(), " of ", inputs.size(), " inputs could not be read"), folder,
                "they are named above");
  return 0;
}

const bool kRegistered = add_command({
    .name = "predict",
    .synopsis = "CHECKPOINT INPUT... -o DIR [key=value ...]",
    .summary = "predicts images, folders of images, or videos",
    .details =
        R"(INPUT is an image, a video, a folder (with all folders in it, which DIR then has too) or a quoted pattern of * ? [] and **.

For each image   NAME.png             class indices
                 NAME_overlay.jpg     classes as colours over the image, with a legend of names and shares of the pixels
                 NAME_confidence.png  with --confidence: probability of the predicted class as colour, with a scale
For each video   NAME_000000.png ...  class indices of each frame
                 NAME_overlay.mp4, NAME_confidence.mp4  at the video's own frame rate
Where two inputs would have the same NAME, the later one becomes NAME-2. Results of an earlier call are replaced; where another PNG
or JPEG or an image or label of the data set has their name, nothing is written. Inputs that cannot be read are named, the others are
predicted, and the exit code is 3.

examples:
  semiseg predict runs/first/checkpoints/best.safetensors street.jpg -o out
  semiseg predict best.safetensors /data/camvid/images/val drive.mp4 -o out eval.flip=true
  semiseg predict best.safetensors 'photos/**/*.jpg' -o out --confidence data.workers=4
  semiseg predict best.safetensors /data/cityscapes/leftImg8bit/test -o out --ids label --no-overlay
  semiseg predict fpn_from_python.pth street.jpg -o out --config configs/camvid/supervised.yaml data.root=/data/camvid)",
    .flags = {{"o", "DIR", "folder to write to"},
              {"confidence", "", "also write confidence maps"},
              {"no-overlay", "", "write label PNGs alone"},
              {"no-legend", "", "overlays without legend"},
              {"ids", "train|label", "values of the label PNGs: class indices, or Cityscapes' label ids"},
              {"config", "CONFIG", "config of a weights file that is no checkpoint of semiseg"}},
    .min_positional = 2,
    .max_positional = static_cast<size_t>(-1),
    .run = run,
});

}  // namespace
}  // namespace semiseg
