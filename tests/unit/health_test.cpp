#include "semiseg/health.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "commands/command.h"
#include "semiseg/error.h"
#include "semiseg/files.h"
#include "semiseg/model.h"
#include "tests/tiny_network.h"
#include "train_parts.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;
using History = std::vector<EpochRecord>;

// The forum thread's four epochs: mIoU, mean class accuracy, pixel accuracy (discuss.pytorch.org/t/173656).
constexpr double kThread[][3] = {{.2459, .3714, .8059}, {.2322, .3008, .8323}, {.2302, .2959, .8435}, {.2173, .2842, .8490}};

// Three epochs' confusion matrices of road, pole and rider, 80, 10 and 10 labelled pixels: pole goes over to road. mIoU .6226,
// .6168, .5565; pixel accuracy .84, .87, .88.
const std::vector<std::vector<int64_t>> kCounts{
    {66, 8, 6, 1, 9, 0, 1, 0, 9}, {74, 3, 3, 5, 5, 0, 2, 0, 8}, {80, 0, 0, 9, 1, 0, 3, 0, 7}};

EpochRecord scored(int64_t epoch, double miou, double class_accuracy, double accuracy) {
  EpochRecord record;
  record.epoch = epoch;
  record.val = Scores{miou, class_accuracy, accuracy, {}, {}, {}, {}, {}};
  return record;
}

// Epochs by mIoU and accuracy; the mean class accuracy follows mIoU.
History series(const std::vector<std::pair<double, double>>& scores) {
  History history;
  for (const auto& [miou, accuracy] : scores)
    history.push_back(scored(static_cast<int64_t>(history.size()) + 1, miou, miou + 0.1, accuracy));
  return history;
}

// Draws of mean 0 and variance 1, nearly normal.
class Noise {
 public:
  explicit Noise(uint64_t seed) : state_(seed) {}
  double operator()() {
    double sum = 0;
    for (int i = 0; i < 12; ++i) {
      state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
      sum += static_cast<double>(state_ >> 40) / static_cast<double>(1 << 24) - 0.5;
    }
    return sum;
  }

 private:
  uint64_t state_;
};

std::vector<std::string> kinds(const History& history, const HealthContext& context = {}) {
  std::vector<std::string> found;
  for (const Alarm& alarm : find_alarms(history, context)) found.push_back(alarm.kind);
  return found;
}

bool has(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

Alarm only(const History& history, const HealthContext& context) {
  const auto alarms = find_alarms(history, context);
  EXPECT_EQ(alarms.size(), 1u);
  return alarms.empty() ? Alarm{} : alarms[0];
}

std::string all_text(const Diagnosis& diagnosis) {
  std::string text;
  for (const Alarm& finding : diagnosis.findings) text += finding.kind + ": " + finding.message + "\n";
  for (const Setting& setting : diagnosis.settings) text += setting.assignment + "\n";
  return text;
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)
#define EXPECT_HAS_NOT(text, part) EXPECT_EQ((text).find(part), std::string::npos) << (text)

// Scores of a confusion matrix written row by row.
EpochRecord counted(int64_t epoch, const std::vector<int64_t>& counts, int64_t K) {
  EpochRecord record;
  record.epoch = epoch;
  record.val = scores_of(at::tensor(counts, at::kLong).view({K, K}));
  return record;
}

TEST(MiouFalls, FiresForTheThreadInItsThirdEpochAndLasts) {
  History history;
  for (const auto& [miou, class_accuracy, accuracy] : kThread) {
    history.push_back(scored(static_cast<int64_t>(history.size()) + 1, miou, class_accuracy, accuracy));
    EXPECT_EQ(has(kinds(history), "miou_falls"), history.size() >= 3) << history.size();
  }
  const std::string message = only(history, {}).message;
  EXPECT_HAS(message, "mIoU fell from 24.59 % (epoch 1) to 21.73 % (epoch 4)");
  EXPECT_HAS(message, "pixel accuracy rose from 80.59 % to 84.90 %");
  EXPECT_HAS(message, "loss.class_weights=enet");
}

// A fair network that goes on without its cure: the fall lies between the scores before training and the first epoch.
TEST(MiouFalls, FiresAtOnceAgainstTheScoresBeforeTraining) {
  const History history{scored(0, .537, .745, .853), scored(1, .4546, .6051, .8585)};
  EXPECT_HAS(only(history, {}).message, "mIoU fell from 53.70 % (before training) to 45.46 % (epoch 1)");
  EXPECT_FALSE(has(kinds({history[1]}), "miou_falls"));
  EXPECT_HAS(all_text(diagnose(history, {})), "from before training, the best, to epoch 1");
}

// As on CamVid with an eighth of the labels (configs/studies/falling_miou.yaml): most is lost in the first epoch.
TEST(MiouFalls, FiresWhereThreeEpochsStayBelowTheScoresBeforeTraining) {
  History history{scored(0, .53, .7258, .8517), scored(1, .4901, .6191, .8772), scored(2, .4993, .6141, .8871),
                  scored(3, .4985, .6132, .8825), scored(4, .4973, .6123, .8824)};
  for (size_t n = 1; n <= history.size(); ++n)
    EXPECT_EQ(has(kinds({history.begin(), history.begin() + static_cast<long>(n)}), "miou_falls"), n > 3) << n;
  EXPECT_HAS(only(history, {}).message, "mIoU fell from 53.00 % (before training) to 49.73 % (epoch 4)");
  history[3].val->miou = .52;  // regained
  EXPECT_FALSE(has(kinds(history), "miou_falls"));
  history[3].val->miou = .4985;
  history[4].val->pixel_accuracy = .851;  // another illness
  EXPECT_FALSE(has(kinds(history), "miou_falls"));
  history[4] = scored(4, .48, .6123, .8824);
  for (const int64_t epoch : {5, 6, 7}) {  // more than half of it is back, for good
    history.push_back(scored(epoch, .5075, .65, .883));
    EXPECT_FALSE(has(kinds(history), "miou_falls")) << epoch;
  }
}

TEST(MiouFalls, IsSilentOnHealthyRuns) {
  const std::vector<std::vector<std::pair<double, double>>> healthy{
      {{.2, .6}, {.25, .65}, {.24, .66}, {.28, .68}, {.27, .7}, {.3, .72}, {.31, .73}},  // dips of one epoch
      {{.2, .6}, {.3, .7}, {.28, .71}, {.31, .72}, {.33, .73}, {.31, .74}, {.34, .75}},
      {{.5, .8}, {.499, .801}, {.498, .802}, {.497, .803}},  // less than clear
      {{.5, .85}, {.45, .84}, {.4, .8}, {.3, .7}},           // accuracy falls, too: another illness
      {{.4, .8}, {.43, .8}, {.39, .8}, {.42, .8}, {.38, .8}, {.44, .8}, {.41, .81}, {.39, .82}},  // as much as its usual noise
  };
  for (const auto& scores : healthy)
    for (size_t n = 1; n <= scores.size(); ++n)
      EXPECT_FALSE(has(kinds(series({scores.begin(), scores.begin() + static_cast<long>(n)})), "miou_falls"))
          << scores[0].first << " " << n;
}

TEST(MiouFalls, NoiseOnAPlateauStaysSilent) {
  // A rise to a plateau with noise of a point in mIoU and, on its own, of a quarter point in accuracy.
  Noise noise(1);
  int fired = 0;
  for (int run = 0; run < 40; ++run) {
    History history;
    for (int epoch = 0; epoch < 60; ++epoch) {
      const double grown = 1 - std::exp(-epoch / 8.0);
      history.push_back(scored(epoch + 1, .2 + .4 * grown + .01 * noise(), .3 + .4 * grown + .01 * noise(),
                               .6 + .25 * grown + .0025 * noise()));
      fired += has(kinds(history), "miou_falls");
    }
  }
  EXPECT_LE(fired, 40 * 60 / 100);  // one epoch in a hundred
}

// Ups and downs of a small validation set, of which mIoU and accuracy share half: after many epochs the best one lies well
// above the newest.
TEST(Diagnose, UpsAndDownsOfAPlateauAreNoFall) {
  Noise noise(7);
  int called_falls = 0;
  for (int run = 0; run < 60; ++run) {
    History history;
    for (int epoch = 1; epoch <= 40 + run; ++epoch) {
      const double grown = 1 - std::exp(-epoch / 5.0), shared = .0075 * noise();
      const double miou = .2 + .4 * grown + .013 * noise() + shared;
      history.push_back(scored(epoch, miou, miou + .1, .6 + .3 * grown + .002 * noise() + .2 * shared));
    }
    called_falls += all_text(diagnose(history, {})).find("the best,") != std::string::npos;
  }
  EXPECT_LE(called_falls, 3);
}

TEST(MiouFalls, SeesAnEarlyPeakAndADeclineWithUpsAndDowns) {
  const std::vector<std::pair<double, double>> decline{{.30, .70}, {.42, .78}, {.43, .79}, {.42, .79}, {.43, .80},
                                                       {.41, .81}, {.42, .81}, {.40, .82}, {.41, .82}, {.38, .83},
                                                       {.39, .83}, {.37, .84}, {.38, .84}};
  EXPECT_FALSE(has(kinds(series({decline.begin(), decline.begin() + 5})), "miou_falls"));
  const auto history = series(decline);
  const Alarm alarm = only(history, {});
  EXPECT_EQ(alarm.kind, "miou_falls");
  EXPECT_HAS(alarm.message, "43.00 % (epoch 5) to 38.00 % (epoch 13)");
  // It ends when mIoU is back.
  auto recovered = decline;
  recovered.push_back({.44, .85});
  EXPECT_FALSE(has(kinds(series(recovered)), "miou_falls"));
}

TEST(MiouFalls, AFallOfASixthIsSeenAtOnce) {
  EXPECT_TRUE(has(kinds(series({{.5, .8}, {.59, .82}, {.22, .84}})), "miou_falls"));
}

// Rare classes are found more often and called where they are not: pixel and class accuracy rise, mIoU falls all the same.
TEST(MiouFalls, OfClassesThatAreCalledWhereTheyAreNotIsCuredTheOtherWay) {
  History history;
  for (int epoch = 1; epoch <= 8; ++epoch) {
    history.push_back(scored(epoch, .6 - .015 * epoch, .65 + .01 * epoch, .8 + .005 * epoch));
    EXPECT_EQ(has(kinds(history), "miou_falls"), epoch >= 3) << epoch;
  }
  EXPECT_HAS(only(history, {}).message, "classes are called where they are not; set loss.class_weights");
  Config config;
  config.loss.class_weights = "inverse";
  EXPECT_HAS(only(history, {{}, {}, &config}).message, "where they are not; set loss.class_weights=enet (now inverse)");
  config.loss.class_weights = "none";  // nothing favours them
  EXPECT_HAS(only(history, {{}, {}, &config}).message, "where they are not; set optim.lr=");
}

TEST(MiouFalls, EpochsWithoutScoresAreLeftOutAndCarryNoAlarm) {
  History history;
  for (const auto& [miou, class_accuracy, accuracy] : kThread) {
    history.push_back(scored(static_cast<int64_t>(history.size()) + 1, miou, class_accuracy, accuracy));
    EXPECT_EQ(has(kinds(history), "miou_falls"), history.size() >= 5);
    history.emplace_back();
    history.back().epoch = static_cast<int64_t>(history.size());
    EXPECT_TRUE(kinds(history).empty());
  }
}

TEST(MiouFalls, NamesTheClassesThatLoseAndGain) {
  HealthContext context{{"road", "pole", "rider"}, {}, nullptr};
  const History history{counted(1, kCounts[0], 3), counted(2, kCounts[1], 3), counted(3, kCounts[2], 3)};
  const Alarm alarm = only(history, context);
  EXPECT_EQ(alarm.kind, "miou_falls");
  EXPECT_EQ(alarm.classes, std::vector<std::string>{"pole"});
  EXPECT_HAS(alarm.message, "pole 50.00 % -> 10.00 %");  // 9 / 18, 1 / 10
  EXPECT_HAS(alarm.message, "road on 68.00 % -> 92.00 % of the pixels (labelled 80.00 %)");
}

// Shares of a run of two classes and more: labelled and predicted, without IoU.
EpochRecord shares(int64_t epoch, std::vector<double> labelled, std::vector<double> predicted) {
  EpochRecord record = scored(epoch, .5, .5, .5);
  record.val->label_share = std::move(labelled);
  record.val->prediction_share = std::move(predicted);
  return record;
}

TEST(ScoresFall, WhereMiouIsLostAndAccuracyDoesNotRise) {
  const std::vector<std::pair<double, double>> collapse{{.4, .8},  {.5, .85}, {.52, .86}, {.5, .85},
                                                        {.45, .8}, {.3, .7},  {.2, .6}};
  for (size_t n = 1; n <= collapse.size(); ++n)
    EXPECT_EQ(has(kinds(series({collapse.begin(), collapse.begin() + static_cast<long>(n)})), "scores_fall"), n == 7) << n;
  const auto at_once = series({{.5, .85}, {.52, .86}, {.2, .5}, {.21, .5}});
  EXPECT_HAS(only(at_once, {}).message, "mIoU fell from 52.00 % (epoch 2) to 21.00 % (epoch 4)");
  EXPECT_HAS(only(at_once, {}).message, "optim.lr");
  EXPECT_TRUE(kinds(series({{.5, .85}, {.52, .86}, {.2, .5}, {.5, .85}})).empty());                  // one bad epoch
  EXPECT_TRUE(kinds(series({{.5, .8}, {.5, .8}, {.5, .8}, {.1, .4}, {.1, .4}, {.6, .9}})).empty());  // it is back
  EXPECT_TRUE(kinds(series({{.5, .85}, {.52, .86}, {.5, .85}, {.51, .85}, {.5, .85}, {.49, .85}, {.5, .85}})).empty());
}

// Of road, kerb and pole, 900, 60 and 40 labelled pixels, what the others are called.
TEST(ScoresFall, TellsWhatIsCalledWhereItIsNotFromWhatIsNotFound) {
  const HealthContext context{{"road", "kerb", "pole"}, {}, nullptr};
  const std::vector<int64_t> good{880, 10, 10, 10, 50, 0, 10, 0, 30};
  const auto after = [&](const std::vector<int64_t>& counts) {
    const History history{counted(1, good, 3), counted(2, good, 3), counted(3, counts, 3), counted(4, counts, 3)};
    for (const Alarm& alarm : find_alarms(history, context))
      if (alarm.kind == "scores_fall") return alarm;
    return Alarm{};
  };
  const Alarm called = after({500, 200, 200, 2, 58, 0, 2, 0, 38});
  EXPECT_HAS(called.message, "classes are called where they are not, which costs IoU most of all of kerb, pole and road");
  EXPECT_HAS(called.message, "; set loss.class_weights");  // weaker ones: nothing is known of the config
  const Alarm missed = after({880, 10, 10, 60, 0, 0, 40, 0, 0});
  EXPECT_HAS(missed.message, "rare classes are no longer found");
  EXPECT_EQ(missed.classes, (std::vector<std::string>{"kerb", "pole"}));  // road loses, too, but is not rare
}

TEST(ClassVanished, NotByAFewPixelsNorInTheFirstUpdates) {
  const HealthContext context{{"road", "train"}, {}, nullptr};
  const auto after = [&](int64_t pixels, int64_t step) {
    History history{counted(1, {9000, 0, 0, pixels}, 2), counted(2, {9000, 0, pixels, 0}, 2)};
    history[1].step = step;
    return has(kinds(history, context), "class_vanished");
  };
  EXPECT_TRUE(after(100, 0));
  EXPECT_FALSE(after(99, 0));
  EXPECT_TRUE(after(100, 50));
  EXPECT_FALSE(after(100, 49));
}

TEST(ClassVanished, OnceItWasPredictedOrAfterTheFirstEpochs) {
  const HealthContext context{{"road", "pole"}, {}, nullptr};
  const auto present = shares(1, {.98, .02}, {.985, .015}), absent = shares(2, {.98, .02}, {.9999, .0001});
  const auto alarms = find_alarms({present, absent}, context);
  ASSERT_EQ(alarms.size(), 2u);
  EXPECT_EQ(alarms[0].kind, "class_takes_over");  // road, which is the other side of it where there are two classes
  const Alarm& alarm = alarms[1];
  EXPECT_EQ(alarm.kind, "class_vanished");
  EXPECT_EQ(alarm.classes, std::vector<std::string>{"pole"});
  EXPECT_HAS(alarm.message, "pole (labelled 2.00 %, predicted 0.01 %, was 1.50 % in epoch 1)");

  History never;
  for (int64_t epoch = 1; epoch <= 6; ++epoch) {
    never.push_back(absent);
    EXPECT_EQ(has(kinds(never, context), "class_vanished"), epoch >= 5) << epoch;
  }
  EXPECT_TRUE(kinds({present, present}, context).empty());
  EXPECT_TRUE(kinds({shares(1, {1, 0}, {.9, .1}), shares(2, {1, 0}, {1, 0})}, context).empty());  // it has no labels
  // It cannot be learned: no_labelled_pixel has said so.
  const HealthContext unlabelled{{"road", "pole"}, {1, 0}, nullptr};
  EXPECT_FALSE(has(kinds({present, absent}, unlabelled), "class_vanished"));
}

TEST(ClassTakesOver, WhenFarMoreIsPredictedThanLabelled) {
  const HealthContext context{{"background", "flood"}, {}, nullptr};
  struct Case {
    double labelled, predicted;
    bool fires;
  };
  for (const Case& c :
       {Case{.3, .55, false}, Case{.3, .61, true}, Case{.05, .2, false}, Case{.6, .99, true}, Case{.6, .79, false},
        Case{.6, .81, true}, Case{.85, .92, false}, Case{.85, .93, true}, Case{.98, .995, true}}) {
    const auto well = shares(1, {c.labelled, 1 - c.labelled}, {c.labelled, 1 - c.labelled});
    const auto now = shares(2, {c.labelled, 1 - c.labelled}, {c.predicted, 1 - c.predicted});
    EXPECT_EQ(has(kinds({well, now}, context), "class_takes_over"), c.fires) << c.labelled << " " << c.predicted;
    EXPECT_FALSE(has(kinds({now, now}, context), "class_takes_over"));
    EXPECT_EQ(has(kinds({now, now, now}, context), "class_takes_over"), c.fires);
  }
  const History history{shares(1, {.6, .4}, {.6, .4}), shares(2, {.6, .4}, {.99, .01})};
  const auto alarms = find_alarms(history, context);
  ASSERT_FALSE(alarms.empty());
  EXPECT_EQ(alarms[0].classes, std::vector<std::string>{"background"});
  EXPECT_HAS(alarms[0].message, "background is predicted on 99.00 % of the pixels but labelled on 60.00 %");
  EXPECT_HAS(alarms[0].message, "it takes the pixels of flood");
}

TEST(ClassTakesOver, WhereTheLossRaisesRareClassesTheirPseudoLabelsAreToBeWithoutIt) {
  History history{shares(1, {.95, .05}, {.95, .05}), shares(2, {.95, .05}, {.6, .4})};
  Config config;
  config.semi.method = "fixmatch";
  const std::vector<std::string> names{"road", "cyclist"};
  const auto advice = [&] {
    for (const Alarm& alarm : find_alarms(history, {names, {}, &config}))
      if (alarm.kind == "class_takes_over") return alarm.message;
    return std::string("no alarm");
  };
  EXPECT_EQ(advice().find("semi.undo_class_bias"), std::string::npos) << advice();
  EXPECT_HAS(advice(), "; set semi.threshold=0.98 (now 0.95)");  // nothing favours it but its own labels
  config.loss.class_weights = "enet";
  config.semi.class_weights = true;
  EXPECT_HAS(advice(), "cyclist is predicted on 40.00 %");
  EXPECT_HAS(advice(), "; set semi.undo_class_bias=true");
  config.semi.undo_class_bias = true;
  EXPECT_EQ(advice().find("semi.undo_class_bias"), std::string::npos) << advice();
  EXPECT_HAS(advice(), "; set loss.class_weights=none (now enet)");
  config.semi.undo_class_bias = false;
  config.semi.method = "supervised";  // does not read it
  EXPECT_EQ(advice().find("semi.undo_class_bias"), std::string::npos) << advice();
  config.semi.method = "fixmatch";
  history = {shares(1, {.6, .4}, {.6, .4}), shares(2, {.6, .4}, {.99, .01})};  // a frequent class: weights lower it
  EXPECT_HAS(advice(), "road is predicted on 99.00 %");
  EXPECT_HAS(advice(), ", semi.threshold='{kind: class_adaptive}' (now 0.95)");
  config.optim.steps = 400;  // a running mean of a thousand would not follow
  EXPECT_HAS(advice(), ", semi.threshold='{kind: class_adaptive, momentum: 0.99}' (now 0.95)");
  EXPECT_EQ(advice().find("semi.undo_class_bias"), std::string::npos) << advice();
}

EpochRecord pseudo(int64_t epoch, double accepted, std::vector<double> share) {
  EpochRecord record;
  record.epoch = epoch;
  record.pseudo = PseudoScores{};
  record.pseudo->accepted = accepted;
  record.pseudo->accepted_by_class.assign(share.size(), accepted);
  record.pseudo->share = std::move(share);
  return record;
}

Config semi_config(const std::string& method, double threshold) {
  Config config;
  config.semi.method = method;
  config.semi.threshold.value = threshold;
  return config;
}

TEST(PseudoVanished, AgainstTheLabelledShare) {
  const Config config = semi_config("fixmatch", 0.95);
  const HealthContext context{{"road", "pole"}, {.97, .03}, &config};
  const History history{pseudo(1, .5, {.98, .02}), pseudo(2, .5, {1, 0})};
  const Alarm alarm = only(history, context);
  EXPECT_EQ(alarm.kind, "pseudo_vanished");
  EXPECT_EQ(alarm.classes, std::vector<std::string>{"pole"});
  EXPECT_HAS(alarm.message,
             "pole (labelled 3.00 %, pseudo-labels 0.00 %, was 2.00 % in epoch 1; 50.00 % of its predictions accepted)");
  EXPECT_HAS(alarm.message, "set semi.threshold='{kind: class_adaptive}' (now 0.95)");
  EXPECT_TRUE(kinds({pseudo(1, .5, {1, 0}), pseudo(2, .5, {1, 0})}, context).empty());  // the first epochs
  Config burning = config;
  burning.semi.burn_in_epochs = 2;
  EXPECT_TRUE(kinds(history, {{"road", "pole"}, {.97, .03}, &burning}).empty());
}

TEST(AcceptanceStuck, ThreeEpochsInARowAndOnlyWithAThreshold) {
  const auto run = [](double accepted) {
    return History{pseudo(1, accepted, {.9, .1}), pseudo(2, accepted, {.9, .1}), pseudo(3, accepted, {.9, .1})};
  };
  struct Case {
    const char* method;
    double threshold, accepted;
    bool fires;
  };
  for (const Case& c :
       {Case{"fixmatch", .95, .004, true}, Case{"fixmatch", .95, .006, false}, Case{"fixmatch", .95, .996, true},
        Case{"fixmatch", .95, .99, false}, Case{"fixmatch", 0, 1, false}, Case{"mean_teacher", .95, 1, false},
        Case{"retrain", .95, 1, false}, Case{"retrain", .95, .001, true}}) {
    const Config config = semi_config(c.method, c.threshold);
    const HealthContext context{{"road", "pole"}, {.9, .1}, &config};
    EXPECT_EQ(has(kinds(run(c.accepted), context), "acceptance_stuck"), c.fires)
        << c.method << c.threshold << " " << c.accepted;
    auto two = run(c.accepted);
    two.front().pseudo->accepted = .5;
    EXPECT_FALSE(has(kinds(two, context), "acceptance_stuck"));
  }
  EXPECT_TRUE(has(kinds(run(.999)), "acceptance_stuck"));  // settings not known
  EXPECT_FALSE(has(kinds(run(1)), "acceptance_stuck"));    // no threshold
  const Config config = semi_config("fixmatch", .95), of_files = semi_config("retrain", .95);
  EXPECT_HAS(find_alarms(run(0), {{}, {}, &config}).at(0).message, "semi.threshold=0.76 (now 0.95)");
  EXPECT_HAS(find_alarms(run(0), {{}, {}, &of_files}).at(0).message, "write their labels with a lower --threshold");
}

TEST(NoLabelledPixel, InTheFirstEpochOnly) {
  const HealthContext context{{"road", "train"}, {1, 0}, nullptr};
  const Alarm alarm = only({shares(1, {.9, .1}, {1, 0})}, context);
  EXPECT_EQ(alarm.kind, "no_labelled_pixel");
  EXPECT_EQ(alarm.classes, std::vector<std::string>{"train"});
  EXPECT_HAS(alarm.message, "the validation labels hold train");
  EXPECT_TRUE(kinds({shares(1, {.9, .1}, {1, 0}), shares(2, {.9, .1}, {1, 0})}, context).empty());
  EpochRecord first;
  first.epoch = 1;
  EXPECT_EQ(only({first}, context).kind, "no_labelled_pixel");  // nothing evaluated
}

TEST(Advice, NamesOnlyWhatTheMethodReadsAndWhatIsNotSetYet) {
  const History history = series({{.2459, .8059}, {.2322, .8323}, {.2302, .8435}});
  Config config = semi_config("supervised", .95);
  std::string message = only(history, {{}, {}, &config}).message;
  EXPECT_HAS(message, "set loss.class_weights=enet (now none) or sampler.rare_class_temperature=0.01 (now 0");
  EXPECT_HAS_NOT(message, "semi.");
  config = semi_config("pseudo_label", 0);
  config.semi.weight = 4;
  config.loss.class_weights = "enet";
  message = only(history, {{}, {}, &config}).message;
  EXPECT_HAS(message, "set semi.threshold=0.95 (now 0), ");
  EXPECT_HAS(message, "semi.class_weights=true");
  EXPECT_HAS_NOT(message, "loss.class_weights=enet");
}

TEST(IsNews, WhenItBeginsOrItsClassesChange) {
  const Alarm alarm{"class_vanished", "", {"pole"}};
  EpochRecord with = shares(1, {1}, {1}), without = with, unevaluated;
  with.alarms = {alarm};
  EXPECT_TRUE(is_news(alarm, {with}));
  EXPECT_FALSE(is_news(alarm, {with, with}));
  EXPECT_FALSE(is_news(alarm, {with, unevaluated, with}));
  EXPECT_TRUE(is_news(alarm, {with, without, with}));
  EXPECT_TRUE(is_news({"class_vanished", "", {"pole", "rider"}}, {with, with}));
  EXPECT_TRUE(is_news({"pseudo_vanished", "", {"pole"}}, {with, with}));
}

TEST(FindAlarms, NeedsNothing) {
  EXPECT_TRUE(find_alarms({}, {}).empty());
  EXPECT_TRUE(kinds({EpochRecord{}, EpochRecord{}, EpochRecord{}}).empty());
}

// Twenty unlabelled pictures, each of one grey.
class GreyImages : public Dataset {
 public:
  int64_t size(Split split) const override { return split == Split::kUnlabeled ? 20 : 0; }
  Sample get(Split, int64_t index) const override {
    asked.push_back(index);
    return {at::full({50, 40, 3}, index * 10, at::kByte), {}, std::to_string(index)};
  }
  Tensor label(Split, int64_t) const override { return {}; }
  std::string id(Split, int64_t index) const override { return std::to_string(index); }
  const ClassSet& classes() const override { return classes_; }

  mutable std::vector<int64_t> asked;

 private:
  ClassSet classes_;
};

TEST(MeasureAgreement, ComparesWithTheEpochBefore) {
  ModelConfig model;
  model.backbone = "resnet18";
  const auto network = make_segmenter(model, 3, 1);
  Predicting method(network);
  EvalOptions options;
  options.mean = {.5, .5, .5};
  options.std = {.25, .25, .25};
  const GreyImages data;
  std::map<std::string, Tensor> probe;
  PseudoScores first, second, third;
  measure_agreement(method, {}, data, options, &probe, &first);
  EXPECT_FALSE(first.agreement);
  EXPECT_EQ(probe.size(), 16u);
  EXPECT_EQ(data.asked.front(), 0);
  EXPECT_EQ(data.asked.back(), 18);
  EXPECT_EQ(probe.at("18").sizes(), at::IntArrayRef({13, 10}));  // ceil(50 / 4), ceil(40 / 4)
  EXPECT_EQ(probe.at("18").scalar_type(), at::kByte);
  EXPECT_TRUE(network->is_training());

  measure_agreement(method, {}, data, options, &probe, &second);
  EXPECT_EQ(second.agreement, 1.0);

  // By hand: of all predictions before, one picture's were another class.
  for (auto& [name, class_hw] : probe) class_hw = at::zeros_like(class_hw);
  for (auto& parameter : network->parameters()) parameter.detach().zero_();  // all logits are equal: class 0 everywhere
  probe.at("0").fill_(2);
  measure_agreement(method, {}, data, options, &probe, &third);
  EXPECT_DOUBLE_EQ(*third.agreement, 15.0 / 16);
  ASSERT_EQ(third.agreement_by_class.size(), 3u);
  EXPECT_EQ(third.agreement_by_class[0], 1.0);
  EXPECT_FALSE(third.agreement_by_class[1]);
  EXPECT_EQ(third.agreement_by_class[2], 0.0);
}

// What the steps of an epoch counted: 200 valid pixels, labelled as class 0, 1 and 2 on 100, 60 and 40, of which 90, 30 and
// none count; of these 72 and 15 are right, where 80, 60 and 40 valid pixels truly are of each class.
TEST(EpochRecord, SharesPrecisionAndRecallOfPseudoLabels) {
  TrainState state;
  state.step = 10;
  state.epoch_seconds = 4;
  state.epoch_wait = 1;
  const auto sum = [&](const char* name, double value) { state.epoch_sums[name] = at::scalar_tensor(value, at::kDouble); };
  sum("count", 10), sum("loss", 20), sum("loss_supervised", 5), sum("loss_unsupervised", 15);
  state.epoch_sums["pseudo"] = at::tensor({100, 60, 40, 90, 30, 0}, at::kLong).view({2, 3});
  state.epoch_sums["truth"] = at::tensor({72, 15, 0, 90, 30, 0, 80, 60, 40}, at::kLong).view({3, 3});
  const EpochRecord record = epoch_record(state, 1, /*images_per_step=*/6, {});
  EXPECT_EQ(record.epoch, 1);
  EXPECT_DOUBLE_EQ(record.images_per_s, 15);
  EXPECT_DOUBLE_EQ(record.data_wait, .25);
  EXPECT_DOUBLE_EQ(record.loss, 2);
  EXPECT_DOUBLE_EQ(record.loss_supervised, .5);
  EXPECT_DOUBLE_EQ(*record.loss_unsupervised, 1.5);
  ASSERT_TRUE(record.pseudo);
  EXPECT_DOUBLE_EQ(record.pseudo->accepted, .6);
  EXPECT_EQ(record.pseudo->share, (std::vector<double>{.75, .25, 0}));
  EXPECT_EQ(record.pseudo->accepted_by_class, (std::vector<MaybeFraction>{.9, .5, 0.0}));
  EXPECT_EQ(record.pseudo->precision, (std::vector<MaybeFraction>{.8, .5, {}}));
  EXPECT_EQ(record.pseudo->recall, (std::vector<MaybeFraction>{.9, .25, 0.0}));
}

// A method whose labels are not what it predicts: every pixel is of one class.
class Labelling : public Predicting {
 public:
  using Predicting::Predicting;
  std::optional<AcceptedLabels> pseudo_labels(const UnlabeledBatch& images, const Progress& progress) override {
    EXPECT_EQ(progress.step, 7);
    return AcceptedLabels{at::full_like(images.valid_BHW, label, at::kLong), at::zeros_like(images.valid_BHW)};
  }
  int64_t label = 1;
};

TEST(MeasureAgreement, IsThatOfPseudoLabels) {
  ModelConfig model;
  model.backbone = "resnet18";
  Labelling method(make_segmenter(model, 3, 1));
  EvalOptions options;
  options.mean = {.5, .5, .5};
  options.std = {.25, .25, .25};
  std::map<std::string, Tensor> probe;
  PseudoScores scores;
  for (const auto& [label, agreement] : std::vector<std::pair<int64_t, MaybeFraction>>{{1, {}}, {1, 1}, {2, 0}, {2, 1}}) {
    method.label = label;
    measure_agreement(method, {.step = 7}, GreyImages(), options, &probe, &scores);
    EXPECT_EQ(scores.agreement, agreement);
    EXPECT_TRUE(probe.at("18").eq(label).all().item<bool>());
  }
}

// --- diagnose ---

TEST(Diagnose, SaysWhichClassSwallowedWhich) {
  History history;
  for (const auto& c : {kCounts[0], kCounts[2]}) history.push_back(counted(static_cast<int64_t>(history.size()) + 1, c, 3));
  const std::string text = all_text(diagnose(history, {{"road", "pole", "rider"}, {}, nullptr}));
  EXPECT_HAS(text, "IoU fell most of pole 50.00 % -> 10.00 % (10.00 % of the labelled pixels)");
  // .8 x (1 - .825) and .1 x (.7 - .9); (.1 - .5) / 3
  EXPECT_HAS(text,
             "rider and road alone would move pixel accuracy by +12.00 points (it moved by +4.00), pole alone mIoU by -13.33");
  EXPECT_HAS(text, "pole is predicted as road in 90 % of its pixels (10 % in epoch 1)");
  EXPECT_HAS(text, "pole is labelled on 10.00 % of the pixels and predicted on 1.00 % (epoch 1: 17.00 %)");
  EXPECT_HAS(text, "loss.class_weights=enet");
}

TEST(Diagnose, TellsOtherMovementsApart) {
  const auto text_of = [](const std::vector<std::pair<double, double>>& scores) {
    return all_text(diagnose(series(scores), {}));
  };
  EXPECT_HAS(text_of({{.3, .7}, {.4, .8}}),
             "still rises at the end, by 10.00 points in the last evaluated epoch: train longer");
  EXPECT_HAS(text_of({{.1, .7}, {.2, .8}, {.3, .8}, {.32, .8}, {.34, .8}, {.36, .8}}),
             "by 4.00 points in the last 2 evaluated epochs");
  EXPECT_HAS(text_of({{.3, .7}, {.4, .8}, {.4, .8}}), "nothing is wrong");  // no more
  EXPECT_HAS(text_of({{.3, .7}, {.45, .8}, {.44, .8}}), "nothing is wrong");
  EXPECT_HAS_NOT(text_of({{.3, .7}, {.4, .8}}), "class_weights");
  EXPECT_HAS(text_of({{.4, .8}, {.3, .6}}), "a network that gets worse");
  EXPECT_HAS(text_of({{.4, .8}, {.3, .6}}), "optim.lr");
  EXPECT_HAS(text_of({{.3, .8}, {.4, .7}}), "at the price of pixel accuracy");
  EXPECT_HAS(text_of({{.4, .8}, {.401, .8}}), "less than what would be clear");
  EXPECT_HAS(text_of({{.4, .8}}), "no movement to explain");
}

TEST(Diagnose, OneSetOfScoresIsJudgedByWhatItHolds) {
  const HealthContext context{{"road", "pole"}, {}, nullptr};
  const auto perfect = diagnose({counted(1, {900, 0, 0, 100}, 2)}, context);
  EXPECT_TRUE(perfect.settings.empty()) << all_text(perfect);
  const auto starved = diagnose({counted(1, {900, 0, 90, 10}, 2)}, context);
  EXPECT_HAS(all_text(starved), "loss.class_weights=enet");
  EXPECT_TRUE(diagnose({scored(1, .7, .8, .9)}, {}).settings.empty());
  EXPECT_HAS(all_text(diagnose({scored(1, .3, .4, .9)}, {})), "loss.class_weights=enet");
}

TEST(Diagnose, FlatRunsAreLeftAlone) {
  History history;
  for (int epoch = 1; epoch <= 8; ++epoch) {  // pole goes up and down by ten pixels of a hundred
    const int64_t pole = epoch % 2 == 0 ? 60 : 50;
    history.push_back(counted(epoch, {895, 5, 100 - pole, pole}, 2));
  }
  const auto diagnosis = diagnose(history, {{"road", "pole"}, {}, nullptr});
  EXPECT_TRUE(diagnosis.settings.empty()) << all_text(diagnosis);
}

TEST(Diagnose, NamesIdsThatMeanOtherClasses) {
  const HealthContext context{{"road", "sidewalk", "pole", "rider", "car"}, {}, nullptr};
  const auto mapping_of = [&](const std::vector<int64_t>& counts) {
    const auto diagnosis = diagnose({counted(1, counts, 5)}, context);
    std::string text;
    for (const Alarm& finding : diagnosis.findings)
      if (finding.kind == "mapping") text = finding.message;
    EXPECT_EQ(text.empty(), diagnosis.settings.empty() || diagnosis.settings[0].assignment != "data.classes") << text;
    return text;
  };
  // Road and sidewalk; pole is taken as rider, but not the other way round.
  EXPECT_HAS(mapping_of({80, 800, 0, 0, 0, 330, 30, 0, 0, 0, 0, 0, 20, 60, 0, 0, 0, 10, 50, 0, 0, 0, 0, 0, 90}),
             "road is predicted as sidewalk in 91 % and sidewalk is predicted as road in 92 % of its pixels: classes that are "
             "exchanged");
  // Three in a circle.
  EXPECT_HAS(mapping_of({19, 190, 0, 0, 0, 0, 19, 190, 0, 0, 190, 0, 19, 0, 0, 0, 0, 0, 190, 0, 0, 0, 0, 0, 190}), "exchanged");
  EXPECT_HAS(mapping_of({19, 190, 0, 0, 0, 0, 19, 190, 0, 0, 0, 0, 19, 190, 0, 0, 0, 0, 19, 190, 0, 0, 0, 0, 0}),
             "most classes are predicted as the one behind them: road as sidewalk (91 %)");
  EXPECT_HAS(mapping_of({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 300, 40, 0, 0, 0, 30, 200, 0, 0, 0}),
             "labels and predictions use different ids: rider and car (100.00 % of the labels) are never predicted");
  // What training does: rare classes are taken for frequent ones, also by a neighbour each, or for each other.
  EXPECT_EQ(mapping_of({9000, 0, 0, 0, 0, 150, 9, 0, 0, 0, 0, 0, 9000, 0, 0, 0, 0, 150, 9, 0, 0, 0, 0, 150, 9}), "");
  EXPECT_EQ(mapping_of({900, 0, 0, 0, 0, 0, 900, 0, 0, 0, 0, 0, 40, 55, 5, 0, 0, 55, 40, 5, 0, 0, 0, 0, 90}), "");
  EXPECT_EQ(mapping_of({900, 0, 0, 0, 0, 80, 10, 0, 0, 0, 60, 0, 10, 0, 0, 30, 0, 0, 5, 0, 9, 0, 0, 0, 90}), "");
  const auto voids = diagnose({counted(1, {900, 0, 100, 0}, 2)}, {{"road", "void"}, {}, nullptr});
  EXPECT_HAS(all_text(voids), "void is counted as a class, on 10.00 % of the labelled pixels");
}

// Rider and motorcycle were told apart once: they are confused, not exchanged.
TEST(Diagnose, WhatWasRightOnceIsNotExchanged) {
  const HealthContext context{{"road", "rider", "motorcycle"}, {}, nullptr};
  const auto now = counted(2, {9000, 0, 0, 900, 100, 1000, 900, 1000, 100}, 3);
  EXPECT_HAS(all_text(diagnose({now}, context)), "exchanged");
  EXPECT_HAS_NOT(all_text(diagnose({counted(1, {9000, 0, 0, 400, 1200, 400, 400, 400, 1200}, 3), now}, context)), "exchanged");
}

TEST(Diagnose, RareClassesThatAreCalledTooOftenAreNotSaidToStarve) {
  History history{counted(1, {880, 20, 50, 50}, 2), counted(2, {700, 200, 5, 95}, 2)};
  Config config;
  config.loss.class_weights = "inverse";
  HealthContext context{{"road", "pole"}, {}, &config};
  auto text = all_text(diagnose(history, context));
  EXPECT_HAS(text, "called where they are not");
  EXPECT_HAS(text, "loss.class_weights=enet");
  EXPECT_HAS_NOT(text, "starve");
  EXPECT_HAS_NOT(text, "optim.lr");
  context.config = nullptr;
  text = all_text(diagnose(history, context));
  EXPECT_HAS_NOT(text, "loss.class_weights=enet");
  // Also where pixel accuracy rises meanwhile.
  text = all_text(diagnose({scored(1, .5, .6, .8), scored(2, .4, .7, .82)}, {}));
  EXPECT_HAS(text, "called where they are not");
  EXPECT_HAS_NOT(text, "starve");
  EXPECT_HAS_NOT(text, "frequent classes gain");
}

TEST(Diagnose, ALossThatFallsMeanwhileIsOverFitting) {
  History history{scored(1, .5, .6, .85), scored(2, .44, .55, .8)};
  history[0].loss = .6, history[1].loss = .03;
  auto text = all_text(diagnose(history, {}));
  EXPECT_HAS(text, "over-fitting");
  EXPECT_HAS_NOT(text, "optim.lr");
  history[1].loss = 2;
  text = all_text(diagnose(history, {}));
  EXPECT_HAS_NOT(text, "over-fitting");
  EXPECT_HAS(text, "optim.lr");
}

TEST(Diagnose, FindsAFallAfterARiseAndNoneWhereDropsComeAndGo) {
  const auto falls = [](const std::vector<double>& values) {
    History history;
    for (const double miou : values) history.push_back(scored(static_cast<int64_t>(history.size()) + 1, miou, miou + .1, .9));
    return all_text(diagnose(history, {})).find("the best,") != std::string::npos;
  };
  EXPECT_TRUE(falls({.20, .28, .35, .42, .48, .54, .59, .52, .515, .518, .514, .516}));
  EXPECT_TRUE(falls({.4537, .5245, .5956, .5248, .5139, .5185}));
  EXPECT_TRUE(falls({.5304, .4985, .5087, .5021, .4955, .5032, .5009}));          // lost at once and for good
  EXPECT_FALSE(falls({.60, .62, .57, .63, .66, .69, .63, .68, .67, .675, .63}));  // as after each warm restart
  EXPECT_FALSE(falls({.60, .63, .58, .62, .60}));
}

// Two rare classes are taken for their neighbours more and more; pixel accuracy falls by their pixels.
TEST(Diagnose, RareClassesMayLoseWhilePixelAccuracyFalls) {
  const HealthContext context{{"wheat", "wheat rust", "rye", "rye rust"}, {}, nullptr};
  const auto epoch = [](int64_t number, int64_t right) {
    return counted(number, {9800, 100, 100, 0, 1000 - right, right, 0, 0, 100, 0, 9800, 100, 0, 0, 1000 - right, right}, 4);
  };
  History history;
  for (int64_t i = 0; i < 7; ++i) history.push_back(epoch(i + 1, 800 - 100 * i));
  const auto text = all_text(diagnose(history, context));
  EXPECT_HAS(text, "mIoU falls by what rare classes lose");
  EXPECT_HAS(text, "loss.class_weights=enet");
  EXPECT_HAS_NOT(text, "as a whole");
  EXPECT_HAS_NOT(text, "same ids");
}

// Motorcycle is found as before, but on three times as many pixels; pixel accuracy rises all the same.
TEST(Diagnose, TellsCallingTooOftenFromStarvingByTheClassesThatLose) {
  const HealthContext context{{"road", "building", "motorcycle"}, {}, nullptr};
  const auto text = all_text(diagnose(
      {counted(1, {8000, 1000, 0, 1200, 8000, 0, 20, 20, 60}, 3), counted(2, {8400, 400, 200, 800, 8300, 100, 20, 20, 60}, 3)},
      context));
  EXPECT_HAS(text, "mean class accuracy rises by 2.57 points: classes are called where they are not");
  EXPECT_HAS_NOT(text, "loss.class_weights=enet");
}

TEST(Diagnose, SaysWhichAlarmsAreOver) {
  History history = series({{.5, .8}, {.48, .81}, {.45, .82}, {.55, .83}, {.56, .84}});
  const auto text = all_text(diagnose(history, {}));
  EXPECT_HAS(text, "alarm miou_falls (epoch 3) is over");
  EXPECT_HAS_NOT(text, "frequent classes gain");
}

// Train has no labelled pixel; five are predicted as it.
TEST(Diagnose, AClassThatIsCountedOnlyLaterIsNamedWithItsCost) {
  const History history{counted(1, {880, 20, 0, 30, 70, 0, 0, 0, 0}, 3), counted(2, {884, 11, 5, 26, 74, 0, 0, 0, 0}, 3)};
  const auto diagnosis = diagnose(history, {{"road", "pole", "train"}, {}, nullptr});
  EXPECT_HAS(all_text(diagnosis), "train (predicted on 0.50 % of the pixels) counts now");
  EXPECT_HAS_NOT(all_text(diagnosis), "starve");
  EXPECT_HAS_NOT(all_text(diagnosis), "alarm");
  EXPECT_TRUE(diagnosis.settings.empty());
}

TEST(Diagnose, EpochsMayCountFromZero) {
  const History history{scored(0, .2459, .3714, .8059), scored(1, .2322, .3008, .8323)};
  HealthContext context;
  EXPECT_HAS(all_text(diagnose(history, context)), "from before training");
  context.counts_from_zero = true;
  EXPECT_HAS(all_text(diagnose(history, context)), "from epoch 0, the best, to epoch 1");
}

TEST(Diagnose, ClassesWithoutALabelledPixelDriveNoAdvice) {
  History history;
  for (int epoch = 1; epoch <= 3; ++epoch)
    history.push_back(counted(epoch, {800 + epoch, 100 - epoch, 0, 0, 200, 0, 100, 0, 0}, 3));
  HealthContext context{{"road", "pole", "train"}, {.8, .2, 0}, nullptr};
  EXPECT_TRUE(diagnose(history, context).settings.empty());
  context.label_share = {.7, .2, .1};
  EXPECT_FALSE(diagnose(history, context).settings.empty());
}

TEST(Diagnose, RepeatsRecordedAlarmsAndLooksForOthersOnlyWhereNoneAreRecorded) {
  const History history{shares(1, {.6, .4}, {.6, .4}), shares(2, {.6, .4}, {.99, .01})};
  HealthContext context{{"background", "flood"}, {}, nullptr};
  EXPECT_HAS(all_text(diagnose(history, context)), "alarm class_takes_over");
  context.alarms_are_recorded = true;
  EXPECT_HAS_NOT(all_text(diagnose(history, context)), "alarm class_takes_over");
}

class DiagnoseCommand : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "/diagnose_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(dir_);
    make_folders(dir_);
  }

  struct Outcome {
    int code;
    std::string output;  // what the program prints, in one line
  };
  // As the program does it, but in this process; $DIR stands for the test's folder.
  Outcome semiseg(const std::string& words) const {
    std::vector<std::string> command{"diagnose"};
    std::istringstream stream(words);
    for (std::string word; stream >> word;) {
      if (word.rfind("$DIR", 0) == 0) word.replace(0, 4, dir_);
      command.push_back(word);
    }
    Outcome outcome{0, ""};
    testing::internal::CaptureStdout();
    std::string error_text;
    try {
      outcome.code = run_command_line(command);
    } catch (const Error& error) {
      outcome.code = error.exit_code();
      error_text = error.what();
    }
    std::istringstream lines(testing::internal::GetCapturedStdout() + error_text);
    for (std::string word; lines >> word;) outcome.output += (outcome.output.empty() ? "" : " ") + word;
    return outcome;
  }
  void file(const std::string& name, const std::string& text) const { write_file(dir_ + "/" + name, text); }
  nlohmann::json json(const std::string& name) const { return nlohmann::json::parse(read_file(dir_ + "/" + name)); }

  std::string dir_;
};

TEST_F(DiagnoseCommand, ExplainsTheThread) {
  const char* rows[] = {"1,.2459,.3714,.8059", "2,.2322,.3008,.8323", "3,.2302,.2959,.8435", "4,.2173,.2842,.8490"};
  std::string with_header = "epoch,miou,mean_class_accuracy,pixel_accuracy\n", without,
              shuffled = "accuracy;CE;mIoU;Mean Accuracy;epoch\r\n";
  for (const char* row : rows) with_header += std::string(row) + "\n", without += std::string(row) + "\n";
  shuffled +=
      "80.59;3.078;24.59;37.14;1\r\n83.23;2.740;23.22;30.08;2\r\n84.35;2.547;23.02;29.59;3\r\n84.90;2.501;21.73;28.42;4\r\n";
  file("a.csv", with_header);
  file("b.csv", without);
  file("c.csv", shuffled);
  for (const char* name : {"a.csv", "b.csv", "c.csv"}) {
    const Outcome outcome = semiseg("$DIR/" + std::string(name) + " --json $DIR/out.json");
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    EXPECT_HAS(outcome.output, "mIoU falls from 24.59 % to 21.73 % while pixel accuracy rises from 80.59 % to 84.90 %");
    EXPECT_HAS(outcome.output, "pixel accuracy weighs every pixel alike");
    EXPECT_HAS(outcome.output, "rare classes starve");
    EXPECT_HAS(outcome.output, "loss.class_weights=enet");
    EXPECT_HAS(outcome.output, "alarm miou_falls (2 epochs, 3 to 4)");
    const auto written = json("out.json");
    EXPECT_EQ(written["findings"][0]["kind"], "movement");
    EXPECT_EQ(written["settings"][0]["set"], "loss.class_weights=enet");
    EXPECT_EQ(written["epochs"].size(), 4u);
  }
}

TEST_F(DiagnoseCommand, ReadsConfusionMatricesInEveryForm) {
  const std::string forms[] = {
      "8 0\n1 1\n\n9 0\n2 0\n",                                                       // numpy.savetxt
      "8,0\n1,1\n9,0\n2,0\n",                                                         // one below the other
      "road,pole\n8,0\n1,1\n\n9,0\n2,0\n",                                            // names
      "epoch,road,pole\n1,8,0\n1,1,1\n2,9,0\n2,2,0\n",                                // epochs and names
      "1,8,0\n1,1,1\n2,9,0\n2,2,0\n",                                                 // epochs
      "epoch,label,prediction,count\n1,0,0,8\n1,1,0,1\n1,1,1,1\n2,0,0,9\n2,1,0,2\n",  // cells
      "count\tprediction\tlabel\tepoch\n8\troad\troad\t1\n1\troad\tpole\t1\n1\tpole\tpole\t1\n9\troad\troad\t2\n2\troad"
      "\tpole\t"
      "2\n",
      "epoch,Actual,Predicted,nPredictions\n1,road,road,8\n1,pole,road,1\n1,pole,pole,1\n2,road,road,9\n2,pole,road,"
      "2\n",                                                                            // wandb
      ",road,pole\nroad,8,0\npole,1,1\nroad,9,0\npole,2,0\n",                           // pandas
      "[[8,0],[1,1]]\n[[9,0],[2,0]]\n",                                                 // JSON lines
      "tensor([[[8, 0],\n         [1,\n 1]],\n        [[9, 0],\n         [2, 0]]])\n",  // PyTorch
      "# road pole\n8 0\n1 1\n\n9 0\n2 0\n",                                            // savetxt
      "[[8 0]\n [1 1]]\n\n[[9 0]\n [2 0]]\n",                                           // numpy
      ",0,1\n0,8,0\n1,1,1\n0,9,0\n1,2,0\n",                                             // pandas, without names
      "[\n  [8, 0],\n  [1, 1]\n]\n[\n  [9, 0],\n  [2, 0]\n]\n",                         // JSON
  };
  for (const std::string& form : forms) {
    file("m.csv", form);
    const Outcome outcome = semiseg("$DIR/m.csv --json $DIR/out.json");
    ASSERT_EQ(outcome.code, 0) << form << outcome.output;
    const auto epochs = json("out.json")["epochs"];
    ASSERT_EQ(epochs.size(), 2u) << form;
    EXPECT_DOUBLE_EQ(epochs[0]["val"]["iou"][0], 8.0 / 9) << form;
    EXPECT_DOUBLE_EQ(epochs[0]["val"]["iou"][1], 1.0 / 2) << form;
    EXPECT_DOUBLE_EQ(epochs[1]["val"]["pixel_accuracy"], 9.0 / 11) << form;
    EXPECT_HAS(outcome.output, form.find("road") == std::string::npos ? "class 1 is predicted as class 0 in 100 % of its pixels"
                                                                      : "pole is predicted as road in 100 % of its pixels");
  }
}

TEST_F(DiagnoseCommand, ReadsFlatMatricesSumsAndExchangedSides) {
  const auto confusion = [&](const std::string& text, const std::string& note) {
    file("m.csv", text);
    const Outcome outcome = semiseg("$DIR/m.csv --json $DIR/out.json");
    EXPECT_EQ(outcome.code, 0) << text << outcome.output;
    EXPECT_HAS(outcome.output, note);
    std::vector<std::vector<std::vector<int64_t>>> all;
    const auto written = json("out.json");
    for (const auto& epoch : written["epochs"]) all.push_back(epoch["val"]["confusion"]);
    return all;
  };
  using Matrices = std::vector<std::vector<std::vector<int64_t>>>;
  const Matrices wanted{{{8, 0, 0}, {1, 1, 0}, {0, 0, 3}}, {{8, 0, 0}, {2, 0, 0}, {1, 0, 2}}};
  EXPECT_EQ(confusion("8 0 0 1 1 0 0 0 3\n8 0 0 2 0 0 1 0 2\n", "epoch"), wanted);
  EXPECT_EQ(confusion("[[8,0,0],[1,1,0],[0,0,3]]\n[[8,0,0],[2,0,0],[1,0,2]]\n", "epoch"), wanted);
  EXPECT_EQ(confusion("8 0 0 8\n1 1 0 2\n0 0 3 3\n9 1 3 13\n\n8 0 0 8\n2 0 0 2\n1 0 2 3\n11 0 2 13\n",
                      "the last row and column are the sums of the others"),
            wanted);
  EXPECT_EQ(confusion("8 1 0\n0 1 0\n0 0 3\n\n8 2 1\n0 0 0\n0 0 2\n", "rows are taken as predictions"), wanted);
  // Classes are found by name.
  file("classes.yaml", "classes: [{name: pole}, {name: road}]\n");
  file("m.csv", "road,pole\n8,0\n1,3\n");
  ASSERT_EQ(semiseg("$DIR/m.csv --classes $DIR/classes.yaml --json $DIR/out.json").code, 0);
  EXPECT_EQ(json("out.json")["epochs"][0]["val"]["confusion"], nlohmann::json::parse("[[3, 1], [0, 8]]"));
  file("m.csv", "road,pole,car\n8,0,0\n1,3,0\n0,0,1\n");
  const Outcome outcome = semiseg("$DIR/m.csv --classes $DIR/classes.yaml");
  EXPECT_EQ(outcome.code, 3);
  EXPECT_HAS(outcome.output, "m.csv:1: the class \"car\" is not one of --classes");
}

TEST_F(DiagnoseCommand, NamesFileAndLineOfABadCsv) {
  struct Case {
    std::string text;
    const char* message;
  };
  for (const Case& c : {
           Case{"", "bad.csv:1: the file is empty"},
           Case{"epoch,miou\n1,0.5\n", "bad.csv:1: no column is called pixel_accuracy; there are epoch and miou"},
           Case{"epoch,miou,mean_class_accuracy,pixel_accuracy\n", "bad.csv:1: there is nothing below the header"},
           Case{"epoch,miou,mean_class_accuracy,pixel_accuracy\n1,.2,.3\n", "bad.csv:2: has 3 values, not 4"},
           Case{"epoch,miou,mean_class_accuracy,pixel_accuracy\n1,.2,.3,x\n", "bad.csv:2: \"x\" is no number"},
           Case{"epoch,miou,mean_class_accuracy,pixel_accuracy\n1,.2,.3,-.4\n", "bad.csv:2: \"-.4\" is no fraction"},
           Case{"epoch,miou,mean_class_accuracy,pixel_accuracy\n1,20,30,400\n", "bad.csv:2: \"400\" is no percentage"},
           Case{"1,84,30,90.1\n2,83,29,90.4\n", "bad.csv:1: mIoU is above the mean class accuracy in 2 lines, which cannot be"},
           Case{std::string("\xff\xfe"
                            "e\0",
                            4),
                "bad.csv:1: is no text in UTF-8"},
           Case{"8 0 1 1\n9 0 1 0\n9 0 1 0\n9 0 1 0\n", "bad.csv:1: these lines may be matrices of 4 classes"},
           Case{"{\"miou\": 3}\n", "bad.csv:1: is JSON with names"},
           Case{",road,pole\nroad,1,2\nrode,3,4\n", "bad.csv:3: no column is called \"rode\""},
           Case{"1 2 3 4 5 6 7 8 9\n9 9 9 9 9 9 9 9 9\n", "bad.csv:1: a block of 2 lines with 9 values is no square"},
           Case{"1 2 3\n4 5 6\n", "bad.csv:1: a block of 2 lines with 3 values is no square confusion matrix"},
           Case{"1 2\n3 4\n\n1 2\n3 -4\n", "bad.csv:5: \"-4\" is no number of pixels"},
           Case{"0.5 0.5\n0.1 0.9\n", "bad.csv:1: \"0.5\" is no number of pixels"},
           Case{"0 0\n0 0\n", "bad.csv:1: this confusion matrix counts no pixel"},
           Case{"epoch,a,b\n1,1,2\n2,3,4\n", "bad.csv:3: epoch 2 begins before"},
           Case{"label,prediction,count\n0,x,1\n0,1,y\n", "bad.csv:3: \"y\" is no number"},
       }) {
    file("bad.csv", c.text);
    const Outcome outcome = semiseg("$DIR/bad.csv");
    EXPECT_EQ(outcome.code, 3) << c.text << outcome.output;
    EXPECT_HAS(outcome.output, c.message);
  }
}

TEST_F(DiagnoseCommand, UsageErrorsExitWithTwo) {
  for (const char* words : {"", "$DIR/nowhere", "--labels $DIR", "--labels $DIR/a --predictions $DIR/b",
                            "$DIR --labels $DIR --predictions $DIR", "$DIR/nowhere --clases camvid"})
    EXPECT_EQ(semiseg(words).code, 2) << words;
}

TEST_F(DiagnoseCommand, ReadsARunWithItsSettingsEvenOneThatGoesOn) {
  make_folders(dir_ + "/run");
  EXPECT_EQ(semiseg("$DIR/run").code, 3);  // no finished epoch
  std::string lines;
  for (const EpochRecord& record :
       {counted(1, kCounts[0], 3), counted(2, kCounts[1], 3), EpochRecord{}, counted(4, kCounts[2], 3)})
    lines += to_json(record) + "\n";
  file("run/metrics.jsonl", lines);
  file("run/environment.json",
       R"({"classes": [{"name": "road", "colour": [0, 0, 0]}, {"name": "pole"}, {"name": "rider, or so"}]})");
  Outcome outcome = semiseg("$DIR/run");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_HAS(outcome.output, "IoU fell most of pole 50.00 % -> 10.00 %");
  EXPECT_HAS(outcome.output, "loss.class_weights=enet");
  file("run/config.yaml", "data: {format: synthetic}\nloss: {class_weights: enet}\noptim: {epochs: 4}\n");
  outcome = semiseg("$DIR/run");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_HAS_NOT(outcome.output, "loss.class_weights=enet");
  EXPECT_HAS(outcome.output, "sampler.rare_class_temperature=0.01");
  file("run/metrics.jsonl", lines + "{\"epoch\": 5}\n");
  outcome = semiseg("$DIR/run");
  EXPECT_EQ(outcome.code, 3);
  EXPECT_HAS(outcome.output, "metrics.jsonl:5");
}

TEST_F(DiagnoseCommand, KnowsOfARunWhatWasLabelledAndHowItStands) {
  make_folders(dir_ + "/run");
  std::string lines;
  for (int64_t epoch = 1; epoch <= 3; ++epoch)  // train is never predicted, as it had no labelled pixel
    lines += to_json(counted(epoch, {8000 + 10 * epoch, 100, 0, 100, 800, 0, 200, 0, 0}, 3)) + "\n";
  file("run/metrics.jsonl", lines);
  const auto classes = [](const std::string& of_pole, const std::string& of_train) {
    return R"({"classes": [{"name": "road", "label_share": 0.9}, {"name": "pole", "label_share": )" + of_pole +
           R"(}, {"name": "train", "label_share": )" + of_train + "}]}";
  };
  file("run/environment.json", classes("0.1", "0"));
  EXPECT_HAS(semiseg("$DIR/run").output, "There is no setting to advise");
  file("run/environment.json", classes("0.05", "0.05"));
  EXPECT_HAS(semiseg("$DIR/run").output, "loss.class_weights=enet");

  file("run/status.json", R"({"state": "stopped", "message": "stopped by SIGINT", "total_epochs": 40})");
  EXPECT_HAS(semiseg("$DIR/run").output, "note: this run was stopped after epoch 3 of 40");
  file("run/status.json", R"({"state": "failed", "message": "the loss became NaN"})");
  EXPECT_HAS(semiseg("$DIR/run").output, "note: this run failed after epoch 3: the loss became NaN");
  file("run/status.json", R"({"state": "done"})");
  EXPECT_HAS_NOT(semiseg("$DIR/run").output, "after epoch 3");
}

TEST_F(DiagnoseCommand, PairsLabelsAndPredictionsByName) {
  for (const char* folder : {"labels/jena", "out", "bad"}) make_folders(dir_ + "/" + folder);
  const auto image = [](const std::vector<int64_t>& values) {
    return at::tensor(values, at::kLong).to(at::kByte).view({2, static_cast<int64_t>(values.size()) / 2});
  };
  write_label_png(dir_ + "/labels/jena/jena_1_gtFine_labelTrainIds.png", image({0, 0, 0, 5, 5, 255}));
  write_label_png(dir_ + "/labels/jena/jena_1_gtFine_labelIds.png", image({7, 7, 7, 17, 17, 0}));
  write_label_png(dir_ + "/labels/jena/jena_2_gtFine_labelTrainIds.png", image({0, 0, 0, 0, 2, 2}));
  write_label_png(dir_ + "/out/jena_1_leftImg8bit.png", image({0, 0, 0, 2, 2, 2}));
  write_label_png(dir_ + "/out/other.png", image({0, 0, 0, 2, 2, 2}));
  Outcome outcome = semiseg("--labels $DIR/labels --predictions $DIR/out --classes cityscapes --json $DIR/out.json");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_HAS(outcome.output, "pole is predicted as building in 100 % of its pixels");
  EXPECT_HAS(outcome.output, "1 prediction has no label");
  EXPECT_DOUBLE_EQ(json("out.json")["epochs"][0]["val"]["pixel_accuracy"], 3.0 / 5);
  // The same as label ids, which `predict --ids label` writes under the images' names.
  make_folders(dir_ + "/ids");
  write_label_png(dir_ + "/ids/jena_1_leftImg8bit.png", image({7, 7, 7, 11, 11, 11}));
  const std::string of_ids = "--labels $DIR/labels --predictions $DIR/ids --classes cityscapes";
  EXPECT_HAS(semiseg(of_ids).output, "--ids label");
  ASSERT_EQ(semiseg(of_ids + " --ids label --json $DIR/ids.json").code, 0);
  EXPECT_EQ(json("ids.json")["epochs"], json("out.json")["epochs"]);
  EXPECT_EQ(semiseg("--labels $DIR/labels --predictions $DIR/ids --ids label").code, 2);
  EXPECT_EQ(semiseg(of_ids + " --ids both").code, 2);
  // Endings in capitals, and folders that are linked, in circles too.
  make_folders(dir_ + "/linked");
  fs::create_directory_symlink(dir_ + "/labels/jena", dir_ + "/linked/jena");
  fs::create_directory_symlink(".", dir_ + "/linked/loop");
  fs::copy(dir_ + "/out", dir_ + "/capitals");
  fs::rename(dir_ + "/capitals/jena_1_leftImg8bit.png", dir_ + "/capitals/jena_1_leftImg8bit.PNG");
  outcome = semiseg("--labels $DIR/linked --predictions $DIR/capitals --classes cityscapes --json $DIR/linked.json");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_DOUBLE_EQ(json("linked.json")["epochs"][0]["val"]["pixel_accuracy"], 3.0 / 5);
  outcome = semiseg("--labels $DIR/labels --predictions $DIR/out");
  EXPECT_HAS(outcome.output, "class 5 is predicted as class 2 in 100 % of its pixels");

  write_label_png(dir_ + "/bad/jena_1.png", image({0, 0, 0, 2}));
  outcome = semiseg("--labels $DIR/labels --predictions $DIR/bad");
  EXPECT_EQ(outcome.code, 3);
  EXPECT_HAS(outcome.output, "jena_1.png: is 2 x 2 (H x W), its label 2 x 3");
  write_label_png(dir_ + "/bad/jena_1.png", image({0, 0, 0, 2, 77, 2}));
  outcome = semiseg("--labels $DIR/labels --predictions $DIR/bad --classes cityscapes");
  EXPECT_EQ(outcome.code, 3);
  EXPECT_HAS(outcome.output, "jena_1.png");
}

TEST_F(DiagnoseCommand, ReadsLabelsInTheColoursOfAClassFile) {
  for (const char* folder : {"masks", "out"}) make_folders(dir_ + "/" + folder);
  const auto ids = at::tensor({0, 0, 1, 1}, at::kLong).to(at::kByte).view({2, 2});
  const auto colours = at::tensor({200, 0, 0, 200, 0, 0, 0, 0, 90, 9, 9, 9}, at::kLong).to(at::kByte).view({2, 2, 3});
  write_image(dir_ + "/masks/a_L.png", colours);
  write_label_png(dir_ + "/out/a.png", ids.flip({0}).contiguous());
  file("classes.yaml", "classes: [{name: road, colour: [200, 0, 0]}, {name: pole, colour: [0, 0, 90]}]\nignore: [[9, 9, 9]]\n");
  Outcome outcome = semiseg("--labels $DIR/masks --predictions $DIR/out --classes $DIR/classes.yaml --json $DIR/out.json");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_DOUBLE_EQ(json("out.json")["epochs"][0]["val"]["pixel_accuracy"], 0);
  write_label_png(dir_ + "/out/a.png", ids);
  outcome = semiseg("--labels $DIR/masks --predictions $DIR/out --classes $DIR/classes.yaml --json $DIR/out.json");
  EXPECT_DOUBLE_EQ(json("out.json")["epochs"][0]["val"]["pixel_accuracy"], 1);
  outcome = semiseg("--labels $DIR/masks --predictions $DIR/out");
  EXPECT_EQ(outcome.code, 3);
  EXPECT_HAS(outcome.output,
             "a_L.png: a label in colours; give the file that says which class has which colour: --classes FILE");
}

}  // namespace
}  // namespace semiseg
