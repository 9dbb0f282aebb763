#include "memory.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/util/Exception.h>
#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <new>
#include <optional>
#include <sstream>
#include <vector>

#include "semiseg/device.h"
#include "semiseg/error.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

constexpr double kUnlimited = std::numeric_limits<double>::infinity();
constexpr double kMiB = 1 << 20;

// The number behind `name` in a file of lines such as "VmHWM:  1234 kB" or "inactive_file 1234".
std::optional<double> number_of(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string word;
    double number = 0;
    if (words >> word && (word == name || word == name + ":") && words >> number) return number;
  }
  return std::nullopt;
}

// A file that holds a number; unlimited for "max", nothing where there is no file.
std::optional<double> number_in(const fs::path& path) {
  std::ifstream file(path);
  std::string word;
  if (!(file >> word)) return std::nullopt;
  return word == "max" ? kUnlimited : std::strtod(word.c_str(), nullptr);
}

// Bytes that one group leaves; page cache that is given back on demand is free. Nothing where the folder is no such group.
std::optional<double> free_in_group(const fs::path& group) {
  struct Names {
    const char *limit, *usage, *reclaimable;
  };
  for (const Names& names : {Names{"memory.max", "memory.current", "inactive_file"},
                             Names{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}}) {
    const auto limit = number_in(group / names.limit), usage = number_in(group / names.usage);
    if (limit && usage) return *limit - *usage + number_of(group / "memory.stat", names.reclaimable).value_or(0);
  }
  return std::nullopt;
}

// The folders of this process's groups and of those that hold them. In a container they may be mounted under another name:
// then the mount's own folder is the group.
std::vector<fs::path> control_groups(const std::string& root) {
  std::vector<fs::path> groups;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    fs::path mount = root + "/sys/fs/cgroup";
    if (!controllers.empty()) {
      if (("," + controllers + ",").find(",memory,") == std::string::npos) continue;
      mount /= "memory";
    }
    groups.push_back(mount);
    for (const fs::path& part : fs::path(line.substr(second + 1)).relative_path()) groups.push_back(groups.back() / part);
  }
  return groups;
}

}  // namespace

bool is_out_of_memory(const std::exception& e) {
  const std::string what = e.what();
  return dynamic_cast<const std::bad_alloc*>(&e) != nullptr || dynamic_cast<const c10::OutOfMemoryError*>(&e) != nullptr ||
         what.find("can't allocate memory") != std::string::npos || what.find("out of memory") != std::string::npos;
}

double usable_host_memory_mb(const std::string& root) {
  const auto available_kb = number_of(root + "/proc/meminfo", "MemAvailable");
  double free = available_kb ? *available_kb * 1024 : kUnlimited;
  for (const fs::path& group : control_groups(root)) free = std::min(free, free_in_group(group).value_or(kUnlimited));
  if (free == kUnlimited) return 0;
  return (std::max(free, 0.0) + number_of(root + "/proc/self/status", "VmRSS").value_or(0) * 1024) / kMiB;
}

double usable_memory_mb(torch::Device device) {
  if (!device.is_cuda()) return usable_host_memory_mb();
  const auto [free, total] = at::accelerator::getMemoryInfo(device.index());
  const auto stats = at::accelerator::getDeviceStats(device.index());
  return (static_cast<double>(free) + static_cast<double>(stats.reserved_bytes[0].current)) / kMiB;
}

PeakMemory::PeakMemory(torch::Device device) : device_(device) {
  if (device.is_cuda()) {
    wait_for(device);
    at::accelerator::emptyCache();
    at::accelerator::resetPeakStats(device.index());
    return;
  }
  ::malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";  // forgets VmHWM: proc(5)
}

double PeakMemory::mb() const {
  if (device_.is_cuda()) {
    wait_for(device_);
    return static_cast<double>(at::accelerator::getDeviceStats(device_.index()).reserved_bytes[0].peak) / kMiB;
  }
  const auto peak_kb = number_of("/proc/self/status", "VmHWM");
  return peak_kb ? *peak_kb * 1024 / kMiB : peak_memory_mb(device_);
}

double free_disk_mb(const std::string& path) {
  fs::path folder = fs::absolute(path);
  std::error_code error;
  while (!fs::exists(folder, error) && folder.has_relative_path()) folder = folder.parent_path();
  const auto space = fs::space(folder, error);
  return error ? kUnlimited : static_cast<double>(space.available) / kMiB;
}

std::string size_text(double mb) { return mb < 1000 ? format("%.0f MiB", mb) : format("%.1f GiB", mb / 1024); }

}  // namespace semiseg
