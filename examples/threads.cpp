// Predicts many images from several threads that share one network: prints each image's largest class and how sure the network
// is, and writes DIR/NAME.png (class indices).
//
//   threads CHECKPOINT DIR IMAGE...
//
// On the CPU, OMP_NUM_THREADS=1 lets each thread compute with one core.
#include <semiseg/predictor.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <thread>
#include <vector>

namespace {

void predict_file(const semiseg::Predictor& predictor, const std::filesystem::path& path, const std::filesystem::path& folder) {
  const semiseg::Segmentation result = predictor.predict(semiseg::load_image(path.string()));
  const auto shares = semiseg::class_shares(result.classes, predictor.classes().size());
  const auto largest = std::max_element(shares.begin(), shares.end()) - shares.begin();
  std::printf("%s: %.1f %% %s, mean confidence %.3f\n", path.c_str(), 100 * shares[largest],
              predictor.classes()[largest].name.c_str(), cv::mean(result.confidence)[0]);
  cv::imwrite((folder / path.stem()).string() + ".png", result.classes);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 4) {
    std::fprintf(stderr, "usage: threads CHECKPOINT DIR IMAGE...\n");
    return 2;
  }
  const semiseg::Predictor predictor(argv[1], {.confidence = true});
  const std::vector<std::filesystem::path> images(argv + 3, argv + argc);
  std::filesystem::create_directories(argv[2]);

  std::atomic<size_t> next = 0;
  std::atomic<int> exit_code = 0;
  const auto work = [&] {
    for (size_t i; (i = next++) < images.size();) {
      try {
        predict_file(predictor, images[i], argv[2]);
      } catch (const semiseg::Error& error) {  // the other images are still wanted
        std::fprintf(stderr, "threads: %s\n", error.what());
        exit_code = error.exit_code();
      }
    }
  };
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < std::max(2u, std::thread::hardware_concurrency()); ++i) threads.emplace_back(work);
  threads.clear();  // waits for them
  return exit_code;
} catch (const semiseg::Error& error) {
  std::fprintf(stderr, "threads: %s\n", error.what());
  return error.exit_code();
}
