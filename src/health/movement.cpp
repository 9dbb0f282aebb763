#include "health/movement.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "health/words.h"

namespace semiseg {
namespace {

constexpr double kLeastFall = 0.005, kLeastRelativeFall = 0.03, kSuddenRelativeFall = 0.15, kNoiseFactor = 2.5;
constexpr double kLeastRise = 0.002, kLeastShareOfErrors = 0.03;
constexpr size_t kStreak = 3;        // evaluated epochs
constexpr size_t kNoiseMemory = 20;  // steps from epoch to epoch
constexpr double kNotable = 0.005;   // change of a share or an IoU that is worth a word

// The usual step of a value from epoch to epoch: a median of absolute values; 0 where there are too few to tell.
double median_step(std::vector<double> steps) {
  if (steps.size() < 3) return 0;
  std::nth_element(steps.begin(), steps.begin() + static_cast<long>(steps.size() / 2), steps.end());
  return steps[steps.size() / 2];
}

bool is_contrary(const Epochs& epochs, size_t from, size_t to) {
  return miou(epochs[from]) - miou(epochs[to]) >= clear_fall(miou(epochs[from])) &&
         accuracy(epochs[to]) - accuracy(epochs[from]) >= clear_rise(accuracy(epochs[from]));
}

// The beginning of an unbroken fall that ends at `t`.
std::optional<size_t> streak_begin(const Epochs& epochs, size_t t) {
  size_t from = t;
  while (from > 0 && miou(epochs[from - 1]) > miou(epochs[from])) --from;
  if (from == t || !is_contrary(epochs, from, t)) return std::nullopt;
  const double fall = miou(epochs[from]) - miou(epochs[t]);
  if (fall < noise(epochs, from)) return std::nullopt;
  const bool lasting = t - from + 1 >= kStreak;
  const bool sudden = fall >= kSuddenRelativeFall * miou(epochs[from]) && miou(epochs[from]) >= kLeastPeak;
  return lasting || sudden ? std::optional(from) : std::nullopt;
}

// The scores before training, where each of the newest three epochs lies below them: a trained network that lost at once what
// it does not regain.
std::optional<size_t> start_lost(const Epochs& epochs, size_t t, const HealthContext& context) {
  if (!is_start(*epochs[0], context) || t < kStreak) return std::nullopt;
  for (size_t i = t + 1 - kStreak; i <= t; ++i)
    if (!is_contrary(epochs, 0, i)) return std::nullopt;
  return 0;
}

double mean_before(const Epochs& epochs, size_t end, size_t count, double (*value)(const EpochRecord*)) {
  double sum = 0;
  for (size_t i = end + 1 - count; i <= end; ++i) sum += value(epochs[i]);
  return sum / static_cast<double>(count);
}

// An early peak, then a decline with ups and downs. `best` is the end of the best three epochs in a row before the newest
// three.
std::optional<size_t> decline_begin(const Epochs& epochs, size_t best, size_t t) {
  const double before = mean_of_three(epochs, best, accuracy);
  const double fall = mean_of_three(epochs, best, miou) - mean_of_three(epochs, t, miou);
  const double rise = mean_of_three(epochs, t, accuracy) - before;
  size_t peak = best;
  for (size_t i = best - 2; i < best; ++i)
    if (miou(epochs[i]) > miou(epochs[peak])) peak = i;
  const bool clear = fall >= clear_fall(mean_of_three(epochs, best, miou)) && rise >= clear_rise(before) &&
                     fall >= noise(epochs, t) && is_contrary(epochs, peak, t);
  return clear ? std::optional(peak) : std::nullopt;
}

}  // namespace

double mean_of_three(const Epochs& epochs, size_t end, double (*value)(const EpochRecord*)) {
  return mean_before(epochs, end, 3, value);
}

bool class_accuracy_rises(const EpochRecord& from, const EpochRecord& to) {
  return to.val->mean_class_accuracy - from.val->mean_class_accuracy >= kLeastRise;
}

bool loss_falls(const EpochRecord& from, const EpochRecord& to) { return from.loss > to.loss && to.loss > 0; }

std::vector<size_t> newly_counted(const EpochRecord& from, const EpochRecord& to) {
  std::vector<size_t> classes;
  const auto &before = from.val->iou, &now = to.val->iou;
  for (size_t c = 0; c < std::min(before.size(), now.size()); ++c)
    if (!before[c] && now[c] && *now[c] == 0) classes.push_back(c);
  return classes;
}

double common_fall(const EpochRecord& from, const EpochRecord& to) {
  double sum = 0;
  int64_t common = 0;
  const auto &before = from.val->iou, &now = to.val->iou;
  for (size_t c = 0; c < std::min(before.size(), now.size()); ++c)
    if (before[c] && now[c]) sum += *before[c] - *now[c], ++common;
  return common > 0 ? sum / static_cast<double>(common) : miou(&from) - miou(&to);
}

bool falls_by_counting(const EpochRecord& from, const EpochRecord& to) {
  return !newly_counted(from, to).empty() && common_fall(from, to) < clear_fall(miou(&from));
}

Epochs evaluated(const std::vector<EpochRecord>& history) {
  Epochs epochs;
  for (const EpochRecord& record : history)
    if (record.val) epochs.push_back(&record);
  return epochs;
}

int64_t labelled_pixels(const Scores& scores, size_t c) {
  return std::accumulate(scores.confusion[c].begin(), scores.confusion[c].end(), int64_t{0});
}

int64_t labelled_pixels(const Scores& scores) {
  int64_t pixels = 0;
  for (size_t c = 0; c < scores.confusion.size(); ++c) pixels += labelled_pixels(scores, c);
  return pixels;
}

bool has_few_pixels(const Scores& scores, size_t c) {
  return c < scores.confusion.size() && labelled_pixels(scores, c) < kLeastPixels;  // else it is not known
}

double clear_fall(double from) { return std::max(kLeastFall, kLeastRelativeFall * from); }
double clear_rise(double from) { return std::min(kLeastRise, kLeastShareOfErrors * (1 - from)); }

double noise(const Epochs& epochs, size_t end) {
  // A trend makes steps, an alternation makes distances from the neighbours' mean; of white noise both tell the same, once the
  // latter are scaled by the ratio of their deviations, sqrt(2) to sqrt(1.5).
  const double kScale = std::sqrt(2 / 1.5);
  std::vector<double> steps, distances;
  for (size_t i = end; i > 0 && steps.size() < kNoiseMemory; --i) {
    steps.push_back(std::abs(miou(epochs[i]) - miou(epochs[i - 1])));
    if (i > 1) distances.push_back(kScale * std::abs(miou(epochs[i - 1]) - (miou(epochs[i]) + miou(epochs[i - 2])) / 2));
  }
  // The range of many draws grows with the logarithm of their number; fitted to plateaus of white noise.
  constexpr double kManyEpochs = 10, kGrowth = 0.8;
  const double many = std::max(1.0, static_cast<double>(end) / kManyEpochs);
  return (kNoiseFactor + kGrowth * std::log(many)) * std::min(median_step(std::move(steps)), median_step(std::move(distances)));
}

std::optional<size_t> fall_begin(const Epochs& epochs, const HealthContext& context) {
  std::optional<size_t> peak;
  double deepest = 0;     // fall since the peak
  size_t best = 2;        // end of the best three before the newest three
  bool regained = false;  // a fall from the start has ended
  for (size_t t = 0; t < epochs.size(); ++t) {
    if (t >= 5 && mean_of_three(epochs, t - 3, miou) > mean_of_three(epochs, best, miou)) best = t - 3;
    if (peak) {
      const double fall = miou(epochs[*peak]) - miou(epochs[t]);
      deepest = std::max(deepest, fall);
      if (fall < deepest / 2 || accuracy(epochs[t]) <= accuracy(epochs[*peak])) {
        regained = regained || *peak == 0;
        peak.reset();
      }
    }
    if (peak) continue;
    peak = streak_begin(epochs, t);
    if (!peak && !regained) peak = start_lost(epochs, t, context);
    if (!peak && t >= 5) peak = decline_begin(epochs, best, t);
    deepest = peak ? miou(epochs[*peak]) - miou(epochs[t]) : 0;
  }
  return peak;
}

namespace {

// The largest drop below the best epoch so far that was regained.
double regained_drop(const Epochs& epochs) {
  double top = miou(epochs[0]), low = top, most = 0;
  for (const EpochRecord* epoch : epochs) {
    low = std::min(low, miou(epoch));
    if (miou(epoch) < top - clear_fall(top)) continue;
    most = std::max(most, top - low);
    top = std::max(top, miou(epoch));
    low = miou(epoch);
  }
  return most;
}

}  // namespace

std::optional<size_t> peak_before_fall(const Epochs& epochs, const HealthContext& context) {
  const size_t count = epochs.size(), t = count - 1;
  size_t best = 0;
  for (size_t i = 1; i < count; ++i)
    if (miou(epochs[i]) > miou(epochs[best])) best = i;
  const double peak = miou(epochs[best]), fall = peak - miou(epochs[t]);
  if (fall < clear_fall(peak)) return std::nullopt;

  const double usual = noise(epochs, t);  // 0 where there are few epochs
  // Epoch by epoch, or at once and for good.
  constexpr double kLeastOfNoise = 0.6;  // of single epochs in a row that all say the same
  bool unbroken = true;
  double next = 0;
  for (size_t i = best; i < t; ++i) {
    unbroken = unbroken && miou(epochs[i + 1]) < miou(epochs[i]);
    next = std::max(next, miou(epochs[i + 1]));
  }
  const bool few = count < kFewEpochs;
  if (unbroken && (few || (t - best + 1 >= kStreak && fall >= kLeastOfNoise * usual))) return best;
  const size_t after = t - best;
  if (after >= (few ? kStreak - 1 : kStreak) && peak - next >= std::max(clear_fall(peak), kLeastOfNoise * usual)) return best;

  // In the newest epoch alone, if such drops did not come and go before.
  constexpr double kMoreThanRegained = 1.3;
  const bool large = (fall >= kSuddenRelativeFall * peak && fall >= usual) || (usual > 0 && fall >= 2 * usual);
  if (large && fall > kMoreThanRegained * regained_drop(epochs)) return best;
  if (few) return std::nullopt;

  // With ups and downs: means over a quarter of the epochs, whose noise is that much less.
  constexpr size_t kLeastWindow = 3, kMostWindow = 10;
  constexpr double kLeastShrink = 0.6;  // ups and downs of neighbours are alike
  const size_t window = std::clamp(count / 4, kLeastWindow, kMostWindow);
  double most = 0;
  for (size_t end = window - 1; end + window <= t; ++end) most = std::max(most, mean_before(epochs, end, window, miou));
  const double lost = most - mean_before(epochs, t, window, miou);
  const double shrink = std::max(kLeastShrink, std::sqrt(static_cast<double>(kLeastWindow) / static_cast<double>(window)));
  if ((lost >= clear_fall(most) && lost >= shrink * usual) || fall_begin(epochs, context)) return best;
  return std::nullopt;
}

std::vector<Change> iou_changes(const EpochRecord& from, const EpochRecord& to, const Epochs& epochs) {
  std::vector<Change> changes;
  if (!has_classes(from) || !has_classes(to)) return changes;
  const size_t K = std::min(from.val->iou.size(), to.val->iou.size());
  for (size_t c = 0; c < K; ++c) {
    if (!from.val->iou[c] || !to.val->iou[c]) continue;
    std::vector<double> steps;
    for (size_t i = epochs.size() - 1; i > 0 && steps.size() < kNoiseMemory; --i) {
      const auto &now = epochs[i]->val->iou, &before = epochs[i - 1]->val->iou;
      if (c < now.size() && c < before.size() && now[c] && before[c]) steps.push_back(std::abs(*now[c] - *before[c]));
    }
    changes.push_back({c, *from.val->iou[c], *to.val->iou[c], median_step(std::move(steps))});
  }
  std::stable_sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) { return a.by() < b.by(); });
  return changes;
}

std::vector<Change> share_changes(const EpochRecord& from, const EpochRecord& to) {
  std::vector<Change> changes;
  if (!has_shares(from) || !has_shares(to)) return changes;
  const size_t K = std::min(from.val->prediction_share.size(), to.val->prediction_share.size());
  for (size_t c = 0; c < K; ++c) changes.push_back({c, from.val->prediction_share[c], to.val->prediction_share[c]});
  std::stable_sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) { return a.by() > b.by(); });
  return changes;
}

std::vector<size_t> notable(const std::vector<Change>& changes, bool falling, size_t most) {
  std::vector<size_t> classes;
  for (const Change& change : changes) {
    const double by = falling ? -change.by() : change.by();
    if (classes.size() < most && by >= std::max(kNotable, 2 * change.usual)) classes.push_back(change.c);
  }
  return classes;
}

std::optional<Losses> losses(const EpochRecord& from, const EpochRecord& to) {
  const Scores &a = *from.val, &b = *to.val;
  const auto known = [](const Scores& s) {
    return !s.iou.empty() && s.class_accuracy.size() == s.iou.size() && s.prediction_share.size() == s.iou.size();
  };
  if (!known(a) || !known(b) || a.iou.size() != b.iou.size()) return std::nullopt;
  Losses all;
  for (size_t c = 0; c < a.iou.size(); ++c) {
    const bool labelled = a.label_share[c] > 0 && b.label_share[c] > 0 && a.class_accuracy[c] && b.class_accuracy[c];
    if (!labelled || !a.iou[c] || !b.iou[c] || *b.iou[c] >= *a.iou[c]) continue;
    const auto weight = [c](const Scores& s) {
      return 1 / (1 + s.prediction_share[c] / s.label_share[c] - *s.class_accuracy[c]);
    };
    const double ra = *a.class_accuracy[c], rb = *b.class_accuracy[c], loss = *a.iou[c] - *b.iou[c];
    const bool missed = (ra - rb) * (weight(a) + weight(b)) >= (weight(a) - weight(b)) * (ra + rb);
    (missed ? all.missed : all.called) += loss;
    if (missed && is_rare(b, c)) all.missed_rare += loss;
  }
  return all;
}

bool rare_ones_alone_lose(const EpochRecord& from, const EpochRecord& to) {
  constexpr double kMostOfIt = 0.7;
  const auto all = losses(from, to);
  return all && all->missed_rare >= kMostOfIt * (all->missed + all->called) && all->missed_rare > 0;
}

bool loses_to_rare(const EpochRecord& to, const std::vector<Change>& iou, const std::function<double(size_t)>& than) {
  const Scores& s = *to.val;
  double all = 0, rare = 0;
  for (const size_t c : notable(iou, /*falling=*/true, kMostClasses))
    for (size_t p = 0; p < s.confusion.size(); ++p) {
      if (p == c || s.label_share[c] == 0) continue;
      const double share = static_cast<double>(s.confusion[c][p]) / s.label_share[c];  // every class alike
      all += share;
      if (s.label_share[p] < than(c)) rare += share;
    }
  return rare > all / 2;
}

bool calls_too_much(const EpochRecord& from, const EpochRecord& to, const std::vector<Change>& iou) {
  const auto all = losses(from, to);
  if (!all) return class_accuracy_rises(from, to);
  if (all->called > all->missed) return true;
  // What frequent classes miss, rare ones have been given, or what rare ones miss, still rarer ones.
  return class_accuracy_rises(from, to) && (all->called + all->missed > 2 * all->missed_rare ||
                                            loses_to_rare(to, iou, [&](size_t c) { return to.val->label_share[c]; }));
}

std::vector<double> reference_share(const std::vector<EpochRecord>& history, const HealthContext& context) {
  if (!context.label_share.empty()) return context.label_share;
  for (auto record = history.rbegin(); record != history.rend(); ++record)
    if (record->val && !record->val->label_share.empty()) return record->val->label_share;
  return {};
}

}  // namespace semiseg
