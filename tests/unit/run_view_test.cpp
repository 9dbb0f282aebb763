#include "reports/run_view.h"

#include <gtest/gtest.h>

#include "reports/text.h"

namespace semiseg {
namespace {

using Lines = std::vector<std::string>;

TEST(Text, DurationsAsPeopleSayThem) {
  for (const auto& [seconds, text] : std::vector<std::pair<double, std::string>>{
           {-1, "0s"}, {0.4, "0s"}, {59.6, "1m00s"}, {187, "3m07s"}, {18120, "5h02m"}, {360000 + 7200, "4d06h"}})
    EXPECT_EQ(duration(seconds), text) << seconds;
}

TEST(Text, ControlCharactersNeverReachTheTerminal) {
  for (const auto& [raw, unicode, shown] :
       std::vector<std::tuple<std::string, bool, std::string>>{{"a\x1b[31mb\r\n\tc\x7f", true, "a[31mb c"},
                                                               {"Stra\xc3\x9f"
                                                                "e",
                                                                true,
                                                                "Stra\xc3\x9f"
                                                                "e"},
                                                               {"Stra\xc3\x9f"
                                                                "e",
                                                                false, "Stra?e"},
                                                               {"a\xc2\x9b"
                                                                "b",
                                                                true, "ab"},  // U+009B begins an escape sequence, too
                                                               {"cut \xe2\x94", true, "cut ??"},
                                                               {"\xff", true, "?"}})
    EXPECT_EQ(printable(raw, unicode), shown) << raw;
}

TEST(Text, ClipsAndWrapsWholeCharacters) {
  EXPECT_EQ(columns_of("\xe2\x94\x82"
                       "ab"),
            3);
  EXPECT_EQ(clip("\xe2\x94\x82"
                 "ab",
                 2),
            "\xe2\x94\x82"
            "a");
  EXPECT_EQ(clip("ab", 0), "");
  EXPECT_EQ(wrap("one two three", 7), (Lines{"one two", "three"}));
  EXPECT_EQ(wrap("one two", 5), (Lines{"one", "two"}));
  EXPECT_EQ(wrap("abcdefgh ij", 3), (Lines{"abc", "def", "gh", "ij"}));
  EXPECT_EQ(wrap("", 5), Lines{});
}

TEST(Text, BarsCountEighths) {
  EXPECT_EQ(bar(0.5, 4, true), "\u2588\u2588  ");
  EXPECT_EQ(bar(1.0 / 32, 4, true), "\u258f   ");  // an eighth of the first of four
  EXPECT_EQ(bar(7.0 / 8, 1, true), "\u2589");
  EXPECT_EQ(bar(0.5, 4, false), "##..");
  EXPECT_EQ(bar(7, 2, false), "##");
  EXPECT_EQ(bar(-1, 2, false), "..");
}

TEST(Text, CurvesPutDotsWhereTheValuesAre) {
  const std::vector<CurvePoint> rising{{0, 0}, {1, 1}};
  EXPECT_EQ(curve(rising, {0, 1}, {0, 1}, 3, 3, false), (Lines{"  *", " * ", "*  "}));
  // 2 x 4 dots: the lowest left, then the two in between, the highest right.
  EXPECT_EQ(curve(rising, {0, 1}, {0, 1}, 1, 1, true), Lines{"\u285c"});
  EXPECT_EQ(curve({{0, 0}}, {0, 1}, {0, 1}, 1, 1, true), Lines{"\u2840"});
  EXPECT_EQ(curve({{0, NAN}, {5, 0}}, {0, 1}, {0, 1}, 2, 1, false), Lines{"  "});  // neither is inside
}

TEST(RunStatus, ReadsWhatIsThereAndRefusesWhatIsNone) {
  const auto status = parse_status(
      R"({"state": "running", "phase": "evaluating", "epoch": 3, "step": 12, "total_steps": 40, "total_epochs": 10,
          "evaluated": {"images": 5, "of": 9}, "loss": null, "lr": 0.01, "pid": 7, "updated": "1970-01-02T00:00:01Z"})");
  ASSERT_TRUE(status);
  EXPECT_EQ(status->phase, "evaluating");
  EXPECT_EQ(status->step, 12);
  EXPECT_EQ(status->of, 9);
  EXPECT_EQ(status->total_epochs, 10);
  EXPECT_FALSE(status->loss);
  EXPECT_EQ(status->lr, 0.01);
  EXPECT_EQ(status->updated, 86401);
  EXPECT_FALSE(status->active);
  for (const char* text : {"", "{", "[]", "{\"state\": 3}", "{\"step\": 3}"}) EXPECT_FALSE(parse_status(text)) << text;
}

TEST(RunStatus, TellsTheDeadFromTheLiving) {
  struct Case {
    const char *state, *host;
    int64_t age;
    bool exists;
    Life life;
  };
  for (const Case& c : {Case{"done", "here", 9999, false, Life::kFinished},
                        {"running", "here", 3, true, Life::kRunning},
                        {"running", "here", 3, false, Life::kRunning},  // it may just be writing its last words
                        {"running", "here", 11, false, Life::kGone},
                        {"running", "", 11, false, Life::kGone},  // an older version named no host
                        {"running", "here", 11, true, Life::kRunning},
                        {"running", "here", 61, true, Life::kSilent},  // stopped, or another process has the number now
                        {"running", "there", 11, false, Life::kRunning},
                        {"running", "there", 61, false, Life::kSilent}}) {
    RunStatus status;
    status.state = c.state;
    status.host = c.host;
    status.updated = 1000;
    EXPECT_EQ(life_of(status, 1000 + c.age, "here", c.exists), c.life) << c.state << c.host << c.age;
  }
}

// Three classes: road has 97.9 % of the labelled pixels, pole 2 %, sign .1 %.
EpochRecord epoch(int64_t number, double miou) {
  EpochRecord record;
  record.epoch = number;
  record.step = 10 * number;
  record.seconds = 90;
  record.loss = 1.0 / static_cast<double>(number);
  record.peak_memory_mb = 1500;
  record.val = Scores{miou, miou, 0.9, {0.95, 0.25, std::nullopt}, {}, {0.979, 0.02, 0.001}, {0.999, 0.001, 0}, {}};
  return record;
}

WatchedRun watched() {
  WatchedRun run;
  run.dir = "runs/demo";
  run.life = Life::kRunning;
  run.now = 1000;
  run.status.state = "running";
  run.status.phase = "training";
  run.status.epoch = 3;
  run.status.step = 25;
  run.status.total_steps = 50;
  run.status.total_epochs = 5;
  run.status.seconds_left = 187;
  run.status.pid = 4711;
  run.status.updated = run.status.active = 999;
  run.record.classes.names = {"road", "pole", "sign"};
  run.record.history = {epoch(1, 0.5), epoch(2, 0.4)};
  run.record.history.back().alarms = {{"class_vanished", "sign is gone", {"sign"}}};
  run.log = {"10:00:00 epoch 2 is over"};
  return run;
}

std::string shown(const WatchedRun& run, const Screen& screen) {
  std::string text;
  const std::vector<Line> lines = draw(run, screen);
  EXPECT_LE(static_cast<int>(lines.size()), screen.rows);
  for (const Line& line : lines) {
    EXPECT_LE(line.columns(), screen.columns) << to_terminal(line, 999, false);
    text += to_terminal(line, screen.columns, false) + "\n";
  }
  return text;
}

#define EXPECT_SHOWS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (part) << " in\n" << (text)

TEST(RunView, ShowsHowTheRunStands) {
  const std::string text = shown(watched(), {80, 24, false});
  EXPECT_SHOWS(text, "runs/demo");
  EXPECT_SHOWS(text, " training\n");
  EXPECT_SHOWS(text, " 50%  epoch 3/5  step 25/50  3m07s left");
  EXPECT_SHOWS(text, "memory 1.5 GB");
  EXPECT_SHOWS(text, "mIoU 40.0% best 50.0 in 1");
  EXPECT_SHOWS(text, "pixel accuracy 90.0%");
  EXPECT_SHOWS(text, "! sign is gone");
  EXPECT_SHOWS(text, "10:00:00 epoch 2 is over");
  // The rarest first, those with less than a fifth of a third marked; no IoU where there is no pixel.
  const std::string narrow = shown(watched(), {50, 30, false});
  EXPECT_LT(narrow.find("sign *"), narrow.find("pole *"));
  EXPECT_LT(narrow.find("pole *"), narrow.rfind("road "));
  EXPECT_EQ(narrow.find("road *"), std::string::npos);
  EXPECT_SHOWS(text, "    -  0.10%  0.00%");
  EXPECT_SHOWS(text, " 25.0  2.00%  0.10%");
}

TEST(RunView, FitsEveryTerminal) {
  WatchedRun run = watched();
  run.dir = "/a/very/long/path/to/where/the/runs/are/kept/by/people/who/like/long/paths/demo";
  run.record.history.back().alarms.resize(9, {"k", std::string(300, 'x') + " and words that follow it", {}});
  for (int c = 0; c < 40; ++c) run.record.classes.names.push_back("class number " + std::to_string(c));
  for (EpochRecord& record : run.record.history) {
    record.val->iou.resize(43, 0.5);
    record.val->label_share.resize(43, 0.01);
    record.val->prediction_share.resize(43, 0.01);
  }
  for (const bool unicode : {false, true})
    for (const int columns : {1, 10, 39, 50, 80, 132, 300})
      for (const int rows : {1, 2, 5, 15, 24, 40, 100}) shown(run, {columns, rows, unicode});
  EXPECT_SHOWS(shown(run, {80, 24, true}), "more frequent ones");
}

TEST(RunView, SaysWhatToDoWhereARunDoesNotGoOn) {
  WatchedRun run = watched();
  run.now = 1000 + 300;
  EXPECT_SHOWS(shown(run, {80, 24, false}), "no step since 5m01s, though the process lives");
  run.life = Life::kGone;
  EXPECT_SHOWS(shown(run, {80, 24, false}), "process 4711 ended 5m01s ago without a last word");
  EXPECT_SHOWS(shown(run, {80, 24, false}), "\n  semiseg train --resume runs/demo\n");
  run.can_resume = false;
  EXPECT_SHOWS(shown(run, {80, 24, false}), "no checkpoint yet: start it anew");
  run.can_resume = true;
  run.life = Life::kSilent;
  run.status.host = "node7";
  EXPECT_SHOWS(shown(run, {200, 24, false}), "no sign of life for 5m01s from process 4711 on node7");
  run.life = Life::kFinished;
  run.status.state = "stopped";
  run.status.message = "stopped by SIGTERM";
  EXPECT_SHOWS(shown(run, {80, 24, false}), "stopped by SIGTERM\n  semiseg train --resume runs/demo\n");
  EXPECT_SHOWS(shown(run, {80, 24, false}), "3m00s in all");
  run.status.state = "failed";
  run.status.message = "the loss became NaN";
  EXPECT_SHOWS(shown(run, {80, 24, false}), "the loss became NaN");
  WatchedRun none;
  none.dir = "runs/none";
  EXPECT_SHOWS(shown(none, {80, 24, false}), "there is no such run folder yet");
  WatchedRun young = watched();
  young.record.history.clear();
  EXPECT_SHOWS(shown(young, {80, 24, false}), "no epoch is finished yet");
}

TEST(RunView, StylesAreEscapeSequencesOnlyWhereAskedFor) {
  const Line line = Line().add("ab", Style::kBad).add("c");
  EXPECT_EQ(to_terminal(line, 9, false), "abc");
  EXPECT_EQ(to_terminal(line, 9, true), "\x1b[31mab\x1b[0mc");
  EXPECT_EQ(to_terminal(line, 1, true), "\x1b[31ma\x1b[0m");
}

}  // namespace
}  // namespace semiseg
