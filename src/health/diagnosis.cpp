#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "health/movement.h"
#include "health/settings.h"
#include "health/words.h"
#include "semiseg/error.h"
#include "semiseg/health.h"

namespace semiseg {
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
