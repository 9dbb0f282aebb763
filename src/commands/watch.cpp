#include <langinfo.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>

#include "commands/command.h"
#include "host.h"
#include "reports/run_view.h"
#include "reports/text.h"
#include "semiseg/checkpoint.h"
#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

constexpr int kPollMilliseconds = 1000;

// --- reading the run folder ---

// The newest lines of train.log with their time of day. Tables, alarms and the lines of single steps are left out: the view has
// better.
std::vector<std::string> newest_lines(const std::string& path) {
  constexpr std::streamoff kTail = 1 << 16;            // bytes
  constexpr size_t kTime = 11, kText = 22, kMost = 5;  // of "2026-01-01 12:00:00 I text"
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return {};
  file.seekg(std::max<std::streamoff>(0, file.tellg() - kTail));
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (line.size() < kText || line[4] != '-' || line[13] != ':') continue;
    const std::string text = line.substr(kText);
    if (text.starts_with("alarm ") || (text.starts_with("epoch ") && text.find("  step ") != std::string::npos)) continue;
    if (lines.size() == kMost) lines.erase(lines.begin());
    lines.push_back(line.substr(kTime, 9) + text);
  }
  return lines;
}

// Reads a run folder again and again, each file only when it changed.
class Watcher {
 public:
  explicit Watcher(std::string dir) { run_.dir = std::move(dir); }

  const WatchedRun& look() {
    run_.now = std::time(nullptr);
    run_.life = Life::kNoFolder;
    if (!fs::is_directory(run_.dir)) return run_;
    run_.life = Life::kStarting;
    if (changed("/train.log")) run_.log = newest_lines(run_.dir + "/train.log");
    if (changed("/metrics.jsonl") | changed("/environment.json") | changed("/config.yaml")) read_record();
    if (changed("/status.json")) read_status();
    run_.can_resume = has_checkpoint(run_.dir);
    run_.problem = record_problem_.empty() ? status_problem_ : record_problem_;
    if (!run_.status.state.empty()) run_.life = life_of(run_.status, run_.now, host_, process_exists(run_.status.pid));
    return run_;
  }

 private:
  bool changed(const std::string& name) {
    struct stat info {};
    if (::stat((run_.dir + name).c_str(), &info) != 0) return false;
    const Version now{static_cast<int64_t>(info.st_ino), info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
    return std::exchange(seen_[name], now) != now;
  }

  void read_record() {
    try {
      run_.record = read_run(run_.dir, /*may_be_young=*/true);
      record_problem_.clear();
    } catch (const Error& error) {
      record_problem_ = error.what();
    }
  }

  void read_status() {
    try {
      if (auto status = parse_status(read_file(run_.dir + "/status.json"))) run_.status = std::move(*status);
      status_problem_.clear();
    } catch (const Error& error) {
      status_problem_ = error.what();
    }
  }

  using Version = std::array<int64_t, 4>;  // inode, bytes, seconds, nanoseconds
  std::map<std::string, Version> seen_;
  const std::string host_ = host_name();
  std::string record_problem_, status_problem_;
  WatchedRun run_;
};

// --- the terminal ---

int positive_in_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  int value = 0;
  if (text != nullptr) std::from_chars(text, text + std::char_traits<char>::length(text), value);
  return value > 0 ? value : otherwise;
}

Screen screen_size(int rows_of_a_file) {
  const bool unicode = std::string(::nl_langinfo(CODESET)) == "UTF-8";
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0)
    return {size.ws_col, size.ws_row, unicode};
  return {positive_in_environment("COLUMNS", 80), positive_in_environment("LINES", rows_of_a_file), unicode};
}

bool wants_colours() {
  const char* off = std::getenv("NO_COLOR");
  return ::isatty(STDOUT_FILENO) != 0 && (off == nullptr || *off == '\0');
}

void put(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

void print_once(const WatchedRun& run) {
  constexpr int kRowsOfAFile = 48;
  Screen screen = screen_size(kRowsOfAFile);
  if (::isatty(STDOUT_FILENO) != 0) screen.rows = std::max(1, screen.rows - 1);  // the prompt comes below
  std::string text;
  for (const Line& line : draw(run, screen)) text += to_terminal(line, screen.columns, wants_colours()) + "\n";
  put(text);
}

// The terminal while it shows the view: a screen of its own, no cursor, keys as they are pressed.
class LiveScreen {
 public:
  LiveScreen() { enter(); }
  ~LiveScreen() { leave(); }
  LiveScreen(const LiveScreen&) = delete;
  LiveScreen& operator=(const LiveScreen&) = delete;

  void enter() {
    has_keys_ = ::tcgetattr(STDIN_FILENO, &before_) == 0;
    if (has_keys_) {
      termios raw = before_;
      raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
      ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    put("\x1b[?1049h\x1b[?25l");
    shown_.clear();
  }

  void leave() const {
    put("\x1b[?25h\x1b[?1049l");
    if (has_keys_) ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }

  bool has_keys() const { return has_keys_; }
  void forget() { shown_.clear(); }  // what it shows is no more what was put there

  void show(const WatchedRun& run) {
    const Screen screen = screen_size(24);
    const bool colours = wants_colours();
    std::string text = "\x1b[H";
    int row = 0;
    for (const Line& line : draw(run, {screen.columns, screen.rows - 1, screen.unicode})) {
      text += "\x1b[K" + to_terminal(line, screen.columns, colours) + "\r\n";
      ++row;
    }
    text += "\x1b[J" + str("\x1b[", screen.rows, ";1H");
    text += to_terminal(Line().add("q quits; the run goes on", Style::kDim), screen.columns, colours);
    if (std::exchange(shown_, text) != text) put(text);
  }

 private:
  termios before_{};
  bool has_keys_ = false;
  std::string shown_;
};

// Signals as something to wait for, beside keys and time.
class Signals {
 public:
  Signals() {
    ::sigemptyset(&set_);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP, SIGCONT}) ::sigaddset(&set_, number);
    ::sigprocmask(SIG_BLOCK, &set_, &before_);
    fd_ = ::signalfd(-1, &set_, SFD_CLOEXEC | SFD_NONBLOCK);
  }
  ~Signals() {
    ::close(fd_);
    ::sigprocmask(SIG_SETMASK, &before_, nullptr);
  }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  int fd() const { return fd_; }
  int next() const {  // 0 where none is left
    signalfd_siginfo info{};
    return ::read(fd_, &info, sizeof(info)) == sizeof(info) ? static_cast<int>(info.ssi_signo) : 0;
  }

 private:
  sigset_t set_{}, before_{};
  int fd_ = -1;
};

// Waits for a key, a signal or the next look. Returns the exit code when the user wants no more.
std::optional<int> wait(LiveScreen& screen, const Signals& signals) {
  std::array<pollfd, 2> sources{{{signals.fd(), POLLIN, 0}, {screen.has_keys() ? STDIN_FILENO : -1, POLLIN, 0}}};
  ::poll(sources.data(), sources.size(), kPollMilliseconds);
  if (sources[1].revents != 0) {
    char key = 0;
    if (::read(STDIN_FILENO, &key, 1) <= 0 || key == 'q' || key == 'Q' || key == 4) return 0;  // 4: Ctrl-D
  }
  for (int number = signals.next(); number != 0; number = signals.next()) {
    if (number == SIGTSTP) {
      screen.leave();
      ::raise(SIGSTOP);
      screen.enter();
    } else if (number == SIGWINCH || number == SIGCONT) {
      screen.forget();
    } else {
      return 128 + number;
    }
  }
  return std::nullopt;
}

int watch_live(Watcher& watcher) {
  if (watcher.look().life != Life::kFinished) {
    const Signals signals;
    LiveScreen screen;
    for (const WatchedRun* run = &watcher.look(); run->life != Life::kFinished; run = &watcher.look()) {
      screen.show(*run);
      if (const auto code = wait(screen, signals)) return *code;
    }
  }
  print_once(watcher.look());
  return 0;
}

// --- the verb ---

// The run in runs/ that was heard of last.
std::string newest_run() {
  std::string newest;
  fs::file_time_type when{};
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("runs", error)) {
    const auto time = fs::last_write_time(entry.path() / "status.json", error);
    if (!error && (newest.empty() || time > when)) newest = entry.path().string(), when = time;
  }
  if (newest.empty())
    throw Error(ErrorKind::kConfig, "no run is named, and there is none in runs/", "", "usage: semiseg watch RUN");
  return newest;
}

std::string watched_folder(const Arguments& arguments, bool may_come) {
  if (arguments.positional.empty()) return newest_run();
  std::string dir = arguments.positional.front();
  while (dir.size() > 1 && dir.back() == '/') dir.pop_back();
  // A run may have been copied without its checkpoints.
  const auto has = [&](const char* name) { return fs::exists(dir + "/" + name); };
  const bool is_run = has("checkpoints") || has("status.json") || has("metrics.jsonl");
  if (fs::is_directory(dir) ? !fs::is_empty(dir) && !is_run : fs::exists(dir))
    throw Error(ErrorKind::kConfig, "is no run folder", dir, "name a folder that `semiseg train` made, such as runs/demo");
  if (!may_come && !fs::exists(dir)) throw Error(ErrorKind::kConfig, "there is no such run folder", dir);
  return dir;
}

int run(const Arguments& arguments) {
  std::setlocale(LC_CTYPE, "");
  const char* terminal = std::getenv("TERM");
  const bool live =
      !arguments.has("once") && ::isatty(STDOUT_FILENO) != 0 && terminal != nullptr && std::string(terminal) != "dumb";
  Watcher watcher(watched_folder(arguments, /*may_come=*/live));
  if (live) return watch_live(watcher);
  print_once(watcher.look());
  return 0;
}

const bool kRegistered = add_command({
    .name = "watch",
    .synopsis = "[RUN] [--once]",
    .summary = "live view of a run in the terminal",
    .details = R"(examples:
  semiseg watch runs/demo           until the run ends or q is pressed; waits for a folder that is not there yet
  semiseg watch                     the newest run in runs/
  semiseg watch runs/demo --once    one frame, as when the output is no terminal

It only reads the run folder: from another machine it works, too, where that folder can be seen, and closing it does not touch
the run. A process that was killed is told with the command that goes on. Classes are listed from the rarest on; * marks those
with less than a fifth of an even share of the labelled pixels. Where the locale is not UTF-8 it draws in ASCII.)",
    .flags = {{"once", "", "print one frame and exit"}},
    .min_positional = 0,
    .max_positional = 1,
    .run = run,
});

}  // namespace
}  // namespace semiseg
