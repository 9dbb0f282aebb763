// How scores and classes move from epoch to epoch, and what counts as a clear movement.
#pragma once

#include <optional>
#include <vector>

#include "semiseg/health.h"

namespace semiseg {

using Epochs = std::vector<const EpochRecord*>;  // evaluated ones

inline constexpr double kLeastRise = 0.002;  // of pixel accuracy
inline constexpr double kPresent = 0.1;      // predicted share by labelled share

Epochs evaluated(const std::vector<EpochRecord>& history);

inline double miou(const EpochRecord* e) { return e->val->miou; }
inline double accuracy(const EpochRecord* e) { return e->val->pixel_accuracy; }
inline bool has_classes(const EpochRecord& e) { return e.val && !e.val->iou.empty(); }
inline bool has_shares(const EpochRecord& e) { return e.val && !e.val->prediction_share.empty(); }

// By how much mIoU must fall from `from` for the fall to be clear.
double clear_fall(double from);

// The epoch from which mIoU has been falling while pixel accuracy rises, if the newest one lies in such a fall (health.h:
// miou_falls).
std::optional<size_t> fall_begin(const Epochs& epochs);

struct Change {
  size_t c;  // class
  double from, to;
  double by() const { return to - from; }
};
// Of all classes that both epochs have: IoU, the deepest fall first; share of the predictions, the largest gain first.
std::vector<Change> iou_changes(const EpochRecord& from, const EpochRecord& to);
std::vector<Change> share_changes(const EpochRecord& from, const EpochRecord& to);
// The first `most` classes of sorted changes that go in the wanted direction by an amount that is worth a word.
std::vector<size_t> notable(const std::vector<Change>& changes, bool falling, size_t most);

// What pseudo-labels and predictions are held against: the labelled pixels' share, or the validation labels' where that is not
// known; empty where neither is.
std::vector<double> reference_share(const std::vector<EpochRecord>& history, const HealthContext& context);
inline double share_or_zero(const std::vector<double>& shares, size_t c) { return c < shares.size() ? shares[c] : 0; }

}  // namespace semiseg
