#include "commands/launch.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "commands/config_file.h"
#include "parse_number.h"
#include "semiseg/config.h"
#include "semiseg/device.h"
#include "semiseg/error.h"
#include "semiseg/train.h"

extern char** environ;

namespace semiseg {
namespace {

constexpr const char* kLaunched = "SEMISEG_LAUNCHER";  // of a started process: the starter's number
constexpr const char *kError = "semiseg: error: ", *kOfPeer = "semiseg: peer: ";
constexpr int64_t kMostProcesses = 1024;

// All that the signal handler touches.
std::array<std::atomic<pid_t>, kMostProcesses> g_running;
std::atomic<int> g_passed_on{0};

void pass_on(int number) {
  const int was = errno;
  for (const auto& process : g_running)
    if (const pid_t id = process.load(); id > 0) ::kill(id, number);
  errno = was;
}

void on_signal(int number) {
  g_passed_on = number;
  pass_on(number);
}

int64_t count_of(const std::string& text) {
  if (text == "auto") {
    const int64_t gpus = count_gpus();
    if (gpus == 0)
      throw Error(ErrorKind::kConfig, "there is no GPU here to count", "--processes auto", "give a number: --processes 2");
    return gpus;
  }
  const auto count = parse_number<int64_t>(text);
  if (!count || *count < 1 || *count > kMostProcesses)
    throw Error(ErrorKind::kConfig, "\"" + text + "\" is no number of processes", "--processes",
                str("give a number from 1 to ", kMostProcesses, ", or auto"));
  return *count;
}

// A TCP port of this machine that nobody uses now.
int free_port() {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* any = reinterpret_cast<sockaddr*>(&address);
  const bool found = listener >= 0 && ::bind(listener, any, size) == 0 && ::getsockname(listener, any, &size) == 0;
  if (listener >= 0) ::close(listener);
  if (!found) throw Error(ErrorKind::kPeer, str("no port for the processes to meet at: ", std::strerror(errno)), "--processes");
  return ntohs(address.sin_port);
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& text : strings) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

// This environment, with `more` in the place of what has the same names.
std::vector<std::string> environment_with(const std::vector<std::string>& more) {
  std::vector<std::string> all = more;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry, name = text.substr(0, text.find('=') + 1);
    if (std::none_of(more.begin(), more.end(), [&](const std::string& own) { return own.starts_with(name); }))
      all.push_back(text);
  }
  return all;
}

// What the processes write to stderr, each line once: an error that all of them meet is one error. What they tell of each
// other's failure is kept back until nothing else tells it.
class ErrorLines {
 public:
  ~ErrorLines() {
    for (std::thread& reader : readers_) reader.join();
    if (!told_) std::fputs(of_peer_.c_str(), stderr);
  }

  // Takes the reading end of a pipe.
  void read(int pipe) {
    readers_.emplace_back([this, pipe] {
      std::FILE* file = ::fdopen(pipe, "r");
      char* line = nullptr;
      size_t size = 0;
      while (::getline(&line, &size, file) >= 0) {
        const std::lock_guard lock(mutex_);
        const std::string text = line;
        if (text.starts_with(kOfPeer)) {
          if (of_peer_.empty()) of_peer_ = kError + text.substr(std::strlen(kOfPeer));
          continue;
        }
        told_ = told_ || text.starts_with(kError);
        if (shown_.insert(text).second) std::fputs(line, stderr);
      }
      std::free(line);
      std::fclose(file);
    });
  }

  // The starter tells an error itself.
  void tell(const std::string& error) {
    const std::lock_guard lock(mutex_);
    told_ = true;
    std::fprintf(stderr, "%s%s\n", kError, error.c_str());
  }

 private:
  std::mutex mutex_;
  std::set<std::string> shown_;
  std::string of_peer_;
  bool told_ = false;
  std::vector<std::thread> readers_;
};

pid_t start(std::vector<std::string> words, std::vector<std::string> environment, ErrorLines& errors) {
  const auto check = [](int error) {
    if (error != 0) throw Error(ErrorKind::kPeer, str("cannot start a process: ", std::strerror(error)), "--processes");
  };
  std::array<int, 2> ends{};  // to read from, to write to
  check(::pipe2(ends.data(), O_CLOEXEC) == 0 ? 0 : errno);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, ends[1], STDERR_FILENO);
  // A group of its own: Ctrl-C reaches it through this process alone, once.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  pid_t id = 0;
  const int error =
      posix_spawn(&id, "/proc/self/exe", &files, &attributes, pointers(words).data(), pointers(environment).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  ::close(ends[1]);
  errors.read(ends[0]);
  check(error);
  return id;
}

std::string what_killed(int status) {
  const int number = WTERMSIG(status);
  return str("was killed by signal ", number, " (", sigdescr_np(number),
             number == SIGKILL ? "; memory may have run out)" : ")");
}

}  // namespace

int launch(const Arguments& arguments) {
  const int64_t count = count_of(arguments.get("processes"));
  std::vector<std::string> words{"semiseg", "train"};
  words.insert(words.end(), arguments.positional.begin(), arguments.positional.end());
  words.insert(words.end(), arguments.overrides.begin(), arguments.overrides.end());
  for (const auto& [flag, value] : arguments.flags) {
    if (flag == "processes") continue;
    words.push_back("--" + flag);
    if (!value.empty()) words.push_back(value);
  }
  if (!arguments.positional.empty())
    load_config(find_config(arguments.positional[0]), arguments.overrides);  // its errors before anything is started

  on_stop_signals(on_signal);
  ::signal(SIGCHLD, SIG_DFL);  // ignored, there would be nothing to wait for

  const int port = free_port();
  std::vector<std::string> threads;  // of each process, where nobody has set them: the processors are shared
  if (std::getenv("OMP_NUM_THREADS") == nullptr)
    threads.push_back(str("OMP_NUM_THREADS=", std::max<int64_t>(1, std::thread::hardware_concurrency() / count)));
  ErrorLines errors;
  try {
    for (int64_t rank = 0; rank < count; ++rank) {
      std::vector<std::string> more{str("RANK=", rank),      str("LOCAL_RANK=", rank),  str("WORLD_SIZE=", count),
                                    "MASTER_ADDR=127.0.0.1", str("MASTER_PORT=", port), str(kLaunched, "=", ::getpid())};
      more.insert(more.end(), threads.begin(), threads.end());
      const pid_t id = start(words, environment_with(more), errors);
      g_running[static_cast<size_t>(rank)] = id;
      if (const int number = g_passed_on; number != 0) ::kill(id, number);  // it came while this one was not known yet
    }
  } catch (...) {
    pass_on(SIGKILL);  // those that wait for the others
    throw;
  }

  int result = 0;
  std::optional<std::chrono::steady_clock::time_point> deadline;  // once one has failed
  for (int64_t left = count; left > 0;) {
    int status = 0;
    const pid_t id = ::waitpid(-1, &status, deadline ? WNOHANG : 0);
    if (id == 0) {
      if (std::chrono::steady_clock::now() > *deadline) pass_on(SIGKILL);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      continue;
    }
    if (id < 0 && errno == EINTR) continue;
    if (id < 0) break;
    const auto ended = std::find(g_running.begin(), g_running.end(), id);
    if (ended == g_running.end()) continue;
    *ended = 0;
    --left;
    // Before it could handle signals, one that it was sent has ended it.
    const bool stopped = WIFSIGNALED(status) && WTERMSIG(status) == g_passed_on;
    const int code = WIFEXITED(status) ? WEXITSTATUS(status)
                     : stopped         ? exit_code_of(WTERMSIG(status))
                                       : static_cast<int>(ErrorKind::kPeer);
    if (!WIFEXITED(status) && !stopped && !deadline)
      errors.tell(str("process ", ended - g_running.begin(), " of ", count, " ", what_killed(status),
                      "; go on with `semiseg train --resume RUN`"));
    // The first failure of its own is what ended the others.
    if (result == 0 || result == static_cast<int>(ErrorKind::kPeer)) result = code != 0 ? code : result;
    constexpr auto kGrace = std::chrono::seconds(30);  // for the writer to save what was reached
    if (code != 0 && (stopped || (code != exit_code_of(SIGINT) && code != exit_code_of(SIGTERM))) && !deadline)
      deadline = std::chrono::steady_clock::now() + kGrace;
  }
  return result;
}

void end_with_launcher() {
  const char* launcher = std::getenv(kLaunched);
  if (launcher == nullptr) return;
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (std::to_string(::getppid()) != launcher) ::raise(SIGTERM);  // it has ended already
}

const char* error_prefix(int exit_code) {
  return exit_code == static_cast<int>(ErrorKind::kPeer) && std::getenv(kLaunched) != nullptr ? kOfPeer : kError;
}

}  // namespace semiseg
