#include "health/movement.h"

#include <algorithm>
#include <cmath>

namespace semiseg {
namespace {

// miou_falls
constexpr double kLeastFall = 0.005, kLeastRelativeFall = 0.03, kSuddenRelativeFall = 0.15, kNoiseFactor = 2.5;
constexpr size_t kStreak = 3;        // evaluated epochs
constexpr size_t kNoiseMemory = 20;  // steps from epoch to epoch
constexpr double kNotable = 0.002;   // change of a share or an IoU that is worth a word

// The usual step of mIoU from epoch to epoch up to `end`: a median of absolute values; 0 where there are too few to tell.
double usual_step(const Epochs& epochs, size_t end) {
  std::vector<double> steps;
  for (size_t i = end; i > 0 && steps.size() < kNoiseMemory; --i)
    steps.push_back(std::abs(miou(epochs[i]) - miou(epochs[i - 1])));
  if (steps.size() < 3) return 0;
  std::nth_element(steps.begin(), steps.begin() + static_cast<long>(steps.size() / 2), steps.end());
  return steps[steps.size() / 2];
}

bool is_contrary(const Epochs& epochs, size_t from, size_t to) {
  return miou(epochs[from]) - miou(epochs[to]) >= clear_fall(miou(epochs[from])) &&
         accuracy(epochs[to]) - accuracy(epochs[from]) >= kLeastRise;
}

// The beginning of an unbroken fall that ends at `t`.
std::optional<size_t> streak_begin(const Epochs& epochs, size_t t) {
  size_t from = t;
  while (from > 0 && miou(epochs[from - 1]) > miou(epochs[from])) --from;
  if (from == t || !is_contrary(epochs, from, t)) return std::nullopt;
  const double fall = miou(epochs[from]) - miou(epochs[t]);
  if (fall < kNoiseFactor * usual_step(epochs, from)) return std::nullopt;
  const bool class_accuracy_falls = epochs[t]->val->mean_class_accuracy < epochs[from]->val->mean_class_accuracy;
  const bool lasting = t - from + 1 >= kStreak && class_accuracy_falls;
  const bool sudden = fall >= kSuddenRelativeFall * miou(epochs[from]) && miou(epochs[from]) >= 0.1;
  return lasting || sudden ? std::optional(from) : std::nullopt;
}

// The scores before training, where each of the newest three epochs lies below them: a trained network that lost at once what
// it does not regain.
std::optional<size_t> start_lost(const Epochs& epochs, size_t t) {
  if (epochs[0]->epoch != 0 || t < kStreak) return std::nullopt;
  for (size_t i = t + 1 - kStreak; i <= t; ++i)
    if (!is_contrary(epochs, 0, i) || epochs[i]->val->mean_class_accuracy >= epochs[0]->val->mean_class_accuracy)
      return std::nullopt;
  return 0;
}

double mean_of_three(const Epochs& epochs, size_t end, double (*value)(const EpochRecord*)) {
  return (value(epochs[end - 2]) + value(epochs[end - 1]) + value(epochs[end])) / 3;
}

// An early peak, then a decline with ups and downs. `best` is the end of the best three epochs in a row before the newest
// three.
std::optional<size_t> decline_begin(const Epochs& epochs, size_t best, size_t t) {
  const double fall = mean_of_three(epochs, best, miou) - mean_of_three(epochs, t, miou);
  const double rise = mean_of_three(epochs, t, accuracy) - mean_of_three(epochs, best, accuracy);
  size_t peak = best;
  for (size_t i = best - 2; i < best; ++i)
    if (miou(epochs[i]) > miou(epochs[peak])) peak = i;
  const bool clear = fall >= clear_fall(mean_of_three(epochs, best, miou)) && rise >= kLeastRise &&
                     fall >= kNoiseFactor * usual_step(epochs, t) && is_contrary(epochs, peak, t);
  return clear ? std::optional(peak) : std::nullopt;
}

}  // namespace

Epochs evaluated(const std::vector<EpochRecord>& history) {
  Epochs epochs;
  for (const EpochRecord& record : history)
    if (record.val) epochs.push_back(&record);
  return epochs;
}

double clear_fall(double from) { return std::max(kLeastFall, kLeastRelativeFall * from); }

std::optional<size_t> fall_begin(const Epochs& epochs) {
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
    if (!peak && !regained) peak = start_lost(epochs, t);
    if (!peak && t >= 5) peak = decline_begin(epochs, best, t);
    deepest = peak ? miou(epochs[*peak]) - miou(epochs[t]) : 0;
  }
  return peak;
}

std::vector<Change> iou_changes(const EpochRecord& from, const EpochRecord& to) {
  std::vector<Change> changes;
  if (!has_classes(from) || !has_classes(to)) return changes;
  const size_t K = std::min(from.val->iou.size(), to.val->iou.size());
  for (size_t c = 0; c < K; ++c)
    if (from.val->iou[c] && to.val->iou[c]) changes.push_back({c, *from.val->iou[c], *to.val->iou[c]});
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
  for (const Change& change : changes)
    if (classes.size() < most && (falling ? change.by() <= -kNotable : change.by() >= kNotable)) classes.push_back(change.c);
  return classes;
}

std::vector<double> reference_share(const std::vector<EpochRecord>& history, const HealthContext& context) {
  if (!context.label_share.empty()) return context.label_share;
  for (auto record = history.rbegin(); record != history.rend(); ++record)
    if (record->val && !record->val->label_share.empty()) return record->val->label_share;
  return {};
}

}  // namespace semiseg
