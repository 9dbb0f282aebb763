// A strong view in two halves: what is drawn, on the host, and what is done with it, there or on a GPU (ops/colours_cuda.h).
#pragma once

#include "colours.h"
#include "semiseg/transform.h"

namespace semiseg {

// What strong_view(image, random) draws.
ColourPlan draw_strong_view(Random& random);
// uint8 RGB in and out.
Tensor strong_view(const Tensor& image_HWC, const ColourPlan& plan);

}  // namespace semiseg
