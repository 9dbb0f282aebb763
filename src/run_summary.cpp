#include "run_summary.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "health/movement.h"
#include "host.h"
#include "semiseg/files.h"
#include "semiseg/train.h"

namespace semiseg {
namespace {

EpochScores scores_in(const EpochRecord& record) {
  const Scores& s = *record.val;
  return {record.epoch, s.miou, s.mean_class_accuracy, s.pixel_accuracy, rare_iou(s), s.iou, classes_by_rarity(s)};
}

}  // namespace

std::optional<std::pair<size_t, size_t>> scored_otherwise(const std::vector<RunRecord>& runs) {
  std::optional<size_t> first;
  std::vector<int64_t> of_first;
  for (size_t r = 0; r < runs.size(); ++r) {
    const auto scored = std::find_if(runs[r].history.begin(), runs[r].history.end(),
                                     [](const EpochRecord& record) { return record.val && !record.val->confusion.empty(); });
    if (scored == runs[r].history.end()) continue;
    std::vector<int64_t> labelled;  // pixels of each class
    for (size_t c = 0; c < scored->val->confusion.size(); ++c) labelled.push_back(labelled_pixels(*scored->val, c));
    if (!first) first = r, of_first = labelled;
    if (labelled != of_first) return std::pair(*first, r);
  }
  return std::nullopt;
}

MaybeFraction rare_iou(const Scores& scores) {
  auto labelled = classes_by_rarity(scores);
  std::erase_if(labelled, [&](size_t c) { return c >= scores.iou.size() || !scores.iou[c]; });
  if (labelled.empty()) return std::nullopt;
  labelled.resize((labelled.size() + 2) / 3);
  double sum = 0;
  for (const size_t c : labelled) sum += *scores.iou[c];
  return sum / static_cast<double>(labelled.size());
}

RunSummary summarize(const RunRecord& run) {
  RunSummary summary;
  summary.name = std::filesystem::path(absolute_path(run.dir)).filename().string();
  if (run.status) {
    summary.state = run.status->state;
    summary.message = run.status->message;
    if (run.status->updated) summary.updated = utc_text(*run.status->updated);
    summary.total_epochs = run.status->total_epochs;
  }
  for (const EpochRecord& record : run.history) {
    if (record.epoch == 0) continue;  // the scores before training
    ++summary.epochs;
    summary.seconds += record.seconds;
    if (!record.val) continue;
    summary.last = scores_in(record);
    if (!summary.best || record.val->miou > summary.best->miou) summary.best = summary.last;
  }
  return summary;
}

std::vector<std::string> distinct_names(const std::vector<RunRecord>& runs) {
  std::vector<std::string> names;
  std::map<std::string, int> times;
  for (const RunRecord& run : runs) {
    names.push_back(summarize(run).name);
    ++times[names.back()];
  }
  for (size_t r = 0; r < runs.size(); ++r)
    if (times[names[r]] > 1) names[r] = runs[r].dir;
  return names;
}

std::vector<std::vector<size_t>> repetitions(const std::vector<RunRecord>& runs) {
  const auto repeats = [&](size_t a, size_t b) {
    const std::vector<std::string> keys = differing_keys(*runs[a].config, *runs[b].config);
    return std::all_of(keys.begin(), keys.end(), [](const std::string& key) {
      return key == "seed" || key == "run.name" || key == "run.dir" || may_change_on_resume(key);
    });
  };
  std::vector<std::vector<size_t>> groups;
  for (size_t r = 0; r < runs.size(); ++r) {
    if (!runs[r].config) continue;
    const auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& other) { return repeats(other[0], r); });
    if (group == groups.end())
      groups.push_back({r});
    else
      group->push_back(r);
  }
  std::erase_if(groups, [](const auto& group) { return group.size() < 2; });
  return groups;
}

std::vector<AlarmStory> alarm_stories(const std::vector<EpochRecord>& history) {
  const auto raised_in = [](const EpochRecord& record, const std::string& kind) {
    return std::find_if(record.alarms.begin(), record.alarms.end(), [&](const Alarm& alarm) { return alarm.kind == kind; });
  };
  std::vector<AlarmStory> stories;
  for (auto newest = history.rbegin(); newest != history.rend(); ++newest)
    for (const Alarm& alarm : newest->alarms) {
      if (std::any_of(stories.begin(), stories.end(), [&](const AlarmStory& s) { return s.newest.kind == alarm.kind; }))
        continue;
      AlarmStory story{alarm, {}, false};
      // A kind that only evaluated epochs raise is one on scores: epochs without scores neither raise nor end it.
      const bool on_scores = std::all_of(history.begin(), history.end(), [&](const EpochRecord& record) {
        return record.val || raised_in(record, alarm.kind) == record.alarms.end();
      });
      for (const EpochRecord& record : history) {
        if (on_scores && !record.val) continue;
        const bool raised = raised_in(record, alarm.kind) != record.alarms.end();
        if (raised && story.lasts) story.spans.back().to = record.epoch;
        if (raised && !story.lasts) story.spans.push_back({record.epoch, record.epoch});
        story.lasts = raised;
      }
      // Told once; data that lack a class go on lacking it.
      story.lasts |= alarm.kind == "no_labelled_pixel";
      stories.push_back(std::move(story));
    }
  std::stable_partition(stories.begin(), stories.end(), [](const AlarmStory& story) { return story.lasts; });
  return stories;
}

}  // namespace semiseg
