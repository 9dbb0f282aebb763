// The arithmetic of a dry run and of optim.batch: auto; what they measure is in tests/run/preflight_test.cpp.
#include "preflight.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "batch_size.h"
#include "memory.h"
#include "semiseg/device.h"
#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

TEST(Forecast, AddsUpUpdatesAndEvaluations) {
  Forecast forecast;
  forecast.total_steps = 400;
  forecast.steps_per_epoch = 80;
  forecast.evaluations = 5;
  forecast.val_images = 100;
  forecast.images_per_step = 8;
  forecast.step_seconds = 2;
  forecast.data_wait_seconds = 0.1;
  forecast.evaluation_seconds = 20;
  forecast.peak_mb = 2048;
  forecast.usable_mb = 1536;
  forecast.checkpoint_mb = 300;
  forecast.disk_mb = 900;
  forecast.free_disk_mb = 10240;
  EXPECT_EQ(forecast.epoch_seconds(), 160);
  EXPECT_EQ(forecast.total_seconds(), 900);
  Config config;
  config.run.max_hours = 0.1;
  EXPECT_EQ(forecast_text(forecast, config),
            "dry run: nothing is written\n"
            "  update      2.0 s of 8 images, 4.0 images/s, data wait 5 %\n"
            "  epoch       80 updates, 2 min 40 s\n"
            "  evaluation  100 images, 20.0 s, by the largest\n"
            "  run         400 updates, 5 evaluations: 15 min; run.max_hours=0.1 stops it after 40 %\n"
            "  memory      peak 2.0 GiB of 1.5 GiB that can be had: DOES NOT FIT\n"
            "  disk        900 MiB at most, a checkpoint is 300 MiB; 10.0 GiB free: fits");
}

TEST(Forecast, CountsTheCheckpointsThatAreOnDiskTogether) {
  Config config;
  EXPECT_EQ(checkpoints_mb(config, 100), 300);  // last, best, and one being written
  config.checkpoint.every_steps = 50;
  config.checkpoint.keep = 4;
  EXPECT_EQ(checkpoints_mb(config, 100), 700);
}

TEST(Forecast, CheckpointsThatAreThereNeedNoFurtherSpace) {
  const std::string dir = testing::TempDir() + "/semiseg_further";
  std::filesystem::remove_all(dir);
  Config config;
  EXPECT_EQ(further_checkpoints_mb(dir, config, 100), 300);
  make_folders(dir + "/checkpoints");
  const auto put = [&](const std::string& name) {
    write_file(dir + "/checkpoints/" + name, "");
    std::filesystem::resize_file(dir + "/checkpoints/" + name, 100 << 20);  // without a block on the disk
  };
  put("last.safetensors");
  put("notes.txt");
  EXPECT_EQ(further_checkpoints_mb(dir, config, 100), 200);
  put("best.safetensors");
  EXPECT_EQ(further_checkpoints_mb(dir, config, 100), 100);
  put("step_00000001.safetensors");  // of a run with more numbered ones
  EXPECT_EQ(further_checkpoints_mb(dir, config, 100), 100);
}

TEST(RequireUtf8, NamesTheSettingThatNoCheckpointCouldHold) {
  Config config;
  config.data.root = "/data/caf\xc3\xa9";
  EXPECT_NO_THROW(require_utf8(config));
  config.data.root = "/data/caf\xe9";  // Latin-1
  try {
    require_utf8(config);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_EQ(error.where(), "data.root");
  }
}

TEST(LargestThatFits, FollowsALineAndStaysBelowTheLimit) {
  struct Case {
    const char* name;
    int64_t first, most;
    double limit;
    std::function<std::optional<double>(int64_t)> peak;
    int64_t least, largest;  // that may be found
    size_t probes;           // at most
  };
  const auto line = [](double base, double slope) {
    return [=](int64_t n) { return std::optional(base + slope * static_cast<double>(n)); };
  };
  const std::vector<Case> cases{
      {"a line", 2, 64, 1000, line(100, 30), 28, 30, 4},
      {"all fit", 2, 16, 1000, line(100, 10), 16, 16, 4},
      {"one alone is all there is", 2, 1, 1000, line(100, 10), 1, 1, 1},
      {"none fits", 2, 64, 1000, line(2000, 10), 0, 0, 2},
      {"only one fits", 2, 64, 1000, line(0, 600), 1, 1, 2},
      {"growth that cannot be seen at first", 2, 64, 1000,
       [](int64_t n) { return std::optional(std::max(500.0, 30.0 * static_cast<double>(n))); }, 30, 33, 8},
      {"steeper than the line", 2, 64, 1000, [](int64_t n) { return std::optional(100.0 + 2.0 * static_cast<double>(n * n)); },
       19, 21, 8},
      {"memory runs out above 20", 2, 64, 1e9,
       [](int64_t n) { return n > 20 ? std::nullopt : std::optional(10.0 * static_cast<double>(n)); }, 18, 20, 8},
      {"memory runs out at once", 2, 64, 1e9, [](int64_t) -> std::optional<double> { return std::nullopt; }, 0, 0, 2},
  };
  for (const Case& c : cases) {
    std::vector<int64_t> asked;
    const int64_t found = largest_that_fits(c.first, c.most, c.limit, [&](int64_t n) {
      asked.push_back(n);
      return c.peak(n);
    });
    EXPECT_GE(found, c.least) << c.name;
    EXPECT_LE(found, c.largest) << c.name;
    EXPECT_LE(asked.size(), c.probes) << c.name;
    for (const int64_t n : asked) EXPECT_TRUE(n >= 1 && n <= c.most) << c.name << n;
    // What is chosen was measured, and fits.
    if (found > 0) {
      EXPECT_NE(std::find(asked.begin(), asked.end(), found), asked.end()) << c.name;
      EXPECT_LE(c.peak(found).value_or(1e99), c.limit) << c.name;
    }
  }
}

class HostMemory : public testing::Test {
 protected:
  HostMemory() : root_(testing::TempDir() + "/semiseg_memory") {
    std::filesystem::remove_all(root_);
    file("/proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n");
    file("/proc/self/status", "Name: x\nVmRSS:   1048576 kB\n");
  }
  void file(const std::string& path, const std::string& text) {
    make_folders(std::filesystem::path(root_ + path).parent_path().string());
    write_file(root_ + path, text);
  }
  const std::string root_;
};

TEST_F(HostMemory, IsWhatTheProcessHoldsAndWhatIsFree) { EXPECT_EQ(usable_host_memory_mb(root_), 4096 + 1024); }

TEST_F(HostMemory, IsBoundedByTheLimitOfAControlGroupOrOneAboveIt) {
  constexpr int64_t kGiB = 1 << 30;
  file("/proc/self/cgroup", "0::/jobs/mine\n");
  file("/sys/fs/cgroup/jobs/memory.max", str(3 * kGiB));
  file("/sys/fs/cgroup/jobs/memory.current", str(2 * kGiB));
  file("/sys/fs/cgroup/jobs/memory.stat", str("anon 5\ninactive_file ", kGiB / 2, "\n"));
  file("/sys/fs/cgroup/jobs/mine/memory.max", "max");
  file("/sys/fs/cgroup/jobs/mine/memory.current", str(2 * kGiB));
  EXPECT_EQ(usable_host_memory_mb(root_), 1536 + 1024);

  // Version 1, seen from within a container: the mount is the group.
  file("/proc/self/cgroup", "4:memory:/container\n0::/\n");
  file("/sys/fs/cgroup/memory/memory.limit_in_bytes", str(2 * kGiB));
  file("/sys/fs/cgroup/memory/memory.usage_in_bytes", str(kGiB));
  EXPECT_EQ(usable_host_memory_mb(root_), 1024 + 1024);
}

TEST(PeakMemory, IsOfTheWorkSinceItWasMade) {
  constexpr int64_t kMiB = 1 << 20;
  if (!(std::ofstream("/proc/self/clear_refs") << "5" << std::flush)) GTEST_SKIP() << "this system does not forget the peak";
  const auto hold = [&](int64_t mb) { return at::ones({mb * kMiB}, at::kByte)[0].item<int>(); };
  const PeakMemory before(torch::kCPU);
  const double idle = before.mb();
  hold(300);
  EXPECT_NEAR(before.mb() - idle, 300, 40);
  const PeakMemory after(torch::kCPU);
  hold(100);
  EXPECT_NEAR(after.mb() - idle, 100, 40);
}

}  // namespace
}  // namespace semiseg
