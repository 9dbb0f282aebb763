#include "ops/kernels.h"

namespace semiseg::ops {

const Kernels* kernels() {
#if defined(__x86_64__)
  static const Kernels* const best = []() -> const Kernels* {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq"))
      return &kAvx512Kernels;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &kAvx2Kernels;
    return nullptr;
  }();
  return best;
#else
  return nullptr;
#endif
}

}  // namespace semiseg::ops
