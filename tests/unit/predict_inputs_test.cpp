#include "predict_inputs.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

// Each test in a folder of its own, with the files that it names (inputs are found by their names alone).
class PredictInputs : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "semiseg_inputs_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(dir_);
    make_folders(dir_);
    before_ = fs::current_path();
    fs::current_path(dir_);
  }
  void TearDown() override { fs::current_path(before_); }

  void make(const std::vector<std::string>& files) {
    for (const auto& file : files) {
      make_folders((fs::path(dir_) / file).parent_path().string());
      write_file(file, "x");
    }
  }

  // "path > name", in order.
  static std::vector<std::string> found(const std::vector<std::string>& words, const std::string& output = "out") {
    std::vector<std::string> lines;
    for (const auto& input : find_inputs(words, output))
      lines.push_back(input.path + " > " + input.name + (input.video ? " (video)" : ""));
    return lines;
  }

  std::string dir_;
  fs::path before_;
};

using Lines = std::vector<std::string>;

TEST_F(PredictInputs, FoldersAreReadWithTheirFoldersAndKeepThem) {
  make({"a/x.jpg", "a/notes.txt", "a/b/x.PNG", "a/b/drive.mp4", "a/.trash/y.jpg", "a/._x.jpg", "a/out/x.png"});
  EXPECT_EQ(found({"a"}, "a/out"), (Lines{"a/b/drive.mp4 > b/drive (video)", "a/b/x.PNG > b/x", "a/x.jpg > x"}));
  EXPECT_EQ(found({"a/", "a/x.jpg", "./a/b"}, "a/out"), found({"a"}, "a/out")) << "each is predicted once";
}

TEST_F(PredictInputs, FilesOfOneNameAreNumbered) {
  make({"a/rgb.png", "b/rgb.png", "c/rgb-2.png", "d/rgb.png"});
  EXPECT_EQ(found({"*/*.png"}), (Lines{"a/rgb.png > rgb", "b/rgb.png > rgb-2", "c/rgb-2.png > rgb-2-2", "d/rgb.png > rgb-3"}));
}

TEST_F(PredictInputs, APipeIsRefusedInsteadOfWaitedFor) {
  ASSERT_EQ(::mkfifo("pipe.png", 0600), 0);
  try {
    found({"pipe.png"});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_NE(std::string(error.what()).find("pipe.png: is a pipe"), std::string::npos) << error.what();
  }
}

TEST_F(PredictInputs, LinksOfFoldersAreFollowedOnce) {
  make({"a/x.jpg", "elsewhere/y.jpg"});
  fs::create_directory_symlink("../elsewhere", "a/link");
  fs::create_directory_symlink("../a", "elsewhere/back");
  EXPECT_EQ(found({"a"}), (Lines{"a/link/y.jpg > link/y", "a/x.jpg > x"}));
}

TEST_F(PredictInputs, PatternsMatchAsInAShell) {
  make({"a/1.jpg", "a/2.jpg", "a/10.png", "a/notes.txt", "a/b/3.jpg", "a/b/c/4.jpg", "odd[1].jpg"});
  EXPECT_EQ(found({"a/*.jpg"}), (Lines{"a/1.jpg > 1", "a/2.jpg > 2"}));
  EXPECT_EQ(found({"a/[13-9]*"}), (Lines{"a/1.jpg > 1", "a/10.png > 10"}));
  EXPECT_EQ(found({"a/?.jpg"}), (Lines{"a/1.jpg > 1", "a/2.jpg > 2"}));
  EXPECT_EQ(found({"a/**/*.jpg"}), (Lines{"a/1.jpg > 1", "a/2.jpg > 2", "a/b/3.jpg > 3", "a/b/c/4.jpg > 4"}));
  EXPECT_EQ(found({"**/c/*"}), (Lines{"a/b/c/4.jpg > 4"}));
  EXPECT_EQ(found({dir_ + "/a/b*"}), (Lines{dir_ + "/a/b/3.jpg > 3", dir_ + "/a/b/c/4.jpg > c/4"}));
  EXPECT_EQ(found({"odd[1].jpg"}), (Lines{"odd[1].jpg > odd[1]"})) << "a file of that name comes first";
}

TEST_F(PredictInputs, ResultsOfTwoInputsNeverShareAFile) {
  make({"a/x.jpg", "b/x.jpg", "b/x.png", "b/x_confidence.jpg"});
  EXPECT_EQ(found({"a", "b"}), (Lines{"a/x.jpg > x", "b/x.jpg > x-2", "b/x.png > x-3", "b/x_confidence.jpg > x_confidence-2"}));
}

TEST_F(PredictInputs, FramesOfAVideoCountAsItsFiles) {
  make({"drive.mp4", "drive_000001.jpg", "drive_000002.jpg", "drive_12.jpg"});
  EXPECT_EQ(found({"drive.mp4", "drive_000001.jpg", "drive_000002.jpg", "drive_12.jpg"}),
            (Lines{"drive.mp4 > drive (video)", "drive_000001.jpg > drive_000001-2", "drive_000002.jpg > drive_000002-2",
                   "drive_12.jpg > drive_12"}));
  EXPECT_EQ(found({"drive_000001.jpg", "drive_000002.jpg", "drive.mp4"}),
            (Lines{"drive_000001.jpg > drive_000001", "drive_000002.jpg > drive_000002", "drive.mp4 > drive-2 (video)"}));
}

TEST_F(PredictInputs, FilesOfResultsAreKnownBeforehand) {
  make({"a/x.jpg", "drive.mp4", "out/drive_000003.png", "out/drive_1000000.png", "out/drive_12.png",
        "out/drive_000003_overlay.png", "out/drive_000004_note.png", "out/drives_000001.png"});
  const auto inputs = find_inputs({"a", "drive.mp4"}, "out");
  auto files = result_files(inputs, "out", /*overlays=*/false, /*confidences=*/true);
  std::sort(files.begin(), files.end());
  EXPECT_EQ(files, (Lines{"out/drive_000003.png", "out/drive_1000000.png", "out/drive_confidence.avi",
                          "out/drive_confidence.mp4", "out/x.png", "out/x_confidence.png"}));
  files = result_files(inputs, "out", /*overlays=*/true, /*confidences=*/false);
  std::sort(files.begin(), files.end());
  EXPECT_EQ(files, (Lines{"out/drive_000003.png", "out/drive_000003_overlay.png", "out/drive_1000000.png",
                          "out/drive_overlay.avi", "out/drive_overlay.mp4", "out/x.png", "out/x_overlay.jpg"}));
}

TEST_F(PredictInputs, WhatCannotBeIsAnError) {
  make({"a/x.png", "a/drive.mp4", "empty/notes.txt"});
  fs::create_directory_symlink("a", "link");
  const struct {
    Lines words;
    std::string output;
    ErrorKind kind;
    std::string part;
  } cases[] = {
      {{"nowhere.png"}, "out", ErrorKind::kData, "nowhere.png: there is no such file"},
      {{"a", "nowhere/*.png"}, "out", ErrorKind::kData, "nowhere/*.png: no image or video matches"},
      {{"empty"}, "out", ErrorKind::kData, "empty: there is no image or video"},
      {{"empty/*"}, "out", ErrorKind::kData, "no image or video matches"},
      {{"a"}, "./a/", ErrorKind::kConfig, "is the folder to write to"},
      {{"a"}, "link", ErrorKind::kConfig, "is the folder to write to"},
      {{"a/x.png"}, "a", ErrorKind::kConfig, "the results of a/x.png would replace an input"},
      {{"a/x.png"}, "link", ErrorKind::kConfig, "would replace an input"},
  };
  for (const auto& c : cases) {
    try {
      find_inputs(c.words, c.output);
      ADD_FAILURE() << c.part;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), c.kind) << error.what();
      EXPECT_NE(std::string(error.what()).find(c.part), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(found({"a/drive.mp4"}, "a"), (Lines{"a/drive.mp4 > drive (video)"}));
}

}  // namespace
}  // namespace semiseg
