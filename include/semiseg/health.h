// The health of a run: what its epochs tell about classes that starve, vanish or take over, and what to change.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "semiseg/config.h"
#include "semiseg/dataset.h"
#include "semiseg/evaluate.h"
#include "semiseg/metrics.h"

namespace semiseg {

class Method;
struct Progress;

struct HealthContext {
  std::vector<std::string> class_names;  // "class 3" where it has none
  std::vector<double> label_share;       // [K] of the labelled training pixels; empty where it is not known
  // The run's settings, so that no message advises what is set already or what the method does not read; null where they are
  // not known. REQUIRES: outlives the call.
  const Config* config = nullptr;
  // Whether the records hold all alarms of their epochs, as those of semiseg's own runs do; diagnose() looks for them else.
  bool alarms_are_recorded = false;
  // Whether an epoch 0 is the first of all, as other programs count, instead of the scores before training.
  bool counts_from_zero = false;
};

// The alarms of the newest epoch, history.back(), in the order of their weight; each lasts as long as its cause does. The
// history may begin with an epoch 0: the scores before training. Messages name the classes, give the numbers and the setting to
// change. Alarms on scores need an epoch that was evaluated. Kinds:
//   miou_falls          mIoU falls while pixel accuracy rises: over three evaluated epochs in a row (at once where it is a
//                       sixth), as means of three against the best three before, or in each of three epochs below the scores
//                       before training. It must be clear: 3 % of it, half a point, 2.5 times the usual step from epoch to
//                       epoch, more in long runs (but against the scores before training). Lasts until half of the fall is
//                       regained, or pixel accuracy is back, too. The message tells whether rare classes are not found or
//                       classes are called where they are not
//   scores_fall         mIoU falls and pixel accuracy does not rise: means of three by a tenth and two points against the best
//                       three before, more than noise, or two epochs in a row below six tenths of the best; the message tells
//                       whether rare classes alone lose, or classes are called where they are not
//   class_takes_over    a class is predicted on 20 % of all pixels more than it is labelled on (or half of the others' pixels,
//                       where that is less, and a hundred are labelled), and on twice as many, or leaves the others half of
//                       theirs; in the first two evaluated epochs only if that was not so before
//   class_vanished      a class with a hundred labelled validation pixels or more is predicted on less than 1 % of as many; in
//                       the first four evaluated epochs only if it was predicted before
//   pseudo_vanished     the same of accepted pseudo-labels against the labelled pixels' share
//   acceptance_stuck    less than .5 % of the pseudo-labels are accepted, or more than 99.5 % though a threshold should
//                       select, three epochs in a row
//   no_labelled_pixel   a class has no labelled pixel to learn from (first epoch only)
// What is predicted, and as what it is pseudo-labelled, raises none in the first 50 updates, unless the scores before training
// are those of a trained network: by random weights a class comes and goes.
std::vector<Alarm> find_alarms(const std::vector<EpochRecord>& history, const HealthContext& context);

// Whether an alarm of history.back() is not the one, of the same kind and classes, that the epoch before gave (for alarms on
// scores: the evaluated epoch before).
bool is_news(const Alarm& alarm, const std::vector<EpochRecord>& history);

// Agreement of pseudo-labels between evaluated epochs, on a few fixed unlabelled images (at most 16, evenly spread): whether a
// pixel still gets the class it got, accepted or not; of predictions where the method makes no labels (retrain). Fills
// `agreement` and `agreement_by_class` from the labels in `previous`, which it then replaces. `previous` is empty before the
// first epoch.
// Labels are class indices, uint8 [h, w] on the host, of every fourth pixel of the image (of the middle of a huge one, or of
// one that is scored by windows), under the image's number in the list.
void measure_agreement(Method& method, const Progress& progress, const Dataset& data, const EvalOptions& options,
                       std::map<std::string, Tensor>* previous, PseudoScores* pseudo);

// A setting to change, as it is typed.
struct Setting {
  std::string assignment;  // "loss.class_weights=enet"; the key alone where the value hangs on what is not known
  std::string now;         // its present value; empty where that is not known
  std::string reason;
};

// Why mIoU moved as it did.
struct Diagnosis {
  std::vector<Alarm>
      findings;  // in reading order; `kind` is an alarm's, or movement, mapping, reason, classes, confusion, shares, pseudo
  std::vector<Setting> settings;
};

// What the epochs of a run tell when they are looked at together. Scores may lack all values of single classes.
// REQUIRES: at least one evaluated epoch.
Diagnosis diagnose(const std::vector<EpochRecord>& history, const HealthContext& context);

}  // namespace semiseg
