// From the host's memory to a GPU, beside what the GPU computes.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <deque>
#include <optional>

#include "semiseg/types.h"

namespace semiseg {

// Copies on a stream of their own, so that a batch arrives while the step before is computed. On the CPU there is nothing to
// send: every call does nothing.
//
//   upload.begin();
//   const auto image = upload.send(pinned_image), label = upload.send(pinned_label);
//   upload.finish();      // what is queued from now on may use both
class Upload {
 public:
  // `batches_of_step`: how often begin() is called before a step is queued, once for each of its micro-batches.
  explicit Upload(torch::Device device, int64_t batches_of_step = 1);

  // Waits while more than three steps are queued: batches that wait for theirs would fill the memory of both.
  void begin();
  // REQUIRES: `host` is pinned, or the copy is waited for; or undefined.
  Tensor send(const Tensor& host);
  void finish();

  // Whether the device has done all that was queued; on the CPU, true.
  bool idle() const;

 private:
  torch::Device device_;
  size_t most_queued_;
  std::optional<c10::Stream> stream_;
  std::deque<c10::Event> begun_;  // of the newest calls of begin(): what was queued before
};

}  // namespace semiseg
