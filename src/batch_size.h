// optim.batch: auto, the largest batch that fits into memory.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "semiseg/config.h"

namespace semiseg {

// The largest number of units from 1 to `most` whose peak stays at or below `limit_mb`, or a tenth less; 0 where even one does
// not. A unit is the smallest batch. `peak_mb` tells the peak of a number of units, nothing where memory ran out; it is asked
// for `first` units and for few more, each chosen by a line through those before and at most eight times as many as fit.
int64_t largest_that_fits(int64_t first, int64_t most, double limit_mb,
                          const std::function<std::optional<double>(int64_t)>& peak_mb);

// Finds optim.batch_labeled and optim.batch_unlabeled, in the ratio that the config gives them, by real updates of throw-away
// networks; sets them and optim.batch to "given", and logs what was measured. Takes at most 80 % of the memory, 64 images of
// each kind and no more images than the lists have. Returns false when a signal stopped it. Throws Error(kMemory) where the
// smallest batch does not fit.
bool choose_batch(Config* config);

}  // namespace semiseg
