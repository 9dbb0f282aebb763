// Compiled with -mavx2 -mfma.
#include "ops/kernels_body.h"

namespace semiseg::ops {

const Kernels kAvx2Kernels = kKernelTable;

}  // namespace semiseg::ops
