// `semiseg init` on folders as people have them.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "program.h"
#include "semiseg/dataset.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

class Init : public ProgramTest {
 protected:
  Init() : ProgramTest("") {
    write_file(dir_ + "/classes.yaml", "classes: [{name: road}, {name: sky}]\n");
    for (int number = 0; number < 12; ++number) add_image(str("photos/drive ", number / 6, "/p", number, ".png"));
    // p1 has no label; that of p11 must not be taken for it.
    for (int number = 0; number < 12; ++number)
      if (number != 1) add_label(str("masks/drive ", number / 6, "/p", number, "_L.png"));
    add_image("more/q.png");
  }

  void add_image(const std::string& path) const {
    make_folders(fs::path(dir_ + "/" + path).parent_path().string());
    write_image(dir_ + "/" + path, at::full({70, 90, 3}, 40 + static_cast<int64_t>(path.size()), at::kByte));
  }
  void add_label(const std::string& path) const {
    make_folders(fs::path(dir_ + "/" + path).parent_path().string());
    write_label_png(dir_ + "/" + path, at::arange(70 * 90).remainder(2).to(at::kByte).view({70, 90}));
  }

  std::string quoted(const std::string& path) const { return "\"" + absolute_path(dir_ + path) + "\""; }

  std::vector<std::string> lines(const std::string& file) const {
    std::vector<std::string> all;
    std::istringstream text(read_file(dir_ + "/" + file));
    for (std::string line; std::getline(text, line);) all.push_back(line);
    return all;
  }
};

TEST_F(Init, WritesListsAndAConfigThatCheckAndTrainTake) {
  const Outcome made = semiseg("init mine --images photos --labels masks --classes classes.yaml --unlabeled more --val 0.3");
  ASSERT_EQ(made.code, 0) << made.output;
  EXPECT_NE(made.output.find("semiseg check mine/mine.yaml"), std::string::npos) << made.output;
  const auto train = lines("mine/train.txt"), val = lines("mine/val.txt"), unlabeled = lines("mine/unlabeled.txt");
  EXPECT_EQ(train.size(), 8u);
  EXPECT_EQ(val.size(), 3u);  // 0.3 of 11, in one piece
  EXPECT_EQ(val[0], quoted("/photos/drive 1/p7.png") + " " + quoted("/masks/drive 1/p7_L.png"));
  EXPECT_EQ(train[0], quoted("/photos/drive 0/p0.png") + " " + quoted("/masks/drive 0/p0_L.png"));
  EXPECT_EQ(unlabeled, (std::vector<std::string>{quoted("/photos/drive 0/p1.png"), absolute_path(dir_ + "/more/q.png")}));
  EXPECT_NE(read_file(dir_ + "/mine/mine.yaml").find("crop: 64"), std::string::npos);
  const Outcome checked = semiseg("check mine/mine.yaml");
  EXPECT_EQ(checked.code, 0) << checked.output;
  const Outcome config = semiseg("config mine/mine.yaml");
  EXPECT_EQ(config.code, 0) << config.output;
  EXPECT_NE(config.output.find("fixmatch"), std::string::npos) << config.output;

  // Nothing is replaced, and images that are listed already are not listed again.
  EXPECT_EQ(semiseg("init mine --images photos --labels masks --classes classes.yaml").code, 2);
  ASSERT_EQ(semiseg("init same --images photos --labels masks --classes classes.yaml --unlabeled photos").code, 0);
  EXPECT_EQ(lines("same/unlabeled.txt").size(), 1u);
}

TEST_F(Init, ValidationGetsItsShareFromFewPlaces) {
  for (int number = 0; number < 10; ++number) {
    add_image(str("ten/", number, ".png"));
    add_label(str("ten_labels/", number, ".png"));
  }
  const struct {
    const char* share;
    std::vector<int> val;  // numbers of the images
  } kCases[] = {{"0.2", {8, 9}}, {"0.01", {9}}, {"0.4", {3, 4, 8, 9}}, {"0.99", {}}};
  for (const auto& c : kCases) {
    const std::string name = str("share", c.share);
    ASSERT_EQ(semiseg("init " + name + " --images ten --labels ten_labels --classes classes.yaml --val " + c.share).code, 0);
    const auto train = lines(name + "/train.txt"), val = lines(name + "/val.txt");
    EXPECT_EQ(train.size() + val.size(), 10u);
    if (c.share == std::string("0.99")) {
      EXPECT_EQ(train.size(), 1u);
      continue;
    }
    ASSERT_EQ(val.size(), c.val.size()) << c.share;
    for (size_t i = 0; i < val.size(); ++i)
      EXPECT_EQ(val[i].substr(0, val[i].find(' ')), absolute_path(dir_ + str("/ten/", c.val[i], ".png"))) << c.share;
  }
}

TEST_F(Init, OneFolderForImagesAndLabelsIsPairedByEndingsOrNotAtAll) {
  const auto init = [&](const std::string& folder, const std::string& more = "") {
    return semiseg("init 'of " + folder + "' --images " + folder + " --labels ./" + folder + "/ --classes classes.yaml " +
                   more);
  };
  const auto pair = [&](const std::string& image, const std::string& label) {
    return absolute_path(dir_ + "/" + image) + " " + absolute_path(dir_ + "/" + label);
  };
  for (const std::string name : {"a", "b", "c"}) {
    add_image("masks_beside/" + name + ".png");
    if (name != "c") add_label("masks_beside/" + name + "_mask.png");
    add_image("jpegs/" + name + ".jpg");
    if (name != "c") add_label("jpegs/" + name + ".png");
    add_image("twins/" + name + ".png");
    add_image("unclear/" + name + ".jpg");
    add_label("unclear/" + name + ".png");
    add_label("unclear/" + name + "_label.png");
  }
  add_label("masks_beside/lone_gt.png");
  add_label("jpegs/lone.png");
  const Outcome made = init("masks_beside", "--unlabeled masks_beside");
  ASSERT_EQ(made.code, 0) << made.output;
  EXPECT_NE(made.output.find("1 of the labels belong to no image"), std::string::npos) << made.output;
  EXPECT_NE(made.output.find("semiseg check 'of masks_beside/of masks_beside.yaml'\n"), std::string::npos) << made.output;
  EXPECT_EQ(lines("of masks_beside/train.txt"),
            std::vector<std::string>{pair("masks_beside/a.png", "masks_beside/a_mask.png")});
  EXPECT_EQ(lines("of masks_beside/val.txt"), std::vector<std::string>{pair("masks_beside/b.png", "masks_beside/b_mask.png")});
  EXPECT_EQ(lines("of masks_beside/unlabeled.txt"), std::vector<std::string>{absolute_path(dir_ + "/masks_beside/c.png")});
  const Outcome jpegs = init("jpegs");
  ASSERT_EQ(jpegs.code, 0) << jpegs.output;
  EXPECT_NE(jpegs.output.find("1 of the labels belong to no image"), std::string::npos) << jpegs.output;
  EXPECT_EQ(lines("of jpegs/unlabeled.txt"), std::vector<std::string>{absolute_path(dir_ + "/jpegs/c.jpg")});
  EXPECT_EQ(lines("of jpegs/val.txt"), std::vector<std::string>{pair("jpegs/b.jpg", "jpegs/b.png")});

  for (const std::string folder : {"twins", "unclear"}) {
    const Outcome refused = init(folder);
    EXPECT_EQ(refused.code, 3) << refused.output;
    EXPECT_NE(refused.output.find("images and labels need folders of their own, or names that tell them apart"),
              std::string::npos)
        << refused.output;
    EXPECT_FALSE(fs::exists(dir_ + "/of " + folder));
  }

  // Labels in a folder of the images' are not images.
  for (const std::string name : {"a", "b"}) {
    add_image("whole/" + name + ".png");
    add_label("whole/masks/" + name + ".png");
  }
  ASSERT_EQ(semiseg("init whole_lists --images whole --labels whole/masks --classes classes.yaml").code, 0);
  EXPECT_FALSE(fs::exists(dir_ + "/whole_lists/unlabeled.txt"));
}

TEST_F(Init, LinksMayGoInCirclesAndAFolderMayBeCalledLikeAPreset) {
  fs::create_directory_symlink(".", dir_ + "/photos/loop");
  make_folders(dir_ + "/camvid");
  const Outcome made = semiseg("init mine --images photos --labels masks --classes camvid");
  ASSERT_EQ(made.code, 0) << made.output;
  EXPECT_EQ(lines("mine/train.txt").size() + lines("mine/val.txt").size(), 11u);
  EXPECT_EQ(lines("mine/unlabeled.txt").size(), 1u);
}

TEST_F(Init, WithoutUnlabelledImagesTheConfigIsSupervised) {
  fs::remove(dir_ + "/photos/drive 0/p1.png");
  ASSERT_EQ(semiseg("init mine --images photos --labels masks --classes classes.yaml").code, 0);
  EXPECT_FALSE(fs::exists(dir_ + "/mine/unlabeled.txt"));
  EXPECT_EQ(semiseg("check mine/mine.yaml").code, 0);
  EXPECT_NE(semiseg("config mine/mine.yaml").output.find("supervised"), std::string::npos);
}

TEST_F(Init, BadInputIsOneLineAndLeavesNothing) {
  add_label("masks/drive 0/p2-instances.png");
  add_image("one/a.png");
  add_label("one_label/a.png");
  const struct {
    const char *words, *says;
    int code;
  } kBad[] = {
      {"--images photos --labels masks --classes classes.yaml", "p2_L.png", 3},
      {"--images photos --labels more --classes classes.yaml", "none belong together", 3},
      {"--images photos --labels photos --classes classes.yaml", "images and labels need folders of their own", 3},
      {"--images one --labels one_label --classes classes.yaml", "two labelled images are needed", 3},
      {"--images nowhere --labels masks --classes classes.yaml", "nowhere", 3},
      {"--images photos --labels masks", "--classes", 2},
      {"--images photos --labels masks --classes nowhere.yaml", "nowhere.yaml", 2},
      {"--images photos --labels masks --classes classes.yaml --val 1", "--val", 2},
      {"--images photos --labels masks --classes classes.yaml optim.lr=1", "optim.lr", 2},
  };
  for (const auto& bad : kBad) {
    const Outcome outcome = semiseg("init mine " + std::string(bad.words));
    EXPECT_EQ(outcome.code, bad.code) << bad.words << "\n" << outcome.output;
    EXPECT_NE(outcome.output.find(bad.says), std::string::npos) << outcome.output;
    EXPECT_FALSE(fs::exists(dir_ + "/mine")) << bad.words;
  }
}

}  // namespace
}  // namespace semiseg
