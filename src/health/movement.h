// How scores and classes move from epoch to epoch, and what counts as a clear movement.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "semiseg/health.h"

namespace semiseg {

using Epochs = std::vector<const EpochRecord*>;  // evaluated ones

inline constexpr double kLeastPeak = 0.1;  // of an mIoU that can fall at once

inline constexpr double kPresent = 0.1;  // predicted share by labelled share
inline constexpr size_t kFewEpochs = 6;  // evaluated ones: with less, nothing is known of ups and downs

Epochs evaluated(const std::vector<EpochRecord>& history);

inline double miou(const EpochRecord* e) { return e->val->miou; }
inline double accuracy(const EpochRecord* e) { return e->val->pixel_accuracy; }
inline bool has_classes(const EpochRecord& e) { return e.val && !e.val->iou.empty(); }
// Of a class, and of all, by the confusion matrix. REQUIRES: it has one.
int64_t labelled_pixels(const Scores& scores, size_t c);
int64_t labelled_pixels(const Scores& scores);
// Whether so few pixels are labelled as a class that it tells nothing.
inline constexpr int64_t kLeastPixels = 100;
bool has_few_pixels(const Scores& scores, size_t c);
inline bool has_shares(const EpochRecord& e) { return e.val && !e.val->prediction_share.empty(); }
// Whether a class has less than an even share of the labels. REQUIRES: has_shares.
inline bool is_rare(const Scores& s, size_t c) { return s.label_share[c] < 1 / static_cast<double>(s.label_share.size()); }

// mIoU of the three epochs up to `end`, or whatever `value` gives, in the mean.
double mean_of_three(const Epochs& epochs, size_t end, double (*value)(const EpochRecord*));

// False where it is not known.
bool class_accuracy_rises(const EpochRecord& from, const EpochRecord& to);
bool loss_falls(const EpochRecord& from, const EpochRecord& to);

// Classes without labelled pixels that are in the mean of `to`, with an IoU of 0, and were not in that of `from`: they count
// from the first pixel that is predicted as them.
std::vector<size_t> newly_counted(const EpochRecord& from, const EpochRecord& to);
// By how much the mean IoU fell of the classes that both epochs have.
double common_fall(const EpochRecord& from, const EpochRecord& to);
// Whether mIoU falls by newly counted classes alone.
bool falls_by_counting(const EpochRecord& from, const EpochRecord& to);

// By how much mIoU must fall from `from` for the fall to be clear.
double clear_fall(double from);
// By how much pixel accuracy must move from `from` for that to be worth a word: .2 points, or less where few errors are left.
double clear_rise(double from);
// What a movement of mIoU up to the epoch `end` must exceed not to be its usual ups and downs; 0 where there are too few epochs
// to tell. The more epochs, the further apart the best and the worst of them are by chance.
double noise(const Epochs& epochs, size_t end);

// The epoch from which mIoU has been falling while pixel accuracy rises, if the newest one lies in such a fall (health.h:
// miou_falls).
std::optional<size_t> fall_begin(const Epochs& epochs, const HealthContext& context);
// The best epoch, if the newest one lies clearly below it: epoch by epoch; at once and for good; in the newest epoch alone by
// 15 % or twice the noise, unless such drops were regained before; or by means over a quarter of the epochs (three to ten).
// With ups and downs alone there is none.
std::optional<size_t> peak_before_fall(const Epochs& epochs, const HealthContext& context);

struct Change {
  size_t c;  // class
  double from, to;
  double usual = 0;  // step from epoch to epoch
  double by() const { return to - from; }
};
// Of all classes that both epochs have: IoU, the deepest fall first; share of the predictions, the largest gain first.
std::vector<Change> iou_changes(const EpochRecord& from, const EpochRecord& to, const Epochs& epochs);
std::vector<Change> share_changes(const EpochRecord& from, const EpochRecord& to);
// The first `most` classes of sorted changes that go in the wanted direction by an amount that is worth a word: .5 points, and
// more than two usual steps.
std::vector<size_t> notable(const std::vector<Change>& changes, bool falling, size_t most);

// What takes IoU from the classes that lose: their pixels are not found, or they are called where they are not. With recall r
// and wrongly called pixels f, both by labelled pixels, IoU = r / (1 + f); a class is counted, with all that it loses, under
// what takes more.
struct Losses {
  double missed = 0, called = 0;  // IoU
  double missed_rare = 0;         // of missed: by classes with less than an even share of the labels
};
// Nothing where class accuracy and shares of single classes are not known.
std::optional<Losses> losses(const EpochRecord& from, const EpochRecord& to);
// Whether most of the loss is that of rare classes that are not found: the others hardly lose.
bool rare_ones_alone_lose(const EpochRecord& from, const EpochRecord& to);

// Whether most of what the losing classes lose is predicted as classes that are rare: `than`(c) is the share of the labels
// below which a class is so for class c.
bool loses_to_rare(const EpochRecord& to, const std::vector<Change>& iou, const std::function<double(size_t)>& than);
// Whether mIoU falls because classes are called where they are not, instead of not being found. Where classes are not known,
// mean class accuracy has to tell, which wrongly called pixels do not lower. `iou`: iou_changes() between the two.
bool calls_too_much(const EpochRecord& from, const EpochRecord& to, const std::vector<Change>& iou);

// What pseudo-labels and predictions are held against: the labelled pixels' share, or the validation labels' where that is not
// known; empty where neither is.
std::vector<double> reference_share(const std::vector<EpochRecord>& history, const HealthContext& context);
inline double share_or_zero(const std::vector<double>& shares, size_t c) { return c < shares.size() ? shares[c] : 0; }

}  // namespace semiseg
