// The page of settings is made by the program; tools/check/docs.py runs the commands of all pages.
#include "program.h"

namespace semiseg {
namespace {

class Docs : public ProgramTest {
 protected:
  Docs() : ProgramTest("seed: 1\n") {}
};

TEST_F(Docs, TheReferenceOfSettingsIsUpToDate) {
  const Outcome outcome = semiseg("config --reference");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_EQ(outcome.output, read_file(SEMISEG_SOURCE_DIR "/docs/config.md"))
      << "run: build/semiseg config --reference > docs/config.md";
}

}  // namespace
}  // namespace semiseg
