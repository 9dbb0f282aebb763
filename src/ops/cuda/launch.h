// What every file that launches kernels on tensors needs.
#pragma once

#include <ATen/ATen.h>

namespace semiseg::ops::cuda {

// The types of values that kernels are compiled for.
inline bool has_kernels(at::ScalarType type) { return type == at::kFloat || type == at::kHalf || type == at::kBFloat16; }

// Calls take with a value of the type. REQUIRES: has_kernels(type).
template <class Take>
void with_type(at::ScalarType type, const Take& take) {
  if (type == at::kFloat)
    take(float{});
  else if (type == at::kHalf)
    take(c10::Half{});
  else
    take(c10::BFloat16{});
}

inline int64_t quotient_up(int64_t of, int64_t by) { return (of + by - 1) / by; }

// One dimension of a grid whose blocks take `each` of `of`.
inline unsigned grid_side(int64_t of, int64_t each) { return static_cast<unsigned>(quotient_up(of, each)); }

}  // namespace semiseg::ops::cuda
