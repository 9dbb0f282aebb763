#include "health/mapping.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "health/movement.h"
#include "health/words.h"
#include "semiseg/error.h"
#include "spelling.h"

namespace semiseg {
namespace {

constexpr double kMuch = 0.4;              // of a class's pixels that are predicted as another one
constexpr double kNextToNone = 0.25;       // right ones by wrong ones: whoever confuses classes gets some right
constexpr double kOtherIds = 0.2;          // of all pixels, in ids that occur on one side alone
constexpr size_t kShiftedAtLeast = 3;      // classes
constexpr double kMostOfPixels = 0.5;      // that are labelled as them
constexpr double kLeastVoidShare = 0.002;  // of all labelled pixels

// The class that each class is taken for, itself included; nothing where no class has much of it, or where it is confused with
// another one but often right.
std::vector<std::optional<size_t>> taken_as(const Scores& first, const Scores& scores) {
  const auto pixels = [](const Scores& of, size_t c) {
    return std::accumulate(of.confusion[c].begin(), of.confusion[c].end(), 0.0);
  };
  const auto is_wrong = [&](const Scores& of, size_t c) {
    const auto right = static_cast<double>(of.confusion[c][c]);
    return right <= kNextToNone * (pixels(of, c) - right);
  };
  const auto& rows = scores.confusion;
  std::vector<std::optional<size_t>> result(rows.size());
  for (size_t c = 0; c < rows.size(); ++c) {
    if (has_few_pixels(scores, c)) continue;
    const size_t most = static_cast<size_t>(std::max_element(rows[c].begin(), rows[c].end()) - rows[c].begin());
    const bool was_wrong = first.confusion.size() != rows.size() || is_wrong(first, c);
    if ((most == c || (is_wrong(scores, c) && was_wrong)) && static_cast<double>(rows[c][most]) >= kMuch * pixels(scores, c))
      result[c] = most;
  }
  return result;
}

std::string share_as(const Scores& scores, size_t from, size_t to) {
  const auto& row = scores.confusion[from];
  return format("%.0f %%", 100 * static_cast<double>(row[to]) / std::accumulate(row.begin(), row.end(), 0.0));
}

// Classes that are taken for each other in a circle: a as b and b as a, or more of them.
std::optional<MixUp> exchanged(const Scores& first_scores, const Scores& scores, const HealthContext& context) {
  const auto as = taken_as(first_scores, scores);
  MixUp found;
  std::vector<std::string> parts;
  std::vector<bool> seen(as.size());
  for (size_t first = 0; first < as.size(); ++first) {
    std::vector<size_t> circle;
    for (std::optional<size_t> c = first; c && !seen[*c] && as[*c] != c; c = as[*c]) {
      if (std::find(circle.begin(), circle.end(), *c) != circle.end()) break;
      circle.push_back(*c);
    }
    if (circle.size() < 2 || as[circle.back()] != first) continue;
    std::vector<std::string> steps;
    for (const size_t c : circle) {
      seen[c] = true;
      found.classes.push_back(c);
      steps.push_back(
          str(name_of(context, c), " is predicted as ", name_of(context, *as[c]), " in ", share_as(scores, c, *as[c])));
    }
    parts.push_back(list_of(steps));
  }
  if (parts.empty()) return std::nullopt;
  found.text = list_of(parts, 3) +
               " of its pixels: classes that are exchanged are no matter of training; the same ids mean other classes in the "
               "labels and in the predictions (or in the labels that were trained on)";
  return found;
}

// Most classes are predicted as the one a few ids further.
std::optional<MixUp> shifted(const Scores& first, const Scores& scores, const HealthContext& context) {
  const auto as = taken_as(first, scores);
  std::map<int64_t, std::vector<size_t>> by_distance;
  size_t known = 0;
  for (size_t c = 0; c < as.size(); ++c) {
    if (!as[c]) continue;
    ++known;
    by_distance[static_cast<int64_t>(*as[c]) - static_cast<int64_t>(c)].push_back(c);
  }
  for (const auto& [distance, classes] : by_distance) {
    if (distance == 0 || classes.size() < kShiftedAtLeast || 2 * classes.size() <= known) continue;
    double share = 0;  // rare classes that frequent neighbours swallow are no shift
    for (const size_t c : classes) share += scores.label_share[c];
    if (share < kMostOfPixels) continue;
    std::vector<std::string> parts;
    for (const size_t c : classes)
      parts.push_back(str(name_of(context, c), " as ", name_of(context, *as[c]), " (", share_as(scores, c, *as[c]), ")"));
    return MixUp{
        str("most classes are predicted as the one ", std::abs(distance) == 1 ? "" : str(std::abs(distance), " ids "),
            distance > 0 ? "behind" : "before", " them: ", list_of(parts, 4),
            ". The ids are shifted: one side counts from 0 and the other from 1, say, or one has a background class that "
            "the other leaves out"),
        classes};
  }
  return std::nullopt;
}

// Labels and predictions in which different ids occur.
std::optional<MixUp> other_ids(const Scores& scores, const HealthContext& context) {
  std::vector<size_t> labelled, predicted;
  double of_labels = 0, of_predictions = 0;
  for (size_t c = 0; c < scores.label_share.size(); ++c) {
    if (scores.label_share[c] > 0 && scores.prediction_share[c] == 0) labelled.push_back(c), of_labels += scores.label_share[c];
    if (scores.label_share[c] == 0 && scores.prediction_share[c] > 0)
      predicted.push_back(c), of_predictions += scores.prediction_share[c];
  }
  if (of_labels < kOtherIds || of_predictions < kOtherIds) return std::nullopt;
  MixUp found{
      str("labels and predictions use different ids: ", list_of(names_of(context, labelled), 4), " (", percent(of_labels),
          " of the labels) are never predicted, ", list_of(names_of(context, predicted), 4), " (", percent(of_predictions),
          " of the predictions) never labelled. Cityscapes has two kinds of ids, label ids (0 to 33) and train ids (0 to "
          "18); with --ids label, predictions are read as the former"),
      labelled};
  found.classes.insert(found.classes.end(), predicted.begin(), predicted.end());
  return found;
}

}  // namespace

std::optional<MixUp> find_mix_up(const Scores& first, const Scores& scores, const HealthContext& context) {
  if (scores.confusion.empty()) return std::nullopt;
  if (auto found = other_ids(scores, context)) return found;
  if (auto found = shifted(first, scores, context)) return found;
  return exchanged(first, scores, context);
}

std::vector<size_t> counted_voids(const Scores& scores, const HealthContext& context) {
  std::vector<size_t> classes;
  for (size_t c = 0; c < scores.label_share.size() && c < scores.prediction_share.size(); ++c) {
    const std::string name = lowered(name_of(context, c));
    const bool is_void = name == "void" || name == "unlabeled" || name == "unlabelled" || name == "ignore" ||
                         name == "ignored" || name == "unknown" || name == "class 254" || name == "class 255";
    if (is_void && scores.label_share[c] >= kLeastVoidShare && scores.prediction_share[c] == 0) classes.push_back(c);
  }
  return classes;
}

}  // namespace semiseg
