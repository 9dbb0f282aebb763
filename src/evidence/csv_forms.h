// The forms of CSV files: see `semiseg diagnose --help`.
#pragma once

#include <string>
#include <vector>

#include "evidence/csv_table.h"
#include "evidence/evidence.h"

namespace semiseg {

// A line of scores per epoch. Columns are known by the names that usual programs give them (or those of `header`).
bool names_scores(const std::vector<std::string>& header);
void read_scores(const CsvTable& table, const std::vector<std::string>& header, Evidence* evidence);

// Confusion matrices, in pixels; rows are labels, columns predictions.
void read_matrices(const CsvTable& table, Evidence* evidence);

// The index among `names`, in whatever case and with _ for spaces; nothing where it is not there.
std::optional<size_t> index_of(const std::vector<std::string>& names, const std::string& name);

}  // namespace semiseg
