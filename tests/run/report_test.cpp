// The page that training leaves, `semiseg report` and `semiseg compare`.
#include "program.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

class Reports : public ProgramTest {
 protected:
  Reports()
      : ProgramTest(R"(seed: 5
data: {format: synthetic, size: [32, 64], counts: [4, 4, 2], crop: 32, workers: 1}
model: {backbone: resnet18}
semi: {method: fixmatch, threshold: 0.2}
optim: {lr: 0.01, batch_labeled: 2, batch_unlabeled: 2, epochs: 2}
)") {}

  nlohmann::json data_of(const std::string& file) const {
    const std::string page = read_file(dir_ + "/" + file), begin = "id=\"data\">";
    const size_t at = page.find(begin) + begin.size();
    return nlohmann::json::parse(page.substr(at, page.find("</script", at) - at));
  }
};

TEST_F(Reports, TrainingWritesThePageAndReportWritesItAnew) {
  const Outcome run = semiseg("train tiny.yaml optim.lr=0.02");
  ASSERT_EQ(run.code, 0) << run.output;
  const auto written = data_of("runs/tiny/report.html");
  EXPECT_EQ(written["state"], "done");
  EXPECT_EQ(written["epochs"]["epoch"], (nlohmann::json{1, 2}));
  EXPECT_EQ(written["classes"].size(), 19u);
  std::map<std::string, std::string> origins;
  for (const auto& entry : written["config"]) origins[entry["key"]] = entry["origin"];
  EXPECT_EQ(origins["model.backbone"], "tiny.yaml:3");
  EXPECT_EQ(origins["optim.lr"], "command line");
  EXPECT_EQ(origins["optim.momentum"], "default");

  fs::remove(dir_ + "/runs/tiny/report.html");
  const Outcome report = semiseg("report runs/tiny/");
  ASSERT_EQ(report.code, 0) << report.output;
  EXPECT_EQ(report.output, "runs/tiny/report.html\n");
  auto again = data_of("runs/tiny/report.html");
  again["written_at"] = written["written_at"];
  again["dir"] = written["dir"];
  EXPECT_EQ(again, written);

  ASSERT_EQ(semiseg("train tiny.yaml run.name=other optim.epochs=1 seed=6 report.html=false").code, 0);
  EXPECT_FALSE(fs::exists(dir_ + "/runs/other/report.html"));
  const Outcome compare = semiseg("compare runs/tiny runs/other --json compare.json");
  ASSERT_EQ(compare.code, 0) << compare.output;
  EXPECT_NE(compare.output.find("seed"), std::string::npos) << compare.output;
  EXPECT_NE(compare.output.find("other validation labels"), std::string::npos) << compare.output;  // drawn by the seed
  EXPECT_EQ(data_of("compare.html")["runs"][1]["name"], "other");
  const auto json = nlohmann::json::parse(read_file(dir_ + "/compare.json"));
  EXPECT_EQ(json["runs"][0]["last"]["miou"], metrics("runs/tiny")[1]["val"]["miou"]);
  EXPECT_EQ(json["runs"][0]["last"]["iou"]["sky"], metrics("runs/tiny")[1]["val"]["iou"][10]);
  EXPECT_NE(compare.output.find("\nsky "), std::string::npos) << compare.output;

  // A run on other classes.
  make_folders(dir_ + "/runs/five");
  write_file(dir_ + "/runs/five/metrics.jsonl", [&] {
    nlohmann::json line = metrics("runs/tiny")[0];
    for (const char* key : {"iou", "class_accuracy", "label_share", "prediction_share"})
      line["val"][key] = nlohmann::json::array({.5, .5, .5, .5, .5});
    line["val"].erase("confusion");
    return line.dump() + "\n";
  }());
  make_folders(dir_ + "/runs/young/checkpoints");
  const Outcome young = semiseg("compare runs/tiny runs/young runs/other");
  EXPECT_EQ(young.code, 0) << young.output;
  EXPECT_NE(young.output.find("runs/young is left out"), std::string::npos) << young.output;
  EXPECT_EQ(data_of("compare.html")["runs"].size(), 2u);
  const Outcome other_classes = semiseg("compare runs/tiny runs/five");
  EXPECT_EQ(other_classes.code, 3) << other_classes.output;
  EXPECT_NE(other_classes.output.find("5 classes"), std::string::npos) << other_classes.output;
  EXPECT_EQ(other_classes.output.find('\n'), other_classes.output.size() - 1) << other_classes.output;
}

TEST_F(Reports, WhatIsNoRunIsNamed) {
  make_folders(dir_ + "/empty");
  make_folders(dir_ + "/torn");
  write_file(dir_ + "/torn/metrics.jsonl", "{\"epoch\":");
  for (const std::string verb : {"report", "compare"}) {
    EXPECT_EQ(semiseg(verb + " nowhere").code, 2);
    const Outcome empty = semiseg(verb + " empty"), torn = semiseg(verb + " torn");
    EXPECT_EQ(empty.code, 3) << empty.output;
    EXPECT_NE(empty.output.find("semiseg: error: empty"), std::string::npos) << empty.output;
    EXPECT_EQ(empty.output.find('\n'), empty.output.size() - 1) << empty.output;
    EXPECT_EQ(torn.code, 3) << torn.output;
    EXPECT_NE(torn.output.find("torn/metrics.jsonl:1"), std::string::npos) << torn.output;
  }
  EXPECT_FALSE(fs::exists(dir_ + "/compare.html"));
}

}  // namespace
}  // namespace semiseg
