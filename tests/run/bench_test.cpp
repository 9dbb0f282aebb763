// `semiseg bench` on a tiny configuration: what it writes, not how fast it is.
#include "program.h"

namespace semiseg {
namespace {

class Bench : public ProgramTest {
 protected:
  Bench()
      : ProgramTest(R"(data: {format: synthetic, size: [64, 96], counts: [4, 4, 1], crop: 64, workers: 1}
model: {backbone: resnet18}
semi: {method: unimatch}
optim: {lr: 0.01, batch_labeled: 1, batch_unlabeled: 1, epochs: 1}
run: {device: cpu, precision: fp32}
)") {}

  nlohmann::json bench(const std::string& words) const {
    const Outcome outcome = semiseg("bench tiny.yaml --steps 3 --json bench.json " + words);
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    return nlohmann::json::parse(read_file(dir_ + "/bench.json"));
  }
};

TEST_F(Bench, TimesTheStepAndItsParts) {
  const auto report = bench("--operators");
  const double step_ms = report.at("step_ms");
  EXPECT_GT(step_ms, 0);
  EXPECT_NEAR(report.at("images_per_s").get<double>(), 2000 / step_ms, 1e-6);
  const auto& parts = report.at("parts");
  ASSERT_EQ(parts.size(), 6u);
  for (const char* part : {"forward", "loss", "backward", "optimizer", "evaluation"}) EXPECT_GT(parts.at(part), 0) << part;
  EXPECT_GE(parts.at("data wait"), 0);

  // The parts are all of a step, but for what lies between them. Wide bounds: other work may slow either.
  double sum = 0;
  for (const char* part : {"forward", "loss", "backward", "optimizer"}) sum += parts.at(part).get<double>();
  EXPECT_GT(sum, 0.5 * report.at("step_without_data_ms").get<double>());
  EXPECT_LT(sum, 1.5 * report.at("step_without_data_ms").get<double>());

  EXPECT_GT(report.at("loading_ms"), 0);
  EXPECT_GT(report.at("peak_memory_mb"), 0);
  EXPECT_GT(report.at("gemm_gflops"), 0);
  EXPECT_GT(report.at("copy_gb_s"), 0);
  EXPECT_GT(report.at("peak_share"), 0);
  EXPECT_LT(report.at("peak_share"), 1.2);
}

TEST_F(Bench, CountsTheMicroBatchesOfAnUpdate) {
  const auto one = bench(""), two = bench("optim.accumulate=2");
  EXPECT_EQ(two.at("flop_per_step").get<double>(), 2 * one.at("flop_per_step").get<double>());
  EXPECT_NEAR(two.at("images_per_s").get<double>(), 4000 / two.at("step_ms").get<double>(), 1e-6);
}

TEST_F(Bench, RefusesAWrongNumberOfSteps) {
  const Outcome outcome = semiseg("bench tiny.yaml --steps none");
  EXPECT_EQ(outcome.code, 2) << outcome.output;
  EXPECT_NE(outcome.output.find("--steps"), std::string::npos) << outcome.output;
}

}  // namespace
}  // namespace semiseg
