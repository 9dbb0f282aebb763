// How alarms and the diagnosis put numbers and classes into words.
#pragma once

#include <string>
#include <vector>

#include "semiseg/health.h"

namespace semiseg {

inline constexpr size_t kMostClasses = 5;  // that a message lists with numbers

std::string percent(double fraction);
std::string percent(const MaybeFraction& fraction);  // "-" where there is none
std::string points(double fraction);
std::string signed_points(double fraction);
std::string number(double value);

// "a, b and c"; beyond `most`: "a, b and 3 more".
std::string list_of(const std::vector<std::string>& words, size_t most = kMostClasses);

std::string name_of(const HealthContext& context, size_t c);
std::vector<std::string> names_of(const HealthContext& context, const std::vector<size_t>& classes);

// Whether a record is the scores before training.
bool is_start(const EpochRecord& record, const HealthContext& context);
std::string time_of(const EpochRecord& record, const HealthContext& context);  // "before training", "epoch 3"

}  // namespace semiseg
