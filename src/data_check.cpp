#include "data_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <mutex>
#include <numeric>
#include <optional>
#include <set>
#include <unordered_map>

#include "colour_labels.h"
#include "config/text.h"
#include "datasets/file_list.h"
#include "datasets/parallel.h"
#include "image_file.h"
#include "image_header.h"
#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

using Size = SplitFacts::Size;

constexpr int64_t kStride = 32;       // crops of multiples of it need no padding in the network
constexpr double kFlatContrast = 2;   // grey levels: below that an image shows nothing
constexpr double kShareRatio = 5;     // of a class in two lists: more is told
constexpr double kOtherSize = 1.5;    // ratio of typical areas
constexpr double kOtherAspect = 1.1;  // ratio of typical widths over heights

std::string text_of(const Size& size) { return str(size.first, " x ", size.second); }

// --- one file ---

// Not for keeping secrets: images that differ by chance have different hashes.
uint64_t hash_pixels(const Tensor& image_HWC) {
  constexpr uint64_t kPrime = 0x9e3779b97f4a7c15;
  const uint8_t* at = image_HWC.const_data_ptr<uint8_t>();
  uint64_t hash = static_cast<uint64_t>(image_HWC.size(0)) << 32 ^ static_cast<uint64_t>(image_HWC.size(1));
  for (int64_t left = image_HWC.numel(); left > 0; left -= 8, at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, at, static_cast<size_t>(std::min<int64_t>(left, 8)));
    hash = (hash ^ word) * kPrime;
    hash ^= hash >> 32;
  }
  return hash;
}

// Standard deviation over all pixels, the largest of the three channels.
double contrast(const Tensor& image_HWC) {
  std::array<int64_t, 3> sum{}, squares{};
  const uint8_t* pixel = image_HWC.const_data_ptr<uint8_t>();
  const int64_t count = image_HWC.numel() / 3;
  for (int64_t i = 0; i < count; ++i, pixel += 3)
    for (size_t c = 0; c < 3; ++c) {
      sum[c] += pixel[c];
      squares[c] += pixel[c] * pixel[c];
    }
  double largest = 0;
  for (size_t c = 0; c < 3; ++c) {
    const double mean = static_cast<double>(sum[c]) / static_cast<double>(count);
    largest = std::max(largest, static_cast<double>(squares[c]) / static_cast<double>(count) - mean * mean);
  }
  return std::sqrt(largest);
}

FileFacts image_facts(const Tensor& image_HWC) {
  FileFacts facts;
  facts.H = image_HWC.size(0);
  facts.W = image_HWC.size(1);
  facts.content = hash_pixels(image_HWC);
  facts.contrast = contrast(image_HWC);
  return facts;
}

FileFacts label_facts(const Tensor& values_HW) {
  std::array<int64_t, 256> pixels{}, first{};
  const uint8_t* values = values_HW.const_data_ptr<uint8_t>();
  for (int64_t i = 0; i < values_HW.numel(); ++i)
    if (pixels[values[i]]++ == 0) first[values[i]] = i;
  FileFacts facts;
  facts.H = values_HW.size(0);
  facts.W = values_HW.size(1);
  for (size_t value = 0; value < 256; ++value)
    if (pixels[value] > 0) facts.values.push_back({static_cast<uint32_t>(value), pixels[value], first[value]});
  return facts;
}

FileFacts read_image_facts(const std::string& path) {
  const ImageFile file(path);
  std::string warning;
  FileFacts facts = image_facts(file.read({0, 0, file.height(), file.width()}, &warning).pixels_HWC.contiguous());
  facts.warning = warning;
  std::ifstream stream(path, std::ios::binary);
  const ImageHeader header = read_image_header(stream);
  facts.stored = header.text();
  facts.rotated = header.rotated;
  return facts;
}

FileFacts colour_facts(const Tensor& label_HWC, const std::string& path) {
  constexpr size_t kMostColours = 256;  // there are no more classes
  const uint8_t* pixel = label_HWC.const_data_ptr<uint8_t>();
  std::map<uint32_t, ValueCount> of_colour;
  ValueCount* last = nullptr;  // neighbours mostly have one colour
  for (int64_t i = 0; i < label_HWC.numel() / 3; ++i, pixel += 3) {
    const uint32_t colour = static_cast<uint32_t>(pixel[0]) << 16 | static_cast<uint32_t>(pixel[1]) << 8 | pixel[2];
    if (last == nullptr || last->value != colour) {
      last = &of_colour.try_emplace(colour, ValueCount{colour, 0, i}).first->second;
      if (of_colour.size() > kMostColours)
        throw Error(ErrorKind::kData, str("colour label of more than ", kMostColours, " colours"), path,
                    "resized with smoothing, or once a JPEG? make it anew from the original");
    }
    ++last->pixels;
  }
  FileFacts facts;
  facts.H = label_HWC.size(0);
  facts.W = label_HWC.size(1);
  facts.colours = true;
  for (const auto& [colour, count] : of_colour) facts.values.push_back(count);
  return facts;
}

FileFacts read_label_facts(const std::string& path, bool colours) {
  if (colours && is_colour_label(path)) return colour_facts(read_image(path).contiguous(), path);
  return label_facts(read_label_values(path).contiguous());
}

// Findings of one kind for messages that differ in numbers and paths alone.
std::string kind_of(const std::string& problem) {
  std::string kind = problem.substr(0, problem.find_first_of(":(", 1));
  while (!kind.empty() && kind.back() == ' ') kind.pop_back();
  return kind;
}

// --- the whole data set ---

// One image of a list with what is known of it.
struct Reading {
  std::string id;
  std::string image, label;  // paths; "" where it is drawn, or without label
  std::optional<FileFacts> image_facts, label_facts;
  const std::array<int16_t, 256>* classes = nullptr;  // of the label's values
  std::vector<Error> problems;
};

class DataCheck {
 public:
  DataCheck(const Config& config, FactsCache& cache) : config_(config), cache_(cache) {}

  DataReport run(const std::function<void(int64_t, int64_t)>& progress, const std::function<bool()>& stop) {
    std::function<void(Split, Reading&)> read;
    std::unique_ptr<Dataset> drawn;
    if (file_formats().contains(config_.data.format)) {
      lists_ = file_formats().at(config_.data.format)(config_, [this](const Error& error) { add_problem(error, {}); });
      report_.classes = lists_.classes;
      for (const Split split : kSplits)
        for (const FileEntry& entry : lists_[split])
          of(split).push_back({entry.id, entry.image, entry.label, {}, {}, &value_map(lists_, entry), {}});
      read = [this](Split, Reading& reading) { read_files(reading); };
    } else {
      drawn = open_dataset(config_);
      report_.classes = drawn->classes();
      for (const Split split : kSplits)
        for (int64_t i = 0; i < drawn->size(split); ++i)
          of(split).push_back({drawn->id(split, i), "", "", {}, {}, &class_indices(), {}});
      read = [this, &drawn](Split split, Reading& reading) {
        const Sample sample = drawn->get(split, &reading - of(split).data());
        reading.image_facts = image_facts(sample.image_HWC.contiguous());
        reading.image_facts->stored = "drawn";
        if (sample.label_HW.defined()) reading.label_facts = label_facts(sample.label_HW.contiguous());
      };
    }
    read_all(read, progress, stop);
    for (const Split split : kSplits) summarize(split);
    find_problems();
    if (!report_.stopped) {
      find_copies();
      find_class_gaps();
      find_other_palettes();
      find_odd_images();
      find_odd_sizes();
    }
    std::stable_sort(report_.findings.begin(), report_.findings.end(),
                     [](const Finding& a, const Finding& b) { return a.severity < b.severity; });
    return std::move(report_);
  }

 private:
  std::vector<Reading>& of(Split split) { return readings_[static_cast<size_t>(split)]; }
  SplitFacts& facts(Split split) { return report_.splits[static_cast<size_t>(split)]; }
  int64_t num_classes() const { return report_.classes.size(); }

  // Class, kIgnore, or below 0 where the value is none.
  int64_t class_of(const Reading& reading, uint32_t value) const {
    if (!reading.label_facts->colours) return (*reading.classes)[value];
    const auto found = lists_.colours.find(value);
    return found == lists_.colours.end() ? -1 : found->second;
  }

  // Of labels that hold class indices already.
  const std::array<int16_t, 256>& class_indices() {
    own_map_.fill(static_cast<int16_t>(kIgnore));
    std::iota(own_map_.begin(), own_map_.begin() + num_classes(), int16_t{0});
    return own_map_;
  }

  void add(Severity severity, std::string kind, std::string message, std::vector<std::string> files) {
    report_.findings.push_back({severity, std::move(kind), std::move(message), std::move(files)});
  }
  void add_problem(const Error& error, std::vector<std::string> files) {
    if (files.empty()) files.push_back(error.where());
    add(Severity::kProblem, kind_of(error.problem()), error.what(), std::move(files));
  }

  void read_files(Reading& reading) {
    const auto attempt = [&](const auto& action) {
      try {
        action();
      } catch (const Error& error) {
        reading.problems.push_back(error);
      }
    };
    attempt([&] { reading.image_facts = cache_.get(reading.image, false, [&] { return read_image_facts(reading.image); }); });
    if (!reading.label.empty())
      attempt([&] {
        reading.label_facts =
            cache_.get(reading.label, true, [&] { return read_label_facts(reading.label, !lists_.colours.empty()); });
      });
  }

  void read_all(const std::function<void(Split, Reading&)>& read, const std::function<void(int64_t, int64_t)>& progress,
                const std::function<bool()>& stop) {
    std::vector<std::pair<Split, Reading*>> all;
    for (const Split split : kSplits)
      for (Reading& reading : of(split)) all.emplace_back(split, &reading);
    std::set<std::string> files;
    for (const auto& [split, reading] : all) files.insert({reading->image, reading->label});
    files.erase("");
    report_.files = static_cast<int64_t>(files.size());

    const auto total = static_cast<int64_t>(all.size());
    std::mutex mutex;
    int64_t done = 0;
    for_each_index(total, config_.data.workers, [&](int64_t index, int64_t) {
      if (stop && stop()) return;
      read(all[index].first, *all[index].second);
      const std::lock_guard lock(mutex);
      ++done;
      if (progress) progress(done, total);
    });
    report_.stopped = done < total;
  }

  void summarize(Split split) {
    SplitFacts& sum = facts(split);
    sum.pixels.assign(num_classes(), 0);
    sum.images_of.assign(num_classes(), 0);
    sum.images = static_cast<int64_t>(of(split).size());
    for (const Reading& reading : of(split)) {
      if (const auto& image = reading.image_facts) {
        ++sum.sizes[{image->H, image->W}];
        ++sum.stored[image->stored];
      }
      if (!reading.label_facts) continue;
      ++sum.labels;
      std::vector<int64_t> here(num_classes());
      for (const ValueCount& value : reading.label_facts->values) {
        const int64_t index = class_of(reading, value.value);
        if (index >= 0 && index < num_classes())
          here[index] += value.pixels;
        else if (index == kIgnore)
          sum.ignored += value.pixels;
      }
      for (int64_t k = 0; k < num_classes(); ++k) {
        sum.pixels[k] += here[k];
        sum.images_of[k] += here[k] > 0;
      }
    }
  }

  // --- what stops training ---

  void find_problems() {
    struct BadValue {
      int64_t pixels = 0;
      std::vector<std::string> files;
      std::string first;  // in words
    };
    std::map<std::pair<bool, uint32_t>, BadValue> bad_values;  // by: is a colour, value
    std::array<bool, 256> seen{};
    for (const Split split : kSplits)
      for (const Reading& reading : of(split)) {
        for (const Error& error : reading.problems) add_problem(error, {});
        if (!reading.label_facts) continue;
        if (reading.image_facts) find_other_size(reading);
        const bool colours = reading.label_facts->colours;
        for (const ValueCount& value : reading.label_facts->values) {
          if (!colours) seen[value.value] = true;
          if (class_of(reading, value.value) >= 0) continue;
          BadValue& bad = bad_values[{colours, value.value}];
          const int64_t row = value.first / reading.label_facts->W, column = value.first % reading.label_facts->W;
          if (bad.files.empty())
            bad.first = reading.label + ": " +
                        (colours ? bad_colour_text(value.value, row, column, lists_.colours)
                                 : bad_value_text(static_cast<int>(value.value), row, column, *reading.classes));
          bad.pixels += value.pixels;
          bad.files.push_back(reading.label);
        }
      }
    // Sets of masks that are counted from 1 are common.
    const std::string hint = bad_values.count({false, static_cast<uint32_t>(num_classes())}) != 0 && !seen[0] && seen[1]
                                 ? "; no pixel is 0: if the classes are counted from 1, give each its id in a class file "
                                   "(data.classes)"
                                 : "; add the value to the class file (id or ignore), or correct the labels";
    for (auto& [value, bad] : bad_values) {
      const bool colours = value.first;
      const std::string count =
          str("; in all ", counted(bad.pixels, "pixel"), " of ", counted(static_cast<int64_t>(bad.files.size()), "file"));
      add(Severity::kProblem, colours ? "label colour" : "label value",
          bad.first + count + (colours ? str("; ", kColourHint) : hint), std::move(bad.files));
    }
  }

  void find_other_size(const Reading& reading) {
    try {
      check_same_size({reading.id, reading.image, reading.label}, reading.image_facts->H, reading.image_facts->W,
                      reading.label_facts->H, reading.label_facts->W);
    } catch (const Error& error) {
      add(Severity::kProblem, "label of another size", error.what(), {reading.label});
    }
  }

  // --- what is suspicious ---

  // The same picture twice: by path between lists (read_list finds it within one), and by content.
  void find_copies() {
    const auto severity = [](Split first, Split second) {
      // Labelled images that are also used without their label: many recipes do that.
      return first == Split::kLabeled && second == Split::kUnlabeled ? Severity::kNote : Severity::kWarning;
    };
    for (const Overlap& overlap : find_overlaps(lists_)) {
      const bool leak = overlap.second == Split::kVal;
      add(severity(overlap.first, overlap.second), leak ? "leak" : "overlap", (leak ? "LEAK: " : "") + overlap_text(overlap),
          {overlap.example});
    }
    std::unordered_map<uint64_t, std::pair<Split, const Reading*>> originals;
    std::map<std::pair<Split, Split>, std::vector<std::string>> copies;
    for (const Split split : {Split::kLabeled, Split::kUnlabeled, Split::kVal})
      for (const Reading& reading : of(split)) {
        if (!reading.image_facts || reading.image_facts->contrast < kFlatContrast) continue;
        const auto [original, is_new] = originals.try_emplace(reading.image_facts->content, split, &reading);
        const auto& [first_split, first] = original->second;
        if (is_new || (!reading.image.empty() && absolute_path(first->image) == absolute_path(reading.image))) continue;
        copies[{first_split, split}].push_back(first->id + " = " + reading.id);
      }
    for (auto& [splits, pairs] : copies) {
      const auto [first, second] = splits;
      const std::string where = first == second
                                    ? str("within the ", split_name(first), " list")
                                    : str("between the ", split_name(first), " and the ", split_name(second), " list");
      const bool leak = second == Split::kVal && first != Split::kVal;
      const std::string what = str("the same picture under two names, ", where, ": ",
                                   counted(static_cast<int64_t>(pairs.size()), "time"), ", such as ", pairs.front());
      add(severity(first, second), leak ? "leak" : "copies", leak ? "LEAK: " + what + "; scores on val will be too good" : what,
          std::move(pairs));
    }
  }

  void find_class_gaps() {
    const SplitFacts &labeled = facts(Split::kLabeled), &val = facts(Split::kVal);
    const bool both = labeled.counted() > 0 && val.counted() > 0;
    std::vector<std::string> not_learned, not_scored, apart;
    for (int64_t k = 0; k < num_classes(); ++k) {
      const std::string& name = report_.classes.names[k];
      if (labeled.counted() > 0 && labeled.pixels[k] == 0) not_learned.push_back(name);
      if (val.counted() > 0 && val.pixels[k] == 0) not_scored.push_back(name);
      if (!both || labeled.pixels[k] == 0 || val.pixels[k] == 0) continue;
      const double ratio = labeled.share(k) / val.share(k);
      if (ratio > kShareRatio || ratio < 1 / kShareRatio)
        apart.push_back(name + format(" (%.3f %% and %.3f %%)", 100 * labeled.share(k), 100 * val.share(k)));
    }
    if (!not_learned.empty())
      add(Severity::kWarning, "class without labels",
          "no labelled pixel of " + join(not_learned) + ": the network cannot learn what it never sees", {});
    if (!not_scored.empty())
      add(Severity::kWarning, "class without validation", "no val pixel of " + join(not_scored) + ": not in the mIoU", {});
    if (!apart.empty())
      add(Severity::kWarning, "class shares differ",
          str("share in labeled and val more than ", kShareRatio, " times apart: ", join(apart),
              "; draw the two lists from the same scenes"),
          {});

    // A mask saved as black and white.
    std::set<uint32_t> values;
    for (const Split split : {Split::kLabeled, Split::kVal})
      for (const Reading& reading : of(split))
        if (reading.label_facts)
          for (const ValueCount& value : reading.label_facts->values) values.insert(value.value);
    if (values == std::set<uint32_t>{0, 255} && config_.data.ignore_index == 255)
      add(Severity::kWarning, "black and white labels",
          "all labels hold 0 and 255 alone, and 255 is ignored: for masks in black and white give the second class id: 255 in "
          "the "
          "class file, and set data.ignore_index=254",
          {});
  }

  // Palettes are read as their indices. Where the class file gives colours, a palette that says otherwise is likely meant.
  void find_other_palettes() {
    constexpr size_t kMostFiles = 3;  // a data set has one palette
    size_t looked_at = 0;
    for (const Split split : {Split::kLabeled, Split::kVal})
      for (const Reading& reading : of(split)) {
        if (lists_.colours.empty() || !reading.label_facts || reading.label_facts->colours || looked_at >= kMostFiles) continue;
        std::ifstream stream(reading.label, std::ios::binary);
        if (!read_image_header(stream).palette) continue;
        ++looked_at;
        const Tensor image_HWC = read_image(reading.label).contiguous();
        for (const ValueCount& value : reading.label_facts->values) {
          const uint8_t* pixel = image_HWC.const_data_ptr<uint8_t>() + 3 * value.first;
          const auto found = lists_.colours.find(static_cast<uint32_t>(pixel[0] << 16 | pixel[1] << 8 | pixel[2]));
          const int64_t index = class_of(reading, value.value), colour = found == lists_.colours.end() ? -1 : found->second;
          if (index < 0 || colour < 0 || index == colour || index == kIgnore || colour == kIgnore) continue;
          const auto& names = report_.classes.names;
          return add(Severity::kWarning, "palette of other classes",
                     str("label value ", value.value, " is read as ", names[static_cast<size_t>(index)],
                         ", but its palette gives it the colour of ", names[static_cast<size_t>(colour)], ": ", reading.label,
                         "; give each class the value it has in the files as id in the class file"),
                     {reading.label});
        }
      }
  }

  void find_odd_images() {
    std::vector<std::string> flat, all_ignored, deep, rotated, damaged;
    for (const Split split : kSplits)
      for (const Reading& reading : of(split)) {
        if (const auto& image = reading.image_facts) {
          if (image->contrast < kFlatContrast) flat.push_back(reading.id);
          if (image->stored.ends_with(" 16-bit")) deep.push_back(reading.id);
          if (image->rotated) rotated.push_back(reading.id);
          if (!image->warning.empty()) damaged.push_back(reading.id + " (" + image->warning + ")");
        }
        if (!reading.label_facts) continue;
        const auto& values = reading.label_facts->values;
        if (std::all_of(values.begin(), values.end(),
                        [&](const ValueCount& v) { return class_of(reading, v.value) == kIgnore; }))
          all_ignored.push_back(reading.id);
      }
    const auto tell = [&](Severity severity, const char* kind, std::vector<std::string>& files, const std::string& what) {
      if (files.empty()) return;
      const std::string message =
          counted(static_cast<int64_t>(files.size()), "image") + " " + what + ", such as " + files.front();
      add(severity, kind, message, std::move(files));
    };
    tell(Severity::kWarning, "damaged image", damaged, "decoded with parts that are damaged");
    tell(Severity::kWarning, "nothing labelled", all_ignored, "with a label that is ignored everywhere");
    tell(Severity::kWarning, "flat image", flat, "of nearly one colour");
    tell(Severity::kNote, "16-bit image", deep, "of 16 bits, whose upper 8 are read");
    tell(Severity::kNote, "rotated image", rotated,
         "to be shown rotated (EXIF); pixels are used as stored, and so must be the label's");
  }

  // H and W of the typical image of a list: medians.
  static std::optional<std::pair<double, double>> typical_area_and_aspect(const std::vector<Reading>& readings) {
    std::vector<double> areas, aspects;
    for (const Reading& reading : readings) {
      if (!reading.image_facts) continue;
      const auto H = static_cast<double>(reading.image_facts->H), W = static_cast<double>(reading.image_facts->W);
      areas.push_back(H * W);
      aspects.push_back(W / H);
    }
    if (areas.empty()) return std::nullopt;
    const auto median = [](std::vector<double>& values) {
      const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
      std::nth_element(values.begin(), middle, values.end());
      return *middle;
    };
    return std::pair{median(areas), median(aspects)};
  }

  void find_odd_sizes() {
    const auto apart = [](double a, double b, double ratio) { return a > b * ratio || b > a * ratio; };
    const auto labeled = typical_area_and_aspect(of(Split::kLabeled));
    for (const Split split : {Split::kUnlabeled, Split::kVal}) {
      const auto other = typical_area_and_aspect(of(split));
      if (!labeled || !other) continue;
      const auto& sizes = facts(Split::kLabeled).sizes;
      if (apart(labeled->first, other->first, kOtherSize) || apart(labeled->second, other->second, kOtherAspect)) {
        const auto text = [](const std::pair<double, double>& typical) {
          const auto& [area, aspect] = typical;
          return text_of({std::llround(std::sqrt(area / aspect)), std::llround(std::sqrt(area * aspect))});
        };
        add(Severity::kWarning, "other sizes",
            str(split_name(split), " images are of another size or shape than the labelled ones: typically ", text(*other),
                ", not ", text(*labeled), " (H x W)"),
            {});
      } else if (sizes.size() == 1) {
        std::vector<std::string> odd;
        for (const Reading& reading : of(split))
          if (reading.image_facts && !sizes.count({reading.image_facts->H, reading.image_facts->W})) odd.push_back(reading.id);
        if (!odd.empty())
          add(Severity::kWarning, "other sizes",
              str(counted(static_cast<int64_t>(odd.size()), "image"), " of the ", split_name(split), " list not of the size ",
                  text_of(sizes.begin()->first), " that all labelled ones have, such as ", odd.front()),
              odd);
      }
    }

    const int64_t H = config_.data.crop[0], W = config_.data.crop[1];
    std::vector<std::string> small;
    Size least{H, W};
    for (const Split split : {Split::kLabeled, Split::kUnlabeled})
      for (const Reading& reading : of(split)) {
        if (!reading.image_facts || (reading.image_facts->H >= H && reading.image_facts->W >= W)) continue;
        small.push_back(reading.id);
        least = {std::min(least.first, reading.image_facts->H), std::min(least.second, reading.image_facts->W)};
      }
    if (!small.empty()) {
      const auto fitting = [](int64_t side) { return std::max(kStride, side / kStride * kStride); };
      std::string message = str(
          "the crop of ", text_of({H, W}), " is larger than ", counted(static_cast<int64_t>(small.size()), "training image"),
          ": the rest of it is padding; data.crop=[", fitting(least.first), ", ", fitting(least.second), "] fits into all");
      add(Severity::kWarning, "crop larger than image", std::move(message), std::move(small));
    }
  }

  const Config& config_;
  FactsCache& cache_;
  FileLists lists_;
  std::array<std::vector<Reading>, 3> readings_;
  std::array<int16_t, 256> own_map_{};
  DataReport report_;
};

}  // namespace

int64_t SplitFacts::counted() const { return std::accumulate(pixels.begin(), pixels.end(), int64_t{0}); }

double SplitFacts::share(int64_t class_index) const {
  const int64_t all = counted();
  return all > 0 ? static_cast<double>(pixels[class_index]) / static_cast<double>(all) : 0;
}

int64_t DataReport::count(Severity severity) const {
  return std::count_if(findings.begin(), findings.end(), [&](const Finding& f) { return f.severity == severity; });
}

DataReport check_data(const Config& config, FactsCache& cache, const std::function<void(int64_t, int64_t)>& progress,
                      const std::function<bool()>& stop) {
  return DataCheck(config, cache).run(progress, stop);
}

}  // namespace semiseg
