// What the scripts of the pages read of a run.
#pragma once

#include <nlohmann/json.hpp>

#include "run_record.h"

namespace semiseg {

// Names of classes, epochs by columns, the newest and the best epoch's scores by class, the confusion matrix, alarms. Numbers
// have seven significant digits; what is not known is null.
nlohmann::ordered_json json_of_run(const RunRecord& run);

// The rest of a run's own page: diagnosis, settings with their origins, environment, pictures as data URIs.
void add_details(const RunRecord& run, nlohmann::ordered_json* page);

// Settings in which the runs differ, with each run's value, but names and folders of runs; null where a run's settings are not
// known.
nlohmann::ordered_json json_of_differences(const std::vector<RunRecord>& runs);

// The time now, as "2026-11-24 16:50 UTC".
std::string time_now();

}  // namespace semiseg
