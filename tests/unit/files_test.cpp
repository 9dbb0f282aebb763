#include "semiseg/files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
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
