#include "host.h"

#include <unistd.h>

namespace semiseg {

std::string host_name() {
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  return host;
}

std::string utc_text(std::time_t time) {
  char text[32];
  std::tm parts{};
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", ::gmtime_r(&time, &parts));
  return text;
}

std::string utc_now() { return utc_text(std::time(nullptr)); }

}  // namespace semiseg
