// Data sets: which images and labels there are, and how one of them is read.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "semiseg/config.h"
#include "semiseg/registry.h"
#include "semiseg/types.h"

namespace semiseg {

// The classes of a task and the values that stand for them in label files.
struct ClassSet {
  std::vector<std::string> names;
  std::vector<std::array<uint8_t, 3>> colours;  // RGB, for pictures
  // Value in a label file -> class index, kIgnore, or -1 where the value is an error.
  std::array<int16_t, 256> value_to_class{};
  // Class index -> value that Cityscapes' labelIds use; empty where there is none.
  std::vector<uint8_t> label_ids;

  int64_t size() const { return static_cast<int64_t>(names.size()); }
};

// `name` is a preset (cityscapes, camvid, synthetic) or a YAML file:
//   classes:
//     - {name: road, colour: [128, 64, 128], id: 0}    # colour and id may be left out
//   ignore: [255]                                       # further label values that nothing counts
// or a colour table: lines "R G B name", or "name,R,G,B" below a line of titles.
// Throws Error(kConfig) with file and line.
ClassSet load_classes(const std::string& name, int64_t ignore_index);

// The label values of Cityscapes' gtFine labelIds (34 ids), mapped to the 19 train ids of `cityscapes`.
std::array<int16_t, 256> cityscapes_label_ids_to_classes();

enum class Split { kLabeled, kUnlabeled, kVal };
const char* split_name(Split split);

// Pixels [top, bottom) x [left, right) of an image.
struct Window {
  int64_t top = 0, left = 0, bottom = 0, right = 0;
  int64_t reduction = 1;  // pixels so much larger than the file's are as good: the view shrinks by at least that
};

// Part of an image: what a window asked for, or more. A reader that reduces (JPEG's by 2, 4 or 8) gives H and W, and the place
// in it, of the reduced image.
struct ImagePart {
  Tensor pixels_HWC;          // uint8 RGB
  int64_t H = 0, W = 0;       // of the whole image
  int64_t top = 0, left = 0;  // of pixels_HWC in it
};
ImagePart whole_image(const Tensor& image_HWC);

// A Sample whose image may be a part.
struct PartialSample {
  ImagePart image;
  Tensor label_HW;  // whole
  std::string id;
};

// Says what to read of an image, given its size and its label; that is undefined where no label is asked for.
using ChooseWindow = std::function<Window(int64_t H, int64_t W, const Tensor& label_HW)>;

// Reading is thread-safe and never changes the data.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size(Split split) const = 0;
  // Image and label; for Split::kUnlabeled the label is undefined, but with data.unlabeled_truth. Throws Error(kData) naming
  // the file and, for a label, the pixel.
  virtual Sample get(Split split, int64_t index) const = 0;
  // The same, but only as much of the image as is needed. Calls `choose` once; throws what it throws. Here: the whole image.
  virtual PartialSample get_part(Split split, int64_t index, const ChooseWindow& choose) const;
  // The label alone, for counting.
  virtual Tensor label(Split split, int64_t index) const = 0;
  // Throws Error(kData) where the image's file cannot be one, or has another size than `label_HW` (undefined: not looked at),
  // as far as its header tells; so it is found before training that would fail hours later. Here: nothing.
  virtual void require_image(Split, int64_t /*index*/, const Tensor& /*label_HW*/) const {}
  // The image's path as messages and predictions name it.
  virtual std::string id(Split split, int64_t index) const = 0;
  virtual const ClassSet& classes() const = 0;
};

Registry<std::unique_ptr<Dataset>(const Config&)>& datasets();

// Whether the labels of unlabelled images are read: to measure pseudo-labels, or because the method learns from label files.
bool reads_unlabeled_labels(const Config& config);

// The data set that config.data names.
std::unique_ptr<Dataset> open_dataset(const Config& config);

// Pixels of each class over a split's labels, int64 [K], and of how many images hold each class.
struct ClassCounts {
  std::vector<int64_t> pixels;                   // [K]
  std::vector<int64_t> images;                   // [K]
  std::vector<int64_t> pixels_of_those;          // [K] counted pixels of the images that contain the class
  std::vector<std::vector<int64_t>> of_image{};  // [N, K + 1] pixels of each class in each image; the last: ignored ones
};
// Looks at the images, too: see Dataset::require_image.
ClassCounts count_classes(const Dataset& data, Split split, int64_t workers);

// The first ceil(n * numerator / denominator) of a seeded permutation of 0..n-1, sorted: 1/16 lies within 1/8 within 1/4.
// `text` is such as "1/8". Throws Error(kConfig) when it is no fraction in (0, 1].
std::vector<int64_t> nested_split(int64_t n, const std::string& text, uint64_t seed);

// --- reading files (image_io.cpp) ---

// uint8 RGB [H, W, 3]. EXIF orientation is not applied: pixels stay as stored, as in the label. Throws Error(kData) for a file
// that is missing, truncated (OpenCV decodes such "successfully"), or no image.
Tensor read_image(const std::string& path);
// uint8 [H, W] of the values as stored; palette indices stay indices. Throws Error(kData) for 16-bit, colour or lossy files.
Tensor read_label_values(const std::string& path);
// Values mapped to classes. Throws Error(kData) with file, pixel and value for one that is neither a class nor ignored.
Tensor map_label(const Tensor& values_HW, const std::array<int16_t, 256>& value_to_class, const std::string& path);

// PNG encoders, through files.h.
void write_label_png(const std::string& path, const Tensor& label_HW);  // uint8 grey
void write_image(const std::string& path, const Tensor& image_HWC);     // uint8 RGB; .png or .jpg
// The image blended with the colours of the classes; kIgnore stays as it is. uint8 RGB [H, W, 3].
Tensor overlay(const Tensor& image_HWC, const Tensor& label_HW, const ClassSet& classes, double opacity = 0.6);

}  // namespace semiseg
