#include "host.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>

namespace semiseg {

std::string host_name() {
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  return host;
}

bool process_exists(int64_t pid) { return pid > 0 && (::kill(static_cast<pid_t>(pid), 0) == 0 || errno == EPERM); }

std::string utc_text(std::time_t time) {
  char text[32];
  std::tm parts{};
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", ::gmtime_r(&time, &parts));
  return text;
}

std::string utc_now() { return utc_text(std::time(nullptr)); }

}  // namespace semiseg
