// Segments one image: prints the share of each class, and writes OUT.png (class indices) and OUT_overlay.jpg.
//
//   segment CHECKPOINT IMAGE OUT
#include <semiseg/overlay.h>
#include <semiseg/predictor.h>

#include <cstdio>
#include <opencv2/imgcodecs.hpp>
#include <string>

int main(int argc, char** argv) try {
  if (argc != 4) {
    std::fprintf(stderr, "usage: segment CHECKPOINT IMAGE OUT\n");
    return 2;
  }
  const semiseg::Predictor predictor(argv[1]);
  const cv::Mat image = semiseg::load_image(argv[2]);
  const semiseg::Segmentation result = predictor.predict(image);

  const auto shares = semiseg::class_shares(result.classes, predictor.classes().size());
  for (size_t c = 0; c < shares.size(); ++c)
    if (shares[c] > 0) std::printf("%-16s %5.1f %%\n", predictor.classes()[c].name.c_str(), 100 * shares[c]);

  const std::string out = argv[3];
  cv::imwrite(out + ".png", result.classes);
  cv::imwrite(out + "_overlay.jpg", semiseg::OverlayPainter(predictor.classes()).paint(image, result.classes));
  return 0;
} catch (const semiseg::Error& error) {
  std::fprintf(stderr, "segment: %s\n", error.what());
  return error.exit_code();
}
