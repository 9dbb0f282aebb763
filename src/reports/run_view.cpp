#include "reports/run_view.h"

#include <cmath>
#include <ctime>
#include <numeric>

#include "host.h"
#include "reports/text.h"
#include "semiseg/error.h"
#include "shell.h"

namespace semiseg {
namespace {

constexpr int64_t kGoneAfter = 10;    // seconds without a new status.json, which comes every two
constexpr int64_t kSilentAfter = 60;  // the same for a process of another machine
constexpr int64_t kIdleAfter = 120;   // seconds without a step or an evaluated image

// --- numbers ---

std::string percent(double fraction, int decimals = 1) { return format("%.*f", decimals, 100 * fraction); }
std::string percent(const MaybeFraction& fraction) { return fraction ? percent(*fraction) : "-"; }

std::string memory(double mb) { return mb < 1000 ? format("%.0f MB", mb) : format("%.1f GB", mb / 1000); }

// As much as fits, and that there is more.
std::string cut_short(const std::string& text, int columns) { return clip(text, columns - 4) + " ..."; }

// --- the parts of the screen ---

class View {
 public:
  View(const WatchedRun& run, const Screen& screen) : run_(run), status_(run.status), screen_(screen) {
    for (const EpochRecord& record : run.record.history)
      if (record.val) scored_.push_back(&record);
    best_ = best_of(run.record.history);
  }

  std::vector<Line> draw() {
    title();
    if (run_.life != Life::kNoFolder && run_.life != Life::kStarting) {
      progress();
      losses();
      speed();
    }
    notices();
    const std::vector<Line> bottom = alarms_and_log();
    const int room = screen_.rows - static_cast<int>(lines_.size() + bottom.size());
    if (!run_.record.history.empty()) middle(room);
    lines_.insert(lines_.end(), bottom.begin(), bottom.end());
    if (static_cast<int>(lines_.size()) > screen_.rows) lines_.resize(static_cast<size_t>(screen_.rows));
    return std::move(lines_);
  }

 private:
  std::string text(const std::string& raw) const { return printable(raw, screen_.unicode); }
  Line& line() { return lines_.emplace_back(); }

  void wrapped(std::vector<Line>* to, const std::string& raw, Style style, size_t most, const std::string& lead = "") const {
    const int indent = static_cast<int>(lead.size());
    if (screen_.columns <= indent) return;
    std::vector<std::string> parts = wrap(text(raw), screen_.columns - indent);
    if (parts.size() > most) {
      parts.resize(most);
      if (most > 0) parts.back() = cut_short(parts.back(), screen_.columns - indent);
    }
    for (size_t i = 0; i < parts.size(); ++i)
      to->emplace_back().add(i == 0 ? lead : "", style).fill_to(indent).add(parts[i], style);
  }

  // The run's name, and at the right how it stands.
  void title() {
    std::string state = status_.state;
    Style style = Style::kGood;
    if (run_.life == Life::kNoFolder || run_.life == Life::kStarting) {
      state = run_.life == Life::kNoFolder ? "waiting" : run_.record.history.empty() ? "starting" : "unknown";
      style = Style::kWarning;
    } else if (run_.life == Life::kGone || run_.life == Life::kSilent) {
      state = run_.life == Life::kGone ? "killed" : "no sign of life";
      style = Style::kBad;
    } else if (run_.life == Life::kFinished) {
      style = state == "done" ? Style::kGood : state == "stopped" ? Style::kWarning : Style::kBad;
    } else if (status_.of > 0) {
      state = str(status_.phase, " ", status_.images, "/", status_.of);
    } else if (!status_.phase.empty()) {
      state = status_.phase;
    }
    const int room = screen_.columns - static_cast<int>(state.size()) - 1;
    std::string name = text(run_.dir);
    while (columns_of(name) > room && name.find('/') != std::string::npos) name.erase(0, name.find('/') + 1);
    line().add(clip(name, room), Style::kBold).fill_to(room + 1).add(state, style);
  }

  void progress() {
    const double fraction =
        status_.total_steps > 0 ? static_cast<double>(status_.step) / static_cast<double>(status_.total_steps) : 0;
    std::string epoch = str("epoch ", status_.epoch);
    if (status_.total_epochs) epoch += str("/", *status_.total_epochs);
    std::string words = str(format(" %2.0f%%  ", 100 * fraction), epoch, "  step ", status_.step, "/", status_.total_steps);
    if (run_.life == Life::kFinished) {
      double seconds = 0;
      for (const EpochRecord& record : run_.record.history) seconds += record.seconds;
      words += "  " + duration(seconds) + " in all";
    } else if (run_.life == Life::kRunning && status_.seconds_left && *status_.seconds_left > 0) {
      words += "  " + duration(*status_.seconds_left) + " left";
    }
    const int width = std::min(40, screen_.columns - static_cast<int>(words.size()) - 3);
    Line& shown = line();
    if (width >= 4)
      shown.add("[", Style::kDim).add(bar(fraction, width, screen_.unicode), Style::kAccent).add("]", Style::kDim);
    shown.add(words);
  }

  void losses() {
    const EpochRecord* last = run_.record.history.empty() ? nullptr : &run_.record.history.back();
    std::optional<double> loss = status_.loss, labelled = status_.loss_supervised, unlabelled = status_.loss_unsupervised,
                          lr = status_.lr;
    if (!loss && last != nullptr && last->epoch > 0)
      loss = last->loss, labelled = last->loss_supervised, unlabelled = last->loss_unsupervised, lr = last->lr;
    if (!loss) return;
    Line& shown = line().add("loss ").add(format("%.4f", *loss), Style::kBold);
    if (labelled && unlabelled) shown.add(format("  (labelled %.4f, unlabelled %.4f)", *labelled, *unlabelled));
    if (lr) shown.add(format("  lr %.2e", *lr));
  }

  void speed() {
    const EpochRecord* last = run_.record.history.empty() ? nullptr : &run_.record.history.back();
    const bool known = last != nullptr && last->epoch > 0;
    const std::optional<double> rate = status_.images_per_s ? status_.images_per_s
                                       : known              ? std::optional(last->images_per_s)
                                                            : std::nullopt;
    const std::optional<double> wait = status_.data_wait ? status_.data_wait
                                       : known           ? std::optional(last->data_wait)
                                                         : std::nullopt;
    Line shown;
    if (rate) shown.add(format(*rate < 10 ? "%.2f images/s" : "%.0f images/s", *rate));
    if (wait) shown.add("  data wait ").add(format("%.0f%%", 100 * *wait), *wait > 0.1 ? Style::kWarning : Style::kPlain);
    if (known && last->peak_memory_mb > 0) shown.add("  memory " + memory(last->peak_memory_mb));
    if (known && last->pseudo) shown.add("  pseudo-labels accepted " + percent(last->pseudo->accepted, 0) + "%");
    if (shown.columns() > 0) lines_.push_back(shown);
  }

  // What a reader must know before all else.
  void notices() {
    const std::string since = status_.updated ? duration(static_cast<double>(run_.now - *status_.updated)) : "a while";
    const auto notice = [&](const std::string& words, Style style) { wrapped(&lines_, words, style, 4); };
    // On a line of its own, to be copied.
    const auto go_on = [&] {
      notice(
          run_.can_resume ? "  semiseg train --resume " + shell_quoted(run_.dir) : "  it has no checkpoint yet: start it anew",
          Style::kBold);
    };
    switch (run_.life) {
      case Life::kNoFolder:
        notice("there is no such run folder yet; waiting for it", Style::kWarning);
        break;
      case Life::kStarting:
        notice(run_.record.history.empty() ? "the run has begun, its first step is yet to come"
                                           : "without status.json there is no telling whether the run goes on",
               Style::kPlain);
        break;
      case Life::kGone:
        notice(str("process ", status_.pid, " ended ", since,
                   " ago without a last word: killed, or the machine went down; go on with"),
               Style::kBad);
        go_on();
        break;
      case Life::kSilent:
        notice(
            str("no sign of life for ", since, " from process ", status_.pid, status_.host.empty() ? "" : " on " + status_.host,
                ": stopped, cut off or killed; if it is gone, go on with"),
            Style::kBad);
        go_on();
        break;
      case Life::kFinished:
        if (!status_.message.empty())
          notice(status_.message, status_.state == "done"      ? Style::kPlain
                                  : status_.state == "stopped" ? Style::kWarning
                                                               : Style::kBad);
        if (status_.state == "stopped") go_on();
        break;
      case Life::kRunning:
        if (status_.active && run_.now - *status_.active > kIdleAfter)
          notice(str("no step since ", duration(static_cast<double>(run_.now - *status_.active)),
                     ", though the process lives: a slow disk, or it hangs"),
                 Style::kWarning);
        break;
    }
    if (!run_.problem.empty()) notice(run_.problem, Style::kWarning);
    for (const std::string& note : run_.record.notes) notice(note, Style::kDim);
    if (run_.record.history.empty() && run_.life == Life::kRunning)
      notice("no epoch is finished yet; curves and scores come after the first", Style::kDim);
  }

  std::vector<Line> alarms_and_log() const {
    std::vector<Line> bottom;
    const bool low = screen_.rows < 20;
    if (!run_.record.history.empty()) {
      const auto& alarms = run_.record.history.back().alarms;
      const size_t most = low ? 1 : std::max<size_t>(3, static_cast<size_t>(screen_.rows) / 6);  // lines
      for (const Alarm& alarm : alarms) {
        if (bottom.size() >= most) break;
        wrapped(&bottom, alarm.message, Style::kWarning, std::min<size_t>(most - bottom.size(), 3), "! ");
      }
      if (alarms.size() > 1 && bottom.size() >= most && !low)
        bottom.emplace_back().add(str("  ", alarms.size(), " alarms in all"), Style::kDim);
    }
    const size_t rows = low ? 1 : screen_.rows < 36 ? 2 : 5;
    const size_t first = run_.log.size() - std::min(run_.log.size(), rows);
    for (size_t i = first; i < run_.log.size(); ++i) {
      const std::string line = text(run_.log[i]);
      bottom.emplace_back().add(columns_of(line) > screen_.columns ? cut_short(line, screen_.columns) : line, Style::kDim);
    }
    return bottom;
  }

  // Curves above, classes below.
  void middle(int room) {
    constexpr int kFewestClassRows = 3;  // below their header; fewer say nothing
    const int K = scored_.empty() ? 0 : static_cast<int>(scored_.back()->val->iou.size());
    const int across = std::max(1, screen_.columns / kClassColumns);
    const int class_rows = (K + across - 1) / across;
    int chart = std::clamp(room - 1 - class_rows, std::min(room, 6), 12);
    const int left = room - chart - 1;
    const bool with_classes = K > 0 && left >= std::min(class_rows, kFewestClassRows);
    if (!with_classes) chart = std::min(room, 12);
    if (scored_.size() < 2) chart = std::min(chart, 5);  // points, no curves yet
    if (chart >= 4) charts(chart);
    if (with_classes) classes(across, left);
  }

  struct Chart {
    std::string title, best;
    std::vector<CurvePoint> points;
    Style style;
    bool fractions;
  };

  void charts(int rows) {
    std::vector<Chart> all;
    if (!scored_.empty()) {
      Chart miou{"mIoU", "", {}, Style::kGood, true}, accuracy{"pixel accuracy", "", {}, Style::kAccent, true};
      for (const EpochRecord* record : scored_) {
        miou.points.push_back({static_cast<double>(record->epoch), record->val->miou});
        accuracy.points.push_back({static_cast<double>(record->epoch), record->val->pixel_accuracy});
      }
      if (best_ != scored_.back()) miou.best = str(" best ", percent(best_->val->miou), " in ", best_->epoch);
      all.push_back(std::move(miou));
      all.push_back(std::move(accuracy));
    }
    Chart loss{"loss", "", {}, Style::kWarning, false};
    for (const EpochRecord& record : run_.record.history)
      if (record.epoch > 0) loss.points.push_back({static_cast<double>(record.epoch), record.loss});
    if (!loss.points.empty()) all.push_back(std::move(loss));
    constexpr int kNarrowest = 24, kGap = 2;
    const int fit = std::max(1, (screen_.columns + kGap) / (kNarrowest + kGap));
    if (static_cast<int>(all.size()) > fit) all.resize(static_cast<size_t>(fit));
    const int count = static_cast<int>(all.size());
    const int columns = (screen_.columns - kGap * (count - 1)) / count;
    const size_t top = lines_.size();
    lines_.resize(top + static_cast<size_t>(rows));
    for (int i = 0; i < count; ++i) chart(all[static_cast<size_t>(i)], i * (columns + kGap), columns, rows, top);
  }

  // A title, the curve with its range at the left, and the epochs below.
  void chart(const Chart& chart, int left, int columns, int rows, size_t top) {
    const auto number = [&](double value) { return chart.fractions ? percent(value) : format("%.3g", value); };
    const auto [least, most] = std::minmax_element(chart.points.begin(), chart.points.end(),
                                                   [](const CurvePoint& a, const CurvePoint& b) { return a.y < b.y; });
    Range y{least->y, most->y}, x{chart.points.front().x, chart.points.back().x};
    if (y.high - y.low < 1e-6) y = {y.low - 0.01, y.high + 0.01};
    if (x.high <= x.low) x = {x.low - 1, x.low + 1};
    const int height = rows - 2;
    const std::string high = number(y.high), low = number(y.low);
    const int axis = static_cast<int>(std::max(high.size(), low.size()));
    const std::string value = number(chart.points.back().y) + (chart.fractions ? "%" : "");
    std::string best = chart.best;
    const auto too_long = [&] { return static_cast<int>(chart.title.size() + 1 + value.size() + best.size()) > columns; };
    if (!best.empty() && too_long()) best.resize(best.find(" in "));
    if (too_long()) best.clear();
    lines_[top].fill_to(left).add(chart.title + " ").add(value, Style::kBold).add(best, Style::kDim);
    const auto dots = curve(chart.points, x, y, columns - axis - 1, height, screen_.unicode);
    for (int row = 0; row < height; ++row) {
      const std::string label = row == 0 ? high : row == height - 1 ? low : "";
      lines_[top + 1 + static_cast<size_t>(row)]
          .fill_to(left + axis - static_cast<int>(label.size()))
          .add(label, Style::kDim)
          .add(screen_.unicode ? "\u2502" : "|", Style::kDim)
          .add(dots[static_cast<size_t>(row)], chart.style);
    }
    const std::string first_epoch = str(static_cast<int64_t>(chart.points.front().x)),
                      last_epoch = str(static_cast<int64_t>(chart.points.back().x));
    Line& below = lines_[top + static_cast<size_t>(rows) - 1];
    below.fill_to(left + axis + 1).add(first_epoch, Style::kDim);
    if (chart.points.size() > 1)
      below.fill_to(left + columns - static_cast<int>(last_epoch.size())).add(last_epoch, Style::kDim);
  }

  static constexpr int kClassColumns = 39;
  // Of IoU and both shares, or of IoU alone where names would have no room beside them.
  static int number_columns(int width) { return width >= 34 ? 20 : 5; }

  // Classes from the rarest on, those without a labelled pixel last, side by side in `across` columns and at most `rows` lines.
  void classes(int across, int rows) {
    const Scores& scores = *scored_.back()->val;
    const size_t K = scores.iou.size();
    std::vector<size_t> order(K);
    std::iota(order.begin(), order.end(), size_t{0});
    const auto rank = [&](size_t c) { return scores.label_share[c] > 0 ? scores.label_share[c] : 2; };  // those without last
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return rank(a) < rank(b); });
    const int width = screen_.columns / across;
    Line& header = line();
    for (int i = 0; i < std::min<int>(across, static_cast<int>(K)); ++i) {
      const int numbers = number_columns(width);
      header.fill_to(i * width).add(width - 2 - numbers >= 18 ? "class (* is rare)" : "class", Style::kDim);
      header.fill_to(i * width + width - 2 - numbers).add(numbers > 5 ? "  IoU  label   pred." : "  IoU", Style::kDim);
    }
    const size_t per_column =
        std::min((K + static_cast<size_t>(across) - 1) / static_cast<size_t>(across), static_cast<size_t>(rows));
    const size_t shown = std::min(K, per_column * static_cast<size_t>(across));
    const size_t top = lines_.size();
    lines_.resize(top + per_column);
    for (size_t i = 0; i < shown; ++i) {
      Line& to = lines_[top + i % per_column];
      to.fill_to(static_cast<int>(i / per_column) * width);
      if (i + 1 == shown && shown < K)
        to.add(str("... ", K - shown + 1, " more frequent ones"), Style::kDim);
      else
        one_class(to, order[i], scores, width);
    }
  }

  void one_class(Line& to, size_t c, const Scores& scores, int width) const {
    const double label = scores.label_share[c], predicted = scores.prediction_share[c];
    const bool rare = label < 0.2 / static_cast<double>(scores.iou.size());  // a fifth of an even share
    const auto& names = run_.record.classes.names;
    const int left = to.columns(), numbers = left + width - 2 - number_columns(width),
              name_columns = std::min(16, numbers - left - 5);
    const std::string name = text(c < names.size() ? names[c] : str("class ", c));
    to.add(clip(name, name_columns - 2)).add(rare ? " *" : "", Style::kWarning).fill_to(left + name_columns);
    to.add(bar(scores.iou[c].value_or(0), numbers - to.columns(), screen_.unicode), rare ? Style::kWarning : Style::kGood);
    to.fill_to(numbers).add(format("%5s", percent(scores.iou[c]).c_str()), Style::kBold);
    if (number_columns(width) <= 5) return;
    // Too seldom predicted: it starves. Far too often: it swallows others.
    const Style style = label > 0 && predicted < label / 5                  ? Style::kBad
                        : predicted > 2 * label && predicted - label > 0.02 ? Style::kWarning
                                                                            : Style::kPlain;
    to.add(format(" %6s", share(label).c_str()), Style::kDim).add(format(" %6s", share(predicted).c_str()), style);
  }

  static std::string share(double fraction) { return percent(fraction, fraction < 0.0995 ? 2 : 1) + "%"; }

  const WatchedRun& run_;
  const RunStatus& status_;
  Screen screen_;
  std::vector<const EpochRecord*> scored_;
  const EpochRecord* best_ = nullptr;
  std::vector<Line> lines_;
};

const char* escape_of(Style style) {
  switch (style) {
    case Style::kBold:
      return "\x1b[1m";
    case Style::kDim:
      return "\x1b[2m";
    case Style::kGood:
      return "\x1b[32m";
    case Style::kWarning:
      return "\x1b[33m";
    case Style::kBad:
      return "\x1b[31m";
    case Style::kAccent:
      return "\x1b[36m";
    case Style::kPlain:
      break;
  }
  return "";
}

}  // namespace

Life life_of(const RunStatus& status, int64_t now, const std::string& host, bool process_exists) {
  if (status.state != "running") return Life::kFinished;
  const int64_t age = status.updated ? now - *status.updated : kSilentAfter + 1;
  const bool here = status.host.empty() || status.host == host;
  if (here && !process_exists && age > kGoneAfter) return Life::kGone;
  return age > kSilentAfter ? Life::kSilent : Life::kRunning;
}

Life life_of(const RunStatus& status) { return life_of(status, std::time(nullptr), host_name(), process_exists(status.pid)); }

Line& Line::add(const std::string& text, Style style) {
  if (!text.empty()) pieces_.emplace_back(text, style);
  columns_ += semiseg::columns_of(text);
  return *this;
}

Line& Line::fill_to(int column) {
  return column > columns_ ? add(std::string(static_cast<size_t>(column - columns_), ' ')) : *this;
}

std::vector<Line> draw(const WatchedRun& run, const Screen& screen) {
  constexpr int kNarrowest = 24;  // drawn so and cut where the terminal is even narrower
  std::vector<Line> lines = View(run, {std::max(screen.columns, kNarrowest), screen.rows, screen.unicode}).draw();
  for (Line& line : lines) {
    if (line.columns() <= screen.columns) continue;
    Line cut;
    for (const auto& [text, style] : line.pieces()) cut.add(clip(text, screen.columns - cut.columns()), style);
    line = cut;
  }
  return lines;
}

std::string to_terminal(const Line& line, int columns, bool colours) {
  std::string result;
  for (const auto& [text, style] : line.pieces()) {
    const std::string shown = clip(text, columns);
    columns -= columns_of(shown);
    const std::string escape = colours ? escape_of(style) : "";
    result += escape.empty() ? shown : escape + shown + "\x1b[0m";
    if (shown.size() < text.size()) break;
  }
  return result;
}

}  // namespace semiseg
