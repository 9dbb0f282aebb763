// check: reads every image and label of a data set and says what is wrong with it.
#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>

#include "commands/command.h"
#include "datasets/file_list.h"
#include "datasets/parallel.h"
#include "semiseg/config.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/log.h"
#include "semiseg/random.h"

namespace semiseg {
namespace {

using Size = std::pair<int64_t, int64_t>;  // H, W

// What reading one image and its label gave.
struct Finding {
  std::optional<Size> size;
  std::vector<int64_t> pixels;  // [K]; empty without a readable label
  int64_t ignored = 0;
  uint64_t content = 0;  // of the file's bytes; 0 where there is no file
  bool rotated = false;  // EXIF asks viewers to turn or mirror the image
  std::vector<std::string> problems;
};

// True when the JPEG's EXIF orientation (TIFF tag 0x0112 in APP1) is not the upright one.
bool is_rotated(std::string_view jpeg) {
  const auto byte = [&](size_t at) { return at < jpeg.size() ? static_cast<uint8_t>(jpeg[at]) : uint8_t{0}; };
  for (size_t at = 2; at + 4 <= jpeg.size() && byte(at) == 0xff && byte(at + 1) != 0xda;
       at += 2 + (byte(at + 2) << 8 | byte(at + 3))) {
    if (byte(at + 1) != 0xe1 || jpeg.substr(at + 4, 6) != std::string_view("Exif\0\0", 6)) continue;
    const size_t tiff = at + 10;
    const bool little = byte(tiff) == 'I';
    const auto number = [&](size_t where, size_t count) {
      uint32_t value = 0;
      for (size_t i = 0; i < count; ++i) value = value << 8 | byte(where + (little ? count - 1 - i : i));
      return value;
    };
    const size_t directory = tiff + number(tiff + 4, 4);
    for (size_t entry = directory + 2, left = number(directory, 2); left > 0; --left, entry += 12)
      if (number(entry, 2) == 0x0112) return number(entry + 8, 2) > 1;
  }
  return false;
}

void count_label(const Tensor& label_HW, int64_t K, Finding& finding) {
  finding.pixels.assign(K, 0);
  const Tensor contiguous = label_HW.contiguous();
  const uint8_t* label = contiguous.const_data_ptr<uint8_t>();
  for (int64_t i = 0; i < contiguous.numel(); ++i) {
    if (label[i] < K)
      ++finding.pixels[label[i]];
    else
      ++finding.ignored;
  }
}

Finding read_entry(const FileLists& lists, const FileEntry& entry) {
  Finding finding;
  const auto attempt = [&](const auto& action) {
    try {
      action();
    } catch (const Error& error) {
      finding.problems.push_back(error.what());
    }
  };
  Tensor image_HWC, label_HW;
  attempt([&] {
    image_HWC = read_image(entry.image);
    finding.size = Size{image_HWC.size(0), image_HWC.size(1)};
    const std::string bytes = read_file(entry.image);
    finding.content = hash_name(bytes);
    finding.rotated = bytes.rfind("\xff\xd8", 0) == 0 && is_rotated(bytes);
  });
  if (entry.label.empty()) return finding;
  attempt([&] {
    label_HW = read_label(lists, entry, read_label_values(entry.label));
    count_label(label_HW, lists.classes.size(), finding);
  });
  if (image_HWC.defined() && label_HW.defined())
    attempt([&] { check_same_size(entry, image_HWC.size(0), image_HWC.size(1), label_HW); });
  return finding;
}

// The findings of one split.
struct SplitReport {
  std::vector<std::string> ids;
  std::vector<Finding> findings;
};

class Check {
 public:
  explicit Check(const Config& config) : config_(config) {}

  int run() {
    read();
    print_sizes();
    print_classes();
    print_overlaps();
    print_rotated();
    if (broken_.empty()) {
      std::printf("\nno broken files\n");
      return 0;
    }
    std::printf("\nbroken:\n");
    for (const std::string& problem : broken_) std::printf("  %s\n", problem.c_str());
    std::fflush(stdout);
    throw Error(ErrorKind::kData, str(broken_.size(), broken_.size() == 1 ? " problem" : " problems", " found in the data"),
                config_.file, "the first: " + broken_.front());
  }

 private:
  void read() {
    if (file_formats().contains(config_.data.format)) {
      lists_ = file_formats().at(config_.data.format)(config_, [&](const Error& error) { broken_.push_back(error.what()); });
      classes_ = lists_.classes;
      for (const Split split : kSplits)
        read_split(
            split, static_cast<int64_t>(lists_[split].size()), [&](int64_t i) { return lists_[split][i].id; },
            [&](int64_t i) { return read_entry(lists_, lists_[split][i]); });
      return;
    }
    const std::unique_ptr<Dataset> data = open_dataset(config_);
    classes_ = data->classes();
    for (const Split split : kSplits)
      read_split(
          split, data->size(split), [&](int64_t i) { return data->id(split, i); },
          [&](int64_t i) {
            Finding finding;
            const Sample sample = data->get(split, i);
            finding.size = Size{sample.image_HWC.size(0), sample.image_HWC.size(1)};
            if (sample.label_HW.defined()) count_label(sample.label_HW, classes_.size(), finding);
            return finding;
          });
  }

  template <class Id, class Read>
  void read_split(Split split, int64_t count, const Id& id, const Read& read_one) {
    SplitReport& report = of(split);
    report.findings.resize(count);
    for (int64_t i = 0; i < count; ++i) report.ids.push_back(id(i));
    std::mutex mutex;
    int64_t done = 0;
    for_each_index(count, std::thread::hardware_concurrency(), [&](int64_t index, int64_t) {
      report.findings[index] = read_one(index);
      const std::lock_guard lock(mutex);
      show_status(str("reading ", split_name(split), ": ", ++done, " of ", count));
    });
    show_status("");
    for (const Finding& finding : report.findings)
      broken_.insert(broken_.end(), finding.problems.begin(), finding.problems.end());
  }

  void print_sizes() const {
    for (const Split split : kSplits) {
      std::map<Size, int64_t> sizes;
      for (const Finding& finding : of(split).findings)
        if (finding.size) ++sizes[*finding.size];
      std::printf("%-10s %zu images", split_name(split), of(split).findings.size());
      if (!sizes.empty()) {
        const auto by_area = [](const auto& a, const auto& b) {
          return a.first.first * a.first.second < b.first.first * b.first.second;
        };
        const auto [least, most] = std::minmax_element(sizes.begin(), sizes.end(), by_area);
        const auto common =
            std::max_element(sizes.begin(), sizes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
        const auto text = [](const Size& size) { return str(size.first, " x ", size.second); };
        if (sizes.size() == 1)
          std::printf(", all %s (H x W)", text(common->first).c_str());
        else
          std::printf(", from %s to %s (H x W), most often %s (%lld images)", text(least->first).c_str(),
                      text(most->first).c_str(), text(common->first).c_str(), static_cast<long long>(common->second));
      }
      std::printf("\n");
    }
  }

  struct ClassTotals {
    std::vector<int64_t> pixels, images;
    int64_t counted = 0, ignored = 0;
  };

  ClassTotals totals(Split split) const {
    ClassTotals totals{std::vector<int64_t>(classes_.size()), std::vector<int64_t>(classes_.size()), 0, 0};
    for (const Finding& finding : of(split).findings) {
      for (size_t k = 0; k < finding.pixels.size(); ++k) {
        totals.pixels[k] += finding.pixels[k];
        totals.images[k] += finding.pixels[k] > 0;
        totals.counted += finding.pixels[k];
      }
      totals.ignored += finding.ignored;
    }
    return totals;
  }

  void print_classes() const {
    const std::array<Split, 2> splits{Split::kLabeled, Split::kVal};
    const std::array<ClassTotals, 2> totals_of{totals(Split::kLabeled), totals(Split::kVal)};
    std::printf("\n%-16s", "class");
    for (const Split split : splits)
      std::printf(" | %14s %8s %7s", (std::string(split_name(split)) + " pixels").c_str(), "share", "images");
    std::printf("\n");
    const auto share = [](int64_t part, int64_t whole) {
      return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0.0;
    };
    for (int64_t k = 0; k < classes_.size(); ++k) {
      std::printf("%-16s", classes_.names[k].c_str());
      for (const ClassTotals& t : totals_of)
        std::printf(" | %14lld %7.3f%% %7lld", static_cast<long long>(t.pixels[k]), share(t.pixels[k], t.counted),
                    static_cast<long long>(t.images[k]));
      std::printf("\n");
    }
    std::printf("%-16s", "ignored");
    for (const ClassTotals& t : totals_of)
      std::printf(" | %14lld %7.3f%% %7s", static_cast<long long>(t.ignored), share(t.ignored, t.counted + t.ignored), "");
    std::printf("   (share of all pixels)\n");

    for (size_t i = 0; i < splits.size(); ++i) {
      if (of(splits[i]).findings.empty()) continue;
      std::string missing;
      for (int64_t k = 0; k < classes_.size(); ++k)
        if (totals_of[i].pixels[k] == 0) missing += (missing.empty() ? "" : ", ") + classes_.names[k];
      if (!missing.empty()) std::printf("warning: no %s pixels of: %s\n", split_name(splits[i]), missing.c_str());
    }
  }

  // By path, and by content: the same picture under two names.
  void print_overlaps() const {
    for (const Overlap& overlap : find_overlaps(lists_)) std::printf("warning: %s\n", overlap_text(overlap).c_str());
    std::unordered_map<uint64_t, std::pair<Split, int64_t>> first;
    std::map<std::pair<Split, Split>, std::pair<int64_t, std::string>> copies;  // how many, and an example
    for (const Split split : kSplits) {
      for (size_t i = 0; i < of(split).findings.size(); ++i) {
        const uint64_t content = of(split).findings[i].content;
        if (content == 0) continue;
        const auto [seen, is_new] = first.emplace(content, std::pair{split, static_cast<int64_t>(i)});
        if (is_new) continue;
        const std::string& original = of(seen->second.first).ids[seen->second.second];
        if (original == of(split).ids[i]) continue;  // an overlap by path
        auto& [count, example] = copies[{seen->second.first, split}];
        if (count++ == 0) example = original + " and " + of(split).ids[i];
      }
    }
    for (const auto& [splits, found] : copies) {
      const std::string where = splits.first == splits.second
                                    ? str("within ", split_name(splits.first))
                                    : str("between ", split_name(splits.first), " and ", split_name(splits.second));
      std::printf("warning: the same image under two names, %s: %lld times, such as %s\n", where.c_str(),
                  static_cast<long long>(found.first), found.second.c_str());
    }
  }

  void print_rotated() const {
    int64_t count = 0;
    std::string example;
    for (const Split split : kSplits)
      for (size_t i = 0; i < of(split).findings.size(); ++i)
        if (of(split).findings[i].rotated && count++ == 0) example = of(split).ids[i];
    if (count > 0)
      std::printf(
          "note: %lld images ask to be shown rotated (EXIF), such as %s; their pixels are used as stored, and so must be the "
          "label's\n",
          static_cast<long long>(count), example.c_str());
  }

  SplitReport& of(Split split) { return reports_[static_cast<size_t>(split)]; }
  const SplitReport& of(Split split) const { return reports_[static_cast<size_t>(split)]; }

  const Config& config_;
  FileLists lists_;
  ClassSet classes_;
  std::array<SplitReport, 3> reports_;
  std::vector<std::string> broken_;
};

int run(const Arguments& arguments) {
  const Config config = load_config(arguments.positional.at(0), arguments.overrides);
  return Check(config).run();
}

const bool kRegistered = add_command({
    "check",
    "CONFIG.yaml [key=value ...]",
    "reads every image and label; reports sizes, classes, overlaps and broken files",
    "Nothing is changed. Exits with 3 when anything is broken.\n\n"
    "  semiseg check configs/cityscapes/supervised.yaml data.root=/data/cityscapes",
    {},
    1,
    1,
    run,
});

}  // namespace
}  // namespace semiseg
