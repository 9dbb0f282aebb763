#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "reports/html/page.h"
#include "run_summary.h"
#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

EpochRecord scored(int64_t epoch, std::vector<MaybeFraction> iou, std::vector<double> label_share) {
  EpochRecord record;
  record.epoch = epoch;
  record.step = 10 * epoch;
  record.seconds = 2;
  Scores scores;
  for (const MaybeFraction& value : iou) scores.miou += value.value_or(0) / static_cast<double>(iou.size());
  scores.class_accuracy = iou;
  scores.iou = std::move(iou);
  scores.prediction_share = label_share;
  scores.label_share = std::move(label_share);
  record.val = scores;
  return record;
}

EpochRecord alarmed(int64_t epoch, bool evaluated, std::vector<std::string> kinds) {
  EpochRecord record;
  record.epoch = epoch;
  if (evaluated) record.val.emplace();
  for (const std::string& kind : kinds) record.alarms.push_back({kind, str(kind, " in ", epoch)});
  return record;
}

RunRecord run_of(std::vector<EpochRecord> history, std::vector<std::string> names) {
  RunRecord run;
  run.dir = "runs/first";
  run.history = std::move(history);
  run.classes.colours.resize(names.size());
  run.classes.names = std::move(names);
  return run;
}

// The JSON that a page's script reads, as a browser finds it: up to the first end of a script element.
nlohmann::json data_of(const std::string& page) {
  const std::string begin = "<script type=\"application/json\" id=\"data\">";
  const size_t at = page.find(begin);
  EXPECT_NE(at, std::string::npos);
  return nlohmann::json::parse(page.substr(at + begin.size(), page.find("</script", at) - at - begin.size()));
}

size_t count(const std::string& text, const std::string& word) {
  size_t times = 0;
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++times;
  return times;
}

TEST(RunSummary, RareClassesAreTheThirdWithTheFewestLabelledPixels) {
  // Four classes are labelled; two of them are their third, rounded up.
  const auto record = scored(1, {.9, .2, std::nullopt, .4, .5}, {.6, .05, 0, .05, .3});
  EXPECT_NEAR(*rare_iou(*record.val), .3, 1e-12);
  EXPECT_FALSE(rare_iou(Scores{}).has_value());
}

TEST(RunSummary, BestAndLastLeaveOutTheScoresBeforeTraining) {
  RunRecord run =
      run_of({scored(0, {.9}, {1}), scored(1, {.5}, {1}), scored(2, {.7}, {1}), EpochRecord{}, scored(4, {.6}, {1})}, {"road"});
  run.history[3].epoch = 3;
  run.history[3].seconds = 2;
  run.status = parse_status(R"({"state": "stopped", "message": "by a signal", "total_epochs": 6})");
  const RunSummary summary = summarize(run);
  EXPECT_EQ(summary.name, "first");
  EXPECT_EQ(summary.state, "stopped");
  EXPECT_EQ(summary.epochs, 4);
  EXPECT_EQ(summary.total_epochs, 6);
  EXPECT_EQ(summary.seconds, 8);
  EXPECT_EQ(summary.best->epoch, 2);
  EXPECT_EQ(summary.last->epoch, 4);
}

TEST(RunSummary, AnUnreadableStatusIsUnknown) {
  RunRecord run = run_of({scored(1, {.5}, {1})}, {"road"});
  for (const char* status : {"", "{", "[]", "{\"state\": 3, \"total_epochs\": \"many\"}"}) {
    run.status = parse_status(status);
    EXPECT_EQ(summarize(run).state, "unknown") << status;
    EXPECT_FALSE(summarize(run).total_epochs.has_value()) << status;
  }
}

TEST(RunSummary, RunsOfOneNameAreToldApartByTheirPaths) {
  std::vector<RunRecord> runs(3, run_of({scored(1, {.5}, {1})}, {"road"}));
  runs[1].dir = "old/first";
  runs[2].dir = "runs/second";
  EXPECT_EQ(distinct_names(runs), (std::vector<std::string>{"runs/first", "old/first", "second"}));
}

TEST(RunSummary, RepetitionsDifferInTheSeedAlone) {
  std::vector<RunRecord> runs(5);
  for (size_t r = 0; r < 4; ++r) {
    runs[r].config.emplace();
    runs[r].config->seed = r;
    runs[r].config->run.name = str("run", r);
  }
  runs[1].config->optim.lr = .5;
  runs[2].config->report.every_steps = 20;
  EXPECT_EQ(repetitions(runs), (std::vector<std::vector<size_t>>{{0, 2, 3}}));
}

TEST(AlarmStories, SpansEndWhereAnEpochThatCouldRaiseThemDoesNot) {
  const auto stories = alarm_stories({
      alarmed(1, true, {"no_labelled_pixel"}),
      alarmed(2, true, {"miou_falls"}),
      alarmed(3, false, {"acceptance_stuck"}),  // not evaluated: an alarm on scores lasts through it
      alarmed(4, true, {"miou_falls"}),
      alarmed(5, true, {}),
      alarmed(6, true, {"miou_falls", "class_vanished"}),
  });
  ASSERT_EQ(stories.size(), 4u);
  EXPECT_EQ(stories[0].newest.kind, "miou_falls");
  EXPECT_EQ(stories[0].newest.message, "miou_falls in 6");
  EXPECT_TRUE(stories[0].lasts);
  ASSERT_EQ(stories[0].spans.size(), 2u);
  EXPECT_EQ(stories[0].spans[0].from, 2);
  EXPECT_EQ(stories[0].spans[0].to, 4);
  EXPECT_EQ(stories[0].spans[1].from, 6);
  EXPECT_EQ(stories[1].newest.kind, "class_vanished");
  EXPECT_EQ(stories[2].newest.kind, "no_labelled_pixel");  // found once, and the data stay as they are
  EXPECT_TRUE(stories[2].lasts);
  EXPECT_EQ(stories[3].newest.kind, "acceptance_stuck");
  EXPECT_FALSE(stories[3].lasts);
}

TEST(ReportPage, KeepsWhatLooksLikeMarkupAsText) {
  const std::string evil = "</script><b>\"&'\n\xe2\x80\xa8<!--";
  RunRecord run = run_of({scored(1, {.5, .25}, {.5, .5})}, {evil, "r\xf6hre"});
  run.dir = "runs/<i>a&b";
  run.history[0].alarms.push_back({"miou_falls", evil});
  run.status = parse_status(nlohmann::json{{"state", "failed"}, {"message", evil}}.dump());
  run.environment = nlohmann::json{{"command_line", evil}, {"classes", nlohmann::json::array()}}.dump();
  run.notes = {evil};
  const std::string page = report_page(run);
  EXPECT_EQ(count(page, "<b>"), 0u);
  EXPECT_EQ(count(page, "<i>"), 0u);
  EXPECT_EQ(count(page, "</script>"), 2u);
  EXPECT_EQ(count(page, "<!--"), 0u);
  const auto data = data_of(page);
  EXPECT_EQ(data["classes"][0]["name"], evil);
  EXPECT_EQ(data["classes"][1]["name"], "r\xef\xbf\xbdhre");  // Latin-1: no UTF-8
  EXPECT_EQ(data["message"], evil);
  EXPECT_EQ(data["alarms"][0]["message"], evil);
  EXPECT_EQ(data["environment"]["command line"], evil);
  EXPECT_EQ(data["name"], "<i>a&b");
}

TEST(ReportPage, NeedsNoNetwork) {
  const std::string page = report_page(run_of({scored(1, {.5}, {1})}, {"road"}));
  EXPECT_EQ(count(page, "https:"), 0u);
  EXPECT_EQ(count(page, "http:"), count(page, "http://www.w3.org/2000/svg"));
  EXPECT_EQ(count(page, "@import"), 0u);
  EXPECT_EQ(count(page, "url("), 0u);
  EXPECT_NE(page.find("default-src 'none'"), std::string::npos);
}

TEST(ReportPage, IsWrittenForRunsWithLittleInThem) {
  const auto empty = data_of(report_page(run_of({}, {})));
  EXPECT_EQ(empty["summary"]["epochs"], 0);
  EXPECT_TRUE(empty["summary"]["best"].is_null());
  EXPECT_TRUE(empty["classes"].empty());

  EpochRecord unevaluated;
  unevaluated.epoch = 1;
  unevaluated.loss = NAN;
  const auto one = data_of(report_page(run_of({unevaluated}, {"road"})));
  EXPECT_TRUE(one["newest"].is_null());
  EXPECT_TRUE(one["epochs"]["loss"][0].is_null());
  EXPECT_TRUE(one["diagnosis"]["findings"].empty());

  // As other trainers leave them: scores without values of classes.
  EpochRecord bare = unevaluated;
  bare.val.emplace().miou = .5;
  EXPECT_TRUE(data_of(report_page(run_of({bare}, {})))["newest"].is_null());
}

TEST(ReportPage, HoldsTheNumbersOfTheRun) {
  auto history = std::vector{scored(0, {.1, std::nullopt}, {1, 0}), scored(1, {.123456789, .5}, {.75, .25})};
  history[1].loss = 1.25;
  history[1].val->confusion = {{3, 1}, {0, 2}};
  const std::string page = report_page(run_of(history, {"road", "pole"}));
  const auto data = data_of(page);
  EXPECT_EQ(data["epochs"]["epoch"], (nlohmann::json{0, 1}));
  EXPECT_TRUE(data["epochs"]["loss"][0].is_null());  // before training there is none
  EXPECT_EQ(data["epochs"]["loss"][1], 1.25);
  EXPECT_EQ(data["epochs"]["iou"][1][0], .1234568);
  EXPECT_TRUE(data["epochs"]["iou"][0][1].is_null());
  EXPECT_EQ(data["confusion"]["counts"], (nlohmann::json{{3, 1}, {0, 2}}));
  EXPECT_NE(page.find("<td>1</td><td>1.2500</td>"), std::string::npos);  // where scripts do not run
}

TEST(ReportPage, HoldsTheNewestAndTheBestPicture) {
  RunRecord run = run_of({scored(1, {.5}, {1}), scored(2, {.7}, {1}), scored(3, {.6}, {1})}, {"road"});
  run.dir = testing::TempDir() + "/semiseg_report_pictures";
  std::filesystem::remove_all(run.dir);
  make_folders(run.dir + "/samples");
  const auto write = [&](int epoch) {
    write_file(run.dir + format("/samples/epoch_%04d.jpg", epoch), str("\xff\xd8\xff", epoch));
  };
  for (const int epoch : {1, 2, 9}) write(epoch);  // 9: of a later epoch, before the run was resumed from the third
  write_file(run.dir + "/samples/epoch_0003.jpg", "no JPEG");
  write_file(run.dir + "/samples/notes.txt", "");
  auto pictures = data_of(report_page(run))["pictures"];
  EXPECT_EQ(pictures.size(), 1u) << "a file that is no JPEG is the newest";
  write(3);
  pictures = data_of(report_page(run))["pictures"];
  ASSERT_EQ(pictures.size(), 2u);
  EXPECT_EQ(pictures[0]["source"], "data:image/jpeg;base64,/9j/Mw==");  // ff d8 ff "3"
  EXPECT_EQ(pictures[1]["source"], "data:image/jpeg;base64,/9j/Mg==");
}

TEST(ComparePage, HoldsEveryRunAndTheSettingsThatDiffer) {
  RunRecord first = run_of({scored(1, {.5}, {1})}, {"road"}), second = run_of({scored(1, {.6}, {1})}, {"road"});
  second.dir = "runs/second";
  EXPECT_TRUE(data_of(compare_page({first, second}))["differences"].is_null());
  first.config.emplace();
  second.config.emplace();
  first.config->run.name = "a name is no difference";
  second.config->optim.lr = .5;
  const auto data = data_of(compare_page({first, second}));
  ASSERT_EQ(data["runs"].size(), 2u);
  EXPECT_EQ(data["runs"][1]["name"], "second");
  ASSERT_EQ(data["differences"].size(), 1u);
  EXPECT_EQ(data["differences"][0], (nlohmann::json{{"key", "optim.lr"}, {"values", {"0.01", "0.5"}}}));
}

TEST(ComparePage, MarksNoBestAmongRunsOnOtherLabels) {
  const auto run = [](std::vector<std::vector<int64_t>> confusion) {
    RunRecord record = run_of({scored(1, {.5, .5}, {.5, .5})}, {"road", "sky"});
    record.history[0].val->confusion = std::move(confusion);
    return record;
  };
  const RunRecord first = run({{8, 2}, {1, 9}}), alike = run({{5, 5}, {0, 10}}), other = run({{8, 2}, {1, 10}}),
                  unknown = run({});
  EXPECT_EQ(data_of(compare_page({first, alike, unknown}))["comparable"], true);
  EXPECT_EQ(data_of(compare_page({unknown, first, alike, other}))["comparable"], false);
  EXPECT_EQ(scored_otherwise({unknown, first, alike, other}), std::pair(size_t{1}, size_t{3}));
}

}  // namespace
}  // namespace semiseg
