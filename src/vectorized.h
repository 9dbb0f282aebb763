// A function marked SEMISEG_VECTORIZED is compiled several times, for the vector units that processors may have, and the best
// one is chosen when the program starts. Without fused multiply-add: results are the same on all of them.
#pragma once

// Sanitizers are not up yet when that choice is made; elsewhere the compiler's baseline serves.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define SEMISEG_VECTORIZED __attribute__((target_clones("avx2", "default")))
#else
#define SEMISEG_VECTORIZED
#endif
