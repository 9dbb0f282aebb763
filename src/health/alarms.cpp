#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "health/mapping.h"
#include "health/movement.h"
#include "health/settings.h"
#include "health/words.h"
#include "semiseg/error.h"
#include "semiseg/health.h"

namespace semiseg {
namespace {

// class_vanished, pseudo_vanished: predicted share by labelled share
constexpr double kVanished = 0.01;
constexpr size_t kVanishedGrace = 4;      // epochs
constexpr int64_t kUpdatesOfChance = 50;  // from random weights: what is predicted is no sign of anything
// scores_fall
constexpr double kDeclines = 0.1, kLeastDecline = 0.02, kCollapsed = 0.6;
// mIoU of a network that has learned something, so that what it predicts is no chance
constexpr double kTrained = 0.2;
// class_takes_over
constexpr double kTakesOver = 0.2;
constexpr size_t kTakesOverGrace = 2;
// acceptance_stuck
constexpr double kNearlyNone = 0.005, kNearlyAll = 0.995;
constexpr size_t kStuckEpochs = 3;

// Whether single classes can tell nothing yet.
bool is_too_early(const std::vector<EpochRecord>& history, const HealthContext& context) {
  const int64_t step = history.back().step;  // 0 where it is not known
  const EpochRecord& first = history.front();
  const bool began_trained = is_start(first, context) && first.val && first.val->miou >= kTrained;
  return step > 0 && step < kUpdatesOfChance && !began_trained;
}

std::optional<Alarm> miou_falls(const std::vector<EpochRecord>& history, const HealthContext& context) {
  if (!history.back().val) return std::nullopt;
  const Epochs epochs = evaluated(history);
  const auto begin = fall_begin(epochs, context);
  if (!begin) return std::nullopt;
  const EpochRecord &from = *epochs[*begin], &to = history.back();
  if (falls_by_counting(from, to)) return std::nullopt;
  const auto iou = iou_changes(from, to, epochs), shares = share_changes(from, to);
  const auto losing = notable(iou, /*falling=*/true, kMostClasses), growing = notable(shares, /*falling=*/false, 3);
  const bool overcorrects = calls_too_much(from, to, iou);

  std::string text = str("mIoU fell from ", percent(from.val->miou), " (", time_of(from, context), ") to ",
                         percent(to.val->miou), " (", time_of(to, context), ") while pixel accuracy rose from ",
                         percent(from.val->pixel_accuracy), " to ", percent(to.val->pixel_accuracy), ": ",
                         overcorrects ? "classes are called where they are not" : "frequent classes gain what rare ones lose");
  std::vector<std::string> parts;
  for (const Change& change : iou)
    if (std::find(losing.begin(), losing.end(), change.c) != losing.end())
      parts.push_back(str(name_of(context, change.c), " ", percent(change.from), " -> ", percent(change.to)));
  if (!parts.empty()) text += ". IoU fell most of " + list_of(parts);
  parts.clear();
  for (const Change& change : shares)
    if (std::find(growing.begin(), growing.end(), change.c) != growing.end())
      parts.push_back(str(name_of(context, change.c), " on ", percent(change.from), " -> ", percent(change.to),
                          " of the pixels (labelled ", percent(share_or_zero(to.val->label_share, change.c)), ")"));
  if (!parts.empty()) text += "; predicted more: " + list_of(parts);
  return Alarm{"miou_falls",
               text + advice(overcorrects ? settings_against_overcorrection(context)
                                          : settings_against_starving(history, losing, context)),
               names_of(context, losing)};
}

std::optional<Alarm> scores_fall(const std::vector<EpochRecord>& history, const HealthContext& context) {
  if (!history.back().val) return std::nullopt;
  const Epochs epochs = evaluated(history);
  const size_t t = epochs.size() - 1;
  if (t < 2 || fall_begin(epochs, context)) return std::nullopt;  // or miou_falls says more
  size_t best = 0;
  for (size_t i = 1; i + 1 < t; ++i)
    if (miou(epochs[i]) > miou(epochs[best])) best = i;
  const EpochRecord &from = *epochs[best], &to = history.back();
  const bool accuracy_rises = accuracy(&to) - accuracy(&from) >= clear_rise(accuracy(&from));
  if (miou(&from) - miou(&to) < clear_fall(miou(&from)) || accuracy_rises || falls_by_counting(from, to)) return std::nullopt;
  bool falls = miou(&from) >= kLeastPeak && std::max(miou(&to), miou(epochs[t - 1])) < kCollapsed * miou(&from);
  if (t + 1 >= kFewEpochs && !falls) {
    double most = 0;
    for (size_t end = 2; end + 3 <= t; ++end) most = std::max(most, mean_of_three(epochs, end, miou));
    const double lost = most - mean_of_three(epochs, t, miou);
    falls = lost >= std::max(kLeastDecline, kDeclines * most) && lost >= noise(epochs, t);
  }
  if (!falls) return std::nullopt;
  auto changes = iou_changes(from, to, epochs);
  const bool learns = loss_falls(from, to), overcorrects = calls_too_much(from, to, changes);
  const bool of_rare = !overcorrects && rare_ones_alone_lose(from, to);
  if (of_rare) std::erase_if(changes, [&](const Change& change) { return !is_rare(*to.val, change.c); });
  const auto losing = notable(changes, /*falling=*/true, kMostClasses);
  const std::string scores = str("mIoU fell from ", percent(from.val->miou), " (", time_of(from, context), ") to ",
                                 percent(to.val->miou), " (", time_of(to, context), "), pixel accuracy from ",
                                 percent(from.val->pixel_accuracy), " to ", percent(to.val->pixel_accuracy));
  if (overcorrects)
    return Alarm{"scores_fall",
                 scores + ": classes are called where they are not" +
                     (losing.empty() ? "" : ", which costs IoU most of all of " + list_of(names_of(context, losing))) +
                     advice(settings_against_overcorrection(context)),
                 names_of(context, losing)};
  if (of_rare)
    return Alarm{"scores_fall",
                 scores + ": rare classes are no longer found" +
                     (losing.empty() ? "" : ", most of all " + list_of(names_of(context, losing))) +
                     advice(settings_against_starving(history, losing, context)),
                 names_of(context, losing)};
  return Alarm{
      "scores_fall",
      str(scores, ": the network gets worse as a whole",
          learns ? str(", though the loss falls (", format("%.3f", from.loss), " to ", format("%.3f", to.loss), ")") : "",
          advice(settings_against_decline(learns, from, context)))};
}

bool takes_over(const Scores& s, size_t c) {
  const double predicted = s.prediction_share[c], labelled = s.label_share[c];
  const bool is_much = predicted - labelled > std::min(kTakesOver, (1 - labelled) / 2) &&
                       (predicted >= 2 * labelled || 1 - predicted <= (1 - labelled) / 2);
  return is_much && (s.confusion.empty() || labelled_pixels(s) - labelled_pixels(s, c) >= kLeastPixels);  // of the others
}

std::optional<Alarm> class_takes_over(const std::vector<EpochRecord>& history, const HealthContext& context) {
  const EpochRecord& now = history.back();
  if (!has_shares(now) || is_too_early(history, context)) return std::nullopt;
  const Epochs epochs = evaluated(history);
  const Scores& s = *now.val;
  std::vector<size_t> taking, starving;
  std::vector<std::string> parts;
  for (size_t c = 0; c < s.prediction_share.size(); ++c) {
    if (s.label_share[c] > 0 && s.prediction_share[c] < s.label_share[c] / 2) starving.push_back(c);
    if (!takes_over(s, c)) continue;
    const bool was_well = std::any_of(epochs.begin(), epochs.end(), [&](const EpochRecord* e) {
      return has_shares(*e) && c < e->val->prediction_share.size() && !takes_over(*e->val, c);
    });
    if (!was_well && epochs.size() <= kTakesOverGrace) continue;
    taking.push_back(c);
    std::string part = str(name_of(context, c), " is predicted on ", percent(s.prediction_share[c]),
                           " of the pixels but labelled on ", percent(s.label_share[c]));
    if (now.pseudo && now.pseudo->accepted > 0 && c < now.pseudo->share.size())
      part += str(" (", percent(now.pseudo->share[c]), " of the accepted pseudo-labels)");
    parts.push_back(part);
  }
  if (taking.empty()) return std::nullopt;
  std::string text = list_of(parts);
  if (!starving.empty()) text += "; it takes the pixels of " + list_of(names_of(context, starving));
  const bool of_rare = std::any_of(taking.begin(), taking.end(), [&](size_t c) { return is_rare(s, c); });
  const auto settings =
      of_rare ? settings_against_overcorrection(context) : settings_against_starving(history, starving, context);
  return Alarm{"class_takes_over", text + advice(settings), names_of(context, taking)};
}

// Classes whose share is (almost) gone against what it should be, each with a text such as "pole (labelled 1.20 %, predicted
// 0.00 %, was 0.90 % in epoch 3": the caller closes it. `share_of` gives an epoch's shares, or nothing.
struct Vanished {
  std::vector<size_t> classes;
  std::vector<std::string> parts;
};
Vanished vanished(const std::vector<EpochRecord>& history, const std::vector<double>& wanted, const char* what,
                  const std::function<const std::vector<double>*(const EpochRecord&)>& share_of, const HealthContext& context) {
  Vanished result;
  const std::vector<double>& now = *share_of(history.back());
  size_t epochs = 0;
  for (const EpochRecord& record : history) epochs += !is_start(record, context) && share_of(record) != nullptr;
  for (size_t c = 0; c < std::min(now.size(), wanted.size()); ++c) {
    const bool can_be_learned = context.label_share.empty() || share_or_zero(context.label_share, c) > 0;
    if (wanted[c] <= 0 || !can_be_learned || now[c] >= kVanished * wanted[c]) continue;
    const auto before = std::find_if(history.rbegin() + 1, history.rend(), [&](const EpochRecord& record) {
      const auto* share = share_of(record);
      return share && c < share->size() && (*share)[c] >= kPresent * wanted[c];
    });
    if (before == history.rend() && epochs <= kVanishedGrace) continue;
    result.classes.push_back(c);
    result.parts.push_back(str(name_of(context, c), " (labelled ", percent(wanted[c]), ", ", what, " ", percent(now[c]), ", ",
                               before == history.rend()
                                   ? std::string("never higher")
                                   : str("was ", percent((*share_of(*before))[c]), is_start(*before, context) ? " " : " in ",
                                         time_of(*before, context))));
  }
  return result;
}

// `never`: what the classes never are, behind "(almost) never".
Alarm alarm_of(const char* kind, const char* never, const Vanished& gone, const std::vector<EpochRecord>& history,
               const HealthContext& context) {
  return {kind,
          str(gone.classes.size() == 1 ? "a class is" : str(gone.classes.size(), " classes are"), " (almost) never ", never,
              ": ", list_of(gone.parts), advice(settings_against_starving(history, gone.classes, context))),
          names_of(context, gone.classes)};
}

std::optional<Alarm> class_vanished(const std::vector<EpochRecord>& history, const HealthContext& context) {
  if (!has_shares(history.back()) || is_too_early(history, context)) return std::nullopt;
  const auto share_of = [](const EpochRecord& e) { return has_shares(e) ? &e.val->prediction_share : nullptr; };
  std::vector<double> wanted = history.back().val->label_share;
  for (size_t c = 0; c < wanted.size(); ++c)
    if (has_few_pixels(*history.back().val, c)) wanted[c] = 0;
  for (const size_t c : counted_voids(*history.back().val, context)) wanted[c] = 0;
  Vanished gone = vanished(history, wanted, "predicted", share_of, context);
  if (gone.classes.empty()) return std::nullopt;
  for (std::string& part : gone.parts) part += ")";
  return alarm_of("class_vanished", "predicted", gone, history, context);
}

// Pseudo-labels teach nothing before the burn-in is over.
bool is_teaching(const EpochRecord& record, const HealthContext& context) {
  return record.pseudo && !(context.config && record.epoch <= context.config->semi.burn_in_epochs);
}

std::optional<Alarm> pseudo_vanished(const std::vector<EpochRecord>& history, const HealthContext& context) {
  const auto share_of = [&](const EpochRecord& e) {
    return is_teaching(e, context) && e.pseudo->accepted > 0 ? &e.pseudo->share : nullptr;
  };
  if (!share_of(history.back()) || is_too_early(history, context)) return std::nullopt;
  Vanished gone = vanished(history, reference_share(history, context), "pseudo-labels", share_of, context);
  if (gone.classes.empty()) return std::nullopt;
  const auto& accepted = history.back().pseudo->accepted_by_class;
  for (size_t i = 0; i < gone.classes.size(); ++i) {
    const size_t c = gone.classes[i];
    if (c < accepted.size())
      gone.parts[i] += accepted[c] ? str("; ", percent(*accepted[c]), " of its predictions accepted")
                                   : std::string("; never predicted there");
    gone.parts[i] += ")";
  }
  return alarm_of("pseudo_vanished", "a pseudo-label", gone, history, context);
}

// Whether a threshold should select among pseudo-labels. Where the settings are not known: all that is accepted is exactly all
// only without one.
bool selects(const EpochRecord& record, const HealthContext& context) {
  if (!context.config) return record.pseudo->accepted < 1;
  const ThresholdConfig& threshold = context.config->semi.threshold;
  if (!may_set(context, "semi.threshold")) return false;
  if (threshold.kind == "fixed") return threshold.value > 0;
  return threshold.kind != "quantile" || threshold.share < 1;
}

std::optional<Alarm> acceptance_stuck(const std::vector<EpochRecord>& history, const HealthContext& context) {
  if (history.size() < kStuckEpochs) return std::nullopt;
  bool none = true, all = true;
  std::vector<std::string> values;
  for (size_t i = history.size() - kStuckEpochs; i < history.size(); ++i) {
    if (!is_teaching(history[i], context)) return std::nullopt;
    none = none && history[i].pseudo->accepted < kNearlyNone;
    all = all && history[i].pseudo->accepted > kNearlyAll && selects(history[i], context);
    values.push_back(percent(history[i].pseudo->accepted));
  }
  if (!none && !all) return std::nullopt;
  const std::string now = context.config ? " (now " + value_now(context, "semi.threshold") + ")" : "";
  const bool fixed = !context.config || context.config->semi.threshold.kind == "fixed";
  const double value = context.config ? context.config->semi.threshold.value : 0.95;
  std::string text = str("of the pseudo-labels ", list_of(values), " were accepted in the last ", kStuckEpochs, " epochs: ");
  if (none && !may_set(context, "semi.threshold"))
    text +=
        "the unlabelled images teach nothing; write their labels with a lower --threshold (semi.threshold of self_training)";
  else if (none)
    text += str("the unlabelled images teach nothing; set semi.threshold=",
                fixed ? number(std::round(value * 80) / 100) + now + " or semi.threshold=" + class_adaptive(history, context)
                      : "'{kind: quantile, share: 0.5}'" + now,
                ", or train longer on the labels first (semi.burn_in_epochs)");
  else
    text += str("the threshold rejects nothing; set semi.threshold=",
                fixed && value < 0.9 ? "0.95" + now + " or semi.threshold=" : std::string(), "'{kind: quantile, share: 0.8}'",
                fixed && value < 0.9 ? std::string() : now);
  return Alarm{"acceptance_stuck", text};
}

std::optional<Alarm> no_labelled_pixel(const std::vector<EpochRecord>& history, const HealthContext& context) {
  if (history.back().epoch != 1) return std::nullopt;
  std::vector<size_t> classes;
  for (size_t c = 0; c < context.label_share.size(); ++c)
    if (context.label_share[c] == 0) classes.push_back(c);
  if (classes.empty()) return std::nullopt;
  std::string text = str("no labelled pixel to learn from: ", list_of(names_of(context, classes), 20));
  if (has_shares(history.back())) {
    std::vector<size_t> counted;
    for (const size_t c : classes)
      if (share_or_zero(history.back().val->label_share, c) > 0) counted.push_back(c);
    if (!counted.empty())
      text += str("; the validation labels hold ", list_of(names_of(context, counted), 20),
                  ", so an IoU of 0 goes into mIoU for each");
  }
  return Alarm{"no_labelled_pixel",
               text +
                   "; add images that hold them to data.labeled (another seed draws another data.labeled: 1/N), or leave "
                   "these classes out of data.classes",
               names_of(context, classes)};
}

bool is_on_scores(const std::string& kind) {
  return kind == "miou_falls" || kind == "scores_fall" || kind == "class_takes_over" || kind == "class_vanished";
}

}  // namespace

std::vector<Alarm> find_alarms(const std::vector<EpochRecord>& history, const HealthContext& context) {
  std::vector<Alarm> alarms;
  if (history.empty()) return alarms;
  for (const auto find :
       {miou_falls, scores_fall, class_takes_over, class_vanished, pseudo_vanished, acceptance_stuck, no_labelled_pixel})
    if (const auto alarm = find(history, context)) alarms.push_back(*alarm);
  return alarms;
}

bool is_news(const Alarm& alarm, const std::vector<EpochRecord>& history) {
  auto before = history.rbegin();
  if (before != history.rend()) ++before;
  while (before != history.rend() && is_on_scores(alarm.kind) && !before->val) ++before;
  if (before == history.rend()) return true;
  return std::none_of(before->alarms.begin(), before->alarms.end(),
                      [&](const Alarm& other) { return other.kind == alarm.kind && other.classes == alarm.classes; });
}

}  // namespace semiseg
