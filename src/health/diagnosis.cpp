#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>

#include "health/mapping.h"
#include "health/movement.h"
#include "health/settings.h"
#include "health/words.h"
#include "semiseg/error.h"
#include "semiseg/health.h"

namespace semiseg {
namespace {

enum class Movement {
  kNone,          // one set of scores
  kStarves,       // mIoU falls, pixel accuracy rises
  kOvercorrects,  // mIoU falls, mean class accuracy rises: rare classes are called where they are not
  kCountsOthers,  // mIoU falls by classes that were in no mean before
  kForgets,       // all scores fall, the training loss too
  kWorsens,       // all scores fall
  kFalls,         // mIoU alone
  kRises,
  kRisesAtThePriceOfAccuracy,
  kFlat
};

class Diagnostician {
 public:
  Diagnostician(const std::vector<EpochRecord>& history, const HealthContext& context)
      : history_(history), context_(context), epochs_(evaluated(history)) {
    to_ = epochs_.back();
    from_ = epochs_.front();
    const auto peak = epochs_.size() > 1 ? peak_before_fall(epochs_, context_) : std::nullopt;
    if (peak) from_ = epochs_[*peak];
    iou_ = iou_changes(*from_, *to_, epochs_);
    movement_ = movement(/*falls=*/peak.has_value());
    mix_up_ = find_mix_up(*epochs_.front()->val, *to_->val, context_);
    if (!mix_up_) voids_ = counted_voids(*to_->val, context_);
  }

  Diagnosis run() {
    say_movement();
    if (mix_up_) say("mapping", mix_up_->text, mix_up_->classes);
    say_voids();
    if (!mix_up_) say_reason();
    say_classes();
    say_confusion();
    say_shares();
    say_pseudo();
    if (!mix_up_) say_alarms();
    choose_settings();
    if (!voids_.empty())
      result_.settings.insert(result_.settings.begin(), {"data.classes", value_now(context_, "data.classes"),
                                                         "without " + list_of(names_of(context_, voids_)) +
                                                             ", whose label value goes under ignore in the class file"});
    return std::move(result_);
  }

 private:
  Movement movement(bool falls) const {
    if (epochs_.size() == 1) return Movement::kNone;
    const double by = miou(to_) - miou(from_), accuracy_by = accuracy(to_) - accuracy(from_);
    const double least = clear_rise(accuracy(from_));
    if (!falls) {
      if (by < clear_fall(miou(from_))) return Movement::kFlat;
      return accuracy_by <= -least ? Movement::kRisesAtThePriceOfAccuracy : Movement::kRises;
    }
    if (falls_by_counting(*from_, *to_)) return Movement::kCountsOthers;
    if (calls_too_much(*from_, *to_, iou_)) return Movement::kOvercorrects;
    if (accuracy_by >= least) return Movement::kStarves;
    if (accuracy_by > -least || rare_ones_alone_lose(*from_, *to_)) return Movement::kFalls;
    return loss_falls(*from_, *to_) ? Movement::kForgets : Movement::kWorsens;
  }

  bool loses_to_rare() const {
    const double even = 1 / static_cast<double>(to_->val->confusion.size());
    return semiseg::loses_to_rare(*to_, iou_, [&](size_t) { return even; });
  }

  // Whether pixel accuracy is so far above mIoU that some classes must be recognised far less than the frequent ones.
  bool is_apart() const { return accuracy(to_) - miou(to_) > 0.3; }

  bool falls() const {
    return movement_ != Movement::kNone && movement_ != Movement::kRises && movement_ != Movement::kFlat &&
           movement_ != Movement::kRisesAtThePriceOfAccuracy;
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
      return say(
          "movement",
          str("mIoU is ", percent(b.miou),
              std::isnan(b.mean_class_accuracy) ? "" : ", mean class accuracy " + percent(b.mean_class_accuracy),
              ", pixel accuracy ", percent(b.pixel_accuracy), "; with one set of scores there is no movement to explain"));
    const bool contrary = (miou(to_) - miou(from_)) * (accuracy(to_) - accuracy(from_)) < 0;
    std::string text = str("from ", time_of(*from_, context_), falls() ? ", the best," : "", " to ", time_of(*to_, context_),
                           " ", moved("mIoU", a.miou, b.miou), contrary ? " while " : ", ",
                           moved("pixel accuracy", a.pixel_accuracy, b.pixel_accuracy));
    if (!std::isnan(a.mean_class_accuracy) && !std::isnan(b.mean_class_accuracy))
      text += "; " + moved("mean class accuracy", a.mean_class_accuracy, b.mean_class_accuracy);
    if (from_->loss > 0 && to_->loss > 0)
      text += str("; the training loss goes from ", format("%.3f", from_->loss), " to ", format("%.3f", to_->loss));
    say("movement", text);
  }

  void say_reason() {
    const Scores &a = *from_->val, &b = *to_->val;
    switch (movement_) {
      case Movement::kStarves: {
        std::string text =
            "pixel accuracy weighs every pixel alike, so the frequent classes make it; mIoU and mean class accuracy weigh "
            "every class alike, so a rare class counts as much as a frequent one. The frequent classes improve, which lifts "
            "pixel accuracy by " +
            points(b.pixel_accuracy - a.pixel_accuracy) + ", while rare classes starve: their pixels " +
            (b.confusion.empty() ? "most likely go over to frequent classes"
             : loses_to_rare()   ? "go over to other rare classes, with which they are confused"
                                 : "go over to frequent classes") +
            ", which costs mIoU " + points(a.miou - b.miou);
        if (b.mean_class_accuracy < a.mean_class_accuracy) {
          const double lost = a.mean_class_accuracy - b.mean_class_accuracy;
          text += str(". The ", points(lost), " of mean class accuracy that are lost are as much as ");
          if (const size_t K = std::max(context_.class_names.size(), b.iou.size()); K > 0)
            text += str(format("%.1f", lost * static_cast<double>(K)), " of ", K, " classes no longer recognised at all");
          else
            text += str("one class in ", format("%.0f", 1 / lost), " no longer recognised at all");
        }
        if (loss_falls(*from_, *to_))
          text += ". The loss falls, so training works: it, too, is a mean over pixels and asks for nothing else";
        if (b.iou.empty())
          text +=
              ". Which classes they are, these numbers cannot tell: give a column iou/NAME for each class, confusion matrices, "
              "or "
              "--labels and --predictions";
        return say("reason", text);
      }
      case Movement::kOvercorrects:
        return say(
            "reason",
            str("mIoU falls by ", points(a.miou - b.miou),
                class_accuracy_rises(*from_, *to_)
                    ? " although mean class accuracy rises by " + points(b.mean_class_accuracy - a.mean_class_accuracy)
                    : std::string(" though the classes that lose are found nearly as before"),
                ": classes are called where they are not, which IoU counts and class accuracy does not. What favours rare "
                "classes "
                "is too strong: class weights, logit adjustment, rare class sampling, or pseudo-labels that carry their bias "
                "on"));
      case Movement::kCountsOthers: {
        const auto classes = newly_counted(*from_, *to_);
        std::vector<std::string> parts;
        for (const size_t c : classes)
          parts.push_back(
              str(name_of(context_, c),
                  has_shares(*to_) ? " (predicted on " + percent(to_->val->prediction_share[c]) + " of the pixels)" : ""));
        return say(
            "reason",
            str("the classes that both epochs count hardly move (", signed_points(-common_fall(*from_, *to_)),
                " points); mIoU falls because ", list_of(parts), classes.size() == 1 ? " counts" : " count",
                " now: a class without labelled pixels is in no mean until a pixel is predicted as it, and then with an IoU "
                "of 0. Add validation images that hold it, or leave it out of the classes"),
            classes);
      }
      case Movement::kForgets:
        return say(
            "reason",
            str("all scores fall while the training loss falls from ", format("%.3f", from_->loss), " to ",
                format("%.3f", to_->loss),
                ": the network learns what it is shown and gets worse at what it is not: it learns the labelled images by "
                "heart (over-fitting: few images, many epochs), or wrong pseudo-labels that feed themselves, or training "
                "labels that differ from those of validation"));
      case Movement::kWorsens:
        return say("reason",
                   "mIoU and pixel accuracy fall together: this is not rare classes losing to frequent ones, but a network "
                   "that gets worse: wrong pseudo-labels that feed themselves, a learning rate that is too high, or labels "
                   "of the training images that differ from those of validation");
      case Movement::kFalls:
        return say(
            "reason",
            rare_ones_alone_lose(*from_, *to_)
                ? "mIoU falls by what rare classes lose, whose pixels are no longer found; the others hardly lose"
            : has_classes(*to_) || !loss_falls(*from_, *to_)
                ? "mIoU falls and pixel accuracy hardly moves: few pixels change hands, but they are those of rare classes"
                : "mIoU falls and pixel accuracy hardly moves: few pixels change hands, most likely those of rare classes; as "
                  "the training loss falls meanwhile, it may be over-fitting, too, which would take of all classes: a column "
                  "iou/NAME for each would tell");
      case Movement::kRisesAtThePriceOfAccuracy:
        return say("reason",
                   "rare classes gain pixels of frequent ones, as with strong class weights: good for mIoU, which weighs "
                   "classes alike, at the price of pixel accuracy");
      case Movement::kRises:
        if (const auto rise = late_rise())
          return say("reason", str("mIoU still rises at the end, by ", points(rise->second), " in the last ",
                                   rise->first == 1 ? "evaluated epoch" : str(rise->first, " evaluated epochs"),
                                   ": train longer before anything else",
                                   context_.config ? " (`semiseg train --resume RUN --extend EPOCHS`)" : ""));
        return say("reason", "mIoU rises: nothing is wrong with its direction");
      case Movement::kFlat:
        return say("reason",
                   str("mIoU moves by less than what would be clear (3 % of it, half a point",
                       epochs_.size() >= kFewEpochs ? ", and more than its ups and downs from epoch to epoch" : "", ")"));
      case Movement::kNone:
        if (is_apart())
          say("reason", str("pixel accuracy is ", points(b.pixel_accuracy - b.miou),
                            " above mIoU: it weighs pixels, mIoU weighs classes, so some classes are recognised far less than "
                            "the frequent ones"));
        return;
    }
  }

  void say_classes() {
    if (!has_classes(*to_)) return;
    if (movement_ == Movement::kNone) {
      const auto lowest = worst();
      std::vector<std::string> parts;
      for (const size_t c : lowest) parts.push_back(str(name_of(context_, c), " ", percent(to_->val->iou[c])));
      if (!parts.empty()) say("classes", "lowest IoU: " + list_of(parts), lowest);
      for (const size_t c : lowest)
        if (is_missed(c)) losing_.push_back(c);
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
    if (movement_ != Movement::kStarves || !has_shares(*to_)) return;
    const Scores &a = *from_->val, &b = *to_->val;
    double lifted = 0, lost = 0;
    for (const size_t c : gaining)
      if (c < a.class_accuracy.size() && c < b.class_accuracy.size() && a.class_accuracy[c] && b.class_accuracy[c])
        lifted += b.label_share[c] * (*b.class_accuracy[c] - *a.class_accuracy[c]);
    for (const Change& change : iou_)
      if (std::find(losing_.begin(), losing_.end(), change.c) != losing_.end()) lost += change.by();
    if (iou_.empty() || losing_.empty() || gaining.empty() || b.class_accuracy.empty()) return;
    say("classes",
        str(list_of(names_of(context_, gaining)), " alone would move pixel accuracy by ", signed_points(lifted),
            " points (it moved by ", signed_points(b.pixel_accuracy - a.pixel_accuracy), "), ",
            list_of(names_of(context_, losing_)), " alone mIoU by ", signed_points(lost / static_cast<double>(iou_.size())),
            " (it moved by ", signed_points(b.miou - a.miou), ")"));
  }

  // Whether the only scores that there are show a class to starve: less than half of it is found, and it is predicted less than
  // it is labelled.
  bool is_missed(size_t c) const {
    const Scores& s = *to_->val;
    if (!has_shares(*to_) || s.class_accuracy.empty() || !s.class_accuracy[c]) return *s.iou[c] < s.miou / 2;
    return *s.class_accuracy[c] < 0.5 && s.prediction_share[c] < s.label_share[c];
  }

  void say_voids() {
    if (voids_.empty()) return;
    double share = 0;
    for (const size_t c : voids_) share += to_->val->label_share[c];
    say("mapping",
        str(list_of(names_of(context_, voids_)), voids_.size() == 1 ? " is" : " are", " counted as a class, on ",
            percent(share), " of the labelled pixels, with an IoU of 0: leave such pixels out (255 in the labels)"),
        voids_);
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
        part += format(" (%.0f %% ", 100 * before[*other]) + (is_start(*from_, context_) ? "" : "in ") +
                time_of(*from_, context_) + ")";
      parts.push_back(part);
      classes.push_back(*other);
    }
    if (parts.empty()) return;
    std::sort(classes.begin(), classes.end());
    classes.erase(std::unique(classes.begin(), classes.end()), classes.end());
    say("confusion", list_of(parts), classes);
  }

  // Not without labelled pixels to learn from, nor where it stands for none or has next to none.
  bool can_be_learned(size_t c) const {
    const bool labelled = context_.label_share.empty() || share_or_zero(context_.label_share, c) > 0;
    return labelled && !has_few_pixels(*to_->val, c) && std::find(voids_.begin(), voids_.end(), c) == voids_.end();
  }

  // Classes predicted on less than `least` times as many pixels as they are labelled on.
  std::vector<size_t> under_predicted(double least) const {
    std::vector<size_t> classes;
    if (has_shares(*to_))
      for (size_t c = 0; c < to_->val->label_share.size(); ++c)
        if (to_->val->prediction_share[c] < least * to_->val->label_share[c] && can_be_learned(c)) classes.push_back(c);
    return classes;
  }

  void say_shares() {
    if (!has_shares(*to_)) return;
    const auto text = [&](size_t c) {
      std::string part = str(name_of(context_, c), " is labelled on ", percent(to_->val->label_share[c]),
                             " of the pixels and predicted on ", percent(to_->val->prediction_share[c]));
      if (from_ != to_ && has_shares(*from_) && c < from_->val->prediction_share.size())
        part += str(" (", time_of(*from_, context_), ": ", percent(from_->val->prediction_share[c]), ")");
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
      std::string part =
          str(name_of(context_, c), " makes ", percent(pseudo.share[c]), " of them and ", percent(share_or_zero(reference, c)),
              context_.label_share.empty() ? " of the validation labels" : " of the labels");
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
      const bool lasts = s.epochs.back() >= to_->epoch, once = s.alarm.kind == "no_labelled_pixel";
      const std::string of = s.alarm.classes.empty() ? "" : " of " + list_of(s.alarm.classes);
      result_.findings.push_back(
          {s.alarm.kind,
           "alarm " + s.alarm.kind + " (" + when + ")" + (lasts || once ? ": " + s.alarm.message : of + " is over"),
           s.alarm.classes});
      alarmed_ = alarmed_ || (lasts && !once);
    }
  }

  void choose_settings() {
    std::vector<size_t> losing;
    for (const size_t c : losing_)
      if (can_be_learned(c)) losing.push_back(c);
    if (mix_up_) {
      result_.settings = {{"data.classes", value_now(context_, "data.classes"),
                           "the same ids for the same classes on both sides come before anything else"}};
      return;
    }
    switch (movement_) {
      case Movement::kStarves:
      case Movement::kFalls:
        result_.settings = settings_against_starving(history_, losing.empty() ? under_predicted(kPresent) : losing, context_);
        return;
      case Movement::kOvercorrects:
        result_.settings = settings_against_overcorrection(context_);
        return;
      case Movement::kForgets:
      case Movement::kWorsens:
        result_.settings = settings_against_decline(movement_ == Movement::kForgets, *from_, context_);
        return;
      case Movement::kCountsOthers:
        return;
      case Movement::kNone: {
        // Without single classes the distance between the scores has to tell.
        if (!losing.empty() || alarmed_ || (!has_classes(*to_) && is_apart()))
          result_.settings = settings_against_starving(history_, losing, context_);
        return;
      }
      case Movement::kRises:
      case Movement::kRisesAtThePriceOfAccuracy:
      case Movement::kFlat: {
        const auto starving = under_predicted(kPresent);
        if (!starving.empty() || alarmed_) result_.settings = settings_against_starving(history_, starving, context_);
        return;
      }
    }
  }

  const std::vector<EpochRecord>& history_;
  const HealthContext& context_;
  Epochs epochs_;
  const EpochRecord *from_ = nullptr, *to_ = nullptr;
  Movement movement_ = Movement::kNone;
  std::optional<MixUp> mix_up_;
  std::vector<size_t> voids_;
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
