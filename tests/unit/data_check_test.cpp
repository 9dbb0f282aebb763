// check_data on small data sets on disk: what it counts, what it finds, and what it need not read twice.
#include "data_check.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <png.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <opencv2/imgcodecs.hpp>
#include <tuple>

#include "image_header.h"
#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

class DataCheckTest : public testing::Test {
 protected:
  DataCheckTest()
      : dir_(testing::TempDir() + "/semiseg_check_" + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(dir_);
    make_folders(dir_ + "/images");
    make_folders(dir_ + "/labels");
    write_file(dir_ + "/classes.yaml", "classes: [{name: road}, {name: car}]\n");
    config_.file = "test.yaml";
    config_.data.format = "list";
    config_.data.root = dir_;
    config_.data.classes = dir_ + "/classes.yaml";
    config_.data.crop = {8, 8};
    // Two labelled images, one unlabelled, one to validate on; labels are half road, half car.
    for (const char* name : {"a", "b", "u", "v"}) image(std::string("images/") + name + ".png", name[0]);
    for (const char* name : {"a", "b", "v"}) write_label_png(dir_ + "/labels/" + name + ".png", halves());
    labeled("images/a.png labels/a.png\nimages/b.png labels/b.png\n");
    config_.data.unlabeled = list("unlabeled.txt", "images/u.png\n");
    val("images/v.png labels/v.png\n");
  }

  // uint8 [8, 16]: class 0 left, class 1 right.
  static Tensor halves() {
    auto label_HW = at::zeros({8, 16}, at::kByte);
    label_HW.slice(1, 8) = 1;
    return label_HW;
  }
  static Tensor noise(int64_t seed, int64_t H = 8, int64_t W = 16) {
    return (at::arange(H * W * 3, at::kLong) * (2 * seed + 1) % 251).to(at::kByte).view({H, W, 3});
  }
  void image(const std::string& path, int64_t seed, int64_t H = 8, int64_t W = 16) {
    write_image(dir_ + "/" + path, noise(seed, H, W));
  }
  std::string list(const std::string& name, const std::string& text) {
    write_file(dir_ + "/" + name, text);
    return dir_ + "/" + name;
  }
  void labeled(const std::string& text) { config_.data.labeled = list("train.txt", text); }
  void val(const std::string& text) { config_.data.val = list("val.txt", text); }

  DataReport check() {
    FactsCache nothing("");
    return check_data(config_, nothing);
  }
  // The findings of a report, one a line.
  static std::string told(const DataReport& report) {
    std::string text;
    for (const Finding& finding : report.findings)
      text += std::string(finding.severity == Severity::kProblem   ? "problem"
                          : finding.severity == Severity::kWarning ? "warning"
                                                                   : "note") +
              " [" + finding.kind + "] " + finding.message + "\n";
    return text;
  }

  std::string dir_;
  Config config_;
};

TEST_F(DataCheckTest, CountsPixelsAndImagesOfEachClass) {
  auto label_HW = halves();
  label_HW[0] = kIgnore;
  label_HW[1] = 0;  // 16 ignored, 8 + 6 x 8 = 56 + 8 = 64 of class 0, 48 of class 1
  write_label_png(dir_ + "/labels/b.png", label_HW);
  write_label_png(dir_ + "/labels/v.png", at::ones({8, 16}, at::kByte));
  const DataReport report = check();
  const SplitFacts &train = report[Split::kLabeled], &val = report[Split::kVal];
  EXPECT_EQ(train.images, 2);
  EXPECT_EQ(train.pixels, (std::vector<int64_t>{64 + 64, 64 + 48}));
  EXPECT_EQ(train.images_of, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(train.ignored, 16);
  EXPECT_DOUBLE_EQ(train.share(1), 112.0 / 240);
  EXPECT_EQ(val.pixels, (std::vector<int64_t>{0, 128}));
  EXPECT_EQ(val.images_of, (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(train.sizes, (std::map<SplitFacts::Size, int64_t>{{{8, 16}, 2}}));
  EXPECT_EQ(train.stored, (std::map<std::string, int64_t>{{"PNG RGB 8-bit", 2}}));
  EXPECT_EQ(report.files, 7);
  EXPECT_EQ(told(report), "warning [class without validation] no val pixel of road: not in the mIoU\n");
}

// A palette PNG of one row of 16 pixels in two halves, values 0 and 1 in the given colours.
void write_palette_png(const std::string& path, png_color of_0, png_color of_1) {
  FILE* file = std::fopen(path.c_str(), "wb");
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_init_io(png, file);
  png_set_IHDR(png, info, 16, 8, 8, PNG_COLOR_TYPE_PALETTE, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  png_color palette[] = {of_0, of_1};
  png_set_PLTE(png, info, palette, 2);
  png_write_info(png, info);
  std::vector<png_byte> row(16, 0);
  std::fill(row.begin() + 8, row.end(), png_byte{1});
  for (int y = 0; y < 8; ++y) png_write_row(png, row.data());
  png_write_end(png, nullptr);
  png_destroy_write_struct(&png, &info);
  std::fclose(file);
}

TEST_F(DataCheckTest, APaletteThatNamesOtherClassesThanItsIndicesIsSeen) {
  write_file(dir_ + "/classes.yaml", "classes: [{name: road, colour: [128, 64, 128]}, {name: car, colour: [0, 0, 142]}]\n");
  const png_color road{128, 64, 128}, car{0, 0, 142}, none{1, 2, 3};
  for (const auto& [of_0, of_1, finds] : {std::tuple(road, car, false), std::tuple(car, road, true),
                                          std::tuple(none, road, true), std::tuple(none, none, false)}) {
    write_palette_png(dir_ + "/labels/a.png", of_0, of_1);
    const std::string text = told(check());
    EXPECT_EQ(text.find("warning [palette of other classes] label value") != std::string::npos, finds) << text;
  }
  write_palette_png(dir_ + "/labels/a.png", car, road);
  EXPECT_NE(told(check()).find("label value 0 is read as road, but its palette gives it the colour of car: "),
            std::string::npos);
}

TEST_F(DataCheckTest, DataThatIsInOrderHasNoFindings) {
  const DataReport report = check();
  EXPECT_EQ(told(report), "");
  EXPECT_FALSE(report.stopped);
}

TEST_F(DataCheckTest, FindsEveryBrokenFile) {
  struct Case {
    const char* name;
    std::function<void()> breaks;  // images/b.png or labels/b.png
    std::vector<std::string> told;
  };
  const std::string image_path = dir_ + "/images/b.png", label_path = dir_ + "/labels/b.png";
  const auto cut = [](const std::string& path, double share) {
    const std::string bytes = read_file(path);
    write_file(path, bytes.substr(0, static_cast<size_t>(static_cast<double>(bytes.size()) * share)));
  };
  const auto jpeg = [&](double share) {
    const std::string path = dir_ + "/b.jpg";
    write_image(path, noise(3, 64, 64));
    cut(path, share);
    write_file(image_path, read_file(path));
  };
  auto range = halves();
  range[5][9] = 7;
  range[6][0] = 7;
  const std::vector<Case> cases{
      {"half a PNG", [&] { cut(image_path, 0.5); }, {"images/b.png", "truncated PNG"}},
      {"nearly all of a PNG", [&] { cut(image_path, 0.97); }, {"images/b.png", "truncated PNG"}},
      {"half a JPEG", [&] { jpeg(0.5); }, {"images/b.png", "truncated JPEG"}},
      {"nearly all of a JPEG", [&] { jpeg(0.97); }, {"images/b.png", "truncated JPEG"}},
      {"no bytes", [&] { write_file(image_path, ""); }, {"images/b.png", "empty file"}},
      {"text", [&] { write_file(image_path, "hello"); }, {"images/b.png", "not an image"}},
      {"a folder", [&] { fs::remove(image_path), make_folders(image_path); }, {"train.txt:2", "images/b.png"}},
      {"missing", [&] { fs::remove(image_path); }, {"train.txt:2", "images/b.png"}},
      {"a missing label", [&] { fs::remove(label_path); }, {"train.txt:2", "labels/b.png"}},
      {"half a label", [&] { cut(label_path, 0.5); }, {"labels/b.png", "truncated PNG"}},
      {"a label value",
       [&] { write_label_png(label_path, range); },
       {"labels/b.png", "label value 7 at row 5, column 9", "2 pixels of 1 file"}},
      {"another size",
       [&] {
         write_label_png(label_path, at::zeros({16, 8}, at::kByte));
       },
       {"labels/b.png", "16 x 8", "8 x 16", "images/b.png"}},
      {"a 16-bit label",
       [&] { cv::imwrite(label_path, cv::Mat(8, 16, CV_16UC1, cv::Scalar(300))); },
       {"labels/b.png", "16-bit label"}},
  };
  for (const Case& c : cases) {
    fs::remove_all(image_path);
    image("images/b.png", 'b');
    write_label_png(label_path, halves());
    c.breaks();
    const DataReport report = check();
    ASSERT_EQ(report.count(Severity::kProblem), 1) << c.name << "\n" << told(report);
    for (const std::string& words : c.told)
      EXPECT_NE(report.findings[0].message.find(words), std::string::npos) << c.name << ": " << words << "\n" << told(report);
    EXPECT_EQ(report.findings[0].files.size(), 1u) << c.name;
  }
}

TEST_F(DataCheckTest, AFileThatMayNotBeReadIsToldWhateverTheCacheKnows) {
  if (::geteuid() == 0) GTEST_SKIP() << "the superuser may read everything";
  FactsCache cache(dir_ + "/cache/facts");
  EXPECT_EQ(check_data(config_, cache).count(Severity::kProblem), 0);
  fs::permissions(dir_ + "/images/b.png", fs::perms::none);
  EXPECT_EQ(check_data(config_, cache).count(Severity::kProblem), 1);
}

TEST_F(DataCheckTest, FindsTheSamePictureUnderTwoNames) {
  // Other bytes, the same pixels.
  cv::imwrite(dir_ + "/images/v.bmp", cv::imread(dir_ + "/images/a.png"));
  val("images/v.bmp labels/v.png\n");
  DataReport report = check();
  EXPECT_EQ(told(report),
            "warning [leak] LEAK: the same picture under two names, between the labeled and the val list: 1 time, such as "
            "images/a.png = images/v.bmp; scores on val will be too good\n");

  fs::copy(dir_ + "/images/a.png", dir_ + "/images/copy.png");
  labeled("images/a.png labels/a.png\nimages/copy.png labels/b.png\n");
  val("images/v.png labels/v.png\n");
  report = check();
  EXPECT_EQ(told(report),
            "warning [copies] the same picture under two names, within the labeled list: 1 time, such as images/a.png = "
            "images/copy.png\n");

  // By path: a leak, and what many recipes do.
  labeled("images/a.png labels/a.png\nimages/u.png labels/b.png\n");
  val("images/a.png labels/a.png\n");
  report = check();
  ASSERT_EQ(report.findings.size(), 2u) << told(report);
  EXPECT_EQ(report.findings[0].message.substr(0, 6), "LEAK: ");
  EXPECT_EQ(report.findings[1].severity, Severity::kNote);
}

TEST_F(DataCheckTest, FindsClassesThatAreApart) {
  // Of 128 pixels 8 are car in val, 64 in labeled: 6.25 % and 50 %.
  auto label_HW = at::zeros({8, 16}, at::kByte);
  label_HW[0].slice(0, 0, 8) = 1;
  write_label_png(dir_ + "/labels/v.png", label_HW);
  EXPECT_NE(told(check()).find("more than 5 times apart: car (50.000 % and 6.250 %)"), std::string::npos) << told(check());
  label_HW[1] = 1;  // 24: 18.75 %, less than five times apart
  write_label_png(dir_ + "/labels/v.png", label_HW);
  EXPECT_EQ(told(check()), "");
}

TEST_F(DataCheckTest, FindsMisreadLabels) {
  for (const char* name : {"a", "b", "v"}) write_label_png(dir_ + "/labels/" + name + ".png", halves() * 255);
  EXPECT_NE(told(check()).find("[black and white labels]"), std::string::npos) << told(check());
  for (const char* name : {"a", "b", "v"}) write_label_png(dir_ + "/labels/" + name + ".png", halves() + 1);
  const DataReport report = check();
  EXPECT_EQ(report.count(Severity::kProblem), 1);
  EXPECT_NE(report.findings[0].message.find("192 pixels of 3 files"), std::string::npos) << told(report);
  EXPECT_NE(report.findings[0].message.find("counted from 1"), std::string::npos) << told(report);
}

TEST_F(DataCheckTest, FindsImagesThatShowNothing) {
  write_image(dir_ + "/images/u.png", at::full({8, 16, 3}, 90, at::kByte));
  write_label_png(dir_ + "/labels/b.png", at::full({8, 16}, kIgnore, at::kByte));
  EXPECT_EQ(told(check()),
            "warning [nothing labelled] 1 image with a label that is ignored everywhere, such as images/b.png\n"
            "warning [flat image] 1 image of nearly one colour, such as images/u.png\n");
}

TEST_F(DataCheckTest, FindsSizesThatDoNotGoTogether) {
  image("images/u.png", 'u', 8, 32);
  EXPECT_NE(told(check()).find(
                "unlabeled images are of another size or shape than the labelled ones: typically 8 x 32, not 8 x 16 (H x W)"),
            std::string::npos)
      << told(check());
  image("images/u.png", 'u', 8, 17);
  EXPECT_NE(told(check()).find("1 image of the unlabeled list not of the size 8 x 16"), std::string::npos) << told(check());
  image("images/u.png", 'u');
  config_.data.crop = {64, 16};
  EXPECT_NE(told(check()).find("the crop of 64 x 16 is larger than 3 training images"), std::string::npos) << told(check());
}

TEST_F(DataCheckTest, ReadsOnlyFilesThatChanged) {
  const std::string path = dir_ + "/cache/deep/facts.jsonl";
  const auto check_with_cache = [&](int64_t read, int64_t found, const std::string& expected) {
    FactsCache cache(path);
    const DataReport report = check_data(config_, cache);
    cache.save();
    EXPECT_EQ(cache.read(), read);
    EXPECT_EQ(cache.found(), found);
    EXPECT_EQ(told(report), expected);
    return report;
  };
  const DataReport first = check_with_cache(7, 0, ""), second = check_with_cache(0, 7, "");
  for (const Split split : {Split::kLabeled, Split::kUnlabeled, Split::kVal}) {
    EXPECT_EQ(first[split].pixels, second[split].pixels);
    EXPECT_EQ(first[split].sizes, second[split].sizes);
    EXPECT_EQ(first[split].stored, second[split].stored);
  }

  // Other classes need no reading, and findings do not come from the cache's classes.
  write_file(dir_ + "/classes.yaml", "classes: [{name: road}, {name: car, id: 2}]\n");
  const DataReport other = [&] {
    FactsCache cache(path);
    return check_data(config_, cache);
  }();
  EXPECT_EQ(other.count(Severity::kProblem), 1);
  write_file(dir_ + "/classes.yaml", "classes: [{name: road}, {name: car}]\n");

  // A new time of change, then a new size.
  const auto later = fs::last_write_time(dir_ + "/images/a.png") + std::chrono::seconds(5);
  fs::last_write_time(dir_ + "/images/a.png", later);
  check_with_cache(1, 6, "");
  const auto size = fs::file_size(dir_ + "/images/a.png");
  image("images/a.png", 7);
  ASSERT_NE(fs::file_size(dir_ + "/images/a.png"), size);
  fs::last_write_time(dir_ + "/images/a.png", later);
  check_with_cache(1, 6, "");

  // What is broken is read every time.
  write_file(dir_ + "/images/a.png", "");
  for (int i = 0; i < 2; ++i) {
    FactsCache cache(path);
    EXPECT_EQ(check_data(config_, cache).count(Severity::kProblem), 1);
    EXPECT_EQ(cache.read(), 1);
    cache.save();
  }
  image("images/a.png", 'a');

  // A torn cache is made anew.
  const std::string text = read_file(path);
  write_file(path, text.substr(0, text.size() - 20));
  check_with_cache(7, 0, "");
  check_with_cache(0, 7, "");
}

TEST_F(DataCheckTest, StopsWhenAskedAndKeepsWhatItRead) {
  FactsCache cache(dir_ + "/cache/facts.jsonl");
  int64_t asked = 0;
  config_.data.workers = 0;
  EXPECT_TRUE(check_data(config_, cache, {}, [&] { return ++asked > 2; }).stopped);
  EXPECT_EQ(cache.read(), 4);  // two images with their labels
  cache.save();
  FactsCache again(dir_ + "/cache/facts.jsonl");
  EXPECT_FALSE(check_data(config_, again).stopped);
  EXPECT_EQ(again.found(), 4);
}

TEST(ImageHeader, SaysHowAnImageIsStored) {
  const std::string dir = testing::TempDir() + "/semiseg_headers";
  make_folders(dir);
  const struct {
    const char* ending;
    int type;
    const char* text;
  } cases[] = {{".png", CV_8UC3, "PNG RGB 8-bit"},     {".png", CV_8UC1, "PNG grey 8-bit"},
               {".png", CV_8UC4, "PNG RGBA 8-bit"},    {".png", CV_16UC3, "PNG RGB 16-bit"},
               {".jpg", CV_8UC3, "JPEG RGB 8-bit"},    {".jpg", CV_8UC1, "JPEG grey 8-bit"},
               {".bmp", CV_8UC1, "BMP grey 8-bit"},    {".bmp", CV_8UC3, "BMP RGB 8-bit"},
               {".tif", CV_16UC1, "TIFF grey 16-bit"}, {".tif", CV_8UC3, "TIFF RGB 8-bit"}};
  for (const auto& c : cases) {
    const std::string path = dir + "/image" + c.ending;
    cv::imwrite(path, cv::Mat(4, 6, c.type, cv::Scalar(1, 2, 3, 4)));
    const std::string bytes = read_file(path);
    const ImageHeader header = read_image_header(bytes);
    EXPECT_EQ(header.text(), c.text) << c.ending << c.type;
    if (header.format == "PNG" || header.format == "JPEG") {
      EXPECT_EQ(header.H, 4);
      EXPECT_EQ(header.W, 6);
    }
    for (size_t size = 0; size < bytes.size(); size += 7)
      read_image_header(std::string_view(bytes).substr(0, size));  // reads nothing beyond
  }
  EXPECT_EQ(read_image_header("hello").text(), "unknown format");
}

}  // namespace
}  // namespace semiseg
