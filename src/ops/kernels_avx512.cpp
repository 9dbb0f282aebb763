// Compiled with -mavx512f -mavx512vl -mavx512bw -mavx512dq.
#include "ops/kernels_body.h"

namespace semiseg::ops {

const Kernels kAvx512Kernels = kKernelTable;

}  // namespace semiseg::ops
