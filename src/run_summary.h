// The few numbers by which runs are judged, and the alarms they raised.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "run_record.h"
#include "semiseg/metrics.h"

namespace semiseg {

struct EpochScores {
  int64_t epoch = 0;
  double miou = 0, mean_class_accuracy = 0, pixel_accuracy = 0;
  MaybeFraction rare_iou;
  std::vector<MaybeFraction> iou;   // [K], or empty
  std::vector<size_t> from_rarest;  // classes with labelled pixels, by these
};

struct RunSummary {
  std::string name;                       // of the run folder
  std::string state = "unknown";          // running | done | stopped | failed, as status.json has it
  std::string message;                    // why it failed or stopped
  std::string updated;                    // when status.json was written, UTC
  int64_t epochs = 0;                     // finished ones
  std::optional<int64_t> total_epochs;    // that the run is to have
  double seconds = 0;                     // of all finished epochs
  std::optional<EpochScores> best, last;  // of the evaluated epochs; nothing where there is none
};

RunSummary summarize(const RunRecord& run);

// The names of several runs: of their folders, with the path in front where that is needed to tell them apart.
std::vector<std::string> distinct_names(const std::vector<RunRecord>& runs);

// Indices of runs whose settings differ in the seed, and in what does not change results, alone: two or more in each group.
std::vector<std::vector<size_t>> repetitions(const std::vector<RunRecord>& runs);

// Two of the runs whose validation labels differ in a class's number of pixels, so that their scores cannot be compared;
// nothing where all are alike, as far as can be told.
std::optional<std::pair<size_t, size_t>> scored_otherwise(const std::vector<RunRecord>& runs);

// Mean IoU of the rarest third, rounded up, of the classes with labelled pixels; nothing where there are no values of classes.
MaybeFraction rare_iou(const Scores& scores);

// An alarm's history over a run.
struct AlarmStory {
  struct Span {
    int64_t from = 0, to = 0;  // epochs
  };
  Alarm newest;             // as it was worded last
  std::vector<Span> spans;  // in order
  bool lasts = false;       // it stands after the newest epoch (of those at which it is looked for)
};

// One for each kind, in the order of the newest epoch's alarms, then those that are over, newest first.
std::vector<AlarmStory> alarm_stories(const std::vector<EpochRecord>& history);

}  // namespace semiseg
