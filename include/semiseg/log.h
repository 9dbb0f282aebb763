// The log of a run: the terminal, and train.log without control characters. The only user of spdlog is log.cpp.
#pragma once

#include <string>

namespace semiseg {

void log_info(const std::string& message);
void log_warning(const std::string& message);

// From now on messages also go to this file (appended to); those logged before come first. Throws Error(kDisk), here and later.
void log_to_file(const std::string& path);
// Writes a line to the log file only: what a progress bar showed in the terminal.
void log_file_only(const std::string& message);
void log_close();
// From now on this process logs nothing: another one, which trains with it, says it.
void log_nothing();

// A single line in the terminal that the next message or status replaces. Nothing is shown when stdout is not a terminal.
void show_status(const std::string& line);
bool terminal_is_interactive();

}  // namespace semiseg
