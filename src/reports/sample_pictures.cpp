#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "canvas.h"
#include "reports/pictures.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"

namespace semiseg {
namespace {

constexpr int kWidth = 1600, kMargin = 16, kGap = 12, kTitle = 30, kHeader = 26;
constexpr Colour kError{255, 96, 0}, kNotCounted{150, 150, 150}, kNoClass{0, 0, 0};

// The colours of the classes; black where there is none.
Tensor colourized(const Tensor& label_HW, const ClassSet& classes) {
  std::array<Colour, 256> table;
  table.fill(kNoClass);
  std::copy(classes.colours.begin(), classes.colours.end(), table.begin());
  const Tensor label = label_HW.contiguous();
  Tensor colours_HWC = at::empty({label.size(0), label.size(1), 3}, at::kByte);
  const auto* from = label.const_data_ptr<uint8_t>();
  auto* to = colours_HWC.data_ptr<uint8_t>();
  for (int64_t i = 0; i < label.numel(); ++i, to += 3) std::copy_n(table[from[i]].data(), 3, to);
  return colours_HWC;
}

// The image, dark and grey, with what is predicted wrong in one colour and what does not count in another.
Tensor errors(const ScoredSample& sample) {
  const Tensor image = sample.image_HWC.contiguous(), label = sample.label_HW.contiguous(),
               prediction = sample.prediction_HW.contiguous();
  Tensor map_HWC = at::empty_like(image);
  const auto *rgb = image.const_data_ptr<uint8_t>(), *truth = label.const_data_ptr<uint8_t>(),
             *said = prediction.const_data_ptr<uint8_t>();
  auto* to = map_HWC.data_ptr<uint8_t>();
  for (int64_t i = 0; i < label.numel(); ++i, to += 3, rgb += 3) {
    const auto grey = static_cast<uint8_t>((rgb[0] * 77 + rgb[1] * 150 + rgb[2] * 29) >> 9);  // half as bright
    const Colour colour = truth[i] == kIgnore ? kNotCounted : truth[i] != said[i] ? kError : Colour{grey, grey, grey};
    std::copy_n(colour.data(), 3, to);
  }
  return map_HWC;
}

// Rows of equally wide cells.
class Grid {
 public:
  explicit Grid(int columns) : cell_((kWidth - 2 * kMargin - (columns - 1) * kGap) / columns) {}

  int cell() const { return cell_; }
  int left(int column) const { return kMargin + column * (cell_ + kGap); }
  // Of a row of images of this size: a tall image is as high as a cell is wide.
  int row_height(const Tensor& image_HWC) const {
    return static_cast<int>(std::lround(cell_ * std::min(1.0, double(image_HWC.size(0)) / double(image_HWC.size(1)))));
  }
  // Where an image lies in a cell whose upper edge is `top`.
  Rect place(int column, int top, const Tensor& image_HWC) const {
    const int height = row_height(image_HWC);
    const int width =
        std::clamp(static_cast<int>(std::lround(height * double(image_HWC.size(1)) / double(image_HWC.size(0)))), 1, cell_);
    return {left(column) + (cell_ - width) / 2, top, width, height};
  }

 private:
  int cell_;
};

struct LegendEntry {
  std::string name;
  Colour colour;
};

// Swatches with names in columns over the whole width.
class Legend {
 public:
  explicit Legend(const ClassSet& classes) {
    for (int64_t c = 0; c < classes.size(); ++c)
      entries_.push_back({fitted(classes.names[static_cast<size_t>(c)], 9.5, 240), classes.colours[static_cast<size_t>(c)]});
    entries_.push_back({"not labelled", kNoClass});
    for (const auto& entry : entries_) column_ = std::max(column_, 46 + text_width(entry.name, 9.5));
    per_row_ = std::max(1, (kWidth - 2 * kMargin) / column_);
  }

  int height() const { return 20 + kLine * ((static_cast<int>(entries_.size()) + per_row_ - 1) / per_row_); }

  void draw(Canvas& canvas, int top) const {
    for (size_t i = 0; i < entries_.size(); ++i) {
      const int x = kMargin + static_cast<int>(i) % per_row_ * column_;
      const int y = top + 10 + static_cast<int>(i) / per_row_ * kLine;
      canvas.fill({x, y, 24, 16}, entries_[i].colour);
      canvas.frame({x, y, 24, 16}, kFaintInk);
      canvas.text({x + 32.0, y + 8.0}, entries_[i].name, 9.5);
    }
  }

 private:
  static constexpr int kLine = 24;
  std::vector<LegendEntry> entries_;
  int column_ = 0, per_row_ = 1;
};

// Titles of columns.
void draw_header(Canvas& canvas, const Grid& grid, int top, const std::vector<std::string>& titles) {
  for (size_t i = 0; i < titles.size(); ++i)
    canvas.text({static_cast<double>(grid.left(static_cast<int>(i))), top + kHeader / 2.0}, fitted(titles[i], 10, grid.cell()),
                10, kFaintInk);
}

void draw_row_title(Canvas& canvas, int top, const std::string& id, const std::string& facts) {
  const std::string name = fitted_end(id, 10.5, kWidth / 2);
  canvas.text({double(kMargin), top + kTitle / 2.0}, name, 10.5);
  canvas.text({kMargin + text_width(name, 10.5) + 24.0, top + kTitle / 2.0}, facts, 10.5, kFaintInk);
}

std::string percent(double fraction) { return format("%.1f %%", 100 * fraction); }

// Pixels of each pseudo-label class, and those of them that count.
struct Counted {
  int64_t all = 0, accepted = 0;
  double share() const { return all > 0 ? static_cast<double>(accepted) / static_cast<double>(all) : 0; }
};

std::map<int64_t, Counted> counted_by_class(const PseudoLabeledSample& sample) {
  const Tensor label = sample.pseudo_HW.contiguous(), accepted = sample.accepted_HW.contiguous();
  const auto* c = label.const_data_ptr<uint8_t>();
  const auto* counts = accepted.const_data_ptr<bool>();
  std::map<int64_t, Counted> by_class;
  for (int64_t i = 0; i < label.numel(); ++i) {
    Counted& of_class = by_class[c[i]];
    ++of_class.all;
    of_class.accepted += static_cast<int64_t>(counts[i]);
  }
  return by_class;
}

// A bar for each class, the most frequent first, as far as there is room.
void draw_accepted(Canvas& canvas, const Rect& area, const std::map<int64_t, Counted>& by_class, const ClassSet& classes) {
  std::vector<std::pair<int64_t, Counted>> rows(by_class.begin(), by_class.end());
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.second.all > b.second.all; });
  constexpr int kRow = 21, kNames = 130, kNumbers = 62;
  const int bar = area.width - kNames - kNumbers;
  for (size_t i = 0; i < rows.size() && static_cast<int>(i + 1) * kRow <= area.height; ++i) {
    const auto& [c, counted] = rows[i];
    const double y = area.top + (static_cast<double>(i) + 0.5) * kRow;
    canvas.text({area.left + kNames - 8.0, y}, fitted(classes.names.at(static_cast<size_t>(c)), 9, kNames - 12), 9, kInk,
                Anchor::kRight);
    const Rect whole{area.left + kNames, static_cast<int>(y) - 6, bar, 12};
    canvas.fill(whole, kRule);
    canvas.fill({whole.left, whole.top, static_cast<int>(std::lround(counted.share() * bar)), whole.height},
                classes.colours.at(static_cast<size_t>(c)));
    canvas.frame(whole, kFaintInk);
    canvas.text({double(area.left + area.width), y}, percent(counted.share()), 9, kInk, Anchor::kRight);
  }
}

// float32 [3, H, W], normalised -> uint8 RGB [H, W, 3].
Tensor denormalized(const Tensor& image_CHW, const std::vector<double>& mean, const std::vector<double>& std) {
  const auto factor = [](const std::vector<double>& of) { return at::tensor(of, at::kFloat).view({3, 1, 1}); };
  return (image_CHW.to(at::kCPU, at::kFloat) * factor(std) + factor(mean))
      .mul(255)
      .round()
      .clamp(0, 255)
      .to(at::kByte)
      .permute({1, 2, 0})
      .contiguous();
}

// AugSeg's boxes as outlines, in a picture of an image [H, W].
void draw_box(Canvas& canvas, const Rect& rect, const Tensor& box_4, const Tensor& image_HWC, const Colour& colour) {
  const auto edge = [&](int64_t i) { return box_4[i].item<double>(); };
  const double y = rect.height / double(image_HWC.size(0)), x = rect.width / double(image_HWC.size(1));
  const Rect box{rect.left + static_cast<int>(edge(1) * x), rect.top + static_cast<int>(edge(0) * y),
                 static_cast<int>((edge(3) - edge(1)) * x), static_cast<int>((edge(2) - edge(0)) * y)};
  if (box.width > 0 && box.height > 0) canvas.frame(box, colour, 3);
}

}  // namespace

Tensor draw_samples(const EpochSamples& samples, const ClassSet& classes) {
  const Grid grid(4);
  const Legend legend(classes);
  int height = kMargin + 30 + legend.height() + kMargin;
  if (!samples.scored.empty()) height += kHeader;
  for (const auto& sample : samples.scored) height += kTitle + grid.row_height(sample.image_HWC) + 8;
  if (!samples.unlabeled.empty()) height += kHeader + 10;
  for (const auto& sample : samples.unlabeled) height += kTitle + grid.row_height(sample.image_HWC) + 8;

  Canvas canvas(kWidth, height);
  int top = kMargin;
  canvas.text({double(kMargin), top + 12.0}, str("Epoch ", samples.epoch), 14);
  top += 30;
  if (!samples.scored.empty()) {
    draw_header(canvas, grid, top, {"validation image", "label", "prediction", "errors (orange; grey does not count)"});
    top += kHeader;
  }
  for (const ScoredSample& sample : samples.scored) {
    ConfusionMatrix matrix(classes.size(), torch::kCPU);
    matrix.add(sample.prediction_HW.to(at::kLong), sample.label_HW.to(at::kLong));
    const Scores scores = matrix.scores();
    draw_row_title(canvas, top, sample.id,
                   "mIoU " + percent(scores.miou) + "   pixel accuracy " + percent(scores.pixel_accuracy));
    top += kTitle;
    canvas.image(grid.place(0, top, sample.image_HWC), sample.image_HWC, false);
    canvas.image(grid.place(1, top, sample.image_HWC), colourized(sample.label_HW, classes), true);
    canvas.image(grid.place(2, top, sample.image_HWC), colourized(sample.prediction_HW, classes), true);
    canvas.image(grid.place(3, top, sample.image_HWC), errors(sample), true);
    top += grid.row_height(sample.image_HWC) + 8;
  }
  if (!samples.unlabeled.empty()) {
    top += 10;
    draw_header(canvas, grid, top,
                {"unlabelled image", "pseudo-label (hatched: rejected)", "prediction", "accepted of each pseudo-label class"});
    top += kHeader;
  }
  for (const PseudoLabeledSample& sample : samples.unlabeled) {
    const auto by_class = counted_by_class(sample);
    Counted all;
    for (const auto& [c, counted] : by_class) all.all += counted.all, all.accepted += counted.accepted;
    draw_row_title(canvas, top, sample.id, "accepted " + percent(all.share()));
    top += kTitle;
    canvas.image(grid.place(0, top, sample.image_HWC), sample.image_HWC, false);
    const Rect place = grid.place(1, top, sample.image_HWC);
    canvas.image(place, colourized(sample.pseudo_HW, classes), true);
    canvas.hatch(place, sample.accepted_HW.logical_not());
    canvas.image(grid.place(2, top, sample.image_HWC), colourized(sample.prediction_HW, classes), true);
    draw_accepted(canvas, {grid.left(3), top, grid.cell(), grid.row_height(sample.image_HWC)}, by_class, classes);
    top += grid.row_height(sample.image_HWC) + 8;
  }
  legend.draw(canvas, top);
  return canvas.image_HWC();
}

Tensor draw_first_batch(const FirstBatch& first, const std::vector<double>& mean, const std::vector<double>& std,
                        const ClassSet& classes) {
  constexpr int64_t kMostRows = 4;
  constexpr size_t kMostViews = 3;
  const auto& [labeled, unlabeled, mix] = *first.batch;
  const bool boxes = first.mixed_BCHW.empty() && !unlabeled.cutmix_box_B4.empty();  // AugSeg's, mixed by the method alone

  struct Column {
    std::string title;
    Tensor image_BCHW;
  };
  std::vector<Column> columns{{"labelled crop", labeled.image_BCHW}, {"its label", labeled.image_BCHW}};
  if (unlabeled.weak_BCHW.defined()) columns.push_back({"unlabelled: weak view", unlabeled.weak_BCHW});
  for (size_t view = 0; view < std::min(kMostViews, std::max(unlabeled.strong_BCHW.size(), first.mixed_BCHW.size())); ++view) {
    const std::string number = unlabeled.strong_BCHW.size() > 1 ? str(" ", view + 1) : "";
    if (view < unlabeled.strong_BCHW.size())
      columns.push_back({boxes ? "strong view, boxes to paste into" : "strong view" + number, unlabeled.strong_BCHW[view]});
    if (view < first.mixed_BCHW.size()) columns.push_back({"mixed, as it is learned" + number, first.mixed_BCHW[view]});
  }
  const int64_t B = std::max(labeled.image_BCHW.size(0), unlabeled.weak_BCHW.defined() ? unlabeled.weak_BCHW.size(0) : 0);
  const int rows = static_cast<int>(std::min(B, kMostRows));

  const Grid grid(std::max<int>(4, static_cast<int>(columns.size())));
  const Legend legend(classes);
  const int row_height = grid.row_height(at::empty({labeled.image_BCHW.size(2), labeled.image_BCHW.size(3), 0}));
  Canvas canvas(kWidth, kMargin + 30 + kHeader + rows * (row_height + kGap) + legend.height() + kMargin);
  canvas.text({double(kMargin), kMargin + 12.0}, "First batch, as augmented", 14);
  int top = kMargin + 30;
  std::vector<std::string> titles;
  for (const Column& column : columns) titles.push_back(column.title);
  draw_header(canvas, grid, top, titles);
  top += kHeader;
  for (int64_t row = 0; row < rows; ++row, top += row_height + kGap)
    for (size_t i = 0; i < columns.size(); ++i) {
      const Tensor& image_BCHW = columns[i].image_BCHW;
      if (row >= image_BCHW.size(0)) continue;
      Tensor image_HWC = denormalized(image_BCHW[row], mean, std);
      if (i == 1) image_HWC = overlay(image_HWC, labeled.label_BHW[row].to(at::kCPU, at::kByte), classes);
      const Rect place = grid.place(static_cast<int>(i), top, image_HWC);
      canvas.image(place, image_HWC, false);
      canvas.frame(place, kRule);  // where it is white itself
      if (boxes && i == 3) {
        draw_box(canvas, place, unlabeled.cutmix_box_B4[0][row], image_HWC, Colour{0, 150, 255});
        draw_box(canvas, place, unlabeled.cutmix_box_B4[1][row], image_HWC, kError);
      }
    }
  legend.draw(canvas, top);
  return canvas.image_HWC();
}

}  // namespace semiseg
