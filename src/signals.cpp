#include <unistd.h>

#include <atomic>
#include <csignal>

#include "semiseg/train.h"

namespace semiseg {
namespace {

// All that a handler touches.
std::atomic<int> g_signal{0};
std::atomic<bool> g_interrupted{false};

void on_signal(int number) {
  g_signal = number;
  if (number == SIGINT && g_interrupted.exchange(true)) ::_exit(130);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  // A limit on file sizes is then an error of write(), told like a full disk.
  ::signal(SIGXFSZ, SIG_IGN);
}

int stop_signal() { return g_signal.load(); }

}  // namespace semiseg
