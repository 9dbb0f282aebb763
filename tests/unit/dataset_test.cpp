#include "semiseg/dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <opencv2/imgcodecs.hpp>
#include <set>

#include "datasets/file_list.h"
#include "datasets/parallel.h"
#include "datasets/synthetic.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "tiff.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

template <class Action>
std::string message_of(const Action& action, ErrorKind kind) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text;
}

class DatasetTest : public testing::Test {
 protected:
  DatasetTest()
      : root_(fs::path(testing::TempDir()) /
              ("dataset_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()))) {
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  ~DatasetTest() override { fs::remove_all(root_); }

  std::string path(const std::string& name) const { return (root_ / name).string(); }

  std::string put(const std::string& name, const std::string& text) const {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(path(name), std::ios::binary) << text;
    return path(name);
  }

  void put_image(const std::string& name, int64_t H = 2, int64_t W = 3) const {
    fs::create_directories((root_ / name).parent_path());
    write_image(path(name), at::full({H, W, 3}, 9, at::kByte));
  }

  void put_label(const std::string& name, int64_t value, int64_t H = 2, int64_t W = 3) const {
    fs::create_directories((root_ / name).parent_path());
    write_label_png(path(name), at::full({H, W}, value, at::kByte));
  }

  Config list_config(const std::string& labeled, const std::string& unlabeled = "", const std::string& val = "") const {
    Config config;
    config.data.format = "list";
    config.data.root = root_.string();
    config.data.classes = "camvid";
    if (!labeled.empty()) config.data.labeled = put("labeled.txt", labeled);
    if (!unlabeled.empty()) config.data.unlabeled = put("unlabeled.txt", unlabeled);
    if (!val.empty()) config.data.val = put("val.txt", val);
    return config;
  }

  Config cityscapes_config() const {
    Config config;
    config.data.format = "cityscapes";
    config.data.root = root_.string();
    return config;
  }

  void put_city(const std::string& split, const std::string& city, int number, const std::string& kind, int64_t value) const {
    char name[64];
    std::snprintf(name, sizeof(name), "%s_%06d_000019_", city.c_str(), number);
    put_image("leftImg8bit/" + split + "/" + city + "/" + name + "leftImg8bit.png");
    if (!kind.empty()) put_label("gtFine/" + split + "/" + city + "/" + name + "gtFine_" + kind + ".png", value);
  }

  fs::path root_;
};

// --- classes ---

TEST_F(DatasetTest, CityscapesPreset) {
  const ClassSet classes = load_classes("cityscapes", 255);
  ASSERT_EQ(classes.size(), 19);
  EXPECT_EQ(classes.colours.size(), 19u);
  EXPECT_EQ(classes.names[13], "car");
  EXPECT_EQ(classes.colours[13], (std::array<uint8_t, 3>{0, 0, 142}));
  EXPECT_EQ(classes.label_ids[18], 33);
  EXPECT_EQ(classes.value_to_class[18], 18);
  EXPECT_EQ(classes.value_to_class[19], -1);
  EXPECT_EQ(classes.value_to_class[255], kIgnore);

  const auto map = cityscapes_label_ids_to_classes();
  EXPECT_EQ(map[7], 0);
  EXPECT_EQ(map[26], 13);
  EXPECT_EQ(map[29], kIgnore);
  EXPECT_EQ(map[255], kIgnore);
  EXPECT_EQ(map[34], -1);
  EXPECT_EQ(std::count_if(map.begin(), map.end(), [](int16_t k) { return k >= 0 && k != kIgnore; }), 19);
  EXPECT_EQ(std::count(map.begin(), map.end(), kIgnore), 16);  // 34 ids - 19, and 255
}

TEST_F(DatasetTest, OtherPresets) {
  const ClassSet camvid = load_classes("camvid", 255);
  EXPECT_EQ(camvid.size(), 11);
  EXPECT_EQ(camvid.names[10], "bicyclist");
  EXPECT_TRUE(camvid.label_ids.empty());
  EXPECT_EQ(load_classes("synthetic", 255).names, load_classes("cityscapes", 255).names);
  EXPECT_EQ(load_classes("camvid", 11).value_to_class[255], -1);
  expect_contains(message_of([] { load_classes("camvid", 10); }, ErrorKind::kConfig),
                  "label value 10 is both class \"bicyclist\" and ignored");
  expect_contains(message_of([] { load_classes("camvid", 256); }, ErrorKind::kConfig), "data.ignore_index");
  expect_contains(message_of([] { load_classes("camvit", 255); }, ErrorKind::kConfig),
                  "presets: camvid, cityscapes, synthetic");
}

TEST_F(DatasetTest, ClassFile) {
  const std::string file = put("classes.yaml",
                               "classes:\n"
                               "  - {name: ground, colour: [1, 2, 3], id: 7}\n"
                               "  - {name: tree, id: 9}\n"
                               "ignore: [0, 254]\n");
  const ClassSet classes = load_classes(file, 255);
  EXPECT_EQ(classes.names, (std::vector<std::string>{"ground", "tree"}));
  EXPECT_EQ(classes.colours[0], (std::array<uint8_t, 3>{1, 2, 3}));
  EXPECT_NE(classes.colours[1], (std::array<uint8_t, 3>{0, 0, 0}));
  EXPECT_EQ(classes.value_to_class[7], 0);
  EXPECT_EQ(classes.value_to_class[9], 1);
  EXPECT_EQ(classes.value_to_class[1], -1);
  for (const int ignored : {0, 254, 255}) EXPECT_EQ(classes.value_to_class[ignored], kIgnore);
}

TEST_F(DatasetTest, NamesAloneAreAClassFile) {
  for (const char* text : {"road\ntraffic light\nGebäude\n", "name\r\nroad\r\ntraffic light\r\nGebäude",
                           "id,name\n0,road\n1,traffic light\n2,Gebäude\n", "road;0\nvoid;9\ntraffic light;1\nGebäude;2\n",
                           "# ids\n0 road\n1 traffic light\n\n2 Gebäude\n", "name id\nroad 0\ntraffic light 1\nGebäude 2\n"}) {
    const ClassSet classes = load_classes(put("names.txt", text), 255);
    EXPECT_EQ(classes.names, (std::vector<std::string>{"road", "traffic light", "Gebäude"})) << text;
    EXPECT_EQ(classes.value_to_class[2], 2) << text;
    EXPECT_EQ(classes.value_to_class[9], text[5] == '0' ? kIgnore : -1) << text;
  }
  EXPECT_EQ(load_classes(put("names.txt", "void\nroad\n"), 255).value_to_class[1], 0);
  // No names: a list of images, a table with a line that is none of it, YAML.
  for (const char* text : {"images/a.png labels/a.png\n", "0,road\nsky\n1,2,3\n", "128 64 128 road\n1 2 x car\n",
                           "- road\n- sky\n", "road 0\nsky\n"})
    expect_contains(message_of([&] { load_classes(put("names.txt", text), 255); }, ErrorKind::kConfig),
                    "such as classes: [{name: road}, {name: sky}]");
}

TEST_F(DatasetTest, BadClassFiles) {
  const struct {
    std::string text, line, message;
  } kCases[] = {
      {"classes:\n  - {name: a}\nignored: [3]\n", ":3", "unknown key \"ignored\"; known: classes, ignore"},
      {"classes:\n  - {name: a, colr: [1, 2, 3]}\n", ":2", "unknown key \"colr\"; known: name, colour, color, id"},
      {"classes:\n  - {name: a, id: 0}\n  - {name: b, id: 0}\n", ":3", "id 0 is already class \"a\""},
      {"classes:\n  - {name: a, id: 1}\n  - {name: b}\n", ":3", "id 1 is already class \"a\""},
      {"classes:\n  - {name: a}\n  - {name: a}\n", ":3", "class \"a\" is listed twice"},
      {"classes:\n  - {name: a, colour: [1, 2, 256]}\n", ":2", "colour must be a whole number in 0..255, not \"256\""},
      {"classes:\n  - {name: a, colour: [1, 2]}\n", ":2", "colour must be three numbers"},
      {"classes:\n  - {name: a, id: -1}\n", ":2", "id must be a whole number in 0..255"},
      {"classes:\n  - {id: 1}\n", ":2", "a class needs a name"},
      {"classes: []\n", ":1", "at least one class"},
      {"ignore: [1]\n", ":1", "no \"classes:\" list"},
      {"classes:\n  - {name: a}\nignore: [0]\n", ":3", "label value 0 is both class \"a\" and ignored"},
      {"classes:\n  - {name: a\n", ":3", "not valid YAML"},
  };
  for (const auto& test : kCases) {
    const std::string file = put("bad.yaml", test.text);
    const std::string message = message_of([&] { load_classes(file, 255); }, ErrorKind::kConfig);
    expect_contains(message, file + test.line + ": ");
    expect_contains(message, test.message);
  }
}

// --- lists ---

TEST_F(DatasetTest, ListLines) {
  using Columns = std::vector<std::string>;
  const struct {
    std::string line;
    Columns columns;
  } kCases[] = {
      {"a.png b.png", {"a.png", "b.png"}},
      {"  a.png\t\tb.png  \r", {"a.png", "b.png"}},
      {"a.png,b.png", {"a.png", "b.png"}},
      {"a.png , b.png", {"a.png", "b.png"}},
      {"\"my image.png\" \"my, label.png\"", {"my image.png", "my, label.png"}},
      {"a.png # the first", {"a.png"}},
      {"a#1.png b.png", {"a#1.png", "b.png"}},
      {"# only a comment", {}},
      {" \t\r", {}},
      {"a b c", {"a", "b", "c"}},
      {"a.png,,b.png", {"a.png", "", "b.png"}},
  };
  for (const auto& test : kCases) EXPECT_EQ(split_list_line(test.line, "x:1"), test.columns) << test.line;
  EXPECT_THROW(split_list_line("\"a.png b.png", "x:1"), Error);
  EXPECT_THROW(split_list_line("\"a.png\"b.png", "x:1"), Error);
}

TEST_F(DatasetTest, ListDataset) {
  put_image("images/a.png");
  put_image("images/b c.png");
  put_image("images/d.jpg");
  put_label("labels/a.png", 4);
  put_label("labels/b.png", 255);
  const Config config =
      list_config("\xef\xbb\xbf# a comment\r\nimages/a.png labels/a.png\r\n\r\n\"images/b c.png\", labels/b.png",
                  "images/d.jpg labels/never_read.png\n", path("images/d.jpg") + " " + path("labels/a.png"));
  const auto data = open_dataset(config);
  ASSERT_EQ(data->size(Split::kLabeled), 2);
  ASSERT_EQ(data->size(Split::kUnlabeled), 1);
  ASSERT_EQ(data->size(Split::kVal), 1);
  EXPECT_EQ(data->id(Split::kLabeled, 1), "images/b c.png");
  const Sample sample = data->get(Split::kLabeled, 0);
  EXPECT_EQ(sample.id, "images/a.png");
  EXPECT_EQ(sample.image_HWC.sizes(), (std::vector<int64_t>{2, 3, 3}));
  EXPECT_TRUE(at::equal(sample.label_HW, at::full({2, 3}, 4, at::kByte)));
  EXPECT_TRUE(at::equal(data->label(Split::kLabeled, 1), at::full({2, 3}, kIgnore, at::kByte)));
  EXPECT_FALSE(data->get(Split::kUnlabeled, 0).label_HW.defined());
}

TEST_F(DatasetTest, BadLists) {
  put_image("a.png");
  put_label("l.png", 0);
  put_image("b c.png");
  const struct {
    std::string text, line, message;
  } kCases[] = {
      {"b c.png\n", ":1", "put paths with spaces in \"...\": \"b c.png\""},
      {"a.png l.png\nb.png l.png\n", ":2", "image file not found: " + path("b.png")},
      {"a.png m.png\n", ":1", "label file not found: " + path("m.png")},
      {"\n\na.png\n", ":3", "no label for image \"a.png\""},
      {"a.png l.png more\n", ":1", "3 columns"},
      {"a.png l.png\n# again\n./a.png l.png\n", ":3", "image \"./a.png\" is listed twice, first in line 1"},
      {"# nothing\n\n", "", "the list is empty"},
      {"\xff\xfe"
       "a",
       "", "UTF-16"},
      {std::string("a\0b", 3), "", "not a text file"},
  };
  for (const auto& test : kCases) {
    const Config config = list_config(test.text);
    const std::string message = message_of([&] { open_dataset(config); }, ErrorKind::kData);
    expect_contains(message, config.data.labeled + test.line + ": ");
    expect_contains(message, test.message);
  }
  Config config = list_config("a.png l.png");
  config.data.labeled = path("absent.txt");
  expect_contains(message_of([&] { open_dataset(config); }, ErrorKind::kData), "list file not found");
  config.data.format = "voc";
  expect_contains(message_of([&] { open_dataset(config); }, ErrorKind::kConfig), "known: cityscapes, list, synthetic");
}

TEST_F(DatasetTest, ImagesThatCannotBeReadAreFoundByTheirFirstBytes) {
  put_image("a.png");
  put_label("l.png", 0);
  const auto problem = [&](const std::string& image) {
    const auto data = open_dataset(list_config(image + " l.png"));
    return message_of([&] { count_classes(*data, Split::kLabeled, 1); }, ErrorKind::kData);
  };
  const auto data = open_dataset(list_config("a.png l.png"));
  EXPECT_EQ(count_classes(*data, Split::kLabeled, 1).images[0], 1);
  for (const char* ending : {".png", ".jpg", ".bmp"}) {
    write_image(path(std::string("large") + (ending[1] == 'b' ? ".png" : ending)), at::zeros({9, 3, 3}, at::kByte));
    if (ending[1] == 'b') cv::imwrite(path("large.bmp"), cv::Mat(9, 3, CV_8UC3));
    const std::string message = problem(std::string("large") + ending);
    expect_contains(message, "the label is 2 x 3 (H x W), its image");
    expect_contains(message, "is 9 x 3");
  }
  write_file(path("empty.png"), "");
  expect_contains(problem("empty.png"), path("empty.png"));
  write_file(path("text.jpg"), "no image at all");
  expect_contains(problem("text.jpg"), path("text.jpg"));
  write_file(path("short.png"), read_file(path("a.png")).substr(0, 12));
  expect_contains(problem("short.png"), path("short.png"));
}

TEST_F(DatasetTest, UnlabelledImagesThatCannotBeReadAreFoundByTheirHeader) {
  put_image("a.png");
  put_label("l.png", 0);
  put("five.tif", tiff(200, 100, 5, 8, 1));  // its directory is behind the first 64 KiB
  put("three.tif", tiff(200, 100, 3, 8, 2));
  const auto data = open_dataset(list_config("a.png l.png", "three.tif\nfive.tif\n"));
  EXPECT_NO_THROW(data->require_image(Split::kUnlabeled, 0, {}));
  EXPECT_EQ(message_of([&] { data->require_image(Split::kUnlabeled, 1, {}); }, ErrorKind::kData),
            path("five.tif") + ": TIFF with 5 channels of 8 bits; 1 to 4 channels of 8 or 16 bits are read");
}

TEST_F(DatasetTest, EvaluationNeedsNoTrainingFiles) {
  put_image("a.png");
  put_label("l.png", 0);
  Config config = list_config("a.png l.png");
  config.data.val = config.data.labeled;
  config.data.labeled = path("absent.txt");
  config.data.val_only = true;
  const auto data = open_dataset(config);
  EXPECT_EQ(data->size(Split::kVal), 1);
  EXPECT_EQ(data->size(Split::kLabeled), 0);
}

TEST_F(DatasetTest, ProblemsCanBeCollected) {
  put_image("a.png");
  put_label("l.png", 0);
  const Config config = list_config("x.png l.png\na.png l.png\na.png\n");
  std::vector<std::string> problems;
  const FileLists lists = file_formats().at("list")(config, [&](const Error& error) { problems.push_back(error.what()); });
  EXPECT_EQ(problems.size(), 2u);
  EXPECT_EQ(lists[Split::kLabeled].size(), 1u);
}

TEST_F(DatasetTest, SizeMismatchNamesBoth) {
  put_image("a.png", 4, 6);
  put_label("l.png", 0, 4, 5);
  const auto data = open_dataset(list_config("a.png l.png"));
  EXPECT_EQ(message_of([&] { data->get(Split::kLabeled, 0); }, ErrorKind::kData),
            path("l.png") + ": the label is 4 x 5 (H x W), its image " + path("a.png") + " is 4 x 6; both must have one size");
}

TEST_F(DatasetTest, Overlaps) {
  for (const char* name : {"a.png", "b.png", "c.png"}) put_image(name);
  put_label("l.png", 0);
  const Config config = list_config("a.png l.png\nb.png l.png", "./a.png\nb.png\nc.png", "c.png l.png");
  const FileLists lists = file_formats().at("list")(config, [](const Error& error) { throw error; });
  const auto overlaps = find_overlaps(lists);
  ASSERT_EQ(overlaps.size(), 2u);
  EXPECT_EQ(overlap_text(overlaps[0]),
            "1 image is both in the unlabeled and the val list, such as c.png; scores on val will be too good");
  EXPECT_EQ(overlap_text(overlaps[1]), "2 images are both in the labeled and the unlabeled list, such as ./a.png");
}

// --- Cityscapes ---

TEST_F(DatasetTest, CityscapesFolders) {
  put_city("train", "zurich", 1, "labelIds", 26);
  put_city("train", "aachen", 2, "labelTrainIds", 13);
  put_city("train", "aachen", 1, "labelIds", 4);
  put_label("gtFine/train/aachen/aachen_000002_000019_gtFine_labelIds.png", 7);  // the train ids beside it are preferred
  put_city("val", "ulm", 0, "labelTrainIds", 255);
  const auto data = open_dataset(cityscapes_config());
  ASSERT_EQ(data->size(Split::kLabeled), 3);
  EXPECT_EQ(data->size(Split::kUnlabeled), 0);
  EXPECT_EQ(data->size(Split::kVal), 1);
  EXPECT_EQ(data->id(Split::kLabeled, 0), "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png");
  EXPECT_EQ(data->label(Split::kLabeled, 0)[0][0].item<int>(), kIgnore);
  EXPECT_EQ(data->label(Split::kLabeled, 1)[0][0].item<int>(), 13);
  EXPECT_EQ(data->label(Split::kLabeled, 2)[0][0].item<int>(), 13);
  EXPECT_EQ(data->get(Split::kVal, 0).label_HW[0][0].item<int>(), kIgnore);
}

TEST_F(DatasetTest, CityscapesFractionNeedsNoFurtherLabels) {
  for (int i = 0; i < 8; ++i) put_city("train", "jena", i, "", 0);
  put_city("val", "ulm", 0, "labelIds", 7);
  Config config = cityscapes_config();
  config.data.labeled = "1/4";
  const std::vector<int64_t> chosen = nested_split(8, "1/4", config.seed);
  for (const int64_t index : chosen) put_city("train", "jena", static_cast<int>(index), "labelIds", 8);
  const auto data = open_dataset(config);
  EXPECT_EQ(data->size(Split::kLabeled), 2);
  EXPECT_EQ(data->size(Split::kUnlabeled), 6);
  EXPECT_EQ(data->label(Split::kLabeled, 0)[0][0].item<int>(), 1);
  config.data.labeled = "";
  expect_contains(message_of([&] { open_dataset(config); }, ErrorKind::kData), "no label for this image");
}

TEST_F(DatasetTest, CityscapesLists) {
  put_city("train", "jena", 1, "labelIds", 33);
  put_city("train", "jena", 2, "labelTrainIds", 2);
  put_city("train", "jena", 3, "", 0);
  put_city("val", "ulm", 0, "labelIds", 7);
  const auto line = [](int number) {
    return str("leftImg8bit/train/jena/jena_00000", number, "_000019_leftImg8bit.png gtFine/train/jena/jena_00000", number,
               "_000019_gtFine_labelTrainIds.png\n");
  };
  Config config = cityscapes_config();
  config.data.labeled = put("labeled.txt", line(1) + line(2));
  config.data.unlabeled = put("unlabeled.txt", line(3));
  const auto data = open_dataset(config);
  EXPECT_EQ(data->label(Split::kLabeled, 0)[0][0].item<int>(), 18);
  EXPECT_EQ(data->label(Split::kLabeled, 1)[0][0].item<int>(), 2);
  EXPECT_EQ(data->size(Split::kUnlabeled), 1);
  EXPECT_FALSE(data->get(Split::kUnlabeled, 0).label_HW.defined());
  EXPECT_EQ(data->size(Split::kVal), 1);
}

TEST_F(DatasetTest, CityscapesRootErrors) {
  Config config = cityscapes_config();
  expect_contains(message_of([&] { open_dataset(config); }, ErrorKind::kData),
                  path("leftImg8bit/train") + ": folder not found");
  fs::create_directories(root_ / "leftImg8bit/train/jena");
  expect_contains(message_of([&] { open_dataset(config); }, ErrorKind::kData), "no CITY/*_leftImg8bit.png in this folder");
  config.data.root = path("absent");
  expect_contains(message_of([&] { open_dataset(config); }, ErrorKind::kData), "data.root is not a folder");
}

// --- synthetic ---

Config synthetic_config() {
  Config config;
  config.seed = 3;
  config.data.format = "synthetic";
  config.data.size = {64, 96};
  config.data.counts = {8, 4, 3};
  return config;
}

TEST_F(DatasetTest, SyntheticIsAFunctionOfSeedSplitAndIndex) {
  const auto a = open_dataset(synthetic_config()), b = open_dataset(synthetic_config());
  b->get(Split::kVal, 2);
  const Sample first = a->get(Split::kLabeled, 1), second = b->get(Split::kLabeled, 1);
  EXPECT_TRUE(at::equal(first.image_HWC, second.image_HWC));
  EXPECT_TRUE(at::equal(first.label_HW, second.label_HW));
  EXPECT_EQ(first.image_HWC.sizes(), (std::vector<int64_t>{64, 96, 3}));
  EXPECT_FALSE(at::equal(first.image_HWC, a->get(Split::kVal, 1).image_HWC));
  EXPECT_FALSE(at::equal(first.image_HWC, a->get(Split::kLabeled, 2).image_HWC));
  Config other = synthetic_config();
  other.seed = 4;
  EXPECT_FALSE(at::equal(first.image_HWC, open_dataset(other)->get(Split::kLabeled, 1).image_HWC));
}

TEST_F(DatasetTest, SyntheticSplits) {
  const auto whole = open_dataset(synthetic_config());
  EXPECT_EQ(whole->size(Split::kLabeled), 8);
  EXPECT_EQ(whole->size(Split::kUnlabeled), 4);
  EXPECT_EQ(whole->size(Split::kVal), 3);
  EXPECT_FALSE(whole->get(Split::kUnlabeled, 0).label_HW.defined());
  Config config = synthetic_config();
  config.data.labeled = "1/4";
  const auto quarter = open_dataset(config);
  EXPECT_EQ(quarter->size(Split::kLabeled), 2);
  EXPECT_EQ(quarter->size(Split::kUnlabeled), 10);
  std::set<std::string> ids;
  for (const Split split : {Split::kLabeled, Split::kUnlabeled})
    for (int64_t i = 0; i < quarter->size(split); ++i) ids.insert(quarter->id(split, i));
  EXPECT_EQ(ids.size(), 12u);
  config.data.val = "val.txt";
  expect_contains(message_of([&] { open_dataset(config); }, ErrorKind::kConfig), "not read from lists");
}

TEST_F(DatasetTest, SyntheticFrequencies) {
  std::vector<int64_t> pixels(256);
  for (int64_t i = 0; i < 150; ++i) {
    const Tensor label = draw_scene(0, false, i, 96, 192).label_HW;
    for (int64_t j = 0; j < label.numel(); ++j) ++pixels[label.const_data_ptr<uint8_t>()[j]];
  }
  int64_t counted = 0;
  for (int k = 0; k < 19; ++k) counted += pixels[k];
  const auto share = [&](int k) { return static_cast<double>(pixels[k]) / static_cast<double>(counted); };
  EXPECT_NEAR(share(0), .37, .05);   // road
  EXPECT_NEAR(share(2), .22, .05);   // building
  EXPECT_NEAR(share(8), .16, .05);   // vegetation
  EXPECT_NEAR(share(13), .08, .03);  // car
  for (int k = 0; k < 19; ++k) EXPECT_GT(pixels[k], 0) << k;
  for (const int rare : {6, 12, 14, 15, 16, 17}) EXPECT_LT(share(rare), .01) << rare;
  EXPECT_GT(pixels[kIgnore], 0);
}

// --- splits and counts ---

TEST_F(DatasetTest, NestedSplit) {
  std::vector<int64_t> inner;
  for (const auto& [text, count] :
       std::vector<std::pair<std::string, size_t>>{{"1/16", 186}, {"1/8", 372}, {"1/4", 744}, {"1/2", 1488}, {"1/1", 2975}}) {
    const auto outer = nested_split(2975, text, 7);
    EXPECT_EQ(outer.size(), count) << text;
    EXPECT_TRUE(std::is_sorted(outer.begin(), outer.end()));
    EXPECT_TRUE(std::adjacent_find(outer.begin(), outer.end()) == outer.end());
    EXPECT_TRUE(std::includes(outer.begin(), outer.end(), inner.begin(), inner.end())) << text;
    inner = outer;
  }
  EXPECT_NE(nested_split(2975, "1/8", 7), nested_split(2975, "1/8", 8));
  for (const std::string bad : {"", "8", "0/8", "9/8", "1/0", "1/", "/8", "1/8x", "-1/8", "1.0/8", "1/9999999999"})
    EXPECT_THROW(nested_split(100, bad, 0), Error) << bad;
}

// Labels given as tensors.
class FixedDataset final : public Dataset {
 public:
  std::vector<Tensor> labels;
  ClassSet set = load_classes("camvid", 255);
  int64_t fails_from = -1;

  int64_t size(Split) const override { return static_cast<int64_t>(labels.size()); }
  Sample get(Split, int64_t) const override { return {}; }
  Tensor label(Split, int64_t index) const override {
    if (fails_from >= 0 && index >= fails_from) throw Error(ErrorKind::kData, "broken", str("label ", index));
    return labels[index];
  }
  std::string id(Split, int64_t) const override { return ""; }
  const ClassSet& classes() const override { return set; }
};

TEST_F(DatasetTest, CountClasses) {
  FixedDataset data;
  Tensor first = at::zeros({2, 4}, at::kByte);  // six pixels of 0, one of 3, one ignored
  first[0][0] = 3;
  first[1][3] = kIgnore;
  data.labels = {first, at::full({1, 5}, 3, at::kByte)};
  for (const int64_t workers : {0, 1, 4}) {
    const ClassCounts counts = count_classes(data, Split::kLabeled, workers);
    EXPECT_EQ(counts.pixels, (std::vector<int64_t>{6, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0}));
    EXPECT_EQ(counts.images, (std::vector<int64_t>{1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0}));
    EXPECT_EQ(counts.pixels_of_those, (std::vector<int64_t>{7, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0}));
  }
}

TEST_F(DatasetTest, CountClassesThrowsWhatReadingThrew) {
  FixedDataset data;
  data.labels.assign(100, at::zeros({1, 1}, at::kByte));
  data.fails_from = 30;
  for (const int64_t workers : {1, 4, 200})
    EXPECT_EQ(message_of([&] { count_classes(data, Split::kVal, workers); }, ErrorKind::kData), "label 30: broken");
}

TEST_F(DatasetTest, ForEachIndexVisitsAllOnce) {
  std::vector<std::atomic<int>> visits(1000);
  for_each_index(1000, 8, [&](int64_t index, int64_t thread) {
    ASSERT_LT(thread, 8);
    ++visits[index];
  });
  for (const auto& count : visits) EXPECT_EQ(count, 1);
  for_each_index(0, 4, [](int64_t, int64_t) { FAIL(); });
}

}  // namespace
}  // namespace semiseg
