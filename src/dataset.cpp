// The registry of formats, list files, and what is computed over a whole data set.
#include "semiseg/dataset.h"

#include <charconv>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string_view>
#include <unordered_map>

#include "datasets/file_list.h"
#include "datasets/parallel.h"
#include "image_file.h"
#include "image_header.h"
#include "pixel_cache.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/log.h"
#include "semiseg/random.h"

namespace semiseg {
namespace {

// The two numbers of "1/8".
bool parse_fraction(std::string_view text, int64_t& numerator, int64_t& denominator) {
  const auto parse = [](std::string_view digits, int64_t& value) {
    if (digits.empty() || digits.size() > 9) return false;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc() && end == digits.data() + digits.size() && value >= 0;
  };
  const size_t slash = text.find('/');
  return slash != std::string_view::npos && parse(text.substr(0, slash), numerator) &&
         parse(text.substr(slash + 1), denominator);
}

// What identifies an image, however its path is written.
std::string path_key(const std::string& path) { return std::filesystem::absolute(path).lexically_normal().string(); }

// A data set that lists name file by file. `cache` is a folder, or "" for none.
class FileDataset final : public Dataset {
 public:
  FileDataset(FileLists lists, const std::string& cache) : lists_(std::move(lists)) {
    for (const Overlap& overlap : find_overlaps(lists_)) log_warning(overlap_text(overlap));
    if (!cache.empty()) cache_ = std::make_unique<PixelCache>(cache);
  }

  int64_t size(Split split) const override { return static_cast<int64_t>(lists_[split].size()); }

  Sample get(Split split, int64_t index) const override {
    PartialSample sample = get_part(split, index, [](int64_t H, int64_t W, const Tensor&) { return Window{0, 0, H, W}; });
    return {sample.image.pixels_HWC, sample.label_HW, std::move(sample.id)};
  }

  PartialSample get_part(Split split, int64_t index, const ChooseWindow& choose) const override {
    const FileEntry& entry = lists_[split].at(index);
    if (cache_) return cached_part(entry, choose);
    const ImageFile file(entry.image);
    const Tensor label_HW = label_of(entry, file.height(), file.width());
    return {file.read(choose(file.height(), file.width(), label_HW)), label_HW, entry.id};
  }

  Tensor label(Split split, int64_t index) const override {
    const FileEntry& entry = lists_[split].at(index);
    TORCH_CHECK(!entry.label.empty(), "unlabelled images have no label");
    return read_classes(entry);
  }

  void require_image(Split split, int64_t index, const Tensor& label_HW) const override {
    const FileEntry& entry = lists_[split].at(index);
    std::ifstream stream(entry.image, std::ios::binary);
    const ImageHeader header = read_image_header(stream);
    require_readable(header, entry.image);
    int64_t H = header.H, W = header.W;
    const bool has_no_size = header.format == "BMP" || header.format == "TIFF" || header.format == "WebP";  // read here
    if (H == 0 && (label_HW.defined() || !has_no_size)) {                                                   // the decoder knows
      const ImageFile file(entry.image);
      H = file.height(), W = file.width();
    }
    if (label_HW.defined() && H > 0) check_same_size(entry, H, W, label_HW.size(0), label_HW.size(1));
  }

  std::string id(Split split, int64_t index) const override { return lists_[split].at(index).id; }
  const ClassSet& classes() const override { return lists_.classes; }

 private:
  PartialSample cached_part(const FileEntry& entry, const ChooseWindow& choose) const {
    const CachedPixels image = cached_image(entry.image);
    const int64_t H = image.pixels.size(0), W = image.pixels.size(1);
    const Tensor label_HW = label_of(entry, H, W);
    const Window window = choose(H, W, label_HW);
    // Views are the same with and without a cache, so what would be read reduced is.
    const bool reduced = window.reduction > 1 && image.kind == CachedKind::kReducibleImage;
    return {reduced ? ImageFile(entry.image).read(window) : whole_image(image.pixels), label_HW, entry.id};
  }

  CachedPixels cached_image(const std::string& path) const {
    return cache_->get(path, /*is_label=*/false, [&path] {
      const ImageFile file(path);
      return CachedPixels{file.is_reducible() ? CachedKind::kReducibleImage : CachedKind::kImage,
                          file.read({0, 0, file.height(), file.width()}).pixels_HWC};
    });
  }

  Tensor label_of(const FileEntry& entry, int64_t H, int64_t W) const {
    if (entry.label.empty()) return {};
    const Tensor label_HW = read_classes(entry);
    check_same_size(entry, H, W, label_HW.size(0), label_HW.size(1));
    return label_HW;
  }

  // Colours are cached as they are: what they mean may change.
  Tensor read_classes(const FileEntry& entry) const {
    if (!lists_.colours.empty() && is_colour_label(entry.label))
      return map_colours(cache_ ? cached_image(entry.label).pixels : read_image(entry.label), lists_.colours, entry.label);
    return read_label(lists_, entry, label_values(entry));
  }

  Tensor label_values(const FileEntry& entry) const {
    const auto decode = [&entry] { return CachedPixels{CachedKind::kLabel, read_label_values(entry.label)}; };
    return cache_ ? cache_->get(entry.label, /*is_label=*/true, decode).pixels : decode().pixels;
  }

  FileLists lists_;
  std::unique_ptr<PixelCache> cache_;
};

// Lines without their ends; a byte order mark is dropped.
std::vector<std::string> list_lines(const std::string& list) {
  if (!is_file(list))
    throw Error(ErrorKind::kData, "list file not found", list, "see data.labeled, data.unlabeled and data.val");
  const std::string text = read_file(list);
  if (text.rfind("\xff\xfe", 0) == 0 || text.rfind("\xfe\xff", 0) == 0)
    throw Error(ErrorKind::kData, "the list is UTF-16", list, "save it as UTF-8");
  if (text.find('\0') != std::string::npos)
    throw Error(ErrorKind::kData, "not a text file", list, "a list holds one image per line");
  std::vector<std::string> lines;
  size_t at = text.rfind("\xef\xbb\xbf", 0) == 0 ? 3 : 0;
  while (at < text.size()) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

}  // namespace

const char* split_name(Split split) {
  switch (split) {
    case Split::kLabeled:
      return "labeled";
    case Split::kUnlabeled:
      return "unlabeled";
    case Split::kVal:
      return "val";
  }
  return "";
}

Registry<std::unique_ptr<Dataset>(const Config&)>& datasets() {
  static Registry<std::unique_ptr<Dataset>(const Config&)> registry("data.format");
  return registry;
}

Registry<FileLists(const Config&, const OnProblem&)>& file_formats() {
  static Registry<FileLists(const Config&, const OnProblem&)> registry("data.format");
  return registry;
}

bool add_file_format(const std::string& name, Registry<FileLists(const Config&, const OnProblem&)>::Factory read) {
  file_formats().add(name, read);
  return datasets().add(name, [read](const Config& config) -> std::unique_ptr<Dataset> {
    return std::make_unique<FileDataset>(read(config, [](const Error& error) { throw error; }), config.data.cache);
  });
}

bool reads_unlabeled_labels(const Config& config) { return config.data.unlabeled_truth || config.semi.method == "retrain"; }

std::unique_ptr<Dataset> open_dataset(const Config& config) { return datasets().at(config.data.format)(config); }

ImagePart whole_image(const Tensor& image_HWC) { return {image_HWC, image_HWC.size(0), image_HWC.size(1), 0, 0}; }

PartialSample Dataset::get_part(Split split, int64_t index, const ChooseWindow& choose) const {
  Sample sample = get(split, index);
  choose(sample.image_HWC.size(0), sample.image_HWC.size(1), sample.label_HW);
  return {whole_image(sample.image_HWC), sample.label_HW, std::move(sample.id)};
}

ClassCounts count_classes(const Dataset& data, Split split, int64_t workers) {
  const size_t K = data.classes().names.size();
  const size_t threads = static_cast<size_t>(std::max<int64_t>(workers, 1));
  const ClassCounts zero{std::vector<int64_t>(K), std::vector<int64_t>(K), std::vector<int64_t>(K)};
  std::vector<ClassCounts> of_thread(threads, zero);
  std::vector<std::vector<int64_t>> of_image(static_cast<size_t>(data.size(split)));

  for_each_index(data.size(split), workers, [&](int64_t index, int64_t thread) {
    const Tensor label_HW = data.label(split, index).contiguous();
    data.require_image(split, index, label_HW);
    const uint8_t* label = label_HW.const_data_ptr<uint8_t>();
    std::array<int64_t, 256> histogram{};
    for (int64_t i = 0; i < label_HW.numel(); ++i) ++histogram[label[i]];
    const int64_t counted = std::accumulate(histogram.begin(), histogram.begin() + K, int64_t{0});
    std::vector<int64_t>& here = of_image[index];
    here.assign(histogram.begin(), histogram.begin() + K);
    here.push_back(label_HW.numel() - counted);
    ClassCounts& counts = of_thread[thread];
    for (size_t k = 0; k < K; ++k) {
      if (histogram[k] == 0) continue;
      counts.pixels[k] += histogram[k];
      counts.images[k] += 1;
      counts.pixels_of_those[k] += counted;
    }
  });

  ClassCounts total = zero;
  total.of_image = std::move(of_image);
  for (const ClassCounts& counts : of_thread) {
    for (size_t k = 0; k < K; ++k) {
      total.pixels[k] += counts.pixels[k];
      total.images[k] += counts.images[k];
      total.pixels_of_those[k] += counts.pixels_of_those[k];
    }
  }
  return total;
}

std::vector<int64_t> nested_split(int64_t n, const std::string& text, uint64_t seed) {
  int64_t numerator = 0, denominator = 0;
  if (!parse_fraction(text, numerator, denominator) || numerator == 0 || numerator > denominator)
    throw Error(ErrorKind::kConfig, "\"" + text + "\" is no fraction in (0, 1]", "data.labeled", "write it as 1/8");
  std::vector<int64_t> chosen = Random(seed, Purpose::kSplit).permutation(n);
  chosen.resize((n * numerator + denominator - 1) / denominator);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

bool is_fraction(const std::string& text) {
  int64_t numerator = 0, denominator = 0;
  return parse_fraction(text, numerator, denominator);
}

bool is_file(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

std::vector<std::string> split_list_line(const std::string& line, const std::string& where) {
  const auto is_blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  std::vector<std::string> columns;
  size_t at = 0;
  const auto skip_blanks = [&] {
    while (at < line.size() && is_blank(line[at])) ++at;
  };
  for (skip_blanks(); at < line.size() && line[at] != '#';) {
    std::string column;
    if (line[at] == '"') {
      const size_t end = line.find('"', at + 1);
      if (end == std::string::npos) throw Error(ErrorKind::kData, "a quote (\") is not closed", where);
      column = line.substr(at + 1, end - at - 1);
      at = end + 1;
      if (at < line.size() && !is_blank(line[at]) && line[at] != ',')
        throw Error(ErrorKind::kData, "text right after a closing quote (\")", where,
                    "put a space or a comma between the columns");
    } else {
      const size_t start = at;
      while (at < line.size() && !is_blank(line[at]) && line[at] != ',') ++at;
      column = line.substr(start, at - start);
    }
    columns.push_back(column);
    skip_blanks();
    if (at < line.size() && line[at] == ',') {
      ++at;
      skip_blanks();
    }
  }
  return columns;
}

std::vector<FileEntry> read_list(const std::string& list, const std::string& root, Split split, bool labelled,
                                 const OnProblem& on_problem, const std::function<void(FileEntry&)>& find_label) {
  const auto in_root = [&](const std::string& path) { return (std::filesystem::path(root) / path).string(); };
  const std::string root_hint = "paths in a list are relative to data.root (" + root + ")";

  const auto read_line = [&](const std::string& line, const std::string& where) -> FileEntry {
    const auto fail = [&](const std::string& problem, const std::string& hint) {
      throw Error(ErrorKind::kData, problem, where, hint);
    };
    const std::vector<std::string> columns = split_list_line(line, where);
    FileEntry entry;
    if (columns.empty()) return entry;
    if (columns.size() > 2)
      fail(str(columns.size(), " columns"), "a line holds image and label; put paths with spaces in \"...\"");
    if (columns[0].empty()) fail("no image in the first column", "");
    entry.id = columns[0];
    entry.image = in_root(columns[0]);
    if (labelled) {
      if (columns.size() < 2 || columns[1].empty())
        fail("no label for image \"" + entry.id + "\"",
             split == Split::kUnlabeled
                 ? "semi.method: retrain and data.unlabeled_truth: true need image and label in each line"
                 : str("a line of a ", split_name(split), " list holds image and label"));
      entry.label = in_root(columns[1]);
      find_label(entry);
    }
    if (!is_file(entry.image)) {
      const bool spaced = columns.size() == 2 && is_file(in_root(columns[0] + " " + columns[1]));
      fail("image file not found: " + entry.image,
           spaced ? "put paths with spaces in \"...\": \"" + columns[0] + " " + columns[1] + "\"" : root_hint);
    }
    if (labelled && !is_file(entry.label)) fail("label file not found: " + entry.label, root_hint);
    return entry;
  };

  std::vector<FileEntry> entries;
  std::unordered_map<std::string, int64_t> line_of;
  bool empty = true;
  int64_t number = 0;
  for (const std::string& line : list_lines(list)) {
    const std::string where = str(list, ":", ++number);
    try {
      FileEntry entry = read_line(line, where);
      if (entry.id.empty()) continue;
      empty = false;
      const auto [first, is_new] = line_of.emplace(path_key(entry.image), number);
      if (!is_new)
        throw Error(ErrorKind::kData, str("image \"", entry.id, "\" is listed twice, first in line ", first->second), where,
                    "remove one of the lines");
      entries.push_back(std::move(entry));
    } catch (const Error& error) {
      empty = false;
      on_problem(error);
    }
  }
  if (empty) throw Error(ErrorKind::kData, "the list is empty", list, "write one image per line");
  return entries;
}

const std::array<int16_t, 256>& value_map(const FileLists& lists, const FileEntry& entry) {
  static const std::array<int16_t, 256> kLabelIds = cityscapes_label_ids_to_classes();
  return entry.label_ids ? kLabelIds : lists.classes.value_to_class;
}

Tensor read_label(const FileLists& lists, const FileEntry& entry, const Tensor& values_HW) {
  return map_label(values_HW, value_map(lists, entry), entry.label);
}

void check_same_size(const FileEntry& entry, int64_t H, int64_t W, int64_t label_H, int64_t label_W) {
  if (H == label_H && W == label_W) return;
  throw Error(ErrorKind::kData,
              str("the label is ", label_H, " x ", label_W, " (H x W), its image ", entry.image, " is ", H, " x ", W),
              entry.label, "both must have one size");
}

std::vector<Overlap> find_overlaps(const FileLists& lists) {
  std::vector<Overlap> overlaps;
  constexpr std::pair<Split, Split> kPairs[] = {
      {Split::kLabeled, Split::kVal}, {Split::kUnlabeled, Split::kVal}, {Split::kLabeled, Split::kUnlabeled}};
  for (const auto& [first, second] : kPairs) {
    std::unordered_map<std::string, const FileEntry*> seen;
    for (const FileEntry& entry : lists[first]) seen.emplace(path_key(entry.image), &entry);
    Overlap overlap{first, second, 0, ""};
    for (const FileEntry& entry : lists[second]) {
      if (seen.count(path_key(entry.image)) == 0) continue;
      if (overlap.count++ == 0) overlap.example = entry.id;
    }
    if (overlap.count > 0) overlaps.push_back(overlap);
  }
  return overlaps;
}

std::string overlap_text(const Overlap& overlap) {
  return str(overlap.count, overlap.count == 1 ? " image is" : " images are", " both in the ", split_name(overlap.first),
             " and the ", split_name(overlap.second), " list, such as ", overlap.example,
             overlap.second == Split::kVal ? "; scores on val will be too good" : "");
}

}  // namespace semiseg
