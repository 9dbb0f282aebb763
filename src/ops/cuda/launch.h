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

// Whether kernels that read 16 bytes at once (pack.cuh) serve the tensor: on a GPU, channels-last, of a type that has kernels.
inline bool is_in_packs(const at::Tensor& x_BCHW) {
  return x_BCHW.is_cuda() && x_BCHW.dim() == 4 && has_kernels(x_BCHW.scalar_type()) && x_BCHW.numel() > 0 &&
         x_BCHW.size(1) * x_BCHW.element_size() % 16 == 0 && x_BCHW.is_contiguous(at::MemoryFormat::ChannelsLast) &&
         reinterpret_cast<uintptr_t>(x_BCHW.const_data_ptr()) % 16 == 0;
}

constexpr int64_t kMostRows = 65535;  // of a grid, its second side

inline int64_t quotient_up(int64_t of, int64_t by) { return (of + by - 1) / by; }

// One dimension of a grid whose blocks take `each` of `of`.
inline unsigned grid_side(int64_t of, int64_t each) { return static_cast<unsigned>(quotient_up(of, each)); }

// For kernels of which a thread holds a pack of a row (pack.cuh): blocks of `threads` along a row, all rows.
inline dim3 grid_of_rows(int64_t rows, int64_t columns, int64_t packs, int64_t threads) {
  return dim3(grid_side(columns * packs, threads), static_cast<unsigned>(rows));
}

}  // namespace semiseg::ops::cuda
