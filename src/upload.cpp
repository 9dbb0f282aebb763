#include "upload.h"

#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace semiseg {
namespace {

c10::Stream current_stream(torch::Device device) { return c10::impl::VirtualGuardImpl(device.type()).getStream(device); }

}  // namespace

Upload::Upload(torch::Device device) : device_(device) {
  if (device.is_cuda()) stream_ = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
}

void Upload::begin() {
  if (!stream_) return;
  constexpr size_t kMostQueued = 3;
  while (begun_.size() >= kMostQueued) {
    begun_.front().synchronize();
    begun_.pop_front();
  }
  begun_.emplace_back(device_.type()).record(current_stream(device_));
}

Tensor Upload::send(const Tensor& host) {
  if (!stream_ || !host.defined()) return host;
  const auto user = current_stream(device_);
  const c10::StreamGuard guard(*stream_);
  const auto sent = host.to(device_, /*non_blocking=*/true);
  sent.record_stream(user);  // its memory is not given to another copy before the user is done with it
  return sent;
}

void Upload::finish() {
  if (!stream_) return;
  c10::Event sent(device_.type());
  sent.record(*stream_);
  sent.block(current_stream(device_));
}

bool Upload::idle() const { return !stream_ || current_stream(device_).query(); }

}  // namespace semiseg
