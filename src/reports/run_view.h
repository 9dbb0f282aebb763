// A run as one screen of text: what `semiseg watch` shows.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "run_record.h"

namespace semiseg {

enum class Life {
  kNoFolder,  // the run folder is not there (yet)
  kStarting,  // there is a folder, but no status.json yet
  kRunning,   // with a fresh sign of life
  kSilent,    // status.json says running, but is old, and the process cannot be asked
  kGone,      // status.json says running, but its process is no more
  kFinished,  // done, stopped or failed
};

// `now`: seconds since 1970. `host`: of the reader, who can ask for a process only there.
Life life_of(const RunStatus& status, int64_t now, const std::string& host, bool process_exists);

// The same now, asked from here.
Life life_of(const RunStatus& status);

struct WatchedRun {
  std::string dir;
  Life life = Life::kNoFolder;
  RunStatus status;
  RunRecord record;              // its history may be empty
  std::vector<std::string> log;  // newest lines of train.log, without dates
  std::string problem;           // what could not be read
  bool can_resume = true;        // there is a checkpoint
  int64_t now = 0;
};

enum class Style { kPlain, kBold, kDim, kGood, kWarning, kBad, kAccent };

// Pieces of text from left to right.
class Line {
 public:
  Line& add(const std::string& text, Style style = Style::kPlain);
  Line& fill_to(int column);  // with spaces
  int columns() const { return columns_; }
  const std::vector<std::pair<std::string, Style>>& pieces() const { return pieces_; }

 private:
  std::vector<std::pair<std::string, Style>> pieces_;
  int columns_ = 0;
};

struct Screen {
  int columns, rows;
  bool unicode;
};

// At most `rows` lines, of which none is wider than the screen.
std::vector<Line> draw(const WatchedRun& run, const Screen& screen);

// The line cut to `columns`, with escape sequences for its styles where `colours`.
std::string to_terminal(const Line& line, int columns, bool colours);

}  // namespace semiseg
