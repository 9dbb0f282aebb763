// What watches a step from outside, through ATen's RecordFunction: its operations, the time of its parts, the time of its
// operators. Watching costs time of its own, so each is alive only for the steps that it measures. One of a kind at a time.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace semiseg {

// Names of the parts of a step, which profilers show too: RECORD_USER_SCOPE(kBackwardScope).
inline constexpr const char* kNetworkScope = "network";                  // a network's forward pass, or a half of it
inline constexpr const char* kForwardAndLossScope = "forward and loss";  // Method::step, which holds network scopes
inline constexpr const char* kEarlyBackwardScope = "early backward";     // within Method::step, of a part of the loss
inline constexpr const char* kBackwardScope = "backward";
inline constexpr const char* kOptimizerScope = "optimizer";  // the update and what follows it

// Floating point operations of convolutions and matrix products, forward and backward, from their shapes: 2 for a multiply-add.
// A network's other layers are left out, as is usual; so the count does not depend on how anything is computed.
class FlopCounter {
 public:
  FlopCounter();
  ~FlopCounter();
  FlopCounter(const FlopCounter&) = delete;
  FlopCounter& operator=(const FlopCounter&) = delete;

  double flop() const;

 private:
  uint64_t handle_;
};

// Seconds in each user scope that this thread enters. Waits for the device at both of its ends.
class ScopeTimer {
 public:
  explicit ScopeTimer(torch::Device device);
  ~ScopeTimer();
  ScopeTimer(const ScopeTimer&) = delete;
  ScopeTimer& operator=(const ScopeTimer&) = delete;

  // 0 for a scope that was not entered.
  double seconds(const std::string& scope) const;

 private:
  uint64_t handle_;
};

// Seconds in each ATen operator and autograd node without those that it calls, over all threads. Of the host: on CUDA these are
// the times of queuing.
class OperatorTimer {
 public:
  struct Times {
    double seconds = 0;
    int64_t calls = 0;
  };

  OperatorTimer();
  ~OperatorTimer();
  OperatorTimer(const OperatorTimer&) = delete;
  OperatorTimer& operator=(const OperatorTimer&) = delete;

  // By name: "aten::mkldnn_convolution".
  std::map<std::string, Times> times() const;

 private:
  uint64_t handle_;
};

// What a GPU did while `work` ran, by Kineto: its kernels, copies and fills in the order of their beginnings.
struct DeviceActivity {
  std::string name;
  int64_t begin_ns, end_ns;
};
// REQUIRES: a CUDA device.
std::vector<DeviceActivity> record_device(torch::Device device, const std::function<void()>& work);

}  // namespace semiseg
