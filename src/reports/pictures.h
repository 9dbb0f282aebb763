// The pictures of a run folder. All are uint8 RGB [H, W, 3] and legible without the report around them.
#pragma once

#include <string>
#include <vector>

#include "run_record.h"
#include "semiseg/report.h"

namespace semiseg {

// Rewrites confusion_matrix.png and results.png from what the run folder holds; leaves out what it does not tell, such as the
// confusion matrix of a run of an older version.
void rewrite_pictures(const RunRecord& run);

// samples/epoch_0012.jpg, within the run folder.
std::string sample_picture_name(int64_t epoch);

// --- charts.cpp ---

// Each row is a label, its pixels spread over the predictions, in percent; right ones blue, wrong ones orange. Beside it the
// class's IoU and share of the labels. Empty (undefined) where the epoch has no confusion matrix.
Tensor draw_confusion_matrix(const EpochRecord& record, const std::vector<std::string>& class_names);
// Curves over the epochs: losses, scores, learning rate, IoU of the rarest classes, pseudo-labels, speed.
Tensor draw_results(const std::vector<EpochRecord>& history, const std::vector<std::string>& class_names);
// Share of each class in the labelled pixels, on a logarithmic scale, and the number of images that hold it.
Tensor draw_class_histogram(const ClassCounts& counts, const ClassSet& classes);

// --- sample_pictures.cpp ---

// A row each: image, label, prediction, errors; then the unlabelled: image, pseudo-label (rejected pixels hatched), prediction,
// share accepted of each class. At the bottom the colours of the classes.
Tensor draw_samples(const EpochSamples& samples, const ClassSet& classes);
// Labelled crops with their labels; unlabelled ones as weak, strong and mixed views. `mean`, `std`: of the normalisation.
Tensor draw_first_batch(const FirstBatch& batch, const std::vector<double>& mean, const std::vector<double>& std,
                        const ClassSet& classes);

}  // namespace semiseg
