// What kernels say to nvcc and need not say where they are compiled for the CPU (tests/cuda_on_cpu.h).
#pragma once

#ifdef __CUDACC__
#define SEMISEG_KERNEL  // a kernel that is no template
// Arrays stay in registers only where every index is known when the kernel is compiled.
#define SEMISEG_UNROLL _Pragma("unroll")
#define SEMISEG_UNROLL_4 _Pragma("unroll 4")
#else
#define SEMISEG_KERNEL inline
#define SEMISEG_UNROLL
#define SEMISEG_UNROLL_4
#endif
