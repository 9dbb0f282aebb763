#include <algorithm>
#include <cmath>
#include <numeric>

#include "canvas.h"
#include "reports/pictures.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"

namespace semiseg {
namespace {

// Okabe and Ito's colours, which the colour-blind can tell apart.
constexpr Colour kBlue{0, 114, 178}, kVermilion{213, 94, 0}, kGreen{0, 158, 115}, kPurple{204, 121, 167}, kSky{86, 180, 233},
    kOrange{230, 159, 0};
constexpr std::array<Colour, 6> kSeriesColours{kBlue, kVermilion, kGreen, kPurple, kSky, kOrange};

std::string percent(double fraction) { return format("%.1f", 100 * fraction); }

// --- confusion matrix ---

constexpr Colour kRight{8, 64, 129}, kWrong{166, 54, 3}, kNoPixel{238, 239, 241};

// Small shares are to be seen too: the scale is no straight line.
Colour share_colour(double share, bool right) { return blend(kWhite, right ? kRight : kWrong, std::pow(share, 0.6)); }

std::vector<int64_t> row_sums(const std::vector<std::vector<int64_t>>& confusion) {
  std::vector<int64_t> sums;
  for (const auto& row : confusion) sums.push_back(std::accumulate(row.begin(), row.end(), int64_t{0}));
  return sums;
}

// --- curves ---

struct Series {
  std::string name;
  std::vector<Point> points;  // x: epoch
};

struct Panel {
  std::string title;
  std::vector<Series> series;
  double top = 0;        // of the axis; 0: as the values need
  bool percent = false;  // values are fractions
};

// A series of one value an epoch, where `value` gives one.
template <class Value>
Series series_of(const std::string& name, const std::vector<EpochRecord>& history, const Value& value) {
  Series series{name, {}};
  for (const EpochRecord& record : history)
    if (const MaybeFraction y = value(record)) series.points.push_back({static_cast<double>(record.epoch), *y});
  return series;
}

// The scores before training stand in a history as epoch 0, which has no loss and no speed.
template <class Value>
Series trained(const std::string& name, const std::vector<EpochRecord>& history, const Value& value) {
  return series_of(name, history, [&](const EpochRecord& r) { return r.epoch > 0 ? MaybeFraction(value(r)) : std::nullopt; });
}

template <class Value>
Series scored(const std::string& name, const std::vector<EpochRecord>& history, const Value& value) {
  return series_of(name, history, [&](const EpochRecord& r) { return r.val ? MaybeFraction(value(*r.val)) : std::nullopt; });
}

// 1, 2 or 5 times a power of ten, so that `range` takes at most `most` of it.
double tick_step(double range, int most) {
  const double power = std::pow(10, std::floor(std::log10(range / most)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (range <= factor * power * most) return factor * power;
  return 10 * power;
}

std::string tick_text(double value) { return format("%.4g", std::abs(value) < 1e-12 ? 0 : value); }

std::vector<Panel> panels_of(const std::vector<EpochRecord>& history, const std::vector<std::string>& class_names) {
  std::vector<Panel> panels;
  Panel loss{"Training loss", {trained("all", history, [](const EpochRecord& r) { return r.loss; })}};
  if (const Series unlabeled = trained("unlabelled", history, [](const EpochRecord& r) { return r.loss_unsupervised; });
      !unlabeled.points.empty()) {  // else the labelled images' is all
    loss.series.push_back(trained("labelled", history, [](const EpochRecord& r) { return r.loss_supervised; }));
    loss.series.push_back(unlabeled);
  }
  panels.push_back(std::move(loss));
  panels.push_back({"Validation scores (%)",
                    {scored("mIoU", history, [](const Scores& s) { return s.miou; }),
                     scored("mean class accuracy", history, [](const Scores& s) { return s.mean_class_accuracy; }),
                     scored("pixel accuracy", history, [](const Scores& s) { return s.pixel_accuracy; })},
                    1,
                    true});
  panels.push_back({"Learning rate", {trained("encoder", history, [](const EpochRecord& r) { return r.lr; })}});

  const auto newest = std::find_if(history.rbegin(), history.rend(), [](const EpochRecord& r) { return r.val.has_value(); });
  if (newest != history.rend()) {
    auto rarest = classes_by_rarity(*newest->val);
    const bool all = rarest.size() <= kSeriesColours.size();
    if (!all) rarest.resize(kSeriesColours.size());
    Panel rare{all ? "IoU of each class, rare ones first (%)" : "IoU of the rarest classes (%)", {}, 0, true};
    for (const size_t c : rarest)
      rare.series.push_back(scored(c < class_names.size() ? class_names[c] : str("class ", c), history,
                                   [c](const Scores& s) { return c < s.iou.size() ? s.iou[c] : MaybeFraction(); }));
    panels.push_back(std::move(rare));
  }
  if (std::any_of(history.begin(), history.end(), [](const EpochRecord& r) { return r.pseudo.has_value(); })) {
    const auto pseudo = [&](const std::string& name, const auto& value) {
      return series_of(name, history, [&](const EpochRecord& r) { return r.pseudo ? value(*r.pseudo) : MaybeFraction(); });
    };
    panels.push_back({"Pseudo-labels (%)",
                      {pseudo("accepted", [](const PseudoScores& p) { return MaybeFraction(p.accepted); }),
                       pseudo("unchanged since the evaluation before", [](const PseudoScores& p) { return p.agreement; })},
                      1,
                      true});
  }
  panels.push_back({"Images per second", {trained("training", history, [](const EpochRecord& r) { return r.images_per_s; })}});
  return panels;
}

constexpr int kPanelWidth = 530, kPanelHeight = 330;

void draw_panel(Canvas& canvas, int left, int top, const Panel& panel, double first, double last) {
  canvas.text({left + 54.0, top + 14.0}, panel.title, 11);

  // Legend, with the newest values, in as many lines as it needs.
  double x = left + 54, y = top + 36;
  size_t colour = 0;
  for (const Series& series : panel.series) {
    if (series.points.empty()) continue;
    const double value = series.points.back().y;
    const std::string text = series.name + " " + (panel.percent ? percent(value) : format("%.4g", value));
    const int width = 24 + text_width(text, 8.5) + 16;
    if (x + width > left + kPanelWidth && x > left + 54) x = left + 54, y += 17;
    canvas.fill({static_cast<int>(x), static_cast<int>(y) - 2, 18, 4}, kSeriesColours[colour % kSeriesColours.size()]);
    canvas.text({x + 24, y}, text, 8.5, kInk);
    x += width;
    ++colour;
  }

  const Rect plot{left + 54, static_cast<int>(y) + 18, kPanelWidth - 74, top + kPanelHeight - static_cast<int>(y) - 18 - 34};
  double highest = panel.top;
  if (highest == 0)
    for (const Series& series : panel.series)
      for (const Point& point : series.points)
        if (std::isfinite(point.y)) highest = std::max(highest, point.y * 1.05);
  if (highest <= 0) highest = 1;
  if (panel.percent) highest = std::min(highest, 1.0);
  const double span = std::max(last - first, 1.0);
  const auto place = [&](const Point& p) {
    return Point{plot.left + (p.x - first + (last > first ? 0 : 0.5)) / span * plot.width,
                 plot.top + plot.height - std::min(p.y / highest, 1.0) * plot.height};
  };

  const double shown = panel.percent ? 100 * highest : highest, step = tick_step(shown, 5);
  for (double tick = 0; tick <= shown * 1.0001; tick += step) {
    const double at = place({first, tick / shown * highest}).y;
    canvas.line({double(plot.left), at}, {double(plot.left + plot.width), at}, kRule);
    canvas.text({plot.left - 8.0, at}, tick_text(tick), 8, kFaintInk, Anchor::kRight);
  }
  const double epochs = std::max(1.0, tick_step(span, 8));
  for (double tick = std::ceil(first / epochs) * epochs; tick <= last; tick += epochs) {
    const double at = place({tick, 0}).x;
    canvas.line({at, double(plot.top + plot.height)}, {at, plot.top + plot.height + 4.0}, kFaintInk);
    canvas.text({at, plot.top + plot.height + 15.0}, tick_text(tick), 8, kFaintInk, Anchor::kCentre);
  }
  canvas.text({plot.left - 8.0, plot.top + plot.height + 15.0}, "epoch", 8, kFaintInk, Anchor::kRight);
  canvas.line({double(plot.left), double(plot.top + plot.height)},
              {double(plot.left + plot.width), double(plot.top + plot.height)}, kFaintInk);

  colour = 0;
  for (const Series& series : panel.series) {
    if (series.points.empty()) continue;
    const Colour& ink = kSeriesColours[colour++ % kSeriesColours.size()];
    for (size_t i = 1; i < series.points.size(); ++i) canvas.line(place(series.points[i - 1]), place(series.points[i]), ink, 2);
    if (series.points.size() <= 40)
      for (const Point& point : series.points) canvas.dot(place(point), 3, ink);
  }
}

}  // namespace

Tensor draw_confusion_matrix(const EpochRecord& record, const std::vector<std::string>& class_names) {
  if (!record.val || record.val->confusion.empty()) return {};
  const Scores& scores = *record.val;
  const auto& confusion = scores.confusion;
  const int K = static_cast<int>(confusion.size());
  const auto name = [&](int c) { return fitted(c < static_cast<int>(class_names.size()) ? class_names[c] : str(c), 10, 190); };
  int names_width = 60;
  for (int c = 0; c < K; ++c) names_width = std::max(names_width, text_width(name(c), 10));

  const int cell = std::clamp(960 / std::max(K, 1), 28, 56), side = cell * K;
  const int column = 58;
  const std::string last_column = "share of labels (%)";
  const int left = 50 + names_width, top = 106 + std::max(names_width, text_width(last_column, 10));
  Canvas canvas(left + std::max(side, 420) + 30 + 2 * column + 120, top + side + 40);
  canvas.text({20, 26}, str("Confusion matrix, epoch ", record.epoch), 15);
  canvas.text({20, 52},
              "Each row: where the pixels of a label went, in percent.  mIoU " + percent(scores.miou) +
                  "  mean class accuracy " + percent(scores.mean_class_accuracy) + "  pixel accuracy " +
                  percent(scores.pixel_accuracy),
              9.5, kFaintInk);
  canvas.text({double(left), 80}, "prediction", 10, kFaintInk);
  canvas.text_upwards({20, double(top)}, "label", 10, kFaintInk, Anchor::kRight);

  const double digits = std::min(10.0, cell * 0.25);
  const auto sums = row_sums(confusion);
  for (int r = 0; r < K; ++r) {
    const double middle = top + (r + 0.5) * cell;
    canvas.text({left - 10.0, middle}, name(r), 10, kInk, Anchor::kRight);
    canvas.text_upwards({left + (r + 0.5) * cell, top - 10.0}, name(r), 10);
    for (int p = 0; p < K; ++p) {
      const double share = sums[r] > 0 ? static_cast<double>(confusion[r][p]) / static_cast<double>(sums[r]) : 0;
      const Colour colour = sums[r] > 0 ? share_colour(share, r == p) : kNoPixel;
      canvas.fill({left + p * cell, top + r * cell, cell - 1, cell - 1}, colour);
      if (share >= 0.005)
        canvas.text({left + (p + 0.5) * cell - 0.5, middle - 0.5}, format("%.0f", 100 * share), digits,
                    is_dark(colour) ? kWhite : kInk, Anchor::kCentre);
    }
    const double iou_at = left + side + 20 + 0.8 * column, share_at = iou_at + column;
    const MaybeFraction iou = r < static_cast<int>(scores.iou.size()) ? scores.iou[r] : std::nullopt;
    canvas.text({iou_at, middle}, iou ? percent(*iou) : "-", 10, kInk, Anchor::kRight);
    if (r < static_cast<int>(scores.label_share.size()))
      canvas.text({share_at, middle}, format(scores.label_share[r] < 0.001 ? "%.2f" : "%.1f", 100 * scores.label_share[r]), 10,
                  kFaintInk, Anchor::kRight);
  }
  canvas.frame({left - 1, top - 1, side + 1, side + 1}, kFaintInk);
  canvas.text_upwards({left + side + 20 + 0.5 * column, top - 10.0}, "IoU (%)", 10);
  canvas.text_upwards({left + side + 20 + 1.5 * column, top - 10.0}, last_column, 10, kFaintInk);

  // The scale.
  const int bar_left = left + side + 20 + 2 * column + 30, bar_height = std::min(side, 300);
  for (int y = 0; y < bar_height; ++y) {
    const double share = 1 - static_cast<double>(y) / bar_height;
    canvas.fill({bar_left, top + y, 16, 1}, share_colour(share, true));
    canvas.fill({bar_left + 17, top + y, 16, 1}, share_colour(share, false));
  }
  canvas.text_upwards({bar_left + 8.0, top - 10.0}, "right", 9);
  canvas.text_upwards({bar_left + 25.0, top - 10.0}, "wrong", 9);
  for (const int tick : {0, 25, 50, 75, 100})
    canvas.text({bar_left + 38.0, top + (1 - tick / 100.0) * bar_height}, str(tick), 8, kFaintInk);
  return canvas.image_HWC();
}

Tensor draw_results(const std::vector<EpochRecord>& history, const std::vector<std::string>& class_names) {
  const auto panels = panels_of(history, class_names);
  const double first = history.empty() ? 0 : static_cast<double>(std::min<int64_t>(1, history.front().epoch));
  const double last = history.empty() ? 1 : static_cast<double>(history.back().epoch);
  const int rows = (static_cast<int>(panels.size()) + 2) / 3;
  Canvas canvas(3 * kPanelWidth + 10, 44 + rows * kPanelHeight);

  const EpochRecord* best = best_of(history);
  std::string title = history.empty() ? "no epoch yet" : str("Epoch ", history.back().epoch);
  if (best != nullptr) title += ": best mIoU " + percent(best->val->miou) + str(" in epoch ", best->epoch);
  canvas.text({54, 20}, title, 13);
  for (size_t i = 0; i < panels.size(); ++i)
    draw_panel(canvas, static_cast<int>(i % 3) * kPanelWidth, 44 + static_cast<int>(i / 3) * kPanelHeight, panels[i], first,
               last);
  return canvas.image_HWC();
}

Tensor draw_class_histogram(const ClassCounts& counts, const ClassSet& classes) {
  const auto K = static_cast<size_t>(classes.size());
  const double total = static_cast<double>(std::accumulate(counts.pixels.begin(), counts.pixels.end(), int64_t{0}));
  std::vector<size_t> order(K);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return counts.pixels[a] > counts.pixels[b]; });

  int names_width = 60;
  for (const std::string& name : classes.names) names_width = std::max(names_width, text_width(fitted(name, 10, 190), 10));
  constexpr int kRow = 26, kPlot = 720, kTop = 84;
  constexpr double kLowest = -4;  // log10 of the share at the left end: 0.01 %
  const int left = 30 + names_width;
  Canvas canvas(left + kPlot + 240, kTop + static_cast<int>(K) * kRow + 24);
  canvas.text({20, 24}, str("Labelled pixels of each class: ", counts.of_image.size(), " images"), 14);
  canvas.text({20, 48}, "share of the pixels in percent, on a logarithmic scale", 9.5, kFaintInk);
  for (double power = kLowest; power <= 0; ++power) {
    const double x = left + (1 - power / kLowest) * kPlot;
    canvas.line({x, kTop - 4.0}, {x, canvas.height() - 20.0}, kRule);
    canvas.text({x, kTop - 14.0}, format("%g", 100 * std::pow(10, power)), 8.5, kFaintInk, Anchor::kCentre);
  }
  for (size_t row = 0; row < K; ++row) {
    const size_t c = order[row];
    const double share = total > 0 ? static_cast<double>(counts.pixels[c]) / total : 0, middle = kTop + (row + 0.5) * kRow;
    canvas.text({left - 10.0, middle}, fitted(classes.names[c], 10, 190), 10, kInk, Anchor::kRight);
    if (share == 0) {
      canvas.text({left + 6.0, middle}, "no pixel: it cannot be learned", 10, kVermilion);
      continue;
    }
    const int length = std::max(3, static_cast<int>((1 - std::log10(share) / kLowest) * kPlot));
    const Rect bar{left, static_cast<int>(middle) - 9, length, 18};
    canvas.fill(bar, classes.colours[c]);
    canvas.frame(bar, kFaintInk);
    canvas.text({left + length + 8.0, middle},
                format(share < 0.001 ? "%.3f" : "%.2f", 100 * share) + str(" %, in ", counts.images[c], " images"), 9.5);
  }
  return canvas.image_HWC();
}

}  // namespace semiseg
