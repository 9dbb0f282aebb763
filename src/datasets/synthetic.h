// Street scenes drawn by integer arithmetic alone, so that they are the same on every machine.
#pragma once

#include "semiseg/types.h"

namespace semiseg {

// Scene `index` of the training or the validation stream: a pure function of its arguments. The label holds Cityscapes' train
// ids, and kIgnore on the ego vehicle's hood and on the rim of the image. REQUIRES: H >= 32, W >= 32.
Sample draw_scene(uint64_t seed, bool val, int64_t index, int64_t H, int64_t W);

}  // namespace semiseg
