// Times the loader alone, in the calling thread: no network, whose steps at this size would take minutes on a processor.
//
//   bench_loading CONFIG.yaml STEPS [key=value ...]
//
// A step is one batch of what UniMatch reads: labelled images with one view, and two draws of unlabelled ones with the weak and
// two strong views. Prints one JSON object; the time is the median over the steps.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "semiseg/error.h"
#include "semiseg/loader.h"

namespace semiseg {
namespace {

double median_ms(const Config& config, int64_t steps) {
  constexpr int64_t kWarmUp = 4;
  const auto data = open_dataset(config);
  LoaderOptions options;
  options.seed = config.seed;
  options.batch_labeled = config.optim.batch_labeled;
  options.batch_unlabeled = config.optim.batch_unlabeled;
  options.view = {config.data.crop[0], config.data.crop[1], config.data.scale[0], config.data.scale[1], config.data.flip};
  options.needs = {.unlabeled = true, .strong_views = 2, .mix = true, .truth = config.data.unlabeled_truth};
  options.workers = 0;
  options.mean = config.data.mean;
  options.std = config.data.std;
  Loader loader(*data, options);
  std::vector<double> ms;
  for (int64_t index = 0; index < kWarmUp + steps; ++index) {
    const auto begin = std::chrono::steady_clock::now();
    loader.batch(index);
    if (index >= kWarmUp)
      ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(ms.begin(), ms.end());
  return ms[ms.size() / 2];
}

int run(const std::vector<std::string>& words) {
  const int64_t steps = words.size() < 2 ? 0 : std::atoll(words[1].c_str());
  if (steps < 1) {
    std::fprintf(stderr, "usage: bench_loading CONFIG.yaml STEPS [key=value ...]\n");
    return 2;
  }
  const Config config = load_config(words[0], {words.begin() + 2, words.end()});
  std::printf("{\"step_ms\": %.3f}\n", median_ms(config, steps));
  return 0;
}

}  // namespace
}  // namespace semiseg

int main(int argc, char** argv) {
  try {
    return semiseg::run({argv + 1, argv + argc});
  } catch (const semiseg::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.kind());
  }
}
