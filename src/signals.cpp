#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <csignal>

#include "semiseg/train.h"

namespace semiseg {
namespace {

// All that a handler touches.
std::atomic<int> g_signal{0};
std::atomic<bool> g_interrupted{false};

void on_signal(int number) {
  int none = 0;
  if (number == SIGALRM)
    g_signal.compare_exchange_strong(none, number);  // who asked before counts
  else
    g_signal = number;
  if (number == SIGINT && g_interrupted.exchange(true)) ::_exit(130);
}

void handle(int number, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  ::sigaction(number, &action, nullptr);
}

}  // namespace

void on_stop_signals(void (*handler)(int)) {
  struct sigaction before {};
  ::sigaction(SIGHUP, nullptr, &before);
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) handle(number, handler);
  if (before.sa_handler != SIG_IGN) handle(SIGHUP, handler);
  // Ctrl-C ends the reader of a pipe, too: what is still written to it is lost, no more.
  ::signal(SIGPIPE, SIG_IGN);
}

void install_signal_handlers() {
  on_stop_signals(on_signal);
  handle(SIGALRM, on_signal);
  // A limit on file sizes is then an error of write(), told like a full disk.
  ::signal(SIGXFSZ, SIG_IGN);
}

void limit_time(double hours) {
  if (hours <= 0) return;
  constexpr double kShortest = 1e-6, kLongest = 1e9;  // seconds; a timer of 0 would be none
  const double seconds = std::min(std::max(3600 * hours, kShortest), kLongest);
  itimerval timer{};
  timer.it_value.tv_sec = static_cast<time_t>(seconds);
  timer.it_value.tv_usec = static_cast<suseconds_t>(1e6 * (seconds - std::floor(seconds)));
  ::setitimer(ITIMER_REAL, &timer, nullptr);
}

int stop_signal() { return g_signal.load(); }

int exit_code_of(int stop_signal) { return stop_signal == SIGALRM ? 0 : stop_signal == SIGINT ? 130 : 143; }

std::string why_stopped(int stop_signal) {
  switch (stop_signal) {
    case SIGALRM:
      return "stopped by run.max_hours";
    case SIGINT:
      return "stopped by SIGINT";
    case SIGUSR1:
      return "stopped by SIGUSR1";
    case SIGHUP:
      return "stopped by SIGHUP";
    default:
      return "stopped by SIGTERM";
  }
}

}  // namespace semiseg
