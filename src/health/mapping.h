// Labels and predictions that do not mean the same by a class id.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "semiseg/health.h"

namespace semiseg {

struct MixUp {
  std::string text;
  std::vector<size_t> classes;
};

// What a confusion matrix shows that no training does: classes that are exchanged with each other, most classes predicted as
// the one a few ids further, or labels and predictions in which different ids occur. Nothing where there is no matrix, nor
// where a class was right in the first epoch, whose scores `first` are: such an error is there from the beginning.
std::optional<MixUp> find_mix_up(const Scores& first, const Scores& scores, const HealthContext& context);

// Classes that by their name stand for "no label", are labelled, and are never predicted: counted instead of left out.
std::vector<size_t> counted_voids(const Scores& scores, const HealthContext& context);

}  // namespace semiseg
