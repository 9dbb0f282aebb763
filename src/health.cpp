#include "semiseg/health.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numeric>

#include "samples.h"
#include "semiseg/device.h"
#include "semiseg/error.h"
#include "semiseg/loader.h"
#include "semiseg/method.h"

namespace semiseg {
namespace {

using Epochs = std::vector<const EpochRecord*>;  // evaluated ones

// miou_falls
constexpr double kLeastFall = 0.005, kLeastRelativeFall = 0.03, kSuddenRelativeFall = 0.15, kNoiseFactor = 2.5;
constexpr double kLeastRise = 0.002;  // of pixel accuracy
constexpr size_t kStreak = 3;         // evaluated epochs
constexpr size_t kNoiseMemory = 20;   // steps from epoch to epoch
// class_vanished, pseudo_vanished: predicted share by labelled share
constexpr double kVanished = 0.01, kPresent = 0.1;
constexpr size_t kVanishedGrace = 4;  // epochs
// class_takes_over
constexpr double kTakesOver = 0.2;
constexpr size_t kTakesOverGrace = 2;
// acceptance_stuck
constexpr double kNearlyNone = 0.005, kNearlyAll = 0.995;
constexpr size_t kStuckEpochs = 3;

constexpr size_t kMostClasses = 5;  // that a message lists with numbers
constexpr size_t kMostSettings = 4;
constexpr double kNotable = 0.002;  // change of a share or an IoU that is worth a word

std::string percent(double fraction) { return fraction > 0 && fraction < 5e-5 ? "<0.01 %" : format("%.2f %%", 100 * fraction); }
std::string percent(const MaybeFraction& fraction) { return fraction ? percent(*fraction) : "-"; }
std::string points(double fraction) { return format("%.2f points", 100 * fraction); }
std::string signed_points(double fraction) { return format("%+.2f", 100 * fraction); }

// "a, b and c"; beyond `most`: "a, b and 3 more".
std::string list_of(const std::vector<std::string>& words, size_t most = kMostClasses) {
  std::string text;
  const size_t shown = words.size() > most + 1 ? most : words.size();
  for (size_t i = 0; i < shown; ++i) text += (i == 0 ? "" : i + 1 == words.size() ? " and " : ", ") + words[i];
  return shown < words.size() ? text + str(" and ", words.size() - shown, " more") : text;
}

std::string name_of(const HealthContext& context, size_t c) {
  return c < context.class_names.size() ? context.class_names[c] : str("class ", c);
}

std::vector<std::string> names_of(const HealthContext& context, const std::vector<size_t>& classes) {
  std::vector<std::string> names;
  for (const size_t c : classes) names.push_back(name_of(context, c));
  return names;
}

std::string time_of(const EpochRecord& record) { return record.epoch == 0 ? "before training" : str("epoch ", record.epoch); }

Epochs evaluated(const std::vector<EpochRecord>& history) {
  Epochs epochs;
  for (const EpochRecord& record : history)
    if (record.val) epochs.push_back(&record);
  return epochs;
}

double miou(const EpochRecord* e) { return e->val->miou; }
double accuracy(const EpochRecord* e) { return e->val->pixel_accuracy; }

bool has_classes(const EpochRecord& e) { return e.val && !e.val->iou.empty(); }
bool has_shares(const EpochRecord& e) { return e.val && !e.val->prediction_share.empty(); }

double clear_fall(double from) { return std::max(kLeastFall, kLeastRelativeFall * from); }

// --- where mIoU falls ---

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

// The epoch from which mIoU has been falling, if the newest one lies in such a fall.
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

// --- classes ---

struct Change {
  size_t c;
  double from, to;
  double by() const { return to - from; }
};

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

// The first `most` classes of sorted changes that go in the wanted direction by a notable amount.
std::vector<size_t> notable(const std::vector<Change>& changes, bool falling, size_t most) {
  std::vector<size_t> classes;
  for (const Change& change : changes)
    if (classes.size() < most && (falling ? change.by() <= -kNotable : change.by() >= kNotable)) classes.push_back(change.c);
  return classes;
}

// What pseudo-labels and predictions are held against: the labelled pixels' share, or the validation labels' where that is not
// known; empty where neither is.
std::vector<double> reference_share(const std::vector<EpochRecord>& history, const HealthContext& context) {
  if (!context.label_share.empty()) return context.label_share;
  for (auto record = history.rbegin(); record != history.rend(); ++record)
    if (record->val && !record->val->label_share.empty()) return record->val->label_share;
  return {};
}

// --- what to set ---

std::string value_now(const HealthContext& context, const std::string& key) {
  return context.config ? value_text(*context.config, key) : "";
}

// Where the settings are not known, the method may read all that there is, if it makes pseudo-labels or may do so.
bool may_set(const HealthContext& context, const std::string& key) {
  return !context.config || method_reads(context.config->semi.method, key);
}

std::string number(double value) { return format("%g", value); }

Setting setting(const HealthContext& context, const std::string& key, const std::string& value, const std::string& reason) {
  return {key + "=" + value, value_now(context, key), reason};
}

double share_or_zero(const std::vector<double>& shares, size_t c) { return c < shares.size() ? shares[c] : 0; }

// How ENet's weights compare the rarest labelled class with the most frequent one.
std::string enet_reason(const std::vector<double>& reference, const HealthContext& context) {
  std::optional<size_t> rare, frequent;
  for (size_t c = 0; c < reference.size(); ++c) {
    if (reference[c] <= 0) continue;
    if (!rare || reference[c] < reference[*rare]) rare = c;
    if (!frequent || reference[c] > reference[*frequent]) frequent = c;
  }
  if (!rare || *rare == *frequent)
    return "the weight 1 / ln(1.02 + p) is 2.9 for a class with 40 % of the labelled pixels and 48 for one with .1 %";
  const double ratio = std::log(1.02 + reference[*frequent]) / std::log(1.02 + reference[*rare]);
  return str("a pixel of ", name_of(context, *rare), " (", percent(reference[*rare]), " of the labels) then counts ",
             format("%.0f", ratio), " times as much in the loss as one of ", name_of(context, *frequent), " (",
             percent(reference[*frequent]), ")");
}

// Against classes that lose to frequent ones; `starving` may be empty where it is not known which. The most fitting first.
std::vector<Setting> settings_against_starving(const std::vector<EpochRecord>& history, const std::vector<size_t>& starving,
                                               const HealthContext& context) {
  const Config* config = context.config;
  const auto reference = reference_share(history, context);
  const auto& pseudo = history.back().pseudo;
  bool starve_in_pseudo = false;
  double precision = 0;
  int64_t known = 0;
  if (pseudo && pseudo->accepted > 0)
    for (const size_t c : starving) {
      starve_in_pseudo = starve_in_pseudo || share_or_zero(pseudo->share, c) < share_or_zero(reference, c) / 2;
      if (c < pseudo->precision.size() && pseudo->precision[c]) precision += *pseudo->precision[c], ++known;
    }

  std::vector<Setting> general, semi;
  const bool weighted = config && config->loss.class_weights != "none";
  if (!weighted) general.push_back(setting(context, "loss.class_weights", "enet", enet_reason(reference, context)));
  if (!config || config->sampler.rare_class_temperature == 0)
    general.push_back(setting(context, "sampler.rare_class_temperature", "0.01",
                              "labelled crops that hold rare classes are drawn more often"));

  const std::string if_semi = config ? "" : "if unlabelled images are learned from: ";
  const bool takes_all = config && config->semi.threshold.kind == "fixed" && config->semi.threshold.value < 0.5;
  if (may_set(context, "semi.threshold")) {
    if (takes_all)
      semi.push_back(setting(context, "semi.threshold", "0.95",
                             "at present every pseudo-label counts, sure or not, so that the network learns its own mistakes"));
    else if (!config || (config->semi.threshold.kind == "fixed" && config->semi.method != "self_training"))
      semi.push_back(setting(context, "semi.threshold", "'{kind: class_adaptive}'",
                             if_semi + "each class gets its own threshold, a lower one where the network is less sure"));
  }
  if (may_set(context, "semi.align_distribution") && !(config && config->semi.align_distribution))
    semi.push_back(setting(context, "semi.align_distribution", "true",
                           if_semi + "pseudo-labels are drawn towards the labelled pixels' shares"));
  if (weighted && may_set(context, "semi.class_weights") && !config->semi.class_weights)
    semi.push_back(
        setting(context, "semi.class_weights", "true", "the loss on pseudo-labels then weighs classes as the other one does"));
  if (config && may_set(context, "semi.weight")) {
    if (config->semi.weight > 1)
      semi.push_back(setting(context, "semi.weight", "1", "pseudo-labels then do not outweigh the labels"));
    else if (known > 0 && precision / static_cast<double>(known) < 0.5)
      semi.push_back(
          setting(context, "semi.weight", number(config->semi.weight / 2),
                  str("pseudo-labels of these classes are right in only ", percent(precision / static_cast<double>(known)))));
  }

  const bool semi_first = starve_in_pseudo || (takes_all && may_set(context, "semi.threshold"));
  std::vector<Setting> all = semi_first ? semi : general;
  const auto& rest = semi_first ? general : semi;
  if (semi_first && !rest.empty() && all.size() >= kMostSettings) all.resize(kMostSettings - 1);
  all.insert(all.end(), rest.begin(), rest.end());
  if (all.empty() && config && config->loss.logit_adjustment == 0)
    all.push_back(setting(context, "loss.logit_adjustment", "1", "a rare class has to win against its rarity in training"));
  if (all.size() > kMostSettings) all.resize(kMostSettings);
  return all;
}

// "; set a (now b) or c (now d)".
std::string advice(const std::vector<Setting>& settings) {
  std::string text;
  for (size_t i = 0; i < settings.size(); ++i)
    text += (i == 0                     ? "; set "
             : i + 1 == settings.size() ? " or "
                                        : ", ") +
            settings[i].assignment + (settings[i].now.empty() ? "" : " (now " + settings[i].now + ")");
  return text;
}

// --- the alarms ---

std::optional<Alarm> miou_falls(const std::vector<EpochRecord>& history, const HealthContext& context) {
  if (!history.back().val) return std::nullopt;
  const Epochs epochs = evaluated(history);
  const auto begin = fall_begin(epochs);
  if (!begin) return std::nullopt;
  const EpochRecord &from = *epochs[*begin], &to = history.back();
  const auto iou = iou_changes(from, to), shares = share_changes(from, to);
  const auto losing = notable(iou, /*falling=*/true, kMostClasses), growing = notable(shares, /*falling=*/false, 3);

  std::string text = str("mIoU fell from ", percent(from.val->miou), " (", time_of(from), ") to ", percent(to.val->miou), " (",
                         time_of(to), ") while pixel accuracy rose from ", percent(from.val->pixel_accuracy), " to ",
                         percent(to.val->pixel_accuracy), ": frequent classes gain what rare ones lose");
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
  return Alarm{"miou_falls", text + advice(settings_against_starving(history, losing, context)), names_of(context, losing)};
}

bool takes_over(const Scores& s, size_t c) {
  const double predicted = s.prediction_share[c], labelled = s.label_share[c];
  return predicted - labelled > kTakesOver && (predicted >= 2 * labelled || 1 - predicted <= (1 - labelled) / 2);
}

std::optional<Alarm> class_takes_over(const std::vector<EpochRecord>& history, const HealthContext& context) {
  const EpochRecord& now = history.back();
  if (!has_shares(now)) return std::nullopt;
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
  std::vector<Setting> settings = settings_against_starving(history, starving, context);
  // What the loss adds to rare classes adds up from pseudo-label to pseudo-label.
  const Config* config = context.config;
  const bool biased = config && (config->semi.class_weights || config->loss.logit_adjustment > 0);
  const auto reference = reference_share(history, context);
  const bool of_rare = std::any_of(taking.begin(), taking.end(), [&](size_t c) {
    return share_or_zero(reference, c) < 1 / static_cast<double>(s.label_share.size());
  });
  if (biased && of_rare && !config->semi.undo_class_bias && may_set(context, "semi.undo_class_bias")) {
    settings.insert(settings.begin(), setting(context, "semi.undo_class_bias", "true",
                                              "pseudo-labels of weighted training call rare classes where they are not"));
    if (settings.size() > kMostSettings) settings.resize(kMostSettings);
  }
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
  for (const EpochRecord& record : history) epochs += record.epoch > 0 && share_of(record) != nullptr;
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
                               before == history.rend() ? std::string("never more")
                                                        : str("was ", percent((*share_of(*before))[c]),
                                                              before->epoch == 0 ? " " : " in ", time_of(*before))));
  }
  return result;
}

std::optional<Alarm> class_vanished(const std::vector<EpochRecord>& history, const HealthContext& context) {
  if (!has_shares(history.back())) return std::nullopt;
  const auto share_of = [](const EpochRecord& e) { return has_shares(e) ? &e.val->prediction_share : nullptr; };
  Vanished gone = vanished(history, history.back().val->label_share, "predicted", share_of, context);
  if (gone.classes.empty()) return std::nullopt;
  for (std::string& part : gone.parts) part += ")";
  return Alarm{"class_vanished",
               str(gone.classes.size() == 1 ? "a class is" : str(gone.classes.size(), " classes are"),
                   " (almost) never predicted: ", list_of(gone.parts),
                   advice(settings_against_starving(history, gone.classes, context))),
               names_of(context, gone.classes)};
}

// Pseudo-labels teach nothing before the burn-in is over.
bool is_teaching(const EpochRecord& record, const HealthContext& context) {
  return record.pseudo && !(context.config && record.epoch <= context.config->semi.burn_in_epochs);
}

std::optional<Alarm> pseudo_vanished(const std::vector<EpochRecord>& history, const HealthContext& context) {
  const auto share_of = [&](const EpochRecord& e) {
    return is_teaching(e, context) && e.pseudo->accepted > 0 ? &e.pseudo->share : nullptr;
  };
  if (!share_of(history.back())) return std::nullopt;
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
  return Alarm{"pseudo_vanished",
               str(gone.classes.size() == 1 ? "a class is" : str(gone.classes.size(), " classes are"),
                   " (almost) never a pseudo-label: ", list_of(gone.parts),
                   advice(settings_against_starving(history, gone.classes, context))),
               names_of(context, gone.classes)};
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
    if (!is_teaching(history[i], context) || !selects(history[i], context)) return std::nullopt;
    none = none && history[i].pseudo->accepted < kNearlyNone;
    all = all && history[i].pseudo->accepted > kNearlyAll;
    values.push_back(percent(history[i].pseudo->accepted));
  }
  if (!none && !all) return std::nullopt;
  const std::string now = context.config ? " (now " + value_now(context, "semi.threshold") + ")" : "";
  const bool fixed = !context.config || context.config->semi.threshold.kind == "fixed";
  const double value = context.config ? context.config->semi.threshold.value : 0.95;
  std::string text = str("of the pseudo-labels ", list_of(values), " were accepted in the last ", kStuckEpochs, " epochs: ");
  if (none)
    text += str("the unlabelled images teach nothing; set semi.threshold=",
                fixed ? number(std::round(value * 80) / 100) + now + " or semi.threshold='{kind: class_adaptive}'"
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
  return kind == "miou_falls" || kind == "class_takes_over" || kind == "class_vanished";
}

}  // namespace

std::vector<Alarm> find_alarms(const std::vector<EpochRecord>& history, const HealthContext& context) {
  std::vector<Alarm> alarms;
  if (history.empty()) return alarms;
  for (const auto find : {miou_falls, class_takes_over, class_vanished, pseudo_vanished, acceptance_stuck, no_labelled_pixel})
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

void measure_agreement(Segmenter& network, const Dataset& data, const EvalOptions& options,
                       std::map<std::string, Tensor>* previous, PseudoScores* pseudo) {
  constexpr int64_t kMostImages = 16;
  constexpr int64_t kMostSide = 2048;  // of what the network takes at once: a large tile may not fit into memory
  const at::NoGradGuard no_grad;
  const EvaluationMode evaluating(network);
  const int64_t K = network.num_classes(), images = data.size(Split::kUnlabeled), count = std::min(images, kMostImages);
  auto equal_K = at::zeros({K}, at::kLong), before_K = at::zeros({K}, at::kLong);
  std::map<std::string, Tensor> newest;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = i * images / count;
    const auto image_HWC = middle_of(data.get(Split::kUnlabeled, index).image_HWC, kMostSide, kMostSide);
    const int64_t H = image_HWC.size(0), W = image_HWC.size(1);
    Tensor logits_BKhw;
    {
      const Autocast autocast(options.device, options.precision);
      const auto image_BCHW = normalize(image_HWC.unsqueeze(0).to(options.device), options.mean, options.std);
      logits_BKhw = network.forward(pad_sides(image_BCHW).contiguous(at::MemoryFormat::ChannelsLast));
    }
    const int64_t stride = padded_side(H) / logits_BKhw.size(2);
    const auto class_hw = logits_BKhw.narrow(2, 0, (H + stride - 1) / stride)
                              .narrow(3, 0, (W + stride - 1) / stride)
                              .argmax(1)
                              .squeeze(0)
                              .to(at::kCPU, at::kByte)
                              .contiguous();
    const std::string name = std::to_string(index);
    if (const auto old = previous->find(name); old != previous->end() && old->second.sizes() == class_hw.sizes()) {
      const auto was = old->second.flatten().to(at::kLong);
      before_K += at::bincount(was, {}, K);
      equal_K += at::bincount(was, class_hw.eq(old->second).flatten().to(at::kDouble), K).to(at::kLong);
    }
    newest[name] = class_hw;
  }
  *previous = std::move(newest);

  pseudo->agreement.reset();
  pseudo->agreement_by_class.clear();
  const int64_t pixels = before_K.sum().item<int64_t>();
  if (pixels == 0) return;
  const auto share = [](int64_t part, int64_t whole) { return static_cast<double>(part) / static_cast<double>(whole); };
  pseudo->agreement = share(equal_K.sum().item<int64_t>(), pixels);
  for (int64_t c = 0; c < K; ++c) {
    const int64_t before = before_K[c].item<int64_t>();
    pseudo->agreement_by_class.push_back(before > 0 ? MaybeFraction(share(equal_K[c].item<int64_t>(), before)) : std::nullopt);
  }
}

// --- the diagnosis ---

namespace {

enum class Movement { kNone, kContrary, kBothFall, kFalls, kRises, kRisesAtThePriceOfAccuracy, kFlat };

class Diagnostician {
 public:
  Diagnostician(const std::vector<EpochRecord>& history, const HealthContext& context)
      : history_(history), context_(context), epochs_(evaluated(history)) {
    const auto best = std::max_element(epochs_.begin(), epochs_.end(),
                                       [](const EpochRecord* a, const EpochRecord* b) { return miou(a) < miou(b); });
    to_ = epochs_.back();
    from_ = epochs_.front();
    if (miou(*best) - miou(to_) >= clear_fall(miou(*best))) from_ = *best;
    movement_ = movement();
    iou_ = iou_changes(*from_, *to_);
  }

  Diagnosis run() {
    say_movement();
    say_reason();
    say_classes();
    say_confusion();
    say_shares();
    say_pseudo();
    say_alarms();
    choose_settings();
    return std::move(result_);
  }

 private:
  Movement movement() const {
    if (epochs_.size() == 1) return Movement::kNone;
    const double by = miou(to_) - miou(from_), accuracy_by = accuracy(to_) - accuracy(from_);
    if (by <= -clear_fall(miou(from_)))
      return accuracy_by >= kLeastRise    ? Movement::kContrary
             : accuracy_by <= -kLeastRise ? Movement::kBothFall
                                          : Movement::kFalls;
    if (by < clear_fall(miou(from_))) return Movement::kFlat;
    return accuracy_by <= -kLeastRise ? Movement::kRisesAtThePriceOfAccuracy : Movement::kRises;
  }

  bool falls() const {
    return movement_ == Movement::kContrary || movement_ == Movement::kBothFall || movement_ == Movement::kFalls;
  }

  // By how much mIoU rose in the last third of the evaluated epochs, and how many those are; nothing where the newest is not
  // the best or that is not a clear rise.
  std::optional<std::pair<int64_t, double>> late_rise() const {
    const size_t late = std::max<size_t>(1, epochs_.size() / 3);
    const double before = miou(epochs_[epochs_.size() - 1 - late]), now = miou(to_);
    for (const EpochRecord* epoch : epochs_)
      if (miou(epoch) > now) return std::nullopt;
    if (now - before < clear_fall(now)) return std::nullopt;
    return std::pair(static_cast<int64_t>(late), now - before);
  }

  void say(const std::string& kind, const std::string& text, const std::vector<size_t>& classes = {}) {
    result_.findings.push_back({kind, text, names_of(context_, classes)});
  }

  void say_movement() {
    const auto moved = [&](const char* what, double from, double to) {
      return str(what,
                 std::abs(to - from) < 5e-5 ? " stays at "
                 : to > from                ? " rises from "
                                            : " falls from ",
                 std::abs(to - from) < 5e-5 ? percent(to) : percent(from) + " to " + percent(to));
    };
    const Scores &a = *from_->val, &b = *to_->val;
    if (movement_ == Movement::kNone)
      return say("movement",
                 str("mIoU is ", percent(b.miou), ", mean class accuracy ", percent(b.mean_class_accuracy), ", pixel accuracy ",
                     percent(b.pixel_accuracy), "; with one set of scores there is no movement to explain"));
    const bool contrary = movement_ == Movement::kContrary || movement_ == Movement::kRisesAtThePriceOfAccuracy;
    std::string text =
        str("from ", time_of(*from_), falls() ? ", the best," : "", " to ", time_of(*to_), " ", moved("mIoU", a.miou, b.miou),
            contrary ? " while " : ", ", moved("pixel accuracy", a.pixel_accuracy, b.pixel_accuracy), "; ",
            moved("mean class accuracy", a.mean_class_accuracy, b.mean_class_accuracy));
    if (from_->loss > 0 && to_->loss > 0)
      text += str("; the training loss goes from ", format("%.3f", from_->loss), " to ", format("%.3f", to_->loss));
    say("movement", text);
  }

  void say_reason() {
    const Scores &a = *from_->val, &b = *to_->val;
    switch (movement_) {
      case Movement::kContrary: {
        std::string text =
            "pixel accuracy weighs every pixel alike, so the frequent classes make it; mIoU and mean class accuracy weigh "
            "every class alike, so a rare class counts as much as a frequent one. The frequent classes improve, which lifts "
            "pixel accuracy by " +
            points(b.pixel_accuracy - a.pixel_accuracy) + ", while rare classes starve: their pixels " +
            (b.confusion.empty() ? "most likely " : "") + "go over to frequent classes, which costs mIoU " +
            points(a.miou - b.miou);
        if (b.mean_class_accuracy < a.mean_class_accuracy) {
          const double lost = a.mean_class_accuracy - b.mean_class_accuracy;
          const size_t K = std::max(context_.class_names.size(), b.iou.size());
          text += str(". The ", points(lost), " of mean class accuracy that are lost are as much as ",
                      format("%.1f", lost * (K > 0 ? static_cast<double>(K) : 19)), " of ", K > 0 ? K : 19,
                      K > 0 ? " classes" : " classes (as many as Cityscapes has)", " no longer recognised at all");
        }
        if (from_->loss > to_->loss && to_->loss > 0)
          text += ". The loss falls, so training works: it, too, is a mean over pixels and asks for nothing else";
        if (b.iou.empty())
          text +=
              ". Which classes they are, these four numbers cannot tell: give confusion matrices, or --labels and "
              "--predictions";
        return say("reason", text);
      }
      case Movement::kBothFall:
        return say("reason",
                   "mIoU and pixel accuracy fall together: this is not rare classes losing to frequent ones, but a network "
                   "that gets worse: wrong pseudo-labels that feed themselves, a learning rate that is too high, or labels "
                   "of the training images that differ from those of validation");
      case Movement::kFalls:
        return say("reason",
                   "mIoU falls and pixel accuracy hardly moves: few pixels change hands, but they are those of rare classes");
      case Movement::kRisesAtThePriceOfAccuracy:
        return say("reason",
                   "rare classes gain pixels of frequent ones, as with strong class weights: good for mIoU, which weighs "
                   "classes alike, at the price of pixel accuracy");
      case Movement::kRises:
        if (const auto rise = late_rise())
          return say("reason", str("mIoU still rises at the end, by ", points(rise->second), " in the last ",
                                   rise->first == 1 ? "evaluated epoch" : str(rise->first, " evaluated epochs"),
                                   ": train longer first (`semiseg train --resume RUN --extend EPOCHS`)"));
        return say("reason", "mIoU rises: nothing is wrong with its direction");
      case Movement::kFlat:
        return say("reason", "mIoU moves by less than what would be clear (3 % of it, half a point)");
      case Movement::kNone:
        if (b.pixel_accuracy - b.miou > 0.3)
          say("reason", str("pixel accuracy is ", points(b.pixel_accuracy - b.miou),
                            " above mIoU: it weighs pixels, mIoU weighs classes, so some classes are recognised far less than "
                            "the frequent ones"));
        return;
    }
  }

  void say_classes() {
    if (!has_classes(*to_)) return;
    if (movement_ == Movement::kNone) {
      for (const size_t c : worst()) losing_.push_back(c);
      std::vector<std::string> parts;
      for (const size_t c : losing_) parts.push_back(str(name_of(context_, c), " ", percent(to_->val->iou[c])));
      if (!parts.empty()) say("classes", "lowest IoU: " + list_of(parts), losing_);
      return;
    }
    losing_ = notable(iou_, /*falling=*/true, kMostClasses);
    auto upwards = iou_;
    std::reverse(upwards.begin(), upwards.end());
    const auto gaining = notable(upwards, /*falling=*/false, kMostClasses);
    const auto texts = [&](const std::vector<size_t>& classes) {
      std::vector<std::string> parts;
      for (const size_t c : classes) {
        const auto change = std::find_if(iou_.begin(), iou_.end(), [&](const Change& x) { return x.c == c; });
        parts.push_back(str(name_of(context_, c), " ", percent(change->from), " -> ", percent(change->to),
                            has_shares(*to_) ? str(" (", percent(to_->val->label_share[c]), " of the labelled pixels)") : ""));
      }
      return list_of(parts);
    };
    if (!losing_.empty()) say("classes", "IoU fell most of " + texts(losing_), losing_);
    if (!gaining.empty()) say("classes", "IoU rose most of " + texts(gaining), gaining);
    say_parts(gaining);
  }

  // What single classes contribute: accuracy is the sum of label share x class accuracy, mIoU the mean of IoU.
  void say_parts(const std::vector<size_t>& gaining) {
    if (movement_ != Movement::kContrary || !has_shares(*to_)) return;
    const Scores &a = *from_->val, &b = *to_->val;
    double lifted = 0, lost = 0;
    for (const size_t c : gaining)
      if (c < a.class_accuracy.size() && c < b.class_accuracy.size() && a.class_accuracy[c] && b.class_accuracy[c])
        lifted += b.label_share[c] * (*b.class_accuracy[c] - *a.class_accuracy[c]);
    for (const Change& change : iou_)
      if (std::find(losing_.begin(), losing_.end(), change.c) != losing_.end()) lost += change.by();
    if (iou_.empty() || losing_.empty() || gaining.empty()) return;
    say("classes", str(list_of(names_of(context_, gaining)), gaining.size() == 1 ? " brings " : " bring ",
                       signed_points(lifted), " of the ", signed_points(b.pixel_accuracy - a.pixel_accuracy),
                       " points of pixel accuracy; ", list_of(names_of(context_, losing_)),
                       losing_.size() == 1 ? " brings " : " bring ", signed_points(lost / static_cast<double>(iou_.size())),
                       " of the ", signed_points(b.miou - a.miou), " points of mIoU"));
  }

  std::vector<size_t> worst() const {
    std::vector<size_t> classes;
    for (size_t c = 0; c < to_->val->iou.size(); ++c)
      if (to_->val->iou[c] && (to_->val->label_share.empty() || to_->val->label_share[c] > 0)) classes.push_back(c);
    std::stable_sort(classes.begin(), classes.end(), [&](size_t a, size_t b) { return *to_->val->iou[a] < *to_->val->iou[b]; });
    if (classes.size() > kMostClasses) classes.resize(kMostClasses);
    return classes;
  }

  // Row `c` of the confusion matrix of an epoch, as shares; empty where there is none.
  std::vector<double> predicted_as(const EpochRecord* epoch, size_t c) const {
    if (epoch->val->confusion.empty()) return {};
    const auto& row = epoch->val->confusion[c];
    std::vector<double> shares(row.begin(), row.end());
    const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
    for (double& share : shares) share = sum > 0 ? share / sum : 0;
    return shares;
  }

  void say_confusion() {
    std::vector<std::string> parts;
    std::vector<size_t> classes;
    for (const size_t c : losing_.empty() && has_classes(*to_) ? worst() : losing_) {
      const auto row = predicted_as(to_, c);
      std::optional<size_t> other;
      for (size_t p = 0; p < row.size(); ++p)
        if (p != c && row[p] >= 0.05 && (!other || row[p] > row[*other])) other = p;
      if (!other) continue;
      std::string part = str(name_of(context_, c), " is predicted as ", name_of(context_, *other), " in ",
                             format("%.0f %%", 100 * row[*other]), " of its pixels");
      if (const auto before = predicted_as(from_, c); from_ != to_ && *other < before.size())
        part += format(" (%.0f %% ", 100 * before[*other]) + (from_->epoch == 0 ? "" : "in ") + time_of(*from_) + ")";
      parts.push_back(part);
      classes.push_back(*other);
    }
    if (parts.empty()) return;
    std::sort(classes.begin(), classes.end());
    classes.erase(std::unique(classes.begin(), classes.end()), classes.end());
    say("confusion", list_of(parts), classes);
  }

  // Classes predicted on less than `least` times as many pixels as they are labelled on.
  std::vector<size_t> under_predicted(double least) const {
    std::vector<size_t> classes;
    if (has_shares(*to_))
      for (size_t c = 0; c < to_->val->label_share.size(); ++c)
        if (to_->val->prediction_share[c] < least * to_->val->label_share[c]) classes.push_back(c);
    return classes;
  }

  void say_shares() {
    if (!has_shares(*to_)) return;
    const auto text = [&](size_t c) {
      std::string part = str(name_of(context_, c), " is labelled on ", percent(to_->val->label_share[c]),
                             " of the pixels and predicted on ", percent(to_->val->prediction_share[c]));
      if (from_ != to_ && has_shares(*from_) && c < from_->val->prediction_share.size())
        part += str(" (", time_of(*from_), ": ", percent(from_->val->prediction_share[c]), ")");
      return part;
    };
    std::vector<size_t> classes;
    for (const size_t c : losing_)
      if (to_->val->prediction_share[c] < to_->val->label_share[c]) classes.push_back(c);
    for (const size_t c : under_predicted(0.5))
      if (std::find(classes.begin(), classes.end(), c) == classes.end()) classes.push_back(c);
    for (size_t c = 0; c < to_->val->prediction_share.size(); ++c)
      if (to_->val->prediction_share[c] - to_->val->label_share[c] >= 0.02) classes.push_back(c);
    std::vector<std::string> parts;
    for (const size_t c : classes) parts.push_back(text(c));
    if (!parts.empty()) say("shares", list_of(parts), classes);
  }

  void say_pseudo() {
    const auto last =
        std::find_if(history_.rbegin(), history_.rend(), [](const EpochRecord& e) { return e.pseudo.has_value(); });
    if (last == history_.rend()) return;
    const PseudoScores& pseudo = *last->pseudo;
    const auto reference = reference_share(history_, context_);
    std::string text = str("in epoch ", last->epoch, " ", percent(pseudo.accepted), " of the pseudo-labels were accepted");
    if (pseudo.agreement)
      text += str("; ", percent(*pseudo.agreement),
                  " of the pixels of fixed unlabelled images kept their class since the evaluation before");
    std::vector<std::string> parts;
    for (const size_t c : losing_) {
      if (c >= pseudo.share.size()) continue;
      std::string part = str(name_of(context_, c), " makes ", percent(pseudo.share[c]), " of them and ",
                             percent(share_or_zero(reference, c)), " of the labels");
      if (c < pseudo.precision.size() && (pseudo.precision[c] || pseudo.recall[c]))
        part += str(" (precision ", percent(pseudo.precision[c]), ", recall ", percent(pseudo.recall[c]), ")");
      parts.push_back(part);
    }
    if (!parts.empty()) text += "; " + list_of(parts);
    say("pseudo", text, losing_);
  }

  // Each kind of alarm once: when, and what it said last.
  void say_alarms() {
    struct Seen {
      Alarm alarm;
      std::vector<int64_t> epochs;
    };
    std::vector<Seen> seen;
    std::vector<EpochRecord> past;
    for (const EpochRecord& record : history_) {
      past.push_back(record);
      for (const Alarm& alarm : context_.alarms_are_recorded ? record.alarms : find_alarms(past, context_)) {
        const auto same = std::find_if(seen.begin(), seen.end(), [&](const Seen& s) { return s.alarm.kind == alarm.kind; });
        if (same == seen.end())
          seen.push_back({alarm, {record.epoch}});
        else
          same->alarm = alarm, same->epochs.push_back(record.epoch);
      }
    }
    for (const Seen& s : seen) {
      std::string when = str("epoch ", s.epochs.front());
      if (s.epochs.size() > 1) when = str(s.epochs.size(), " epochs, ", s.epochs.front(), " to ", s.epochs.back());
      result_.findings.push_back(
          {s.alarm.kind, "alarm " + s.alarm.kind + " (" + when + "): " + s.alarm.message, s.alarm.classes});
      alarmed_ = alarmed_ || (s.alarm.kind != "no_labelled_pixel" && s.epochs.back() >= to_->epoch);
    }
  }

  void choose_settings() {
    const Config* config = context_.config;
    if (movement_ == Movement::kBothFall) {
      if (config)
        result_.settings.push_back(setting(context_, "optim.lr", number(config->optim.lr / 3), "smaller steps"));
      else
        result_.settings.push_back({"optim.lr", "", "a third of the present one"});
      if (config && may_set(context_, "semi.weight"))
        result_.settings.push_back(setting(context_, "semi.weight", number(config->semi.weight / 2),
                                           "pseudo-labels, which may be wrong, then weigh less"));
      if (config && may_set(context_, "semi.burn_in_epochs"))
        result_.settings.push_back(setting(context_, "semi.burn_in_epochs", str(config->semi.burn_in_epochs + 5),
                                           "labels alone teach until the pseudo-labels are worth learning"));
      return;
    }
    const bool healthy = movement_ == Movement::kRises || movement_ == Movement::kRisesAtThePriceOfAccuracy;
    const auto starving = healthy || losing_.empty() ? under_predicted(kPresent) : losing_;
    if (healthy && !alarmed_ && starving.empty()) return;
    if (movement_ != Movement::kContrary && movement_ != Movement::kFalls && starving.empty() && !alarmed_) return;
    result_.settings = settings_against_starving(history_, starving, context_);
  }

  const std::vector<EpochRecord>& history_;
  const HealthContext& context_;
  Epochs epochs_;
  const EpochRecord *from_ = nullptr, *to_ = nullptr;
  Movement movement_ = Movement::kNone;
  std::vector<Change> iou_;
  std::vector<size_t> losing_;
  bool alarmed_ = false;  // an alarm lasts to the end
  Diagnosis result_;
};

}  // namespace

Diagnosis diagnose(const std::vector<EpochRecord>& history, const HealthContext& context) {
  return Diagnostician(history, context).run();
}

}  // namespace semiseg
