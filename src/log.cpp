#include "semiseg/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "semiseg/error.h"

namespace semiseg {
namespace {

// The one logger of the process; any thread may use it. Until a file is named, messages are kept for it.
class Log {
 public:
  Log() : terminal_("terminal", std::make_shared<spdlog::sinks::stdout_sink_mt>()) {
    terminal_.set_pattern("%v");
    terminal_.flush_on(spdlog::level::info);
  }

  void message(spdlog::level::level_enum level, const std::string& text) {
    const std::lock_guard lock(mutex_);
    if (silent_) return;
    clear_status();
    terminal_.log(level, level == spdlog::level::warn ? "warning: " + text : text);
    append(level, text);
  }

  void to_file(spdlog::level::level_enum level, const std::string& text) {
    const std::lock_guard lock(mutex_);
    append(level, text);
  }

  void open(const std::string& path) {
    const std::lock_guard lock(mutex_);
    try {
      file_ = std::make_unique<spdlog::logger>("file", std::make_shared<spdlog::sinks::basic_file_sink_mt>(path));
    } catch (const spdlog::spdlog_ex& e) {
      throw Error(ErrorKind::kDisk, e.what(), path);
    }
    file_->set_pattern("%Y-%m-%d %H:%M:%S %L %v");
    file_->flush_on(spdlog::level::info);
    file_->set_error_handler([path](const std::string& what) { throw Error(ErrorKind::kDisk, what, path); });
    for (const auto& [level, text] : std::exchange(backlog_, {})) file_->log(level, text);
  }

  void close() {
    const std::lock_guard lock(mutex_);
    file_.reset();
  }

  void silence() {
    const std::lock_guard lock(mutex_);
    silent_ = true;
  }

  void status(const std::string& line) {
    if (!terminal_is_interactive()) return;
    const std::lock_guard lock(mutex_);
    winsize size{};
    const size_t width = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1 : 79;
    std::fprintf(stdout, "\r\x1b[K%s", line.substr(0, width).c_str());
    std::fflush(stdout);
    status_shown_ = true;
  }

 private:
  void append(spdlog::level::level_enum level, const std::string& text) {
    if (file_)
      file_->log(level, text);
    else
      backlog_.emplace_back(level, text);
  }

  void clear_status() {
    if (!std::exchange(status_shown_, false)) return;
    std::fputs("\r\x1b[K", stdout);
    std::fflush(stdout);
  }

  std::mutex mutex_;
  spdlog::logger terminal_;
  std::unique_ptr<spdlog::logger> file_;
  std::vector<std::pair<spdlog::level::level_enum, std::string>> backlog_;
  bool status_shown_ = false, silent_ = false;
};

Log& log() {
  static Log instance;
  return instance;
}

}  // namespace

void log_info(const std::string& message) { log().message(spdlog::level::info, message); }
void log_warning(const std::string& message) { log().message(spdlog::level::warn, message); }
void log_to_file(const std::string& path) { log().open(path); }
void log_file_only(const std::string& message) { log().to_file(spdlog::level::info, message); }
void log_close() { log().close(); }
void log_nothing() { log().silence(); }
void show_status(const std::string& line) { log().status(line); }
bool terminal_is_interactive() {
  const char* kind = std::getenv("TERM");
  return ::isatty(STDOUT_FILENO) != 0 && (kind == nullptr || std::string(kind) != "dumb");
}

}  // namespace semiseg
