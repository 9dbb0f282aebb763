// How scores and classes move from epoch to epoch, and what counts as a clear movement.
#pragma once

#include <optional>
#include <vector>

#include "semiseg/health.h"

namespace semiseg {

using Epochs = std::vector<const EpochRecord*>;  // evaluated ones

inline constexpr double kPresent = 0.1;  // predicted share by labelled share

Epochs evaluated(const std::vector<EpochRecord>& history);

inline double miou(const EpochRecord* e) { return e->val->miou; }
inline double accuracy(const EpochRecord* e) { return e->val->pixel_accuracy; }
inline bool has_classes(const EpochRecord& e) { return e.val && !e.val->iou.empty(); }
// Whether so few pixels are labelled as a class that it tells nothing.
bool has_few_pixels(const Scores& scores, size_t c);
inline bool has_shares(const EpochRecord& e) { return e.val && !e.val->prediction_share.empty(); }

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
// The best epoch, if the newest one lies clearly below it: by means over a quarter of the epochs (three to ten), by twice the
// noise, without a rise in between, by what fall_begin() finds, or at once by a sixth; where there are less than six epochs, by
// clear_fall(). With ups and downs alone there is none.
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

// What pseudo-labels and predictions are held against: the labelled pixels' share, or the validation labels' where that is not
// known; empty where neither is.
std::vector<double> reference_share(const std::vector<EpochRecord>& history, const HealthContext& context);
inline double share_or_zero(const std::vector<double>& shares, size_t c) { return c < shares.size() ? shares[c] : 0; }

}  // namespace semiseg
