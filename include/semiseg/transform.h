// The views that training sees, on the host and on uint8: pure functions of their Random. On a GPU strong views are made there,
// to the same bits (src/strong_view.h).
#pragma once

#include "semiseg/dataset.h"
#include "semiseg/random.h"
#include "semiseg/types.h"

namespace semiseg {

// Where a crop lies in the resized image.
struct Geometry {
  double scale = 1.0;
  int64_t scaled_H = 0, scaled_W = 0;  // size of the resized image
  int64_t top = 0, left = 0;           // of the crop, in the resized image
  int64_t crop_H = 0, crop_W = 0;
  bool flip = false;  // mirrored after cropping
};

struct WeakViewOptions {
  int64_t crop_H = 256, crop_W = 256;
  double scale_low = 0.5, scale_high = 2.0;
  bool flip = true;
};

// Scale uniform in [low, high], crop uniform where it fits; an image smaller than the crop is padded at the right and the
// bottom.
Geometry draw_geometry(int64_t H, int64_t W, const WeakViewOptions& options, Random& random);

// The pixels of an H x W image that view_of_image reads.
Window window_of(int64_t H, int64_t W, const Geometry& geometry);

// uint8 [crop_H, crop_W, 3]; bilinear (by area when shrinking); padding takes `fill`.
// REQUIRES: the part holds window_of(image.H, image.W, geometry).
Tensor view_of_image(const ImagePart& image, const Geometry& geometry, std::array<uint8_t, 3> fill);
Tensor view_of_image(const Tensor& image_HWC, const Geometry& geometry, std::array<uint8_t, 3> fill);
// uint8 [crop_H, crop_W]; nearest; padding is kIgnore.
Tensor view_of_label(const Tensor& label_HW, const Geometry& geometry);
// uint8 [crop_H, crop_W]; 1 on the image, 0 on padding.
Tensor view_valid(const Geometry& geometry);

// Colour jitter (brightness, contrast, saturation .5, hue .25, in random order; p .8), grey (p .2), Gaussian blur (sigma
// U(.1, 2); p .5): UniMatch's strong view. uint8 RGB in and out.
Tensor strong_view(const Tensor& image_HWC, Random& random);

// AugSeg's strong view (Zhao et al., CVPR 2023, augseg/dataset/augs_TIBA.py): one to three operations, each drawn with
// replacement from eleven and applied in order: identity; autocontrast; equalize; Gaussian blur (sigma U(.1, 2)); contrast,
// brightness, saturation, sharpness (to a factor in (.05, .95]); posterize (to 4 .. 7 bits); solarize (inverts from a threshold
// in 1 .. 255 on); hue (turned by up to half the circle, either way). All but blur and hue as PIL defines them. uint8 RGB in
// and out.
Tensor random_strong_view(const Tensor& image_HWC, Random& random);

// UniMatch's CutMix box: with p = .5 an area U(.02, .4) of the crop at ratio U(.3, 1/.3), redrawn until it lies inside.
struct Box {
  int64_t top = 0, left = 0, bottom = 0, right = 0;  // empty when all are 0
};
Box draw_cutmix_box(int64_t H, int64_t W, Random& random);

// AugSeg's box (its rand_bbox): an area of 1 - lambda of the crop, lambda ~ Beta(8, 2) for labelled content and Beta(4, 4) for
// unlabelled; the centre is uniform in [side / 8, side), and what lies outside is cut off.
Box draw_augseg_box(int64_t H, int64_t W, bool labeled_content, Random& random);

}  // namespace semiseg
