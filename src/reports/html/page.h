// Pages that show runs: one self-contained HTML file each, with its charts, styles and pictures inside.
#pragma once

#include <string>
#include <vector>

#include "run_record.h"

namespace semiseg {

// The page of one run, with the pictures of its newest and its best epoch where the folder has them.
std::string report_page(const RunRecord& run);

// The page of several. REQUIRES: at least one run; all have the same classes.
std::string compare_page(const std::vector<RunRecord>& runs);

// Rewrites the run's report.html, whose path is returned. Throws Error(kDisk).
std::string write_report(const RunRecord& run);

}  // namespace semiseg
