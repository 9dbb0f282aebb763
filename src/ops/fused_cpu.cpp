#include "ops/fused_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "ops/kernels.h"
#include "ops/paste_pairs.h"

namespace semiseg::ops::fused_cpu {
namespace {

// --- where the pixels lie ---

// Low-resolution position of an output pixel, as ATen computes it: its cell and the fraction of the way through it. The last
// position is the end of the last cell, not the start of one more.
struct Position {
  int64_t cell;
  float fraction;
};

class Scale {
 public:
  Scale(int64_t in, int64_t out, bool align_corners) : last_(in - 1), align_corners_(align_corners) {
    if (!align_corners)
      step_ = static_cast<float>(in) / static_cast<float>(out);
    else if (out > 1)
      step_ = static_cast<float>(in - 1) / static_cast<float>(out - 1);
  }

  Position operator()(int64_t pixel) const {
    const auto at = static_cast<float>(pixel);
    const float position =
        std::clamp(align_corners_ ? at * step_ : (at + 0.5f) * step_ - 0.5f, 0.0f, static_cast<float>(last_));
    const int64_t cell = std::clamp<int64_t>(static_cast<int64_t>(position), 0, std::max<int64_t>(last_ - 1, 0));
    return {cell, position - static_cast<float>(cell)};
  }

 private:
  int64_t last_;
  bool align_corners_;
  float step_ = 0;
};

// Cells between low-resolution samples; where there is one sample alone, it is its own neighbour.
int64_t cells_of(int64_t samples) { return std::max<int64_t>(samples - 1, 1); }

// Strips of one image that one thread works through. Their number does not depend on the number of threads.
constexpr int64_t kStripsPerChunk = 8;

// The geometry that all strips of a tensor share.
struct Geometry {
  int64_t B, K, h, w, H, W;
  std::vector<int32_t> slot;        // [W], see kernels.h
  std::vector<float> fraction;      // [phases, padded]
  std::vector<uint8_t> used;        // [phases, padded / 8]
  std::vector<int64_t> row_begin;   // [strips + 1]
  std::vector<float> row_fraction;  // [H]
  int64_t strips, padded, phases, stride;
  int64_t most_rows = 0;  // in a strip

  Geometry(const Tensor& logits_BKhw, const Upsampling& to)
      : B(logits_BKhw.size(0)), K(logits_BKhw.size(1)), h(logits_BKhw.size(2)), w(logits_BKhw.size(3)), H(to.H), W(to.W) {
    const Scale columns(w, to.grid_W ? to.grid_W : W, to.align_corners), rows(h, to.grid_H ? to.grid_H : H, to.align_corners);
    padded = (cells_of(w) + kBlock - 1) / kBlock * kBlock;
    stride = padded + kBlock;

    std::vector<int64_t> count(static_cast<size_t>(padded), 0);
    for (int64_t x = 0; x < W; ++x) ++count[static_cast<size_t>(columns(x).cell)];
    phases = *std::max_element(count.begin(), count.end());
    slot.resize(static_cast<size_t>(W));
    fraction.assign(static_cast<size_t>(phases * padded), 0.0f);
    used.assign(static_cast<size_t>(phases * padded / 8), 0);
    std::fill(count.begin(), count.end(), 0);
    for (int64_t x = 0; x < W; ++x) {
      const Position at = columns(x);
      const int64_t here = count[static_cast<size_t>(at.cell)]++ * padded + at.cell;
      slot[static_cast<size_t>(x)] = static_cast<int32_t>(here);
      fraction[static_cast<size_t>(here)] = at.fraction;
      used[static_cast<size_t>(here / 8)] = 1;
    }

    strips = cells_of(h);
    row_begin.assign(static_cast<size_t>(strips + 1), 0);
    for (int64_t y = 0; y < H; ++y) {
      const Position at = rows(y);
      ++row_begin[static_cast<size_t>(at.cell + 1)];
      row_fraction.push_back(at.fraction);
    }
    for (int64_t s = 0; s < strips; ++s) row_begin[static_cast<size_t>(s + 1)] += row_begin[static_cast<size_t>(s)];
    for (int64_t s = 0; s < strips; ++s) most_rows = std::max(most_rows, this->rows(s));
  }

  int64_t slots() const { return phases * padded; }
  int64_t first_row(int64_t strip) const { return row_begin[static_cast<size_t>(strip)]; }
  int64_t rows(int64_t strip) const { return first_row(strip + 1) - first_row(strip); }
  size_t slots_of_strip() const { return static_cast<size_t>(most_rows * slots()); }
  int64_t chunks_per_image() const { return (strips + kStripsPerChunk - 1) / kStripsPerChunk; }

  // Calls take(x, value) for the pixels of a strip's row; `by_slot` holds the values of the strip.
  template <class Value, class Take>
  void for_each_pixel(const Value* by_slot, int64_t row, const Take& take) const {
    // In locals: what is written through `take` could otherwise be the members.
    const Value* of_row = by_slot + row * slots();
    const int32_t* slot_of = slot.data();
    const int64_t width = W;
    for (int64_t x = 0; x < width; ++x) take(x, of_row[slot_of[x]]);
  }
};

// --- walking over the strips ---

// Reads low-resolution rows of any type and layout into float32 [K, stride]; columns beyond the last repeat it.
class RowReader {
 public:
  explicit RowReader(const Tensor& logits_BKhw) : logits_(logits_BKhw) {}

  void read(int64_t b, int64_t y, int64_t stride, float* to) const {
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, logits_.scalar_type(), "logits", [&] {
      const auto* from = logits_.const_data_ptr<scalar_t>() + b * logits_.stride(0) + y * logits_.stride(2);
      const int64_t K = logits_.size(1), w = logits_.size(3), by_class = logits_.stride(1), by_column = logits_.stride(3);
      if (by_class == 1) {  // channels-last: read in the order of memory
        for (int64_t x = 0; x < w; ++x)
          for (int64_t k = 0; k < K; ++k) to[k * stride + x] = static_cast<float>(from[x * by_column + k]);
      } else {
        for (int64_t k = 0; k < K; ++k)
          for (int64_t x = 0; x < w; ++x) to[k * stride + x] = static_cast<float>(from[k * by_class + x * by_column]);
      }
      for (int64_t k = 0; k < K; ++k) std::fill(to + k * stride + w, to + (k + 1) * stride, to[k * stride + w - 1]);
    });
  }

 private:
  Tensor logits_;
};

// Calls of_chunk(chunk, b, first strip, end) for all chunks, on all threads.
template <class Chunk>
void for_each_chunk(const Geometry& geometry, const Chunk& of_chunk) {
  const int64_t per_image = geometry.chunks_per_image();
  at::parallel_for(0, geometry.B * per_image, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk % per_image * kStripsPerChunk;
      of_chunk(chunk, chunk / per_image, first, std::min(first + kStripsPerChunk, geometry.strips));
    }
  });
}

// The strips of a chunk one after the other: a low-resolution row is read once.
class StripReader {
 public:
  StripReader(const Geometry& geometry, const Tensor& logits_BKhw, int64_t b)
      : geometry_(geometry),
        reader_(logits_BKhw),
        b_(b),
        top_(static_cast<size_t>(geometry.K * geometry.stride)),
        bottom_(top_.size()) {}

  // REQUIRES: strips in order, one after the other.
  Strip next(int64_t strip) {
    if (std::exchange(started_, true))
      std::swap(top_, bottom_);
    else
      reader_.read(b_, strip, geometry_.stride, top_.data());
    reader_.read(b_, std::min(strip + 1, geometry_.h - 1), geometry_.stride, bottom_.data());
    return {.K = geometry_.K,
            .top = top_.data(),
            .bottom = bottom_.data(),
            .stride = geometry_.stride,
            .rows = geometry_.rows(strip),
            .row_fraction = geometry_.row_fraction.data() + geometry_.first_row(strip),
            .columns = {geometry_.padded, geometry_.phases, geometry_.fraction.data(), geometry_.used.data()}};
  }

 private:
  const Geometry& geometry_;
  RowReader reader_;
  int64_t b_;
  std::vector<float> top_, bottom_;
  bool started_ = false;
};

// Labels of a strip's rows by slot, -1 where nothing is counted. Slots without a pixel are never written: they stay -1.
class LabelSlots {
 public:
  LabelSlots(const Geometry& geometry, const Tensor& label_BHW)
      : geometry_(geometry), label_BHW_(label_BHW), slots_(geometry.slots_of_strip(), -1) {}

  // `keep(y, x)` says whether a labelled pixel counts. Sets *outside where a label is neither in [0, K) nor kIgnore.
  template <class Keep>
  const int32_t* fill(int64_t b, int64_t strip, const Keep& keep, std::atomic<bool>* outside) {
    const int64_t first = geometry_.first_row(strip);
    const auto K = static_cast<uint64_t>(geometry_.K);
    bool bad = false;
    for (int64_t row = 0; row < geometry_.rows(strip); ++row) {
      const int64_t* label = label_BHW_.const_data_ptr<int64_t>() + (b * geometry_.H + first + row) * geometry_.W;
      int32_t* to = slots_.data() + row * geometry_.slots();
      for (int64_t x = 0; x < geometry_.W; ++x) {
        const bool known = static_cast<uint64_t>(label[x]) < K;
        bad |= !known && label[x] != kIgnore;
        to[geometry_.slot[static_cast<size_t>(x)]] = known && keep(first + row, x) ? static_cast<int32_t>(label[x]) : -1;
      }
    }
    if (bad) *outside = true;
    return slots_.data();
  }

 private:
  const Geometry& geometry_;
  Tensor label_BHW_;
  std::vector<int32_t> slots_;
};

Upsampling size_of(const Tensor& label_BHW, bool align_corners) {
  return {.H = label_BHW.size(1), .W = label_BHW.size(2), .align_corners = align_corners};
}

void check_labels(const std::atomic<bool>& outside, int64_t K) {
  TORCH_CHECK(!outside, "a label is neither a class in [0, ", K, ") nor ", kIgnore);
}

Tensor float_scalar(double value) { return at::full({}, value, at::kFloat); }

CrossEntropyResult cross_entropy(const Tensor& logits_BKhw, const Tensor& label_BHW, const CrossEntropyOptions& options,
                                 bool want_gradient) {
  const Geometry geometry(logits_BKhw, size_of(label_BHW, options.align_corners));
  const int64_t K = geometry.K, w = geometry.w, H = geometry.H, W = geometry.W, padded = geometry.padded;
  const auto label = label_BHW.contiguous();
  const auto class_weight_K =
      options.weight_K.defined() ? options.weight_K.to(at::kFloat).contiguous() : at::ones({K}, at::kFloat);
  const float* class_weight = class_weight_K.const_data_ptr<float>();
  const auto mask_BHW = options.pixel_weight_BHW.defined() && options.pixel_weight_BHW.scalar_type() == at::kBool
                            ? options.pixel_weight_BHW.contiguous()
                            : Tensor();
  const auto pixel_weight_BHW = options.pixel_weight_BHW.defined() && !mask_BHW.defined()
                                    ? options.pixel_weight_BHW.to(at::kFloat).contiguous()
                                    : Tensor();

  const int64_t chunks = geometry.B * geometry.chunks_per_image();
  std::vector<double> loss(static_cast<size_t>(chunks)), weight(loss.size());
  // A chunk's last row is its neighbour's first: the lower part of its gradient waits in `seam`, so that no two chunks write
  // one row.
  Tensor gradient_BKhw, seam;
  if (want_gradient) {
    gradient_BKhw = at::zeros(logits_BKhw.sizes(), at::kFloat);
    seam = at::zeros({chunks, K, w}, at::kFloat);
  }
  std::atomic<bool> outside = false;

  for_each_chunk(geometry, [&](int64_t chunk, int64_t b, int64_t first, int64_t end) {
    StripReader reader(geometry, logits_BKhw, b);
    LabelSlots labels(geometry, label);
    const size_t slots = geometry.slots_of_strip();
    std::vector<float> weights(slots, 0.0f), pixel_weights(options.label_smoothing > 0 ? slots : 0, 0.0f);
    std::vector<float> top_gradient(want_gradient ? static_cast<size_t>(2 * K * padded) : 0, 0.0f),
        bottom_gradient(top_gradient);
    // The gradient of a low-resolution row, written to rows that lie `by_class` apart. The last column is the right one of the
    // last cell.
    const auto write_row = [&](float* to, int64_t by_class) {
      for (int64_t k = 0; k < K; ++k, to += by_class) {
        const float *left = top_gradient.data() + k * padded, *right = left + K * padded;
        to[0] = left[0];
        for (int64_t x = 1; x < w; ++x) to[x] = (x < padded ? left[x] : 0.0f) + right[x - 1];
      }
    };
    for (int64_t s = first; s < end; ++s) {
      const Strip strip = reader.next(s);
      const bool* mask = mask_BHW.defined() ? mask_BHW.const_data_ptr<bool>() + b * H * W : nullptr;
      const float* factor = pixel_weight_BHW.defined() ? pixel_weight_BHW.const_data_ptr<float>() + b * H * W : nullptr;
      const int32_t* of_slot = mask == nullptr ? labels.fill(
                                                     b, s, [](int64_t, int64_t) { return true; }, &outside)
                                               : labels.fill(
                                                     b, s, [&](int64_t y, int64_t x) { return mask[y * W + x]; }, &outside);
      double sum = 0;
      for (int64_t row = 0; row < strip.rows; ++row) {
        const int64_t y = geometry.first_row(s) + row, base = row * geometry.slots();
        float row_sum = 0;
        for (int64_t x = 0; x < W; ++x) {
          const int64_t at = base + geometry.slot[static_cast<size_t>(x)];
          const float v = factor != nullptr ? factor[y * W + x] : 1.0f;
          const float here = of_slot[at] >= 0 ? v * class_weight[of_slot[at]] : 0.0f;
          weights[static_cast<size_t>(at)] = here;
          if (!pixel_weights.empty()) pixel_weights[static_cast<size_t>(at)] = v;
          row_sum += here;
        }
        sum += row_sum;
      }
      CrossEntropy of_strip{.label = of_slot,
                            .weight = weights.data(),
                            .pixel_weight = pixel_weights.data(),
                            .smoothing = static_cast<float>(options.label_smoothing),
                            .class_weight = class_weight,
                            .focal_gamma = static_cast<float>(options.focal_gamma),
                            .top_gradient = want_gradient ? top_gradient.data() : nullptr,
                            .bottom_gradient = want_gradient ? bottom_gradient.data() : nullptr,
                            .loss = 0};
      kernels()->cross_entropy(strip, of_strip);
      loss[static_cast<size_t>(chunk)] += of_strip.loss;
      weight[static_cast<size_t>(chunk)] += sum;
      if (!want_gradient) continue;
      write_row(gradient_BKhw.data_ptr<float>() + (b * K * geometry.h + s) * w, geometry.h * w);
      // What the strip gave its bottom row is the beginning of the next one's top row.
      std::swap(top_gradient, bottom_gradient);
      std::fill(bottom_gradient.begin(), bottom_gradient.end(), 0.0f);
    }
    if (!want_gradient) return;
    write_row(seam.data_ptr<float>() + chunk * K * w, w);
  });
  check_labels(outside, K);

  if (want_gradient)
    for_each_chunk(geometry, [&](int64_t chunk, int64_t b, int64_t, int64_t end) {
      // With one low-resolution row alone the strip's bottom row is beyond it, and has no gradient.
      if (end >= geometry.h) return;
      gradient_BKhw[b].select(1, end).add_(seam[chunk]);
    });
  double loss_sum = 0, weight_sum = 0;
  for (const double part : loss) loss_sum += part;
  for (const double part : weight) weight_sum += part;
  return {float_scalar(loss_sum), float_scalar(weight_sum), gradient_BKhw};
}

Tensor label_probability(const Tensor& logits_BKhw, const Tensor& label_BHW, bool align_corners) {
  const Geometry geometry(logits_BKhw, size_of(label_BHW, align_corners));
  const auto label = label_BHW.contiguous();
  auto probability_BHW = at::empty(label_BHW.sizes(), at::kFloat);
  std::atomic<bool> outside = false;
  for_each_chunk(geometry, [&](int64_t, int64_t b, int64_t first, int64_t end) {
    StripReader reader(geometry, logits_BKhw, b);
    LabelSlots labels(geometry, label);
    std::vector<float> probability(geometry.slots_of_strip());
    for (int64_t s = first; s < end; ++s) {
      const Strip strip = reader.next(s);
      kernels()->label_probability(strip,
                                   labels.fill(
                                       b, s, [](int64_t, int64_t) { return true; }, &outside),
                                   probability.data());
      for (int64_t row = 0; row < strip.rows; ++row) {
        float* to = probability_BHW.data_ptr<float>() + (b * geometry.H + geometry.first_row(s) + row) * geometry.W;
        geometry.for_each_pixel(probability.data(), row, [&](int64_t x, float value) { to[x] = value; });
      }
    }
  });
  check_labels(outside, geometry.K);
  return probability_BHW;
}

Prediction predict(const Tensor& logits_BKhw, const Upsampling& to, bool want_confidence) {
  const Geometry geometry(logits_BKhw, to);
  const int64_t H = geometry.H, W = geometry.W;
  Prediction prediction{at::empty({geometry.B, H, W}, at::kLong), Tensor()};
  if (want_confidence) prediction.confidence_BHW = at::empty({geometry.B, H, W}, at::kFloat);
  for_each_chunk(geometry, [&](int64_t, int64_t b, int64_t first, int64_t end) {
    StripReader reader(geometry, logits_BKhw, b);
    std::vector<int32_t> classes(geometry.slots_of_strip());
    std::vector<float> confidences(want_confidence ? classes.size() : 0);
    for (int64_t s = first; s < end; ++s) {
      const Strip strip = reader.next(s);
      kernels()->predict(strip, classes.data(), want_confidence ? confidences.data() : nullptr);
      for (int64_t row = 0; row < strip.rows; ++row) {
        const int64_t at = (b * H + geometry.first_row(s) + row) * W;
        int64_t* class_to = prediction.class_BHW.data_ptr<int64_t>() + at;
        geometry.for_each_pixel(classes.data(), row, [&](int64_t x, int32_t value) { class_to[x] = value; });
        if (!want_confidence) continue;
        float* confidence_to = prediction.confidence_BHW.data_ptr<float>() + at;
        geometry.for_each_pixel(confidences.data(), row, [&](int64_t x, float value) { confidence_to[x] = value; });
      }
    }
  });
  return prediction;
}

Tensor confusion(const Tensor& logits_BKhw, const Tensor& label_BHW, const Upsampling& to, Tensor& counts_KK,
                 bool want_prediction) {
  const Geometry geometry(logits_BKhw, to);
  const int64_t K = geometry.K, H = geometry.H, W = geometry.W;
  const auto label = label_BHW.scalar_type() == at::kByte ? label_BHW.contiguous() : label_BHW.to(at::kLong).contiguous();
  Tensor class_BHW;
  if (want_prediction) class_BHW = at::empty({geometry.B, H, W}, at::kLong);
  std::mutex adding;
  for_each_chunk(geometry, [&](int64_t, int64_t b, int64_t first, int64_t end) {
    StripReader reader(geometry, logits_BKhw, b);
    std::vector<int32_t> classes(geometry.slots_of_strip());
    // Two tables that take turns: neighbouring pixels mostly count in one place, and need not wait for each other.
    std::vector<int64_t> counts(static_cast<size_t>(2 * K * K), 0);
    const auto count_row = [&](const auto* labels, int64_t row) {
      geometry.for_each_pixel(classes.data(), row, [&](int64_t x, int32_t predicted) {
        const auto value = static_cast<uint64_t>(labels[x]);
        if (value < static_cast<uint64_t>(K))
          ++counts[static_cast<size_t>((x & 1) * K * K + static_cast<int64_t>(value) * K + predicted)];
      });
    };
    for (int64_t s = first; s < end; ++s) {
      const Strip strip = reader.next(s);
      kernels()->predict(strip, classes.data(), nullptr);
      for (int64_t row = 0; row < strip.rows; ++row) {
        const int64_t at = (b * H + geometry.first_row(s) + row) * W;
        if (label.scalar_type() == at::kByte)
          count_row(label.const_data_ptr<uint8_t>() + at, row);
        else
          count_row(label.const_data_ptr<int64_t>() + at, row);
        if (!want_prediction) continue;
        int64_t* to_row = class_BHW.data_ptr<int64_t>() + at;
        geometry.for_each_pixel(classes.data(), row, [&](int64_t x, int32_t value) { to_row[x] = value; });
      }
    }
    const std::lock_guard<std::mutex> lock(adding);
    int64_t* total = counts_KK.data_ptr<int64_t>();
    for (int64_t i = 0; i < K * K; ++i) total[i] += counts[static_cast<size_t>(i)] + counts[static_cast<size_t>(K * K + i)];
  });
  return class_BHW;
}

void add_softmax(const Tensor& logits_BKhw, const Upsampling& to, const Tensor& sum_BKHW) {
  const Geometry geometry(logits_BKhw, to);
  const int64_t by_class = sum_BKHW.stride(1), by_row = sum_BKHW.stride(2), by_column = sum_BKHW.stride(3);
  for_each_chunk(geometry, [&](int64_t, int64_t b, int64_t first, int64_t end) {
    StripReader reader(geometry, logits_BKhw, b);
    std::vector<float> probability(static_cast<size_t>(geometry.K) * geometry.slots_of_strip());
    for (int64_t s = first; s < end; ++s) {
      const Strip strip = reader.next(s);
      kernels()->softmax(strip, probability.data());
      for (int64_t k = 0; k < geometry.K; ++k)
        for (int64_t row = 0; row < strip.rows; ++row) {
          float* sum =
              sum_BKHW.data_ptr<float>() + b * sum_BKHW.stride(0) + k * by_class + (geometry.first_row(s) + row) * by_row;
          geometry.for_each_pixel(probability.data(), k * strip.rows + row,
                                  [&](int64_t x, float value) { sum[x * by_column] += value; });
        }
    }
  });
}

}  // namespace

bool serves(const Tensor& logits_BKhw) {
  const auto type = logits_BKhw.scalar_type();
  return kernels() != nullptr && logits_BKhw.is_cpu() && logits_BKhw.size(1) <= kMaxClasses && logits_BKhw.numel() > 0 &&
         (type == at::kFloat || type == at::kBFloat16 || type == at::kHalf);
}

const FusedOps& ops() {
  static const FusedOps all{cross_entropy, label_probability, predict, confusion, add_softmax};
  return all;
}

Tensor kth_smallest(const Tensor& values, int64_t k) {
  const auto flat = values.contiguous();
  const float* value = flat.const_data_ptr<float>();
  const int64_t count = flat.numel();
  constexpr int kHalf = 16;
  const auto bits_of = [&](int64_t i) {
    uint32_t bits;
    std::memcpy(&bits, value + i, sizeof(bits));
    return bits;
  };
  // The bin that holds the k-th of the values whose key is not negative; k becomes its rank within that bin.
  const auto find_bin = [&](const auto& key_of) {
    std::vector<int64_t> counts(size_t{1} << kHalf, 0);
    for (int64_t i = 0; i < count; ++i)
      if (const int64_t key = key_of(bits_of(i)); key >= 0) ++counts[static_cast<size_t>(key)];
    uint32_t bin = 0;
    while (k > counts[bin]) k -= counts[bin++];
    return bin;
  };
  const uint32_t upper = find_bin([](uint32_t bits) { return static_cast<int64_t>(bits >> kHalf); });
  const uint32_t lower =
      find_bin([&](uint32_t bits) { return bits >> kHalf == upper ? static_cast<int64_t>(bits & 0xffff) : int64_t{-1}; });
  const uint32_t bits = upper << kHalf | lower;
  float found;
  std::memcpy(&found, &bits, sizeof(found));
  return at::full({}, found, at::kFloat);
}

std::vector<Tensor> paste_where(const Tensor& mask_BHW, const std::vector<Tensor>& sources,
                                const std::vector<Tensor>& targets) {
  const int64_t B = mask_BHW.size(0), H = mask_BHW.size(1), W = mask_BHW.size(2);
  std::vector<Tensor> pasted;
  const std::vector<PastePair> pairs = paste_pairs(mask_BHW, sources, targets, &pasted);
  const auto mask = mask_BHW.contiguous();
  constexpr int64_t kRows = 32;  // of the mask for a thread at a time
  at::parallel_for(0, B * H, kRows, [&](int64_t first, int64_t end) {
    for (int64_t row = first; row < end; ++row) {
      const bool* inside = mask.const_data_ptr<bool>() + row * W;
      for (int64_t x = 0, stop; x < W; x = stop) {
        stop = std::find(inside + x, inside + W, !inside[x]) - inside;
        for (const PastePair& pair : pairs)
          for (int64_t p = 0; p < pair.planes; ++p) {
            const int64_t at = (((row / H * pair.planes + p) * H + row % H) * W + x) * pair.pixel_bytes;
            const auto* from = static_cast<const char*>((inside[x] ? pair.source : pair.target).const_data_ptr());
            std::memcpy(static_cast<char*>(pair.out.data_ptr()) + at, from + at,
                        static_cast<size_t>((stop - x) * pair.pixel_bytes));
          }
      }
    }
  });
  return pasted;
}

}  // namespace semiseg::ops::fused_cpu
