#include "upload.h"

#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <map>
#include <mutex>

namespace semiseg {
namespace {

c10::Stream current_stream(torch::Device device) { return c10::impl::VirtualGuardImpl(device.type()).getStream(device); }

// One for each device, for good: memory that was used on a stream stays with it.
c10::Stream upload_stream(torch::Device device) {
  static std::mutex mutex;
  static std::map<c10::DeviceIndex, c10::Stream> streams;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = streams.find(device.index());
  if (found == streams.end())
    found = streams.emplace(device.index(), c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device)).first;
  return found->second;
}

}  // namespace

Upload::Upload(torch::Device device, int64_t batches_of_step)
    : device_(device), most_queued_(3 * static_cast<size_t>(batches_of_step)) {
  if (device.is_cuda()) stream_ = upload_stream(device);
}

void Upload::begin() {
  if (!stream_) return;
  while (begun_.size() >= most_queued_) {
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
