#include "output_files.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <opencv2/imgcodecs.hpp>

#include "image_file.h"
#include "result_mark.h"
#include "semiseg/dataset.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "shell.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

class OutputFiles : public testing::Test {
 protected:
  OutputFiles()
      : dir_(testing::TempDir() + "semiseg_outputs_" + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(dir_);
    make_folders(dir_);
  }

  std::string path(const std::string& name) const { return dir_ + "/" + name; }

  // What require_replaceable says; "" where it lets the files be written.
  static std::string refusal(const std::vector<std::string>& files, const Config& config) {
    try {
      require_replaceable(files, config, "-o");
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      return error.what();
    }
  }

  const std::string dir_;
  const Tensor label_HW_ = at::arange(6 * 7, at::kByte).view({6, 7});
};

TEST_F(OutputFiles, AResultIsMarkedAndReadAsAnyPng) {
  const Tensor image_HWC = at::arange(6 * 7 * 3, at::kByte).view({6, 7, 3});
  write_result_png(path("label.png"), label_HW_);
  write_result_png(path("image.png"), image_HWC);
  write_picture(path("picture.png"), cv::imread(path("image.png")));
  EXPECT_TRUE(at::equal(read_label_values(path("label.png")), label_HW_));
  EXPECT_TRUE(at::equal(read_image(path("image.png")), image_HWC));
  EXPECT_TRUE(at::equal(read_image(path("picture.png")), image_HWC));
  for (const char* name : {"label.png", "image.png", "picture.png"}) EXPECT_TRUE(is_marked(path(name))) << name;

  const std::string marked = read_file(path("label.png"));
  EXPECT_EQ(marked.substr(33 + 4, 20), std::string("tEXtSoftware\0semiseg", 20));
  const std::string other_chunk("\0\0\0\0teSt\0\0\0\0", 12);  // is_marked looks at no checksum
  write_file(path("moved.png"), marked.substr(0, 33) + other_chunk + marked.substr(33));
  EXPECT_TRUE(is_marked(path("moved.png")));

  write_label_png(path("own.png"), label_HW_);
  write_file(path("cut.png"), marked.substr(0, 40));
  write_file(path("text.png"), "Software semiseg");
  for (const char* name : {"own.png", "cut.png", "text.png", "none.png"}) EXPECT_FALSE(is_marked(path(name))) << name;
}

TEST_F(OutputFiles, AResultIsMarkedAsAJpegToo) {
  const cv::Mat picture(40, 50, CV_8UC3, cv::Scalar(30, 90, 200));
  write_picture(path("overlay.jpg"), picture);
  EXPECT_TRUE(is_marked(path("overlay.jpg")));
  const cv::Mat read = cv::imread(path("overlay.jpg"));
  ASSERT_EQ(read.size(), picture.size());
  EXPECT_LT(cv::norm(read, picture, cv::NORM_INF), 12);
  ASSERT_TRUE(cv::imwrite(path("own.jpg"), picture));
  EXPECT_FALSE(is_marked(path("own.jpg")));
  write_file(path("cut.jpg"), read_file(path("overlay.jpg")).substr(0, 24));
  EXPECT_FALSE(is_marked(path("cut.jpg")));
  EXPECT_NE(refusal({path("own.jpg")}, {}), "");
  EXPECT_EQ(refusal({path("overlay.jpg")}, {}), "");
}

TEST_F(OutputFiles, AReportReplacesReportsAlone) {
  const auto refused = [&](const std::string& text, ReportKind kind) {
    write_file(path("file"), text);
    try {
      require_report(path("file"), kind);
      EXPECT_EQ(read_file(path("file")), text);
      return false;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      return true;
    }
  };
  EXPECT_FALSE(refused("", ReportKind::kJson));
  EXPECT_FALSE(refused("{\"miou\": 0.5}\n", ReportKind::kJson));
  EXPECT_FALSE(refused("<!doctype html>\n<html></html>", ReportKind::kHtml));
  EXPECT_TRUE(refused("{\"miou\": 0.5}\n", ReportKind::kHtml));
  EXPECT_TRUE(refused("data: {format: list}\n", ReportKind::kJson));
  EXPECT_TRUE(refused(std::string("\x7b\0\0\0\0\0\0\0{\"a\": 1}", 16), ReportKind::kJson));  // a checkpoint's beginning
  require_report(path("new.json"), ReportKind::kJson);
  require_report("/dev/null", ReportKind::kJson);
}

TEST_F(OutputFiles, WhatIsNoResultAndWhatTheListsNameIsRefused) {
  make_folders(path("labels"));
  write_image(path("a.jpg"), at::zeros({6, 7, 3}, at::kByte));
  write_label_png(path("labels/a.png"), label_HW_);
  write_result_png(path("labels/b.png"), label_HW_);  // labels that semiseg made are data, too, once they are listed
  write_result_png(path("labels/c.png"), label_HW_);
  write_file(path("val.txt"), path("a.jpg") + " " + path("labels/b.png") + "\n");
  fs::create_symlink(path("labels/b.png"), path("link.png"));
  Config config;
  config.data.format = "list";
  config.data.classes = "cityscapes";
  config.data.val = path("val.txt");

  EXPECT_EQ(refusal({path("labels/c.png"), path("labels/new.png"), path("new_overlay.jpg")}, config), "");
  EXPECT_NE(refusal({path("labels/c.png"), path("labels/a.png"), path("labels/b.png")}, {}).find("labels/a.png: "),
            std::string::npos);
  for (const char* listed : {"labels/b.png", "labels/../labels/b.png", "link.png", "a.jpg", "val.txt"}) {
    const std::string says = refusal({path("labels/c.png"), path(listed)}, config);
    EXPECT_NE(says.find(path(listed) + ": is an image, a label or a list of the data set"), std::string::npos) << says;
    EXPECT_NE(says.find("choose another folder with -o"), std::string::npos) << says;
  }
  // Lists that cannot be read here protect nothing, but do not stand in the way either.
  config.data.labeled = path("nowhere.txt");
  EXPECT_NE(refusal({path("labels/b.png")}, config), "");
  config.data.val = path("nowhere.txt");
  EXPECT_EQ(refusal({path("labels/b.png")}, config), "");
}

TEST_F(OutputFiles, WhetherAFileCanBeWrittenIsFoundWithoutATrace) {
  write_file(path("there.json"), "{}");
  require_writable(path("there.json"));
  require_writable(path("new.json"));
  require_writable("/dev/null");
  EXPECT_EQ(read_file(path("there.json")), "{}");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_), fs::directory_iterator()), 1);
  for (const auto& [name, kind] : {std::pair("nowhere/a.json", ErrorKind::kDisk), std::pair("", ErrorKind::kConfig)}) {
    try {
      require_writable(path(name));
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
    }
  }
}

TEST(FileNames, AreGivenOutOnce) {
  FileNames names;
  EXPECT_EQ(names.of("one/a.png", 0), "a");
  EXPECT_EQ(names.of("two/a.jpg", 1), "a_1");
  EXPECT_EQ(names.of("two/a_1.jpg", 2), "a_1_2");
}

TEST(Shell, WordsAreQuotedWhereTheyMustBe) {
  EXPECT_EQ(shell_quoted("runs/r-1_a.b/x=1,2:3"), "runs/r-1_a.b/x=1,2:3");
  EXPECT_EQ(shell_quoted("Gebäude"), "Gebäude");
  EXPECT_EQ(shell_quoted("my runs/a"), "'my runs/a'");
  EXPECT_EQ(shell_quoted("it's $HOME"), "'it'\\''s $HOME'");
  EXPECT_EQ(shell_quoted(""), "''");
  EXPECT_EQ(shell_quoted("~/a"), "'~/a'");
}

}  // namespace
}  // namespace semiseg
