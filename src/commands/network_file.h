// The argument CHECKPOINT of commands that use a trained network.
#pragma once

#include <string>

namespace semiseg {

// The file itself, or for a run folder its best checkpoint (the newest one where none is evaluated yet), which the log names.
// Throws Error(kCheckpoint) where there is nothing of that name, and for a folder that is no run's or has no checkpoint.
std::string network_file(const std::string& file_or_run);

// The hint for who typed the name of a run without its runs/, behind `flag` ("--resume "); "" where there is no such run.
std::string did_you_mean_run(const std::string& word, const std::string& flag = "");

}  // namespace semiseg
