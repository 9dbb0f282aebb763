#include "semiseg/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>

#include "semiseg/error.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

class Files : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "/semiseg_files_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(dir_);
    make_folders(dir_);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir_)) names.push_back(entry.path().filename());
    return names;
  }
  // The file size limit stands in for a full disk: write() stops in the middle with an error.
  void expect_disk_error_beyond(rlim_t bytes, const std::function<void()>& write) const {
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    const rlimit small{bytes, before.rlim_max};
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    try {
      write();
      ADD_FAILURE() << "no error";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kDisk);
      EXPECT_EQ(e.where(), dir_ + "/a");
    }
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
  }

  std::string dir_;
};

TEST_F(Files, WritesAndReplacesWhole) {
  write_file(dir_ + "/a", "one");
  write_file(dir_ + "/a", std::string("t\0wo", 4));
  EXPECT_EQ(read_file(dir_ + "/a"), std::string("t\0wo", 4));
  EXPECT_EQ(names(), std::vector<std::string>{"a"});
}

TEST_F(Files, KeepsTheOldFileUntilCommit) {
  write_file(dir_ + "/a", "old");
  {
    AtomicFile file(dir_ + "/a");
    file.write("new", 3);
    EXPECT_EQ(read_file(dir_ + "/a"), "old");
  }
  EXPECT_EQ(read_file(dir_ + "/a"), "old");
  EXPECT_EQ(names(), std::vector<std::string>{"a"});
}

TEST_F(Files, ALinkStaysAndWhatItLeadsToIsReplaced) {
  write_file(dir_ + "/a", "old");
  fs::create_symlink("a", dir_ + "/near");
  fs::create_symlink(dir_ + "/near", dir_ + "/far");
  write_file(dir_ + "/far", "new");
  EXPECT_EQ(fs::read_symlink(dir_ + "/near"), "a");
  EXPECT_EQ(fs::read_symlink(dir_ + "/far"), dir_ + "/near");
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(dir_ + "/a")));
  EXPECT_EQ(read_file(dir_ + "/a"), "new");
  EXPECT_EQ(names().size(), 3u);
  fs::create_symlink("later", dir_ + "/ahead");
  write_file(dir_ + "/ahead", "new");
  EXPECT_TRUE(fs::is_symlink(dir_ + "/ahead"));
  EXPECT_EQ(read_file(dir_ + "/later"), "new");
}

TEST_F(Files, APipeIsWrittenTo) {
  const std::string pipe = dir_ + "/a";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  write_file(pipe, "text");
  char got[8] = {};
  EXPECT_EQ(::read(reader, got, sizeof(got)), 4);
  EXPECT_STREQ(got, "text");
  ::close(reader);
  EXPECT_TRUE(fs::is_fifo(pipe));
  EXPECT_EQ(names(), std::vector<std::string>{"a"});
}

TEST_F(Files, WhatIsStdoutIsAddedTo) {
  std::fflush(stdout);
  const int before = ::dup(STDOUT_FILENO), out = ::open((dir_ + "/a").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  ::dup2(out, STDOUT_FILENO);
  std::fputs("one ", stdout);
  write_file("/proc/self/fd/1", "two ");
  write_file(dir_ + "/a", "three ");
  std::fputs("four", stdout);
  std::fflush(stdout);
  ::dup2(before, STDOUT_FILENO);
  ::close(before);
  ::close(out);
  EXPECT_EQ(read_file(dir_ + "/a"), "one two three four");
}

TEST_F(Files, AWriteThatFailsHalfWayLeavesTheOldFile) {
  write_file(dir_ + "/a", "old");
  expect_disk_error_beyond(1000, [&] { write_file(dir_ + "/a", std::string(5000, 'x')); });
  EXPECT_EQ(read_file(dir_ + "/a"), "old");
  EXPECT_EQ(names(), std::vector<std::string>{"a"});
}

TEST_F(Files, APieceThatCannotBeAppendedWholeIsTakenBack) {
  AppendFile file(dir_ + "/a");
  file.append("one");
  expect_disk_error_beyond(1000, [&] { file.append(std::string(5000, 'x')); });
  EXPECT_EQ(read_file(dir_ + "/a"), "one");
  file.append("two");
  EXPECT_EQ(read_file(dir_ + "/a"), "onetwo");
  EXPECT_THROW(AppendFile(dir_ + "/a"), Error);  // there is one
}

TEST_F(Files, ErrorsNameThePath) {
  for (const std::string& path : {dir_ + "/no/such/file", dir_}) {
    try {
      read_file(path);
      ADD_FAILURE() << path;
    } catch (const Error& e) {
      EXPECT_EQ(e.exit_code(), 6);
      EXPECT_EQ(e.where(), path);
    }
  }
  EXPECT_THROW(write_file(dir_ + "/no/such/file", "x"), Error);
}

TEST_F(Files, RemovesWhatKilledProcessesLeft) {
  write_file(dir_ + "/a", "1");
  write_file(dir_ + "/a.tmp-12345", "half");
  remove_stale_temporaries(dir_);
  EXPECT_EQ(names(), std::vector<std::string>{"a"});
}

TEST_F(Files, OneProcessHoldsARunFolder) {
  const FolderLock lock(dir_);
  try {
    const FolderLock second(dir_);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(std::to_string(getpid())), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace semiseg
