// Tests that run the program as a user types it, each in an empty folder of its own, which stays where the test fails.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "semiseg/files.h"
#include "semiseg/weights.h"

namespace semiseg {

struct Outcome {
  int code;
  std::string output;  // stdout and stderr
};

// SEMISEG_BINARY of the environment serves tests that were carried to another machine.
inline std::string program() {
  const char* elsewhere = std::getenv("SEMISEG_BINARY");
  return elsewhere ? elsewhere : SEMISEG_BINARY;
}

inline int exit_code(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

class ProgramTest : public testing::Test {
 protected:
  // `yaml` becomes tiny.yaml in the test's folder.
  explicit ProgramTest(const std::string& yaml)
      : dir_(testing::TempDir() + "/semiseg_" + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(dir_);
    make_folders(dir_);
    write_file(dir_ + "/tiny.yaml", yaml);
  }
  // Checkpoints of all tests together are some 20 GB.
  ~ProgramTest() override {
    if (!HasFailure()) std::filesystem::remove_all(dir_);
  }

  // Words as in a shell.
  Outcome semiseg(const std::string& words) const { return shell(program() + " " + words); }

  // Any command, in the test's folder.
  Outcome shell(const std::string& command) const {
    FILE* pipe = ::popen(("cd " + dir_ + " && " + command + " 2>&1").c_str(), "r");
    Outcome outcome{0, ""};
    char text[4096];
    while (size_t got = std::fread(text, 1, sizeof(text), pipe)) outcome.output.append(text, got);
    outcome.code = exit_code(::pclose(pipe));
    return outcome;
  }

  std::vector<nlohmann::json> metrics(const std::string& run) const {
    std::vector<nlohmann::json> lines;
    std::ifstream file(dir_ + "/" + run + "/metrics.jsonl");
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  StateDict tensors(const std::string& file) const { return read_safetensors(dir_ + "/" + file).tensors; }

  static void expect_equal(const StateDict& a, const StateDict& b) {
    ASSERT_EQ(a.size(), b.size());
    for (const auto& [name, tensor] : a) {
      ASSERT_TRUE(b.count(name)) << name;
      EXPECT_TRUE(tensor.equal(b.at(name))) << name;
    }
  }

  const std::string dir_;
};

}  // namespace semiseg
