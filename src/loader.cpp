#include "semiseg/loader.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <deque>
#include <future>
#include <limits>
#include <map>
#include <numeric>
#include <opencv2/core.hpp>
#include <optional>
#include <system_error>
#include <tuple>
#include <utility>

#include "semiseg/error.h"
#include "strong_view.h"
#include "thread_pool.h"
#include "upload.h"
#include "vectorized.h"
#ifdef SEMISEG_CUDA
#include "ops/colours_cuda.h"
#include "semiseg/ops.h"
#endif

namespace semiseg {

namespace {

ThreadPool loader_threads(int64_t workers) {
  try {
    return ThreadPool(workers);
  } catch (const std::system_error& e) {
    throw Error(ErrorKind::kConfig, str("cannot start ", workers, " loader threads: ", e.what()), "data.workers", "use fewer");
  }
}

// Which stream of images a draw belongs to; the numbers key the random streams.
enum class List : uint32_t { kLabeled = 0, kUnlabeled = 1, kMix = 2 };

// The endless sequence of images that a list is drawn in.
class Order {
 public:
  Order(uint64_t seed, List list, int64_t size) : seed_(seed), list_(list), size_(size) {}

  int64_t image(int64_t draw) {
    constexpr size_t kKept = 4;
    const int64_t pass = draw / size_;
    auto found = passes_.find(pass);
    if (found == passes_.end()) {
      if (passes_.size() == kKept) passes_.clear();
      Random random(seed_, Purpose::kOrder, static_cast<uint64_t>(pass), static_cast<uint32_t>(list_));
      found = passes_.emplace(pass, random.permutation(size_)).first;
    }
    return found->second[static_cast<size_t>(draw % size_)];
  }

 private:
  uint64_t seed_;
  List list_;
  int64_t size_;
  std::map<int64_t, std::vector<int64_t>> passes_;  // by pass: a pure function of it, kept for speed
};

// Which labelled image a draw takes, and what its crop should show.
struct LabeledDraw {
  int64_t image = 0;
  int64_t rare_class = -1;  // -1: any crop will do
};

// DAFormer's 3000 pixels of a 2048 x 1024 image, and the part of them that a crop should hold.
constexpr double kRareShare = 0.0014, kRareShareInCrop = 0.5 * kRareShare;
constexpr int kRareCropRedraws = 10;

class RareClassSampler {
 public:
  RareClassSampler(uint64_t seed, double temperature, const ClassCounts& counts)
      : seed_(seed), probability_K_(rare_class_probabilities(counts.pixels, temperature)), images_(counts.pixels.size()) {
    for (size_t c = 0; c < images_.size(); ++c) {
      std::vector<int64_t> with_some;
      for (size_t image = 0; image < counts.of_image.size(); ++image) {
        const std::vector<int64_t>& pixels = counts.of_image[image];
        if (pixels[c] == 0) continue;
        with_some.push_back(static_cast<int64_t>(image));
        const auto all = static_cast<double>(std::accumulate(pixels.begin(), pixels.end(), int64_t{0}));
        if (static_cast<double>(pixels[c]) > kRareShare * all) images_[c].push_back(static_cast<int64_t>(image));
      }
      if (images_[c].empty()) images_[c] = std::move(with_some);
    }
  }

  LabeledDraw at(int64_t draw) const {
    Random random(seed_, Purpose::kRareClass, static_cast<uint64_t>(draw));
    double rest = random.uniform();
    size_t chosen = 0;
    for (size_t c = 0; c < probability_K_.size() && rest >= 0; ++c) {
      if (probability_K_[c] == 0) continue;
      chosen = c;  // the last one, should rounding leave a rest
      rest -= probability_K_[c];
    }
    const std::vector<int64_t>& images = images_[chosen];
    return {images[static_cast<size_t>(random.below(static_cast<int64_t>(images.size())))], static_cast<int64_t>(chosen)};
  }

 private:
  uint64_t seed_;
  std::vector<double> probability_K_;
  std::vector<std::vector<int64_t>> images_;  // of each class
};

void require_same_size(int64_t H, int64_t W, const Tensor& label_HW, const std::string& id) {
  if (label_HW.size(0) == H && label_HW.size(1) == W) return;
  throw Error(ErrorKind::kData,
              str("the image is ", H, " x ", W, " pixels, its label ", label_HW.size(0), " x ", label_HW.size(1)), id,
              "a label has the size of its image");
}

// Batches as the threads make them, each image still to be written into its place; then the same on the device.
struct RawLabeled {
  Tensor image_BHWC, label_BHW;  // uint8
};
struct RawUnlabeled {
  Tensor weak_BHWC, valid_BHW;        // uint8
  Tensor truth_BHW;                   // uint8, or undefined
  std::vector<Tensor> strong_BHWC;    // uint8; none where the device makes strong views
  std::vector<Tensor> plan_BN;        // uint8: for the device to make them, a ColourPlan an image
  std::vector<Tensor> cutmix_box_B4;  // int64
  std::vector<Tensor> draw_BD;        // float32; no more than boxes
};
struct RawBatch {
  RawLabeled labeled;
  RawUnlabeled unlabeled, mix;
};

struct PendingBatch {
  int64_t index = 0;
  std::shared_ptr<RawBatch> host;            // shared with the jobs: a batch given up may still be written to
  std::vector<std::future<void>> positions;  // labelled, unlabelled, mix: the order in which errors are reported
};

template <class Value>
void put(const Tensor& batch, int64_t position, const Value* values, int64_t count) {
  std::memcpy(batch.data_ptr<Value>() + position * count, values, static_cast<size_t>(count) * sizeof(Value));
}

void put(const Tensor& batch, int64_t position, const Tensor& item) {
  put(batch, position, item.data_ptr<uint8_t>(), item.numel());
}

// x -> x * scale + shift per channel is (x / 255 - mean) / std.
struct Affine {
  std::array<float, 3> scale{}, shift{};
};

Affine affine(const std::vector<double>& mean, const std::vector<double>& std) {
  Affine result;
  for (size_t c = 0; c < 3; ++c) {
    result.scale[c] = static_cast<float>(1 / (255 * std.at(c)));
    result.shift[c] = static_cast<float>(-mean.at(c) / std.at(c));
  }
  return result;
}

// Whole registers of interleaved RGB: the pattern of factors repeats after 3 x 16 values.
SEMISEG_VECTORIZED void normalize_values(const uint8_t* from, float* to, int64_t count, const Affine& affine) {
  constexpr int64_t kPattern = 48;
  std::array<float, kPattern> scale, shift;
  for (size_t i = 0; i < kPattern; ++i) {
    scale[i] = affine.scale[i % 3];
    shift[i] = affine.shift[i % 3];
  }
  int64_t at = 0;
  for (; at + kPattern <= count; at += kPattern) {
    for (int64_t i = 0; i < kPattern; ++i) to[at + i] = static_cast<float>(from[at + i]) * scale[i] + shift[i];
  }
  for (int64_t i = 0; at + i < count; ++i) to[at + i] = static_cast<float>(from[at + i]) * scale[i] + shift[i];
}

Tensor normalize_on_cpu(const Tensor& image_BHWC, const Affine& affine) {
  const Tensor packed = image_BHWC.contiguous();
  const Tensor result_BHWC = at::empty(packed.sizes(), at::kFloat);
  const auto* from = packed.data_ptr<uint8_t>();
  auto* to = result_BHWC.data_ptr<float>();
  at::parallel_for(0, packed.numel() / 3, 1 << 16, [&](int64_t begin, int64_t end) {
    normalize_values(from + 3 * begin, to + 3 * begin, 3 * (end - begin), affine);
  });
  return result_BHWC.permute({0, 3, 1, 2});
}

// Per-channel factors as tensors [1, 3, 1, 1]. Filled on the device: a copy from the host would wait for it.
std::pair<Tensor, Tensor> affine_on_device(const Affine& affine, torch::Device device) {
  const auto options = at::TensorOptions(device).dtype(at::kFloat);
  std::pair<Tensor, Tensor> result{at::empty({1, 3, 1, 1}, options), at::empty({1, 3, 1, 1}, options)};
  for (int64_t c = 0; c < 3; ++c) {
    result.first.select(1, c).fill_(affine.scale[static_cast<size_t>(c)]);
    result.second.select(1, c).fill_(affine.shift[static_cast<size_t>(c)]);
  }
  return result;
}

Tensor normalize_on_device(const Tensor& image_BHWC, const Tensor& scale, const Tensor& shift) {
  return at::mul(image_BHWC.permute({0, 3, 1, 2}), scale).add_(shift).contiguous(at::MemoryFormat::ChannelsLast);
}

std::array<uint8_t, 3> fill_colour(const std::vector<double>& mean) {
  std::array<uint8_t, 3> colour{};
  for (size_t c = 0; c < 3; ++c) colour[c] = static_cast<uint8_t>(std::clamp<long>(std::lround(255 * mean.at(c)), 0, 255));
  return colour;
}

bool device_makes_strong_views([[maybe_unused]] const LoaderOptions& options) {
#ifdef SEMISEG_CUDA
  return options.device.is_cuda() && !options.needs.random_strong_view && uses_fused_ops();
#else
  return false;
#endif
}

void require_images(const Dataset& data, Split split, const char* hint) {
  if (data.size(split) == 0) throw Error(ErrorKind::kData, str("the ", split_name(split), " list has no image"), "data", hint);
}

}  // namespace

struct Loader::State {
  const Dataset& data;
  const LoaderOptions options;
  const std::array<uint8_t, 3> fill;
  const Affine factors;
  const bool colours_on_device;  // its kernels make strong views of the weak ones: less to send, and less for the threads to do
  Tensor scale, shift;           // the same on the device; undefined on the CPU
  Order labeled_order, unlabeled_order, mix_order;
  std::optional<RareClassSampler> rare_classes;
  std::deque<PendingBatch> pending;  // consecutive indices
  Upload upload;
  double wait_seconds = 0;
  ThreadPool pool;  // last: its threads end before anything they use

  State(const Dataset& dataset, LoaderOptions loader_options)
      : data(dataset),
        options(std::move(loader_options)),
        fill(fill_colour(options.mean)),
        factors(affine(options.mean, options.std)),
        colours_on_device(device_makes_strong_views(options)),
        labeled_order(options.seed, List::kLabeled, data.size(Split::kLabeled)),
        unlabeled_order(options.seed, List::kUnlabeled, data.size(Split::kUnlabeled)),
        mix_order(options.seed, List::kMix, data.size(Split::kUnlabeled)),
        upload(options.device, options.accumulate),
        pool(loader_threads(options.workers)) {
    if (options.rare_class_temperature > 0) {
      rare_classes.emplace(
          options.seed, options.rare_class_temperature,
          options.labeled_counts ? *options.labeled_counts : count_classes(data, Split::kLabeled, options.workers));
    }
    if (!options.device.is_cpu()) std::tie(scale, shift) = affine_on_device(factors, options.device);
  }

  Random crops_of(List list, int64_t draw) const {
    return {options.seed, Purpose::kWeakView, static_cast<uint64_t>(draw), static_cast<uint32_t>(list)};
  }

  LabeledDraw labeled_draw(int64_t draw) {
    return rare_classes ? rare_classes->at(draw) : LabeledDraw{labeled_order.image(draw), -1};
  }

  // The jobs, on any thread. `draw` is the place in the list's endless sequence, `what` or `image` what stands there.
  void load_labeled(RawLabeled& batch, int64_t position, int64_t draw, const LabeledDraw& what) const {
    Random random = crops_of(List::kLabeled, draw);
    Geometry geometry;
    Tensor label_HW;
    const PartialSample sample = data.get_part(Split::kLabeled, what.image, [&](int64_t H, int64_t W, const Tensor& whole_HW) {
      require_same_size(H, W, whole_HW, data.id(Split::kLabeled, what.image));
      const auto draw_view = [&] {
        geometry = draw_geometry(H, W, options.view, random);
        label_HW = view_of_label(whole_HW, geometry);
      };
      draw_view();
      if (what.rare_class >= 0) {
        const double wanted = kRareShareInCrop * static_cast<double>(H * W);
        const auto holds_enough = [&] {
          const auto* label = label_HW.data_ptr<uint8_t>();
          return static_cast<double>(std::count(label, label + label_HW.numel(), static_cast<uint8_t>(what.rare_class))) >
                 wanted;
        };
        for (int redraw = 0; redraw < kRareCropRedraws && !holds_enough(); ++redraw) draw_view();
      }
      return window_of(H, W, geometry);
    });
    put(batch.image_BHWC, position, view_of_image(sample.image, geometry, fill));
    put(batch.label_BHW, position, label_HW);
  }

  void load_unlabeled(RawUnlabeled& batch, List list, int64_t position, int64_t draw, int64_t image) const {
    Random crops = crops_of(list, draw);
    Geometry geometry;
    const PartialSample sample = data.get_part(Split::kUnlabeled, image, [&](int64_t H, int64_t W, const Tensor& label_HW) {
      if (batch.truth_BHW.defined()) require_same_size(H, W, label_HW, data.id(Split::kUnlabeled, image));
      geometry = draw_geometry(H, W, options.view, crops);
      return window_of(H, W, geometry);
    });
    const Tensor weak_HWC = view_of_image(sample.image, geometry, fill);
    put(batch.weak_BHWC, position, weak_HWC);
    put(batch.valid_BHW, position, view_valid(geometry));
    if (batch.truth_BHW.defined()) put(batch.truth_BHW, position, view_of_label(sample.label_HW, geometry));
    for (size_t view = 0; view < static_cast<size_t>(options.needs.strong_views); ++view) {
      Random random(options.seed, Purpose::kStrongView, static_cast<uint64_t>(draw), stream(list, view));
      if (colours_on_device) {
        const ColourPlan plan = draw_strong_view(random);
        std::memcpy(batch.plan_BN[view].data_ptr<uint8_t>() + position * static_cast<int64_t>(sizeof(plan)), &plan,
                    sizeof(plan));
      } else {
        put(batch.strong_BHWC[view], position,
            options.needs.random_strong_view ? random_strong_view(weak_HWC, random) : strong_view(weak_HWC, random));
      }
    }
    for (size_t i = 0; i < batch.cutmix_box_B4.size(); ++i) {
      Random random(options.seed, Purpose::kCutMix, static_cast<uint64_t>(draw), stream(list, i));
      const int64_t H = options.view.crop_H, W = options.view.crop_W;
      const Box box = options.needs.augseg_boxes ? draw_augseg_box(H, W, /*labeled_content=*/i == 0, random)
                                                 : draw_cutmix_box(H, W, random);
      const std::array<int64_t, 4> edges{box.top, box.left, box.bottom, box.right};
      put(batch.cutmix_box_B4[i], position, edges.data(), 4);
      if (i >= batch.draw_BD.size()) continue;
      const int64_t D = batch.draw_BD[i].size(1);
      float* draws = batch.draw_BD[i].data_ptr<float>() + position * D;
      for (int64_t d = 0; d < D; ++d) draws[d] = static_cast<float>(random.uniform() * (1 - 0x1p-24));  // stays below 1
    }
  }

  // One random stream for each strong view, or box, of each list.
  static uint32_t stream(List list, size_t view) { return static_cast<uint32_t>(list) | static_cast<uint32_t>(view) << 8; }

  // Pinned where the device is a GPU, so that the copy to it need not wait.
  Tensor host_tensor(std::vector<int64_t> shape, at::ScalarType type) const {
    return at::empty(shape, at::TensorOptions().dtype(type).pinned_memory(options.device.is_cuda()));
  }

  RawUnlabeled unlabeled_batch(int boxes, int draws) const {
    const int64_t B = options.batch_unlabeled / options.parts, H = options.view.crop_H, W = options.view.crop_W;
    RawUnlabeled batch;
    batch.weak_BHWC = host_tensor({B, H, W, 3}, at::kByte);
    batch.valid_BHW = host_tensor({B, H, W}, at::kByte);
    if (options.needs.truth) batch.truth_BHW = host_tensor({B, H, W}, at::kByte);
    const int64_t D = data.classes().size() + 1;
    for (int i = 0; i < options.needs.strong_views; ++i) {
      if (colours_on_device)
        batch.plan_BN.push_back(host_tensor({B, sizeof(ColourPlan)}, at::kByte));
      else
        batch.strong_BHWC.push_back(host_tensor({B, H, W, 3}, at::kByte));
    }
    for (int i = 0; i < boxes; ++i) batch.cutmix_box_B4.push_back(host_tensor({B, 4}, at::kLong));
    for (int i = 0; i < draws; ++i) batch.draw_BD.push_back(host_tensor({B, D}, at::kFloat));
    return batch;
  }

  // Of this part, which has B images, of batch `index`.
  int64_t first_draw(int64_t index, int64_t B) const { return (index * options.parts + options.part) * B; }

  void submit_unlabeled(PendingBatch& batch, RawUnlabeled& part, List list, Order& order) {
    const int64_t B = options.batch_unlabeled / options.parts;
    for (int64_t position = 0; position < B; ++position) {
      const int64_t draw = first_draw(batch.index, B) + position;
      batch.positions.push_back(pool.submit([this, host = batch.host, &part, list, position, draw, image = order.image(draw)] {
        load_unlabeled(part, list, position, draw, image);
      }));
    }
  }

  void begin(int64_t index) {
    const int64_t B = options.batch_labeled / options.parts, H = options.view.crop_H, W = options.view.crop_W;
    PendingBatch batch{index, std::make_shared<RawBatch>(), {}};
    RawBatch& host = *batch.host;
    host.labeled = {host_tensor({B, H, W, 3}, at::kByte), host_tensor({B, H, W}, at::kByte)};
    for (int64_t position = 0; position < B; ++position) {
      const int64_t draw = first_draw(index, B) + position;
      batch.positions.push_back(pool.submit([this, host = batch.host, position, draw, what = labeled_draw(draw)] {
        load_labeled(host->labeled, position, draw, what);
      }));
    }
    if (options.needs.unlabeled) {
      // One set a strong view; one where weak views are mixed.
      const bool mixes = options.needs.mix || options.needs.mix_within;
      const int of_views = mixes ? std::max(options.needs.strong_views, 1) : 0;
      host.unlabeled =
          options.needs.augseg_boxes ? unlabeled_batch(/*boxes=*/2, /*draws=*/1) : unlabeled_batch(of_views, of_views);
      submit_unlabeled(batch, host.unlabeled, List::kUnlabeled, unlabeled_order);
    }
    if (options.needs.mix) {
      host.mix = unlabeled_batch(/*boxes=*/0, /*draws=*/0);
      submit_unlabeled(batch, host.mix, List::kMix, mix_order);
    }
    pending.push_back(std::move(batch));
  }

  // The batch's images in their places; the next ones are begun.
  std::shared_ptr<RawBatch> take(int64_t index) {
    using Clock = std::chrono::steady_clock;
    upload.begin();
    const auto begin_of_call = Clock::now();
    if (!pending.empty() && pending.front().index != index) {
      pool.drop_waiting();
      pending.clear();
    }
    const int64_t last = index + (pool.has_threads() ? options.prefetch : 0);
    while (pending.empty() || pending.back().index < last) begin(pending.empty() ? index : pending.back().index + 1);

    PendingBatch batch = std::move(pending.front());
    pending.pop_front();
    // While a GPU still works on what is queued, nothing waits for data.
    constexpr auto kLook = std::chrono::microseconds(200);
    std::optional<Clock::time_point> idle_since;
    if (upload.idle()) idle_since = begin_of_call;
    for (const std::future<void>& position : batch.positions) {
      while (!idle_since && position.wait_for(kLook) == std::future_status::timeout)
        if (upload.idle()) idle_since = Clock::now();
      position.wait();
    }
    if (idle_since) wait_seconds += std::chrono::duration<double>(Clock::now() - *idle_since).count();
    for (std::future<void>& position : batch.positions) position.get();
    return batch.host;
  }

  // The batch on the device, as it is.
  RawUnlabeled send(const RawUnlabeled& host) {
    const auto send_all = [&](const std::vector<Tensor>& tensors) {
      std::vector<Tensor> sent;
      for (const Tensor& tensor : tensors) sent.push_back(upload.send(tensor));
      return sent;
    };
    return {upload.send(host.weak_BHWC), upload.send(host.valid_BHW),  upload.send(host.truth_BHW), send_all(host.strong_BHWC),
            send_all(host.plan_BN),      send_all(host.cutmix_box_B4), send_all(host.draw_BD)};
  }
  RawBatch send(const RawBatch& host) {
    RawBatch sent{
        {upload.send(host.labeled.image_BHWC), upload.send(host.labeled.label_BHW)}, send(host.unlabeled), send(host.mix)};
    upload.finish();
    return sent;
  }

  Tensor normalized(const Tensor& image_BHWC) const {
    return image_BHWC.is_cpu() ? normalize_on_cpu(image_BHWC, factors) : normalize_on_device(image_BHWC, scale, shift);
  }

  UnlabeledBatch finished(const RawUnlabeled& raw) const {
    UnlabeledBatch batch;
    batch.weak_BCHW = normalized(raw.weak_BHWC);
#ifdef SEMISEG_CUDA
    for (const Tensor& plan_BN : raw.plan_BN)
      batch.strong_BCHW.push_back(ops::colours_cuda::strong_views(raw.weak_BHWC, plan_BN, factors.scale, factors.shift));
#endif
    batch.valid_BHW = raw.valid_BHW.to(at::kBool);
    for (const Tensor& strong_BHWC : raw.strong_BHWC) batch.strong_BCHW.push_back(normalized(strong_BHWC));
    if (raw.truth_BHW.defined()) batch.truth_BHW = raw.truth_BHW.to(at::kLong);
    batch.cutmix_box_B4 = raw.cutmix_box_B4;
    batch.draw_BD = raw.draw_BD;
    return batch;
  }
};

std::vector<double> rare_class_probabilities(const std::vector<int64_t>& pixels_K, double temperature) {
  const auto total = static_cast<double>(std::accumulate(pixels_K.begin(), pixels_K.end(), int64_t{0}));
  // The rarest class has the largest exponent: relative to it no exponential overflows, however small the temperature.
  int64_t fewest = std::numeric_limits<int64_t>::max();
  for (const int64_t pixels : pixels_K)
    if (pixels > 0) fewest = std::min(fewest, pixels);
  std::vector<double> probability_K(pixels_K.size(), 0.0);
  for (size_t c = 0; c < pixels_K.size(); ++c)
    if (pixels_K[c] > 0) probability_K[c] = std::exp(static_cast<double>(fewest - pixels_K[c]) / total / temperature);
  const double sum = std::accumulate(probability_K.begin(), probability_K.end(), 0.0);
  for (double& probability : probability_K) probability /= sum;
  return probability_K;
}

Loader::Loader(const Dataset& data, LoaderOptions options) {
  require_images(data, Split::kLabeled, "set data.labeled to a list with at least one image");
  if (options.needs.unlabeled || options.needs.mix) {
    require_images(data, Split::kUnlabeled, "set data.unlabeled, or semi.method=supervised");
  }
  cv::setNumThreads(0);  // the loader's own threads are the parallelism
  state_ = std::make_unique<State>(data, std::move(options));
}

Loader::~Loader() = default;

TrainBatch Loader::batch(int64_t index) {
  const RawBatch raw = state_->send(*state_->take(index));
  TrainBatch batch;
  batch.labeled = {state_->normalized(raw.labeled.image_BHWC), raw.labeled.label_BHW.to(at::kLong)};
  if (state_->options.needs.unlabeled) batch.unlabeled = state_->finished(raw.unlabeled);
  if (state_->options.needs.mix) batch.mix = state_->finished(raw.mix);
  return batch;
}

double Loader::take_wait_seconds() { return std::exchange(state_->wait_seconds, 0.0); }

Tensor normalize(const Tensor& image_BHWC, const std::vector<double>& mean, const std::vector<double>& std) {
  const Affine factors = affine(mean, std);
  if (image_BHWC.is_cpu()) return normalize_on_cpu(image_BHWC, factors);
  const auto [scale, shift] = affine_on_device(factors, image_BHWC.device());
  return normalize_on_device(image_BHWC, scale, shift);
}

struct OrderedReader::State {
  const Dataset& data;
  const Split split;
  const int64_t ahead;  // samples read before they are asked for
  const int64_t stride;
  const bool pins;
  int64_t next;  // to be begun
  std::deque<std::future<Sample>> samples;
  ThreadPool pool;  // last: its threads end before anything they use

  State(const Dataset& dataset, Split which, int64_t workers, int64_t first, int64_t every, bool for_gpu)
      : data(dataset),
        split(which),
        ahead(2 * workers),
        stride(every),
        pins(for_gpu),
        next(first),
        pool(loader_threads(workers)) {}

  void begin() {
    samples.push_back(pool.submit([this, index = next] {
      Sample sample = data.get(split, index);
      if (pins)
        for (Tensor* tensor : {&sample.image_HWC, &sample.label_HW})
          if (tensor->defined()) *tensor = tensor->pin_memory();
      return sample;
    }));
    next += stride;
  }
};

OrderedReader::OrderedReader(const Dataset& data, Split split, int64_t workers, int64_t first, int64_t stride,
                             torch::Device device) {
  cv::setNumThreads(0);
  state_ = std::make_unique<State>(data, split, workers, first, stride, device.is_cuda());
}

OrderedReader::~OrderedReader() = default;

Sample OrderedReader::next() {
  State& state = *state_;
  const int64_t size = state.data.size(state.split);
  while (static_cast<int64_t>(state.samples.size()) <= state.ahead && state.next < size) state.begin();
  std::future<Sample> sample = std::move(state.samples.front());
  state.samples.pop_front();
  return sample.get();
}

}  // namespace semiseg
