// What pasting has to copy, on the CPU and on a GPU (semiseg/ops.h, paste_where).
#pragma once

#include <vector>

#include "semiseg/types.h"

namespace semiseg::ops {

// A tensor as planes of B * H * W pixels: channels-last images are one plane of wide pixels, contiguous ones a plane for each
// channel.
struct PastePair {
  Tensor source, target, out;
  int64_t planes, pixel_bytes;
};

// The pairs of which both are defined. `pasted`: a result for each target, still to be written, undefined for the others.
// Throws c10::Error where shapes or types differ.
std::vector<PastePair> paste_pairs(const Tensor& mask_BHW, const std::vector<Tensor>& sources,
                                   const std::vector<Tensor>& targets, std::vector<Tensor>* pasted);

}  // namespace semiseg::ops
