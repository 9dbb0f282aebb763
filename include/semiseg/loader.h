// Batches, read ahead by threads.
#pragma once

#include <array>
#include <memory>
#include <optional>

#include "semiseg/dataset.h"
#include "semiseg/transform.h"
#include "semiseg/types.h"

namespace semiseg {

// What a method reads in each step.
struct BatchNeeds {
  bool unlabeled = false;           // the unlabelled list at all
  int strong_views = 0;             // strong views of each unlabelled image
  bool mix = false;                 // a second, independent draw of unlabelled images, CutMix boxes and uniform draws
  bool mix_within = false;          // CutMix boxes and uniform draws alone: images of the batch are mixed with each other
  bool random_strong_view = false;  // AugSeg's strong view (semi.strong_view: random)
  bool augseg_boxes = false;        // AugSeg's two boxes an image: cutmix_box_B4[0] of labelled, [1] of unlabelled content
  bool truth = false;               // the labels of unlabelled images, where the data has them
};

struct LoaderOptions {
  uint64_t seed = 0;
  int64_t batch_labeled = 4, batch_unlabeled = 4;  // of all processes
  int64_t accumulate = 1;                          // batches that an update takes
  int64_t part = 0, parts = 1;                     // which of as many equal parts of each batch is loaded; parts divides both
  WeakViewOptions view;
  BatchNeeds needs;
  int64_t workers = 2;            // threads; 0 loads in the caller
  int64_t prefetch = 3;           // batches read ahead
  std::vector<double> mean, std;  // RGB, of values in 0..1
  torch::Device device = torch::kCPU;
  double rare_class_temperature = 0;  // of rare class sampling of labelled crops; 0: off
  std::optional<ClassCounts>
      labeled_counts;  // of the labelled list; counted here where the sampler needs them and they are not given
};

// Rare class sampling (DAFormer, Hoyer et al., arXiv 2111.14887): the probability of each class to be asked for,
// softmax((1 - f_c) / T) over the classes that have pixels, f_c = pixels of c / all pixels; 0 for the others.
// REQUIRES: temperature > 0, and a class with pixels.
std::vector<double> rare_class_probabilities(const std::vector<int64_t>& pixels_K, double temperature);

// `batch(index)` is a pure function of (data, seed, index): no state to save, no order that depends on threads; nor on the
// number of processes, each of which loads its part of the same batch.
//
// Draw d of a list of N images (d = index * batch size + position) is image permutation(seed, list, d / N)[d % N]: a list that
// ends is drawn in a new order. Views depend on (seed, list, d) alone.
//
// With rare class sampling, draw d of the labelled list instead asks for a class c, drawn by rare_class_probabilities, and
// takes an image uniformly among those of which c covers more than .0014 (3000 pixels of Cityscapes' 2048 x 1024), or, where
// there is none, among those that hold c. Its crop is redrawn, up to 10 times, until it holds more pixels of c than .0007 of
// the image has. Labels are then read once more, when the loader is made.
//
// Memory is bounded, however slow the caller: there are at most `prefetch` + 1 batches in uint8, read ahead or in work, those
// of three updates on their way to a GPU, and in each thread one decoded image with its label and views, and a decoder's
// buffers of an image's and a file's size.
class Loader {
 public:
  Loader(const Dataset& data, LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The batch for micro-step `index`, on the device, normalised; the following ones are read ahead.
  // Throws what reading threw: Error(kData) naming the file.
  TrainBatch batch(int64_t index);

  // Seconds that batch() has waited for data since the last call of this function; while a GPU was busy with earlier steps it
  // did not wait.
  double take_wait_seconds();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// uint8 [B, H, W, 3] on any device -> float32 [B, 3, H, W] in channels-last, normalised.
Tensor normalize(const Tensor& image_BHWC, const std::vector<double>& mean, const std::vector<double>& std);

// Reads images of a list in order, ahead of the caller: at most two samples a thread. In pinned memory, which LibTorch keeps
// for the next time, where they go to a GPU.
class OrderedReader {
 public:
  // Image first, then every stride-th; `device`: where they will be sent.
  OrderedReader(const Dataset& data, Split split, int64_t workers, int64_t first = 0, int64_t stride = 1,
                torch::Device device = torch::kCPU);
  ~OrderedReader();
  OrderedReader(const OrderedReader&) = delete;
  OrderedReader& operator=(const OrderedReader&) = delete;
  // REQUIRES: called no more often than there are such images.
  Sample next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace semiseg
