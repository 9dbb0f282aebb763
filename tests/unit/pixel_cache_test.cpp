#include "pixel_cache.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "semiseg/config.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/loader.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

class PixelCacheTest : public testing::Test {
 protected:
  PixelCacheTest()
      : folder_(fs::path(testing::TempDir()) /
                ("pixel_cache_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()))) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    write_file(source_, "twelve bytes");
  }
  ~PixelCacheTest() override { fs::remove_all(folder_); }

  // Counts how often it decodes; each time gives other pixels.
  CachedPixels get(PixelCache& cache, bool is_label = false) {
    return cache.get(source_, is_label, [&] {
      ++decoded_;
      Tensor pixels = at::arange(4 * 5 * 3, at::kByte) + decoded_.load();
      return is_label ? CachedPixels{CachedKind::kLabel, pixels.view({12, 5})}
                      : CachedPixels{CachedKind::kReducibleImage, pixels.view({4, 5, 3})};
    });
  }

  std::vector<fs::path> entries() const {
    std::vector<fs::path> found;
    for (const auto& file : fs::directory_iterator(cache_)) found.push_back(file.path());
    return found;
  }

  void flip_byte(const fs::path& file, int64_t from_end) const {
    std::string bytes = read_file(file);
    bytes[bytes.size() - static_cast<size_t>(from_end)] ^= 1;
    std::ofstream(file, std::ios::binary) << bytes;
  }

  fs::path folder_;
  std::string cache_ = (folder_ / "cache").string(), source_ = (folder_ / "a.png").string();
  std::atomic<int> decoded_{0};
};

TEST_F(PixelCacheTest, DecodesOnceForAllProcesses) {
  PixelCache cache(cache_);
  const Tensor first = get(cache).pixels;
  EXPECT_EQ(decoded_, 1);
  const CachedPixels again = get(cache);
  EXPECT_EQ(again.kind, CachedKind::kReducibleImage);
  EXPECT_EQ(again.pixels.sizes(), (std::vector<int64_t>{4, 5, 3}));
  EXPECT_TRUE(at::equal(again.pixels, first));
  PixelCache other(cache_);
  EXPECT_TRUE(at::equal(get(other).pixels, first));
  EXPECT_EQ(decoded_, 1);
}

TEST_F(PixelCacheTest, ImagesAndLabelsOfOneFileAreApart) {
  PixelCache cache(cache_);
  get(cache);
  EXPECT_EQ(get(cache, /*is_label=*/true).pixels.sizes(), (std::vector<int64_t>{12, 5}));
  EXPECT_EQ(get(cache, /*is_label=*/true).kind, CachedKind::kLabel);
  EXPECT_EQ(decoded_, 2);
}

TEST_F(PixelCacheTest, AChangedFileIsDecodedAnew) {
  PixelCache cache(cache_);
  get(cache);
  fs::last_write_time(source_, fs::last_write_time(source_) + std::chrono::seconds(1));
  EXPECT_EQ(get(cache).pixels[0][0][0].item<int>(), 2);
  write_file(source_, "another size");
  write_file(source_, "a third size");
  EXPECT_EQ(get(cache).pixels[0][0][0].item<int>(), 3);
  get(cache);
  EXPECT_EQ(decoded_, 3);
  EXPECT_EQ(entries().size(), 1U);
}

TEST_F(PixelCacheTest, ADamagedEntryIsMadeAnew) {
  {
    PixelCache cache(cache_);
    get(cache);
  }
  const fs::path entry = entries().at(0);
  const auto size = static_cast<int64_t>(fs::file_size(entry));
  int expected = 1;
  for (const int64_t from_end : {int64_t{1}, int64_t{60}, size, size - 8, size - 30, size - 57}) {
    flip_byte(entry, from_end);
    PixelCache cache(cache_);
    EXPECT_EQ(get(cache).pixels[0][0][0].item<int>(), ++expected) << from_end;
    EXPECT_EQ(get(cache).pixels[0][0][0].item<int>(), expected) << from_end;
  }
  for (const int64_t left : {int64_t{0}, int64_t{10}, int64_t{56}, size - 1}) {
    fs::resize_file(entry, static_cast<uintmax_t>(left));
    PixelCache cache(cache_);
    EXPECT_EQ(get(cache).pixels[0][0][0].item<int>(), ++expected) << left;
  }
}

TEST_F(PixelCacheTest, WritingToPixelsChangesNoEntry) {
  PixelCache cache(cache_);
  get(cache);
  get(cache).pixels.fill_(99);
  EXPECT_EQ(get(cache).pixels[0][0][0].item<int>(), 1);
}

TEST_F(PixelCacheTest, PixelsOutliveTheCacheAndTheEntry) {
  Tensor pixels;
  {
    PixelCache cache(cache_);
    get(cache);
    pixels = get(cache).pixels;
  }
  fs::remove_all(cache_);
  EXPECT_EQ(pixels[0][0][1].item<int>(), 2);
}

TEST_F(PixelCacheTest, WithoutRoomItGoesOnAndSaysSoOnce) {
  PixelCache cache(cache_);
  get(cache, /*is_label=*/true);
  testing::internal::CaptureStdout();
  {
    // A file of more than 4096 bytes cannot be written: what a full disk does, but for the error's name.
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    const rlimit little{4096, before.rlim_max};
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &little);
    for (int i = 0; i < 2; ++i) {
      cache.get(source_, /*is_label=*/false, [&] {
        ++decoded_;
        return CachedPixels{CachedKind::kImage, at::zeros({60, 50, 3}, at::kByte)};
      });
    }
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
  }
  const std::string log = testing::internal::GetCapturedStdout();
  EXPECT_EQ(decoded_, 3);
  get(cache, /*is_label=*/true);
  EXPECT_EQ(decoded_, 3);
  const std::string warning = "data.cache takes no more entries: ";
  EXPECT_NE(log.find(warning + cache_), std::string::npos) << log;
  EXPECT_EQ(log.find(warning), log.rfind(warning)) << log;
  EXPECT_EQ(entries().size(), 1U);
}

TEST_F(PixelCacheTest, AFolderThatMayOnlyBeReadStillServes) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write anywhere";
  {
    PixelCache cache(cache_);
    get(cache);
  }
  fs::permissions(cache_, fs::perms::owner_read | fs::perms::owner_exec);
  PixelCache cache(cache_);
  get(cache);
  EXPECT_EQ(decoded_, 1);
  get(cache, /*is_label=*/true);
  get(cache, /*is_label=*/true);
  EXPECT_EQ(decoded_, 3);
  fs::permissions(cache_, fs::perms::owner_all);
}

TEST_F(PixelCacheTest, AFolderThatCannotBeMadeIsAnError) { EXPECT_THROW(PixelCache(source_ + "/cache"), Error); }

TEST_F(PixelCacheTest, ThreadsMayAskForTheSameFile) {
  PixelCache cache(cache_);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        const int first = get(cache).pixels[0][0][0].item<int>();
        wrong += first < 1 || first > 80;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(entries().size(), 1U);
}

TEST_F(PixelCacheTest, LeavesNothingOfKilledProcessesAndAllThatIsNotItsOwn) {
  fs::create_directories(cache_);
  const auto put = [&](const std::string& name, int hours) {
    write_file(cache_ + "/" + name, "x");
    fs::last_write_time(cache_ + "/" + name, fs::file_time_type::clock::now() - std::chrono::hours(hours));
  };
  put("0123456789abcdef.image.tmp-1", 2);
  put("fedcba9876543210.label.tmp-1", 2);
  const std::vector<std::string> others = {"thesis.tmp-1", "0123456789abcdef.tmp-1", "0123456789abcde.image.tmp-1",
                                           "0123456789abcdef0.image.tmp-1", "0123456789ABCDEF.image.tmp-1"};
  for (const std::string& name : others) put(name, 2);
  put("0123456789abcdef.label.tmp-2", 0);  // still written to
  PixelCache cache(cache_);
  EXPECT_EQ(entries().size(), others.size() + 1);
  EXPECT_FALSE(fs::exists(cache_ + "/0123456789abcdef.image.tmp-1"));
  EXPECT_FALSE(fs::exists(cache_ + "/fedcba9876543210.label.tmp-1"));
}

// Batches with a cache, empty and filled, are those without one: PNG and JPEG, views enlarged and reduced by more than two.
TEST_F(PixelCacheTest, BatchesAreTheSame) {
  Tensor colours = at::arange(90 * 120 * 3, at::kInt);
  colours = (colours * 7919 % 251).to(at::kByte).view({90, 120, 3});
  std::string list;
  for (const std::string name : {"0.png", "1.jpg", "2.png", "3.jpg"}) {
    write_image((folder_ / name).string(), colours);
    write_label_png((folder_ / (name + ".label.png")).string(), at::zeros({90, 120}, at::kByte));
    list += name + " " + name + ".label.png\n";
  }
  write_file((folder_ / "list.txt").string(), list);
  write_file((folder_ / "run.yaml").string(),
             "data: {format: list, labeled: list.txt, val: list.txt, classes: camvid, crop: 40}\noptim: {steps: 1}\n");
  const auto batches = [&](const std::vector<std::string>& overrides) {
    const auto data = open_dataset(load_config((folder_ / "run.yaml").string(), overrides));
    LoaderOptions options;
    options.batch_labeled = 4;
    options.view = {.crop_H = 40, .crop_W = 40, .scale_low = 0.2, .scale_high = 2};
    options.workers = 0;
    options.mean = {0, 0, 0};
    options.std = {1, 1, 1};
    Loader loader(*data, options);
    std::vector<Tensor> images;
    for (int64_t i = 0; i < 8; ++i) images.push_back(loader.batch(i).labeled.image_BCHW);
    return at::stack(images);
  };
  const Tensor expected = batches({});
  EXPECT_TRUE(at::equal(batches({"data.cache=" + cache_}), expected));
  EXPECT_EQ(entries().size(), 8U);
  EXPECT_TRUE(at::equal(batches({"data.cache=" + cache_}), expected));
}

}  // namespace
}  // namespace semiseg
