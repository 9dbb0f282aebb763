// The vectorised half of the fused operations: one strip of pixels at a time, on plain memory. The same code is compiled for
// each instruction set (kernels_avx2.cpp, kernels_avx512.cpp), so this header and kernels_body.h include nothing that could be
// compiled into both: an inline function of a library, built with AVX-512 in one file, could be the one that the linker keeps.
//
// Upsampling by its cells. Two neighbouring low-resolution columns and two rows span a cell; every pixel of the image lies in
// one and is the bilinear mean of its four corners:
//
//      column c           column c + 1
//      top[k][c] -------- top[k][c + 1]
//         |   pixel (fx, fy)   |
//      bottom[k][c] ----- bottom[k][c + 1]
//
//      z_k = L_k + fx (R_k - L_k)
//      L_k = top[k][c] + fy (bottom[k][c] - top[k][c])
//      R_k = top[k][c + 1] + fy (bottom[k][c + 1] - top[k][c + 1])
//
// A vector holds pixels of neighbouring cells, never neighbouring pixels: then L and R are plain loads, the gradient of L and R
// a sum over the cell's pixels in registers, and any scale and both conventions of corners are the same code. The pixels of an
// image row are therefore kept by slot: slot = phase * padded + cell, where the phase numbers the pixels of a cell from left to
// right.
#pragma once

#include <cstdint>

namespace semiseg::ops {

constexpr int64_t kBlock = 16;  // cells are padded to a multiple of it: the widest vector
constexpr int64_t kMaxClasses = 256;

// The columns of an image by slot.
struct Columns {
  int64_t padded;         // cells, padded
  int64_t phases;         // pixels of the fullest cell
  const float* fraction;  // fx [phases, padded]
  const uint8_t* used;    // [phases, padded / 8]: whether any of 8 neighbouring slots holds a pixel
};

// The cells between two low-resolution rows of one image, and the image rows among them.
struct Strip {
  int64_t K;
  const float* top;           // [K, stride]
  const float* bottom;        // [K, stride]
  int64_t stride;             // >= padded + kBlock; columns beyond the last repeat it
  int64_t rows;               // image rows in the strip
  const float* row_fraction;  // fy [rows]
  Columns columns;
};

struct CrossEntropy {
  // In, by slot [rows, phases, padded]: the class or -1 where nothing is counted, and the pixel's weight w (class weight
  // included).
  const int32_t* label;
  const float* weight;
  const float* pixel_weight;  // the weight without the class weight; read where smoothing > 0
  // The loss of a pixel: w (1 - s) CE + pixel_weight s / K sum_k weight_k (lse - z_k), and focal: times (1 - p)^gamma where s =
  // 0.
  float smoothing;
  const float* class_weight;  // [K]; read where smoothing > 0
  float focal_gamma;          // 0: none
  // Out: gradients of the sum of the losses are added to [2, K, padded]: those of each cell's left column, then of its right
  // one. (In one row they would overlap, and a load that overlaps the store before it waits.) Null: no gradient is wanted.
  float* top_gradient;
  float* bottom_gradient;
  double loss;  // their sum
};

// Vector functions of one instruction set.
struct Kernels {
  void (*cross_entropy)(const Strip& strip, CrossEntropy& loss);
  // Softmax probability of the label by slot, 1 where nothing is counted. label as CrossEntropy::label.
  void (*label_probability)(const Strip& strip, const int32_t* label, float* probability);
  // Class of the highest logit and, unless null, its softmax probability, by slot. Of equal logits the first class is taken.
  void (*predict)(const Strip& strip, int32_t* class_of, float* confidence);
  // Softmax probabilities by class and slot: probability [K, rows, phases, padded].
  void (*softmax)(const Strip& strip, float* probability);
};

// Those for this processor, or null where it has neither AVX-512 nor AVX2.
const Kernels* kernels();

// Each is defined where the compiler can build it.
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;

}  // namespace semiseg::ops
