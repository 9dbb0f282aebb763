// What alarms and the diagnosis advise to set.
#pragma once

#include <string>
#include <vector>

#include "semiseg/health.h"

namespace semiseg {

inline constexpr size_t kMostSettings = 4;  // that one message advises

// The present value of a setting as it is typed; empty where it is not known.
std::string value_now(const HealthContext& context, const std::string& key);

// Where the settings are not known, the method may read all that there is, if it makes pseudo-labels or may do so.
bool may_set(const HealthContext& context, const std::string& key);

Setting setting(const HealthContext& context, const std::string& key, const std::string& value, const std::string& reason);

// The value of semi.threshold that gives each class its own: with a momentum that a run of so many updates can follow.
// FreeMatch's .999 begins at 1 / K and takes thousands of them.
std::string class_adaptive(const std::vector<EpochRecord>& history, const HealthContext& context);

// Against classes that lose to frequent ones; `starving` may be empty where it is not known which. The most fitting first.
std::vector<Setting> settings_against_starving(const std::vector<EpochRecord>& history, const std::vector<size_t>& starving,
                                               const HealthContext& context);

// Against a network that gets worse as a whole. `learns`: the training loss falls meanwhile.
std::vector<Setting> settings_against_decline(bool learns, const EpochRecord& best, const HealthContext& context);

// Against rare classes that are called where they are not: what favours them, or where nothing does, what leads the
// network astray.
std::vector<Setting> settings_against_overcorrection(const HealthContext& context);

// "; set a (now b) or c (now d)".
std::string advice(const std::vector<Setting>& settings);

}  // namespace semiseg
