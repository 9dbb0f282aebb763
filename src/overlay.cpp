#include "semiseg/overlay.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <opencv2/imgproc.hpp>

#include "image_file.h"

namespace semiseg {
namespace {

constexpr int kSmallestHeight = 90, kSmallestWidth = 160;  // of a picture with a legend
constexpr int kSmallestCapital = 7, kLargestCapital = 26;  // pixels
constexpr double kBackground = 0.2;                        // what is left of the picture below the legend

// White text by OpenCV's stroke font, drawn larger and reduced, which makes it smoother. `capital`: height of a capital, in
// pixels.
class Text {
 public:
  explicit Text(int capital)
      : capital_(capital), thickness_(std::max(1, static_cast<int>(std::lround(capital * kEnlarged / 8.0)))) {}

  int capital() const { return capital_; }

  int width(const std::string& text) const {
    int baseline = 0;
    return cv::getTextSize(printable(text), cv::FONT_HERSHEY_SIMPLEX, scale(), thickness_, &baseline).width / kEnlarged + 1;
  }

  // Adds the text to the picture, its lower left corner (without descenders) at `at`. What lies outside is cut.
  void draw(const std::string& text, cv::Point at, cv::Mat* picture) const {
    const cv::Rect wanted(at.x, at.y - 2 * capital_, width(text) + capital_, 3 * capital_);
    cv::Mat large(wanted.height * kEnlarged, wanted.width * kEnlarged, CV_8UC3, cv::Scalar::all(0));
    cv::putText(large, printable(text), {0, 2 * capital_ * kEnlarged}, cv::FONT_HERSHEY_SIMPLEX, scale(), cv::Scalar::all(255),
                thickness_, cv::LINE_AA);
    cv::Mat reduced;
    cv::resize(large, reduced, wanted.size(), 0, 0, cv::INTER_AREA);
    const cv::Rect inside = wanted & cv::Rect({0, 0}, picture->size());
    if (!inside.empty()) (*picture)(inside) += reduced(inside - wanted.tl());
  }

 private:
  static constexpr int kEnlarged = 4;
  static constexpr double kCapitalAtScale1 = 21;  // pixels, of this font

  double scale() const { return capital_ * kEnlarged / kCapitalAtScale1; }

  // The font knows ASCII alone: another character becomes one question mark.
  static std::string printable(const std::string& text) {
    std::string result;
    for (const char letter : text) {
      const auto byte = static_cast<unsigned char>(letter);
      if ((byte & 0xc0) == 0x80) continue;  // continues a UTF-8 character
      result += byte >= 0x20 && byte < 0x7f ? letter : '?';
    }
    return result;
  }

  int capital_, thickness_;
};

int capital_for(cv::Size picture) {
  return std::clamp(static_cast<int>(std::lround(std::min(picture.height, picture.width) / 55.0)), kSmallestCapital,
                    kLargestCapital);
}

struct Row {
  int index = -1;  // of the class; -1 for the remainder
  std::string name, share;
};

std::string share_text(double share) {
  if (share > 0 && share < 0.0005) return "<0.1 %";
  return format("%.1f %%", 100 * share);
}

// The rows that fit: those of small share are one row at the end.
std::vector<Row> fitting_rows(const std::vector<int>& order, const std::vector<SegmentationClass>& classes,
                              const std::vector<double>& shares, size_t room) {
  std::vector<Row> rows;
  for (const int c : order)
    rows.push_back({c, classes[static_cast<size_t>(c)].name, share_text(shares[static_cast<size_t>(c)])});
  if (rows.size() <= room) return rows;
  rows.resize(std::max<size_t>(room, 1) - 1);
  double rest = 0;
  for (size_t i = rows.size(); i < order.size(); ++i) rest += shares[static_cast<size_t>(order[i])];
  rows.push_back({-1, str(order.size() - rows.size(), " more"), share_text(rest)});
  return rows;
}

// Where rows, columns and box of a legend lie.
struct Layout {
  Text text{kSmallestCapital};
  int padding = 0, pitch = 0, swatch = 0, name_width = 0, share_width = 0;
  std::vector<Row> rows;

  cv::Size size() const {
    return {2 * padding + swatch + padding + name_width + padding + share_width,
            2 * padding + pitch * static_cast<int>(rows.size())};
  }
};

Layout lay_out(int capital, cv::Size picture, const std::vector<int>& order, const std::vector<SegmentationClass>& classes,
               const std::vector<double>& shares) {
  Layout layout;
  layout.text = Text(capital);
  layout.padding = std::max(3, capital * 3 / 4);
  layout.pitch = std::max(capital + 4, capital * 7 / 4);
  layout.swatch = capital * 3 / 2;
  const int room = (picture.height - 2 * layout.padding) / layout.pitch;
  layout.rows = fitting_rows(order, classes, shares, static_cast<size_t>(std::max(0, room)));
  for (const Row& row : layout.rows) layout.name_width = std::max(layout.name_width, layout.text.width(row.name));
  layout.share_width = layout.text.width("99.9 %");
  for (const Row& row : layout.rows) layout.share_width = std::max(layout.share_width, layout.text.width(row.share));
  return layout;
}

// Pixels of a part that differ from their right or lower neighbour: how much there is to see.
int64_t boundaries(const cv::Mat& classes) {
  int64_t count = 0;
  for (int y = 0; y + 1 < classes.rows; ++y) {
    const uint8_t *row = classes.ptr<uint8_t>(y), *below = classes.ptr<uint8_t>(y + 1);
    for (int x = 0; x + 1 < classes.cols; ++x) count += row[x] != row[x + 1] || row[x] != below[x];
  }
  return count;
}

// The box of this size in a corner; bit 0: right, bit 1: bottom.
cv::Rect in_corner(int corner, cv::Size box, cv::Size picture) {
  return {corner & 1 ? picture.width - box.width : 0, corner & 2 ? picture.height - box.height : 0, box.width, box.height};
}

int quietest_corner(const cv::Mat& classes, cv::Size box) {
  int best = 0;
  int64_t fewest = std::numeric_limits<int64_t>::max();
  for (int corner = 0; corner < 4; ++corner) {
    const int64_t count = boundaries(classes(in_corner(corner, box, classes.size())));
    if (count < fewest) {
      fewest = count;
      best = corner;
    }
  }
  return best;
}

}  // namespace

OverlayPainter::OverlayPainter(std::vector<SegmentationClass> classes, OverlayOptions options)
    : classes_(std::move(classes)), options_(options), seen_(classes_.size(), false) {}

cv::Mat OverlayPainter::paint(const cv::Mat& image, const cv::Mat& classes) {
  CV_Assert(image.type() == CV_8UC3 && classes.type() == CV_8UC1 && image.size() == classes.size());
  const int weight = static_cast<int>(std::lround(options_.opacity * 256));
  cv::Mat picture(image.size(), CV_8UC3);
  for (int y = 0; y < image.rows; ++y) {
    const auto* from = image.ptr<cv::Vec3b>(y);
    const auto* index = classes.ptr<uint8_t>(y);
    auto* to = picture.ptr<cv::Vec3b>(y);
    for (int x = 0; x < image.cols; ++x) {
      if (index[x] >= classes_.size()) {
        to[x] = from[x];
        continue;
      }
      const cv::Vec3b& colour = classes_[index[x]].colour;
      for (int c = 0; c < 3; ++c) to[x][c] = blend(from[x][c], colour[c], weight);
    }
  }
  if (options_.legend) draw_legend(classes, &picture);
  return picture;
}

void OverlayPainter::draw_legend(const cv::Mat& classes, cv::Mat* picture) {
  const cv::Size size = picture->size();
  if (size.height < kSmallestHeight || size.width < kSmallestWidth) return;
  const std::vector<double> shares = class_shares(classes, classes_.size());
  std::vector<int> order;
  for (size_t c = 0; c < shares.size(); ++c) {
    if (!options_.steady) seen_[c] = false;
    if (shares[c] > 0) seen_[c] = true;
    if (seen_[c]) order.push_back(static_cast<int>(c));
  }
  const auto larger = [&](int a, int b) { return shares[static_cast<size_t>(a)] > shares[static_cast<size_t>(b)]; };
  if (!options_.steady) std::stable_sort(order.begin(), order.end(), larger);

  Layout layout;
  for (int capital = capital_for(size); capital >= kSmallestCapital; --capital) {
    layout = lay_out(capital, size, order, classes_, shares);
    if (layout.size().width <= size.width / 2 && layout.rows.size() == order.size()) break;
  }
  if (layout.size().width > size.width / 2) return;
  if (corner_ < 0 || !options_.steady) corner_ = quietest_corner(classes, layout.size());

  const cv::Rect box = in_corner(corner_, layout.size(), size);
  cv::Mat part = (*picture)(box);
  part *= kBackground;
  int middle = layout.padding + layout.pitch / 2;
  for (const Row& row : layout.rows) {
    const int baseline = middle + layout.text.capital() / 2;
    if (row.index >= 0) {
      const cv::Rect swatch(layout.padding, middle - layout.swatch / 2, layout.swatch, layout.swatch);
      cv::rectangle(part, swatch, cv::Scalar(classes_[static_cast<size_t>(row.index)].colour), cv::FILLED);
      cv::rectangle(part, swatch, cv::Scalar::all(200));  // black is a colour too
    }
    layout.text.draw(row.name, {2 * layout.padding + layout.swatch, baseline}, &part);
    layout.text.draw(row.share, {box.width - layout.padding - layout.text.width(row.share), baseline}, &part);
    middle += layout.pitch;
  }
}

cv::Mat paint_confidence(const cv::Mat& confidence) {
  CV_Assert(confidence.type() == CV_32FC1);
  const cv::Size size = confidence.size();
  const Text text(capital_for(size));
  const int margin = text.capital(), bar_width = 2 * text.capital();
  const int panel = 4 * margin + bar_width + text.width("0.00");
  cv::Mat picture(size.height, size.width + panel, CV_8UC3, cv::Scalar::all(24));

  cv::Mat levels, colours;
  confidence.convertTo(levels, CV_8U, 255);
  cv::applyColorMap(levels, colours, cv::COLORMAP_CIVIDIS);
  colours.copyTo(picture({0, 0, size.width, size.height}));

  // The scale, 1 at its top.
  const bool with_mean = size.height > 16 * text.capital();
  const int top = std::min(2 * margin, size.height / 4), bottom = size.height - (with_mean ? 5 * margin : top);
  const int height = std::max(1, bottom - top);
  cv::Mat ramp(height, bar_width, CV_8UC1);
  for (int y = 0; y < height; ++y) ramp.row(y).setTo(height == 1 ? 255 : 255 - 255 * y / (height - 1));
  cv::applyColorMap(ramp, colours, cv::COLORMAP_CIVIDIS);
  const cv::Rect bar(size.width + margin, top, bar_width, height);
  colours.copyTo(picture(bar));
  cv::rectangle(picture, bar, cv::Scalar::all(200));
  const int ticks = std::clamp(height / (4 * text.capital()), 1, 10);
  const int steps = ticks >= 10 ? 10 : ticks >= 4 ? 4 : ticks >= 2 ? 2 : 1;
  for (int i = 0; i <= steps; ++i) {
    const double value = static_cast<double>(i) / steps;
    const int y = bottom - 1 - static_cast<int>(std::lround(value * (height - 1)));
    cv::line(picture, {bar.x + bar_width, y}, {bar.x + bar_width + margin / 2, y}, cv::Scalar::all(200));
    text.draw(format(steps == 4 ? "%.2f" : "%.1f", value), {bar.x + bar_width + margin, y + text.capital() / 2}, &picture);
  }
  if (with_mean) {
    const int x = size.width + margin;
    text.draw("mean", {x, size.height - 5 * margin / 2}, &picture);
    text.draw(format("%.3f", cv::mean(confidence)[0]), {x, size.height - margin / 2 - 2}, &picture);
  }
  return picture;
}

}  // namespace semiseg
