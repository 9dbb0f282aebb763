// Where the pixels of an upsampled image lie between the points that it is made of.
#pragma once

#include <cstdint>

namespace semiseg::ops::cuda {

// One axis of a bilinear upsampling, as ATen computes it. Where there is one point alone, it is its own neighbour.
struct Axis {
  int points, pixels;  // of the logits; of the output, of which a larger grid may have been cut
  float step;          // points per pixel
  bool align_corners;

  __device__ int cells() const { return points > 1 ? points - 1 : 1; }
  __device__ float position(int pixel) const {
    const float at = align_corners ? step * static_cast<float>(pixel) : step * (static_cast<float>(pixel) + 0.5f) - 0.5f;
    return fminf(fmaxf(at, 0.0f), static_cast<float>(points - 1));
  }
  // The last position is the end of the last cell, not the start of one more.
  __device__ int cell(int pixel) const {
    const int at = static_cast<int>(position(pixel));
    return at < cells() ? at : cells() - 1;
  }
  __device__ float fraction(int pixel) const { return position(pixel) - static_cast<float>(cell(pixel)); }
  __device__ int next(int cell) const { return cell + 1 < points ? cell + 1 : cell; }
  // The first pixel that lies in this cell or in a later one; `pixels` where there is none.
  __device__ int first_pixel(int cell_index) const {
    if (cell_index >= cells()) return pixels;
    int pixel = step > 0 ? static_cast<int>(static_cast<float>(cell_index) / step) : 0;
    pixel = pixel < pixels ? pixel : pixels;
    while (pixel > 0 && cell(pixel - 1) >= cell_index) --pixel;
    while (pixel < pixels && cell(pixel) < cell_index) ++pixel;
    return pixel;
  }
};

// `grid`: the pixels that the points are stretched over, at least `pixels`; 0: these.
inline Axis axis_of(int64_t points, int64_t pixels, int64_t grid, bool align_corners) {
  if (grid == 0) grid = pixels;
  float step = 0;
  if (!align_corners)
    step = static_cast<float>(points) / static_cast<float>(grid);
  else if (grid > 1)
    step = static_cast<float>(points - 1) / static_cast<float>(grid - 1);
  return {static_cast<int>(points), static_cast<int>(pixels), step, align_corners};
}

}  // namespace semiseg::ops::cuda
